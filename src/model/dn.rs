//! X.509 distinguished names as site admins write them: `/DC=org/CN=x` and RFC 2253.
//!
//! A name decides who may write, so two names are equal only when all their components are, in
//! order: types by what they mean (`Email`, `E` and `1.2.840.113549.1.9.1` are one), values byte
//! by byte. Grid software compares values exactly, case and blanks included, and so do we: a rule
//! that folds more lets in more.

use std::fmt;
use std::str::FromStr;

/// A distinguished name: its components in the order of the certificate, most general first. It
/// has at least one. An RDN with several attributes counts as that many components.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dn(Vec<(String, String)>);

/// Why a text is no distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDn(pub &'static str);

const EMPTY: InvalidDn = InvalidDn("is empty");
const UNKNOWN_TYPE: InvalidDn = InvalidDn(
    "has an attribute type that is not known; write its number, as in 2.5.4.3, or \\/ for a slash inside a value",
);
const BAD_ESCAPE: InvalidDn = InvalidDn("has an escape that does not end or is not UTF-8");
const NO_EQUALS: InvalidDn = InvalidDn("has a component without \"=\"");

/// Longer texts are no names: keeps the cost of hostile ones down.
const MAX_BYTES: usize = 8192;

/// Attribute types: the spelling that we write, the object identifier, other spellings in use.
const TYPES: [(&str, &str, &[&str]); 22] = [
    ("CN", "2.5.4.3", &["commonName"]),
    ("DC", "0.9.2342.19200300.100.1.25", &["domainComponent"]),
    ("O", "2.5.4.10", &["organizationName"]),
    (
        "OU",
        "2.5.4.11",
        &["organizationalUnitName", "organizationalUnit"],
    ),
    ("C", "2.5.4.6", &["countryName", "country"]),
    ("L", "2.5.4.7", &["localityName", "locality"]),
    ("ST", "2.5.4.8", &["S", "SP", "stateOrProvinceName"]),
    ("STREET", "2.5.4.9", &["streetAddress"]),
    ("UID", "0.9.2342.19200300.100.1.1", &["USERID"]),
    (
        "emailAddress",
        "1.2.840.113549.1.9.1",
        &["Email", "E", "pkcs9email"],
    ),
    ("mail", "0.9.2342.19200300.100.1.3", &["rfc822Mailbox"]),
    ("SN", "2.5.4.4", &["surname"]),
    ("GN", "2.5.4.42", &["givenName", "G"]),
    ("serialNumber", "2.5.4.5", &[]),
    ("title", "2.5.4.12", &["T"]),
    ("description", "2.5.4.13", &[]),
    ("postalCode", "2.5.4.17", &[]),
    ("name", "2.5.4.41", &[]),
    ("initials", "2.5.4.43", &[]),
    ("dnQualifier", "2.5.4.46", &[]),
    ("unstructuredName", "1.2.840.113549.1.9.2", &[]),
    ("organizationIdentifier", "2.5.4.97", &[]),
];

impl Dn {
    /// Reads `/DC=org/CN=x` or `CN=x,DC=org`.
    ///
    /// In the slash form a slash that does not begin a `TYPE=` belongs to the value, as in
    /// `/CN=host/vm.example.org`; `\/` is always part of the value, `\\` a backslash and `\xC3`
    /// a byte, as OpenSSL prints them. In the form of RFC 2253 and RFC 4514 the most specific
    /// component comes first.
    ///
    /// # Errors
    /// When the text has neither form, or a type that we do not know.
    pub fn parse(text: &str) -> Result<Self, InvalidDn> {
        let text = text.trim_start();
        if text.len() > MAX_BYTES {
            return Err(InvalidDn("is longer than 8192 bytes"));
        }
        let components = if text.starts_with('/') {
            parse_slashes(text.trim_end())?
        } else {
            parse_rfc4514(text)?
        };
        Self::from_components(components)
    }

    /// The name with these components, types and values, most general first, as a certificate
    /// has them. A type is an object identifier in dots or one of its names.
    ///
    /// # Errors
    /// When there is no component, or a type is neither.
    pub fn from_components(components: Vec<(String, String)>) -> Result<Self, InvalidDn> {
        if components.is_empty() {
            return Err(EMPTY);
        }
        components
            .into_iter()
            .map(|(kind, value)| Ok((canonical_type(&kind).ok_or(UNKNOWN_TYPE)?, value)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The components, most general first: the type as we write it and the value.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(kind, value)| (kind.as_str(), value.as_str()))
    }
}

impl FromStr for Dn {
    type Err = InvalidDn;
    fn from_str(text: &str) -> Result<Self, InvalidDn> {
        Self::parse(text)
    }
}

impl fmt::Display for Dn {
    /// Writes the slash form so that [`Dn::parse`] reads the same name back, on one line and
    /// without control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, value) in &self.0 {
            write!(f, "/{kind}=")?;
            write_slash_value(f, value)?;
        }
        Ok(())
    }
}

fn write_slash_value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    for (at, c) in value.char_indices() {
        let rest = value.get(at + c.len_utf8()..).unwrap_or("");
        match c {
            '\\' => f.write_str("\\\\")?,
            '/' if type_prefix(rest).is_some() => f.write_str("\\/")?,
            // White space at the ends is lost when a text is trimmed.
            c if c.is_control() || (c.is_whitespace() && (at == 0 || rest.is_empty())) => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    write!(f, "\\x{byte:02X}")?;
                }
            }
            c => write!(f, "{c}")?,
        }
    }
    Ok(())
}

/// The spelling that we write for a type, `None` when it is not known and no dotted number.
fn canonical_type(text: &str) -> Option<String> {
    let text = match text.get(..4) {
        Some(prefix) if prefix.eq_ignore_ascii_case("OID.") => &text[4..],
        _ => text,
    };
    for (name, oid, others) in TYPES {
        if text == oid
            || text.eq_ignore_ascii_case(name)
            || others.iter().any(|other| text.eq_ignore_ascii_case(other))
        {
            return Some(name.to_owned());
        }
    }
    is_oid(text).then(|| text.to_owned())
}

fn is_oid(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    text.contains('.') && text.split('.').all(number)
}

/// The `TYPE` of a `TYPE=` at the start of `text`, known or not.
fn type_prefix(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-')?;
    let kind = text.get(..end)?;
    (!kind.is_empty() && text.get(end..)?.starts_with('=')).then_some(kind)
}

fn parse_slashes(text: &str) -> Result<Vec<(String, String)>, InvalidDn> {
    let mut components: Vec<(String, Vec<u8>)> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or("");
        if c == '/'
            && let Some(kind) = type_prefix(after)
        {
            components.push((kind.to_owned(), Vec::new()));
            rest = after.get(kind.len() + 1..).unwrap_or("");
            continue;
        }
        let (_, value) = components.last_mut().ok_or(NO_EQUALS)?;
        let skip = match (c, after.as_bytes()) {
            ('\\', [next @ (b'/' | b'\\'), ..]) => {
                value.push(*next);
                1
            }
            ('\\', [b'x', high, low, ..]) if hex_pair(*high, *low).is_some() => {
                value.extend(hex_pair(*high, *low));
                3
            }
            _ => {
                value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                0
            }
        };
        rest = after.get(skip..).unwrap_or("");
    }
    components
        .into_iter()
        .map(|(kind, value)| Ok((kind, String::from_utf8(value).map_err(|_| BAD_ESCAPE)?)))
        .collect()
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Reads RFC 4514, and of RFC 2253 what it still allowed: blanks around separators, `;` for `,`,
/// quoted values.
fn parse_rfc4514(text: &str) -> Result<Vec<(String, String)>, InvalidDn> {
    let mut rdns: Vec<Vec<(String, String)>> = vec![Vec::new()];
    let mut rest = text;
    loop {
        let (kind, after) = rest.split_once('=').ok_or(NO_EQUALS)?;
        let (value, separator, after) = parse_value(after)?;
        if let Some(rdn) = rdns.last_mut() {
            rdn.push((kind.trim().to_owned(), value));
        }
        match separator {
            None => break,
            Some('+') => {}
            Some(_) => rdns.push(Vec::new()),
        }
        rest = after;
    }
    Ok(rdns.into_iter().rev().flatten().collect())
}

/// Takes a value up to its separator; gives both and what follows.
fn parse_value(text: &str) -> Result<(String, Option<char>, &str), InvalidDn> {
    let text = text.trim_start();
    if text.starts_with('#') {
        return Err(InvalidDn(
            "has a value as hexadecimal DER, which is not supported",
        ));
    }
    let (quoted, mut rest) = text
        .strip_prefix('"')
        .map_or((false, text), |inside| (true, inside));
    let mut open = quoted;
    let mut value = Vec::new();
    // Blanks at the end belong to the value only when they are escaped or quoted.
    let mut keep = 0;
    loop {
        let Some(c) = rest.chars().next() else {
            if open {
                return Err(InvalidDn("has a quote that does not end"));
            }
            break;
        };
        rest = rest.get(c.len_utf8()..).unwrap_or("");
        match c {
            '\\' => {
                let (bytes, after) = parse_escape(rest)?;
                value.extend_from_slice(&bytes);
                keep = value.len();
                rest = after;
            }
            '"' if open => {
                open = false;
                keep = value.len();
            }
            ',' | ';' | '+' if !open => return Ok((finish(value, keep)?, Some(c), rest)),
            '"' => return Err(InvalidDn("has a quote inside a value")),
            c if quoted && !open && !c.is_whitespace() => {
                return Err(InvalidDn("has text after a quoted value"));
            }
            c => {
                value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                if open || !c.is_whitespace() {
                    keep = value.len();
                }
            }
        }
    }
    Ok((finish(value, keep)?, None, rest))
}

fn finish(mut value: Vec<u8>, keep: usize) -> Result<String, InvalidDn> {
    value.truncate(keep);
    String::from_utf8(value).map_err(|_| BAD_ESCAPE)
}

/// What follows a backslash: two hexadecimal digits or one character that stands for itself.
fn parse_escape(text: &str) -> Result<(Vec<u8>, &str), InvalidDn> {
    if let [high, low, ..] = text.as_bytes()
        && let Some(byte) = hex_pair(*high, *low)
    {
        return Ok((vec![byte], text.get(2..).unwrap_or("")));
    }
    let c = text.chars().next().ok_or(BAD_ESCAPE)?;
    let rest = text.get(c.len_utf8()..).unwrap_or("");
    Ok((c.to_string().into_bytes(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dn(components: &[(&str, &str)]) -> Dn {
        Dn::from_components(
            components
                .iter()
                .map(|(kind, value)| ((*kind).to_owned(), (*value).to_owned()))
                .collect(),
        )
        .unwrap()
    }

    #[test]
    fn both_spellings_give_the_order_of_the_certificate() {
        let expected = dn(&[("DC", "org"), ("DC", "example"), ("CN", "vm")]);
        for text in [
            "/DC=org/DC=example/CN=vm",
            "/dc=org/dc=example/cn=vm",
            "CN=vm,DC=example,DC=org",
            " CN = vm , DC=example; dc = org ",
            "cn=\"vm\",domainComponent=example,0.9.2342.19200300.100.1.25=org",
            "OID.2.5.4.3=vm,DC=example,DC=org",
        ] {
            assert_eq!(Dn::parse(text).as_ref(), Ok(&expected), "{text}");
        }
        assert_eq!(expected.to_string(), "/DC=org/DC=example/CN=vm");
    }

    #[test]
    fn attribute_types_have_many_names() {
        let expected = dn(&[("C", "UK"), ("UID", "u"), ("emailAddress", "a@b")]);
        for text in [
            "/C=UK/UID=u/emailAddress=a@b",
            "/C=UK/USERID=u/Email=a@b",
            "/countryName=UK/userid=u/E=a@b",
            "/2.5.4.6=UK/0.9.2342.19200300.100.1.1=u/1.2.840.113549.1.9.1=a@b",
        ] {
            assert_eq!(Dn::parse(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn a_slash_belongs_to_the_value_unless_a_type_follows() {
        assert_eq!(
            Dn::parse("/C=UK/CN=host/vm.example.org/Email=a@b").unwrap(),
            dn(&[("C", "UK"), ("CN", "host/vm.example.org"), ("E", "a@b")])
        );
        assert_eq!(
            Dn::parse(r"/CN=a\/CN=b/CN=http://c//CN=").unwrap(),
            dn(&[("CN", "a/CN=b"), ("CN", "http://c/"), ("CN", "")])
        );
    }

    #[test]
    fn a_value_cannot_pass_for_two_components() {
        let one = Dn::parse("CN=a/CN=proxy,DC=org").unwrap();
        let two = Dn::parse("/DC=org/CN=a/CN=proxy").unwrap();
        assert_ne!(one, two);
        assert_eq!(Dn::parse(&one.to_string()), Ok(one));
    }

    #[test]
    fn values_differ_by_case_and_blanks_and_a_prefix_is_no_match() {
        let name = Dn::parse("/DC=org/CN=Some One").unwrap();
        for other in [
            "/DC=org/CN=some one",
            "/DC=org/CN=Some  One",
            "/DC=org/CN=Some One/CN=x",
            "/DC=org",
            "/CN=Some One/DC=org",
        ] {
            assert_ne!(Dn::parse(other).unwrap(), name, "{other}");
        }
    }

    #[test]
    fn escapes_of_both_forms() {
        let cases = [
            (r"CN=Doe\, J\2E,O=a\+b", &[("O", "a+b"), ("CN", "Doe, J.")]),
            (
                r#"CN="Doe, \"J\"" ,O=x\ "#,
                &[("O", "x "), ("CN", "Doe, \"J\"")],
            ),
            (r"CN=Zo\C3\AB,O=é", &[("O", "é"), ("CN", "Zoë")]),
            (r"/O=a\b/CN=Zo\xC3\xAB", &[("O", r"a\b"), ("CN", "Zoë")]),
            ("CN=a+UID=b", &[("CN", "a"), ("UID", "b")]),
        ];
        for (text, expected) in cases {
            assert_eq!(Dn::parse(text), Ok(dn(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_name() {
        for text in [
            "",
            "/",
            "x",
            "/x",
            "CN",
            "CN=a,",
            "CN=a,,O=b",
            "/CN=a/FOO=b",
            "FOO=b",
            "/1.2.03=b",
            r"CN=a\",
            r"CN=\FF",
            r"/CN=\xFF",
            "CN=\"a",
            "CN=\"a\"b",
            "CN=#0C0161",
        ] {
            assert!(Dn::parse(text).is_err(), "{text}");
        }
        assert!(Dn::from_components(Vec::new()).is_err());
        assert!(Dn::parse(&format!("/CN={}", "a".repeat(MAX_BYTES))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in any::<String>()) {
            let _ = Dn::parse(&text);
        }

        #[test]
        fn no_text_that_looks_like_a_name_is_a_panic(text in r#"[/CNO=,;+"\\ x0-9a-fé#]{0,40}"#) {
            let _ = Dn::parse(&text);
        }

        #[test]
        fn what_is_written_reads_back(
            components in prop::collection::vec(
                (
                    prop::sample::select(vec!["CN", "dc", "Email", "1.3.6.1.4.1", "UID"]),
                    prop_oneof![any::<String>(), r#"[/CN=\\ ,x0-9a-fé\n]{0,20}"#],
                ),
                1..6,
            )
        ) {
            let name = Dn::from_components(
                components.into_iter().map(|(kind, value)| (kind.to_owned(), value)).collect()
            ).unwrap();
            let text = name.to_string();
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(Dn::parse(&text), Ok(name));
        }
    }
}
