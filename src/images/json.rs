//! JSON as it stands in published CernVM images, which have lacked a comma between two members or
//! had one too many.

/// The text with the commas that JSON asks for between members, and without those that it does not
/// allow. Everything else stays as it is, so that what is no JSON otherwise stays none.
pub(super) fn mend_commas(text: &str) -> String {
    let mut mended = String::with_capacity(text.len() + 16);
    // Whether a value has just ended, so that only a comma, a colon or a closing bracket may follow.
    let mut after_value = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let token = token(rest, c);
        let (this, after) = rest.split_at(token);
        rest = after;
        if this.trim().is_empty() {
            mended.push_str(this);
            continue;
        }
        match c {
            ',' => {
                let next = rest.trim_start().chars().next();
                if after_value && !matches!(next, None | Some(',' | '}' | ']')) {
                    mended.push(',');
                }
                // A second comma right behind the first is one too many as well.
                if !matches!(next, Some(',')) {
                    after_value = false;
                }
                continue;
            }
            ':' => after_value = false,
            '}' | ']' => after_value = true,
            _ => {
                if after_value {
                    mended.push(',');
                }
                after_value = !matches!(c, '{' | '[');
            }
        }
        mended.push_str(this);
    }
    mended
}

/// The length in bytes of what stands at the beginning of `rest`, whose first character is `c`.
fn token(rest: &str, c: char) -> usize {
    match c {
        '"' => string(rest),
        '{' | '}' | '[' | ']' | ',' | ':' => 1,
        c if c.is_whitespace() => rest
            .find(|c: char| !c.is_whitespace())
            .unwrap_or(rest.len()),
        _ => rest
            .find(|c: char| c.is_whitespace() || "{}[],:\"".contains(c))
            .unwrap_or(rest.len()),
    }
}

/// The length of a string with its quotes; an open one goes to the end.
fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Option<Value> {
        serde_json::from_str(&mend_commas(text)).ok()
    }

    #[test]
    fn a_comma_too_few_or_too_many_is_forgiven() {
        let whole = json!({"a": "x, \"y\"} ", "b": [1, true], "c": {"d": null}});
        for text in [
            r#"{"a": "x, \"y\"} ", "b": [1, true], "c": {"d": null}}"#,
            "{\"a\": \"x, \\\"y\\\"} \"\n\"b\": [1 true]\n\n\"c\": {\"d\": null}}",
            r#"{"a": "x, \"y\"} ", "b": [1, true,], "c": {"d": null,},}"#,
            r#"{,"a": "x, \"y\"} ",, "b": [1,, true], "c": {"d": null} , , }"#,
        ] {
            assert_eq!(read(text).as_ref(), Some(&whole), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\": }",
            "{\"a\" \"b\"}",
            "{\"a: 1}",
            "\0\0",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn good_json_stays_as_it_is(texts in proptest::collection::vec(".*", 0..4), number: i64) {
            let value = json!({"texts": texts, "number": number, "nothing": {}, "none": []});
            for text in [value.to_string(), format!("{value:#}")] {
                prop_assert_eq!(mend_commas(&text), text);
            }
        }

        #[test]
        fn any_text_goes_through(text in ".*") {
            mend_commas(&text);
        }
    }
}
