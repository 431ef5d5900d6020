//! Whether an answer is one whole XML document.
//!
//! The SDK reads an answer element by element and takes whatever it cannot read, or the end of the
//! bytes, for the end of a list: half a listing would be a listing. So every answer is looked
//! through first, in one pass and without building anything.

use std::collections::BTreeMap;

use xmlparser::{ElementEnd, Token, Tokenizer};

/// The deepest nesting that is read; EC2's own answers have about ten levels.
const MAX_DEPTH: usize = 100;
/// The most members that all lists of one name in an answer have together. The SDK makes some 3 kB of
/// an instance, however little is said of it; a page has 1,000 at most where the endpoint knows pages.
const MAX_ITEMS: usize = 100_000;
/// The same for tags, of which each instance may have fifty.
const MAX_TAGS: usize = 1_000_000;

/// Checks that `body` is one document: every element closed by its own name, one root, nothing
/// else around it, no document type (and so no entities of its own), no list without end.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(body: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is no UTF-8 text".to_owned())?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut open: Vec<(&str, &str)> = Vec::new();
    let mut items: BTreeMap<&str, usize> = BTreeMap::new();
    let mut roots = 0_usize;
    for token in Tokenizer::from(text) {
        match token.map_err(|error| error.to_string())? {
            Token::ElementStart { prefix, local, .. } => {
                if open.is_empty() {
                    roots += 1;
                }
                if open.len() >= MAX_DEPTH {
                    return Err(format!("it has more than {MAX_DEPTH} levels"));
                }
                if let Some((_, list)) = open.last().filter(|_| local.as_str() == "item") {
                    let count = items.entry(list).or_default();
                    let most = if *list == "tagSet" {
                        MAX_TAGS
                    } else {
                        MAX_ITEMS
                    };
                    *count += 1;
                    if *count > most {
                        return Err(format!("it has more than {most} members of {list}"));
                    }
                }
                open.push((prefix.as_str(), local.as_str()));
            }
            Token::ElementEnd { end, .. } => match end {
                ElementEnd::Open => {}
                ElementEnd::Empty => {
                    open.pop();
                }
                ElementEnd::Close(prefix, local) => {
                    if open.pop() != Some((prefix.as_str(), local.as_str())) {
                        return Err(format!("{} ends what did not begin", local.as_str()));
                    }
                }
            },
            Token::DtdStart { .. } | Token::EmptyDtd { .. } | Token::EntityDeclaration { .. } => {
                return Err("it has a document type of its own".to_owned());
            }
            Token::Declaration { .. }
            | Token::ProcessingInstruction { .. }
            | Token::Comment { .. }
            | Token::DtdEnd { .. }
            | Token::Attribute { .. }
            | Token::Text { .. }
            | Token::Cdata { .. } => {}
        }
    }
    match open.last() {
        Some((_, local)) => Err(format!("it ends within {local}")),
        None if roots == 1 => Ok(()),
        None => Err(format!("it has {roots} roots")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<R xmlns=\"http://x/\">\
                        <set><item a=\"1\"><id>i-1</id></item><item/></set>\n</R>\n";

    #[test]
    fn only_a_whole_document_will_do() {
        assert_eq!(check(GOOD.as_bytes()), Ok(()));
        let nested = "<a>".repeat(200) + &"</a>".repeat(200);
        for bad in [
            "",
            "  \n",
            "<html><br></html>",
            "Service Unavailable",
            "{}",
            "<R><a></R></a>",
            "<R/><R/>",
            "<R>&nope</R",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            nested.as_str(),
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(check(b"<R>\xff</R>").is_err());
    }

    #[test]
    fn lists_have_an_end_also_when_they_are_cut_in_pieces() {
        let list =
            |name: &str, items: usize| format!("<{name}>{}</{name}>", "<item/>".repeat(items));
        let sets = |name: &str, items: usize| format!("<R>{}</R>", list(name, items / 2).repeat(2));
        assert_eq!(check(sets("instancesSet", MAX_ITEMS).as_bytes()), Ok(()));
        let problem = check(sets("instancesSet", MAX_ITEMS + 2).as_bytes()).unwrap_err();
        assert_eq!(problem, "it has more than 100000 members of instancesSet");
        assert_eq!(check(sets("tagSet", MAX_ITEMS + 2).as_bytes()), Ok(()));
        assert!(check(sets("tagSet", MAX_TAGS + 2).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_part_of_a_document_is_a_document(cut in 1..GOOD.len() - 1) {
            prop_assert!(check(&GOOD.as_bytes()[..cut]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes);
        }
    }
}
