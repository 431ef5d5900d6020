//! From the body of an answer to a document, and what has to hold for the texts in it.
//!
//! An answer is as long as its sender likes, up to the limit of the client, and can have anything
//! in it, also our own token. So lists have an end here, identifiers a form, and what is said of
//! a document that cannot be read quotes nothing of it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::OpenStack;
use crate::cloud::CloudError;
use crate::cloud::http::{Answer, text};

/// The longest identifier or name that is taken over, in bytes: Nova's own limit is 255.
pub(super) const MAX_NAME: usize = 255;

/// Reads the body of a good answer.
///
/// # Errors
/// `Rejected` when it is not the document that is expected.
pub(super) fn read<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, CloudError> {
    serde_json::from_slice(&answer.body).map_err(|error| answer.unreadable(why(&error)))
}

/// What is wrong with a document, without the text that was found in the wrong place: that may be
/// a secret.
pub(super) fn why(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let found = told.split_once("string \"");
    let expected = told.rsplit_once("\", expected ");
    match (found, expected) {
        (Some((before, _)), Some((_, expected))) => format!("{before}text, expected {expected}"),
        _ => told,
    }
}

/// Whether a text can be what the cloud calls something: it will be part of addresses, file
/// contents and log lines, and must come back from each as it is.
pub(super) fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A list of at most `MOST` members. A longer one is an error and is not kept in memory: thirty
/// million bytes of `{},` would otherwise become gigabytes.
#[derive(Debug)]
pub(super) struct Few<T, const MOST: usize>(pub Vec<T>);

impl<T, const MOST: usize> Default for Few<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FewVisitor<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for FewVisitor<T, MOST> {
            type Value = Few<T, MOST>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST}")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut few = Vec::new();
                while let Some(item) = list.next_element()? {
                    if few.len() >= MOST {
                        return Err(A::Error::custom(format_args!("more than {MOST} in a list")));
                    }
                    few.push(item);
                }
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

impl OpenStack {
    /// The error without any of our secrets, wherever it quotes the cloud: the address that the
    /// catalog gives, a status, an identifier. Every error leaves through here.
    pub(super) fn clean(&self, error: CloudError) -> CloudError {
        self.clean_of(error, &[])
    }

    /// The same, with `more` that must not be shown.
    pub(super) fn clean_of(&self, error: CloudError, more: &[&str]) -> CloudError {
        let tokens = self.identity.recent_tokens();
        let mut secrets = vec![self.identity.secret()];
        secrets.extend(tokens.iter().filter_map(|token| token.to_str().ok()));
        secrets.extend(more);
        CloudError {
            kind: error.kind,
            operation: text::without(error.operation, &secrets),
            message: text::without(error.message, &secrets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_document_quotes_none_of_it() {
        let error = |json: &str| why(&serde_json::from_str::<Vec<u32>>(json).unwrap_err());
        assert_eq!(
            error(r#""to\", expected \"ken""#),
            "invalid type: text, expected a sequence at line 1 column 22"
        );
        assert_eq!(
            error(r#"[1, "token"]"#),
            "invalid type: text, expected u32 at line 1 column 11"
        );
        assert_eq!(error("[1"), "EOF while parsing a list at line 1 column 2");
    }

    #[test]
    fn a_list_has_an_end() {
        type Two = Few<u8, 2>;
        assert_eq!(serde_json::from_str::<Two>("[1,2]").unwrap().0, [1, 2]);
        let error = serde_json::from_str::<Two>("[1,2,3]").unwrap_err();
        assert!(
            error.to_string().contains("more than 2 in a list"),
            "{error}"
        );
    }

    #[test]
    fn identifiers_come_back_from_files_and_addresses() {
        for good in ["70fafd76-166f-49cb-9c64-eb46d0a5f1a5", "i-1", "a/b"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", " a", "a\n", "é", "a b", &"x".repeat(256)] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }
}
