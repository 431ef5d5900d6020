//! What lets a machine without a certificate write: a random text that only the machine has.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use openssl::sha::sha256;

use super::Secret;

/// Bytes of entropy in a token.
pub const TOKEN_BYTES: usize = 32;

/// A token as the machine is given it: 43 letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteToken(Secret<String>);

impl WriteToken {
    /// The token of these random bytes.
    pub fn new(random: &Secret<[u8; TOKEN_BYTES]>) -> Self {
        Self(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(random.reveal())))
    }

    /// The token itself, for user_data and nothing else.
    pub const fn text(&self) -> &Secret<String> {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.reveal())
    }
}

/// The SHA-256 of a token: what is on disk. A token has as many random bits as the hash, so that
/// whoever reads the hash is no nearer to the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a text that may be a token.
    pub fn of(token: &str) -> Self {
        Self(sha256(token.as_bytes()))
    }

    /// Reads the 64 hexadecimal digits of a hash, `None` when they are not that.
    pub fn parse(text: &str) -> Option<Self> {
        let (pairs, []) = text.trim_end().as_bytes().as_chunks::<2>() else {
            return None;
        };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok())
            .collect();
        Some(Self(bytes?.try_into().ok()?))
    }

    /// Whether `token` has this hash, in a time that tells nothing of either.
    pub fn matches(&self, token: &str) -> bool {
        openssl::memcmp::eq(&self.0, &Self::of(token).0)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_token_and_no_other() {
        let token = WriteToken::new(&Secret::new([7; TOKEN_BYTES]));
        let text = token.text().reveal();
        assert_eq!(text.len(), 43);
        let hash = TokenHash::parse(&format!("{}\n", token.hash())).unwrap();
        assert!(hash.matches(text));
        for other in ["", &text[1..], &format!("{text} "), &text.to_uppercase()] {
            assert!(!hash.matches(other), "{other}");
        }
        assert!(!format!("{token:?}").contains(text.as_str()));
    }

    #[test]
    fn what_is_no_hash() {
        let good = TokenHash::of("x").to_string();
        assert!(TokenHash::parse(&good).is_some());
        for bad in ["", "00", &good[1..], &format!("{good}00"), &"g".repeat(64)] {
            assert_eq!(TokenHash::parse(bad), None, "{bad}");
        }
    }
}
