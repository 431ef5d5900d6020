//! What servers and the network say, made fit for a log line: short, on one line, without markup,
//! control characters and secrets.

use serde_json::Value;

use super::words;

/// The most characters of a cloud's message that are shown.
const MAX_CHARS: usize = 300;
/// A longer word than this is no word: it is a token, a key or an encoded file. Clouds quote the
/// value that they refuse, and that value can be a whole user_data.
const MAX_WORD: usize = 100;
/// What is shown in the place of a secret.
const HIDDEN: &str = "[hidden]";

/// The message in the body of a bad answer: the `message` of an OpenStack fault, the text of an
/// HTML page, or the text itself. None of `secrets` appears in it.
pub fn readable(body: &[u8], secrets: &[&str]) -> String {
    // Before anything is taken for markup, and again in what is left: a password can look like a tag.
    let text = without(String::from_utf8_lossy(body).into_owned(), secrets);
    let text = text.trim();
    let message = match serde_json::from_str::<Value>(text) {
        Ok(value) => json_message(&value).unwrap_or_default(),
        Err(_) if text.starts_with('<') => html_text(text),
        Err(_) => text.to_owned(),
    };
    one_line(&without(message, secrets))
}

/// An error with all its causes, in one line.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    // The outermost text of the HTTP client repeats the address; the causes say what happened.
    let mut next = error.source().or(Some(error));
    let mut parts: Vec<String> = Vec::new();
    while let Some(current) = next {
        let part = current.to_string();
        if !parts.iter().any(|earlier| earlier.contains(&part)) {
            parts.push(part);
        }
        next = current.source();
    }
    one_line(&words::plain(&parts.join(": ")))
}

/// `text` on one line, without control characters, over-long words and what is beyond the limit.
pub fn one_line(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut line = String::new();
    let mut count = 0_usize;
    for word in plain.split_whitespace() {
        let length = word.chars().count();
        let (word, length) = if length > MAX_WORD {
            (HIDDEN, HIDDEN.len())
        } else {
            (word, length)
        };
        let blank = usize::from(!line.is_empty());
        if count + blank + length > MAX_CHARS {
            line.push_str(" ...");
            break;
        }
        if blank == 1 {
            line.push(' ');
        }
        line.push_str(word);
        count += blank + length;
    }
    line
}

/// `message` with none of `secrets` in it, in none of the spellings in which servers quote.
pub fn without(mut message: String, secrets: &[&str]) -> String {
    let secrets = secrets.iter().map(|secret| secret.trim());
    for secret in secrets.filter(|secret| !secret.is_empty()) {
        for spelling in spellings(secret) {
            if message.contains(&spelling) {
                message = message.replace(&spelling, HIDDEN);
            }
        }
    }
    message
}

/// A text as it is, as part of JSON once and twice, of Rust's `{:?}`, of HTML, and of an address.
fn spellings(text: &str) -> Vec<String> {
    let json = |text: &str| {
        let quoted = Value::from(text).to_string();
        let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
        inner.unwrap_or_default().to_owned()
    };
    let html = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let encoded = |set| percent_encoding::utf8_percent_encode(text, set).to_string();
    let mut spellings = vec![
        text.to_owned(),
        json(text),
        json(&json(text)),
        text.escape_debug().to_string(),
        html.replace('"', "&quot;").replace('\'', "&#39;"),
        html.replace('"', "&quot;").replace('\'', "&#x27;"),
        html,
        encoded(percent_encoding::NON_ALPHANUMERIC),
        encoded(IN_PATH),
    ];
    // The longest first: a shorter one may be a part of it.
    spellings.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
    spellings.dedup();
    spellings
}

/// What an address cannot have in its path.
const IN_PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'/')
    .add(b'%');

/// The first `message`, `detail` or `title` in an error document, at most two objects down:
/// `{"badRequest": {"message": ...}}`, `{"error": {...}}`, `{"errors": [{"detail": ...}]}`.
fn json_message(value: &Value) -> Option<String> {
    fn own(value: &Value) -> Option<String> {
        ["message", "detail", "title", "reason"]
            .iter()
            .find_map(|key| value.get(key)?.as_str())
            .map(str::to_owned)
    }
    match value {
        Value::Object(members) => own(value).or_else(|| members.values().find_map(json_inner)),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => json_inner(value),
    }
}

fn json_inner(value: &Value) -> Option<String> {
    let value = match value {
        Value::Array(items) => items.first()?,
        other => other,
    };
    ["message", "detail", "title", "reason"]
        .iter()
        .find_map(|key| value.get(key)?.as_str())
        .map(str::to_owned)
}

/// The text of an HTML page: tags, scripts and styles dropped, the common entities read.
fn html_text(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        out.push(' ');
        let name: String = tag
            .chars()
            .skip(1)
            .take_while(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        let end = match name.as_str() {
            "script" | "style" => find_ignoring_case(tag, &format!("</{name}")),
            _ => Some(0),
        };
        let Some(close) = end.and_then(|from| {
            let after = tag.get(from.max(1)..)?;
            Some(from.max(1) + after.find('>')? + 1)
        }) else {
            rest = "";
            break;
        };
        rest = tag.get(close..).unwrap_or("");
    }
    out.push_str(rest);
    for (entity, plain) in [
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&nbsp;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ] {
        out = out.replace(entity, plain);
    }
    out
}

fn find_ignoring_case(text: &str, wanted: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(body: &str) -> String {
        readable(body.as_bytes(), &["hunter2", "to\"ken"])
    }

    #[test]
    fn the_message_is_found_in_every_shape_that_openstack_uses() {
        let cases = [
            (
                r#"{"badRequest": {"code": 400, "message": "Flavor zz could not be found."}}"#,
                "Flavor zz could not be found.",
            ),
            (
                r#"{"error":{"code":401,"message":"requires authentication.","title":"Unauthorized"}}"#,
                "requires authentication.",
            ),
            (r#"{"message": "top"}"#, "top"),
            (
                r#"{"errors": [{"status": 503, "detail": "no room"}]}"#,
                "no room",
            ),
            (r#"{"odd": 1}"#, ""),
            ("plain\n\ttext \u{1b}[2J", "plain text [2J"),
            ("", ""),
            (
                "<html><head><title>502 Bad Gateway</title><style>b{}</style></head><body><h1>502 Bad Gateway</h1>the &quot;server&quot;<script>x<y</SCRIPT></body>",
                "502 Bad Gateway 502 Bad Gateway the \"server\"",
            ),
            ("<unclosed", ""),
        ];
        for (body, expected) in cases {
            assert_eq!(said(body), expected, "{body}");
        }
    }

    #[test]
    fn secrets_do_not_come_back_in_any_spelling() {
        let long = "QUJD".repeat(60);
        for body in [
            "echo: hunter2".to_owned(),
            r#"{"error": {"message": "you sent {\"token\": \"to\\\"ken\", \"password\": \"hunter2\"}"}}"#.to_owned(),
            format!("<p>X-Auth-Token: to\"ken</p> Value: {long}. {long} is too long"),
        ] {
            let shown = said(&body);
            assert!(shown.contains(HIDDEN), "{shown}");
            for secret in ["hunter2", "to\"ken", "to\\\"ken", "QUJDQUJD"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn a_secret_that_looks_like_markup_is_hidden_whole() {
        let shown = readable(b"<p>bad password hunter2<&x>y", &["hunter2<&x>y"]);
        assert_eq!(shown, "bad password [hidden]");
    }

    #[test]
    fn a_long_message_is_cut_between_words() {
        let shown = said(&"schön ".repeat(500));
        assert!(shown.chars().count() <= MAX_CHARS + 4, "{shown}");
        assert!(shown.ends_with("schön ..."), "{shown}");
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_short_line(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let shown = readable(&body, &["x"]);
            prop_assert!(shown.chars().count() <= MAX_CHARS + 4);
            prop_assert!(!shown.chars().any(char::is_control));
        }

        #[test]
        fn any_markup_becomes_one_short_line(body in "[<>/a-z&;\"é ]{0,200}") {
            readable(format!("<{body}").as_bytes(), &[]);
        }
    }
}
