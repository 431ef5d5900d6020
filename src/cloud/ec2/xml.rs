//! Whether an answer is one whole XML document.
//!
//! The SDK reads an answer element by element and takes whatever it cannot read, or the end of the
//! bytes, for the end of a list: half a listing would be a listing. So every answer is looked
//! through first, in one pass and without building anything.

use xmlparser::{ElementEnd, Token, Tokenizer};

/// The deepest nesting that is read; EC2's own answers have about ten levels.
const MAX_DEPTH: usize = 100;

/// Checks that `body` is one document: every element closed by its own name, one root, nothing
/// else around it, no document type (and so no entities of its own).
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(body: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is no UTF-8 text".to_owned())?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut open: Vec<(&str, &str)> = Vec::new();
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
