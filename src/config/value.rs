//! The text of one value to what it means. Says what was expected and, where it can be told, what
//! to write instead. Knows no option.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use url::Url;

use crate::model::{Dn, Hs06, Seconds, Share, Timestamp};

/// Why a text is no value of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// `expected whole seconds`
    pub why: String,
    /// `write 86400`
    pub help: Option<String>,
}

/// A value, or why not.
pub(super) type Parsed<T> = Result<T, Bad>;

impl Bad {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            help: None,
        }
    }

    pub fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }
}

/// What a whole number counts, to tell what `24h` or `100M` would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things.
    Plain,
    /// Seconds.
    Seconds,
    /// Hours.
    Hours,
    /// Bytes.
    Bytes,
}

impl Unit {
    const fn expected(self) -> &'static str {
        match self {
            Self::Plain => "expected a whole number",
            Self::Seconds => "expected whole seconds",
            Self::Hours => "expected whole hours",
            Self::Bytes => "expected a whole number of bytes",
        }
    }

    /// How many of this unit one `suffix` is.
    fn factor(self, suffix: &str) -> Option<f64> {
        const KILO: f64 = 1024.0;
        if suffix.is_empty() {
            return Some(1.0);
        }
        match self {
            Self::Plain => None,
            Self::Seconds => seconds_in(suffix),
            Self::Hours => seconds_in(suffix).map(|seconds| seconds / 3600.0),
            Self::Bytes => match suffix.trim_end_matches('b').trim_end_matches('i') {
                "k" => Some(KILO),
                "m" => Some(KILO * KILO),
                "g" => Some(KILO * KILO * KILO),
                "t" => Some(KILO * KILO * KILO * KILO),
                "" => Some(1.0),
                _ => None,
            },
        }
    }
}

fn seconds_in(unit: &str) -> Option<f64> {
    match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1.0),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60.0),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(3600.0),
        "d" | "day" | "days" => Some(86_400.0),
        "w" | "week" | "weeks" => Some(604_800.0),
        _ => None,
    }
}

/// The longest time that an option can ask for: a hundred years. Longer ones are slips of the hand.
const MOST_SECONDS: u64 = 100 * 366 * 86_400;

/// A whole number from 0 to `most`, as Python's `int()` reads it, but not negative.
pub(super) fn whole(text: &str, unit: Unit, most: u64) -> Parsed<u64> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Bad::new(unit.expected()).with_help(suggested_number(text, unit)));
    }
    match digits.parse() {
        Ok(number) if number <= most => Ok(number),
        Ok(_) | Err(_) => Err(Bad::new(format!("{}, at most {most}", unit.expected()))),
    }
}

/// The number that somebody may have meant.
fn suggested_number(text: &str, unit: Unit) -> Option<String> {
    if let Some((before, _)) = text.split_once(['#', ';']) {
        let number = whole(before, unit, u64::MAX).ok()?;
        let help = format!("write {number}; a comment after a value begins with \" ;\"");
        return Some(help);
    }
    let text: String = text.chars().filter(|&c| c != ',' && c != '_').collect();
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(split)?;
    let number: f64 = number.trim().parse().ok()?;
    let value = number * unit.factor(suffix.trim().to_ascii_lowercase().as_str())?;
    let is_whole = value >= 0.0 && value.fract() == 0.0 && value < 1e15;
    is_whole.then(|| format!("write {value:.0}"))
}

/// A number of things.
pub(super) fn count(text: &str) -> Parsed<u32> {
    let number = whole(text, Unit::Plain, u64::from(u32::MAX))?;
    u32::try_from(number).map_err(|_| Bad::new(Unit::Plain.expected()))
}

/// A number of things, at least one.
pub(super) fn positive_count(text: &str) -> Parsed<u32> {
    match count(text)? {
        0 => Err(Bad::new("expected a whole number, at least 1")),
        number => Ok(number),
    }
}

/// A part of a hundred.
pub(super) fn percent(text: &str) -> Parsed<u32> {
    match count(text)? {
        percent @ 0..=100 => Ok(percent),
        _ => Err(Bad::new("expected a whole number, at most 100")),
    }
}

/// A number of bytes or MiB, at least one.
pub(super) fn size(text: &str, unit: Unit) -> Parsed<u64> {
    match whole(text, unit, 1 << 50)? {
        0 => Err(Bad::new(format!("{}, at least 1", unit.expected()))),
        number => Ok(number),
    }
}

/// Whole seconds.
pub(super) fn seconds(text: &str) -> Parsed<Seconds> {
    whole(text, Unit::Seconds, MOST_SECONDS).map(Seconds::new)
}

/// Whole seconds, at least one.
pub(super) fn positive_seconds(text: &str) -> Parsed<Seconds> {
    let seconds = seconds(text)?;
    if seconds == Seconds::new(0) {
        return Err(Bad::new("expected whole seconds, at least 1"));
    }
    Ok(seconds)
}

/// Whole hours.
pub(super) fn hours(text: &str) -> Parsed<Seconds> {
    let hours = whole(text, Unit::Hours, MOST_SECONDS / 3600)?;
    Ok(Seconds::new(hours.saturating_mul(3600)))
}

/// Days with a fraction, cut to whole seconds.
pub(super) fn days(text: &str) -> Parsed<Seconds> {
    let days = decimal(text)?;
    if days < 0.0 {
        return Err(Bad::new("expected days, 0 or above"));
    }
    std::time::Duration::try_from_secs_f64(days * 86_400.0)
        .ok()
        .map(|time| time.as_secs())
        .filter(|&seconds| seconds <= MOST_SECONDS)
        .map(Seconds::new)
        .ok_or_else(|| Bad::new("expected days, at most 36600"))
}

/// A moment in Unix seconds.
pub(super) fn unix_time(text: &str) -> Parsed<Timestamp> {
    // The year 9999; what is larger is in milliseconds or worse.
    const MOST: u64 = 253_402_300_799;
    match whole(text, Unit::Plain, MOST) {
        Ok(seconds) => Ok(Timestamp::from_unix(seconds)),
        Err(_) => {
            let help = Timestamp::parse_iso8601(text.trim())
                .or_else(|| Timestamp::parse_iso8601(&format!("{}T00:00:00Z", text.trim())))
                .map(|time| format!("write {time}, which is {}", time.to_rfc3339()));
            Err(Bad::new("expected a Unix time in whole seconds").with_help(help))
        }
    }
}

/// A finite number.
pub(super) fn decimal(text: &str) -> Parsed<f64> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => {
            let with_point = text.replacen(',', ".", 1);
            let help = with_point
                .parse::<f64>()
                .is_ok_and(f64::is_finite)
                .then(|| format!("write {with_point}"));
            Err(Bad::new("expected a number").with_help(help))
        }
    }
}

/// A power above 0.
pub(super) fn power(text: &str) -> Parsed<Hs06> {
    Hs06::new(decimal(text)?).map_err(|error| Bad::new(error.to_string()))
}

/// A share, 0 or above.
pub(super) fn share(text: &str) -> Parsed<Share> {
    Share::new(decimal(text)?).map_err(|error| Bad::new(error.to_string()))
}

/// `true` or `false` in any case.
pub(super) fn boolean(text: &str) -> Parsed<bool> {
    let help = match text.trim().to_ascii_lowercase().as_str() {
        "true" => return Ok(true),
        "false" => return Ok(false),
        "yes" | "on" | "1" | "y" | "t" => Some("write True".to_owned()),
        "no" | "off" | "0" | "n" | "f" => Some("write False".to_owned()),
        _ => None,
    };
    Err(Bad::new("expected True or False").with_help(help))
}

/// One line of text without control characters.
pub(super) fn line(text: &str) -> Parsed<String> {
    if text.contains('\n') {
        let help = "a line that begins with white space continues the option above it";
        return Err(Bad::new("expected one line").with_help(Some(help.to_owned())));
    }
    if text.chars().any(char::is_control) {
        return Err(Bad::new("expected text without control characters"));
    }
    Ok(text.to_owned())
}

/// A regular expression.
pub(super) fn pattern(text: &str) -> Parsed<String> {
    let text = line(text)?;
    match regex::Regex::new(&text) {
        Ok(_) => Ok(text),
        Err(regex::Error::CompiledTooBig(_)) => Err(Bad::new(
            "expected a regular expression, and this one is too large",
        )),
        // The last line of the message says what is wrong; the others draw where.
        Err(error) => {
            let told = error.to_string();
            let why = told.lines().last().unwrap_or_default();
            let why = why.trim_start_matches("error: ").to_owned();
            Err(Bad::new(format!("expected a regular expression: {why}")))
        }
    }
}

/// Text without white space.
pub(super) fn word(text: &str) -> Parsed<String> {
    let text = line(text)?;
    if text.contains(char::is_whitespace) {
        return Err(Bad::new("expected one word, without blanks"));
    }
    Ok(text)
}

/// A word of printable ASCII, for records that allow nothing else.
pub(super) fn ascii_word(text: &str) -> Parsed<String> {
    let text = word(text)?;
    if !text.is_ascii() {
        return Err(Bad::new("expected ASCII characters only"));
    }
    Ok(text)
}

/// Words between commas or white space, which includes new lines.
pub(super) fn list(text: &str) -> Parsed<Vec<String>> {
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err(Bad::new("expected names without control characters"));
    }
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    Ok(words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect())
}

/// One of some words.
pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Parsed<T> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let help = nearest(text, words.iter().copied()).map(|word| format!("write {word}"));
    Err(Bad::new(format!("expected {}", words.join(" or "))).with_help(help))
}

/// A port.
pub(super) fn port(text: &str) -> Parsed<u16> {
    text.trim()
        .parse()
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| Bad::new("expected a port from 1 to 65535"))
}

/// `HOST:PORT`, where an IPv6 address stands in brackets.
pub(super) fn host_and_port(text: &str) -> Parsed<String> {
    let (host, number) = text
        .rsplit_once(':')
        .ok_or_else(|| Bad::new("expected HOST:PORT"))?;
    host_name(host)?;
    port(number)?;
    Ok(text.to_owned())
}

/// A host name or address without a port.
pub(super) fn host_name(text: &str) -> Parsed<String> {
    let only_host = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        text.chars().all(allowed) && url::Host::parse(text).is_ok()
    };
    if only_host(text) {
        return Ok(text.to_owned());
    }
    let help = text.split_once(':').map(|(host, _)| host);
    let help = help.filter(|host| only_host(host));
    Err(Bad::new("expected a host name without scheme and port")
        .with_help(help.map(|host| format!("write {host}; the port is an option of its own"))))
}

/// `ADDRESS:PORT`.
pub(super) fn socket_address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| {
        let help = port(text.trim_start_matches("*:")).ok();
        Bad::new("expected ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443")
            .with_help(help.map(|port| format!("write 0.0.0.0:{port} [::]:{port}")))
    })
}

/// `ADDRESS:PORT`, or `none`.
pub(super) fn socket_address_or_none(text: &str) -> Parsed<Option<SocketAddr>> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    socket_address(text.trim()).map(Some)
}

/// Several `ADDRESS:PORT`, or `none`.
pub(super) fn socket_addresses(text: &str) -> Parsed<Vec<SocketAddr>> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    list(text)?
        .iter()
        .map(|word| socket_address(word))
        .collect()
}

/// Whether a value of "file or URL" is meant as a URL.
pub(super) fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// An `http` or `https` URL with a host.
pub(super) fn http_url(text: &str) -> Parsed<Url> {
    let help = (!is_url(text)).then(|| "begin it with https://".to_owned());
    let bad = || Bad::new("expected a URL that begins with https:// or http://");
    let url = Url::parse(&word(text)?).map_err(|_| bad().with_help(help.clone()))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err(bad().with_help(help))
    }
}

/// An `http` or `https` URL that names nobody: who we are is said by other options.
pub(super) fn endpoint_url(text: &str) -> Parsed<Url> {
    let url = http_url(text)?;
    if url.username().is_empty() && url.password().is_none() {
        Ok(url)
    } else {
        Err(Bad::new("expected a URL without user and password in it"))
    }
}

/// An `https` URL.
pub(super) fn https_url(text: &str) -> Parsed<Url> {
    let url = http_url(text)?;
    if url.scheme() == "https" {
        Ok(url)
    } else {
        Err(Bad::new("expected a URL that begins with https://"))
    }
}

/// A distinguished name.
pub(super) fn dn(text: &str) -> Parsed<Dn> {
    Dn::parse(&line(text)?).map_err(|error| {
        let help = "write it like /DC=org/DC=example/CN=vm.example.org";
        Bad::new(format!("no distinguished name: {error}")).with_help(Some(help.to_owned()))
    })
}

/// The name of one file in a directory of ours.
pub(super) fn plain_file_name(text: &str) -> Parsed<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    let good =
        (1..=255).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
    if good {
        Ok(text.to_owned())
    } else {
        Err(Bad::new(
            "expected the name of one file: letters, digits and \"._+-\", no dot in front",
        ))
    }
}

/// A password, decoded. The error says nothing of what was found.
pub(super) fn base64_text(text: &str) -> Parsed<String> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let help = "encode it with: echo -n 'PASSWORD' | base64";
    let bad = |why| Bad::new(why).with_help(Some(help.to_owned()));
    let bytes = ENGINE
        .decode(text)
        .map_err(|_| bad("cannot be decoded from base64"))?;
    String::from_utf8(bytes).map_err(|_| bad("is no UTF-8 text after decoding from base64"))
}

/// The candidate that somebody who wrote `word` probably meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // Comparing takes time in proportion to the length, and no name of ours is longer.
    const LONGEST: usize = 60;
    if word.len() > LONGEST {
        return None;
    }
    candidates
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(word, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help<T: std::fmt::Debug>(parsed: Parsed<T>) -> Option<String> {
        parsed.unwrap_err().help
    }

    #[test]
    fn sizes_and_times_with_units_are_worked_out() {
        for (text, unit, expected) in [
            ("100M", Unit::Bytes, Some("write 104857600")),
            ("1 GiB", Unit::Bytes, Some("write 1073741824")),
            ("10 bytes", Unit::Bytes, None),
            ("2 weeks", Unit::Seconds, Some("write 1209600")),
            ("0.0001d", Unit::Seconds, None),
            ("90m", Unit::Hours, None),
            ("-5m", Unit::Seconds, None),
            ("1e400", Unit::Plain, None),
            ("\u{662}", Unit::Plain, None),
        ] {
            assert_eq!(
                help(whole(text, unit, u64::MAX)).as_deref(),
                expected,
                "{text}"
            );
        }
        assert_eq!(whole(" +010 ", Unit::Plain, 10), Ok(10));
        assert_eq!(days("0.25"), Ok(Seconds::new(21_600)));
        assert!(days("-1").is_err() && days("1e300").is_err());
    }

    #[test]
    fn hosts_and_ports() {
        for good in ["x.org:1", "[::1]:8884", "10.0.0.1:65535"] {
            assert!(host_and_port(good).is_ok(), "{good}");
        }
        for bad in [
            "x.org",
            "x.org:0",
            "x.org:65536",
            ":1",
            "a b:1",
            "https://x:1",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords() {
        assert_eq!(base64_text("aHVu\n dGVyMg=="), Ok("hunter2".to_owned()));
        assert_eq!(base64_text("aHVudGVyMg"), Ok("hunter2".to_owned()));
        for bad in ["hunter2!", "/w==", "="] {
            let Bad { why, help } = base64_text(bad).unwrap_err();
            assert!(!why.contains(bad) && help.is_some(), "{bad}: {why}");
        }
    }
}
