//! What a vacuum pipe says: a list in JSON of machinetypes that somebody else keeps.
//!
//! This is the way from bytes to what of them may be used. Whether the values fit their options is
//! seen where every value is, when a configuration is made of them. Invariants:
//!
//! 1. No bytes make it panic or take more than a small multiple of [`MAX_BYTES`] in memory.
//! 2. Nothing comes out but options of [`ACCEPTED`], under the names that machinetypes have for
//!    them.
//! 3. No value names a file outside of the directory that the site has made for the pipe.
//! 4. What is wrong with one machinetype leaves the others as they are.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use url::Url;

use super::options::{self, SectionKind};
use super::problem::shortened;
use super::value;
use crate::model::{Seconds, Secret, Share, Timestamp};

/// The most bytes of a pipe that are read; the largest real ones are some kilobytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The most machinetypes that a pipe may tell.
const MOST_ENTRIES: usize = 200;

/// The most names of ignored options that are told.
const MOST_NAMES: usize = 20;

/// What `cache_seconds` is when the pipe does not say it.
const USUAL_CACHE: Seconds = Seconds::new(3600);
/// The longest `cache_seconds` that is believed: after a slip of the hand a pipe is to come back.
const LONGEST_CACHE: Seconds = Seconds::new(7 * 86_400);

/// Everything that a pipe may tell of a machinetype, by the pipe's names. Those that are
/// no options of a machinetype here are for managers that run hypervisors, and mean nothing to a
/// cloud. A name that ends in `XXX` stands for all that begin like it.
pub const ACCEPTED: &[&str] = &[
    "accounting_fqan",
    "backoff_seconds",
    "cache_seconds",
    "cvmfs_repositories",
    "fizzle_seconds",
    "heartbeat_file",
    "heartbeat_seconds",
    "image_signing_dn",
    "legacy_proxy",
    "machine_model",
    "max_processors",
    "max_wallclock_seconds",
    "min_processors",
    "min_wallclock_seconds",
    "root_device",
    "root_image",
    "scratch_device",
    "suffix",
    "target_share",
    "user_data",
    "user_data_file_XXX",
    "user_data_option_XXX",
    "user_data_proxy",
];

/// The values of `machine_model` that a cloud's VMs can be; without one a machinetype is used too.
const MODELS: [&str; 2] = ["cernvm3", "vm-raw"];

/// Why a document is no vacuum pipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a vacuum pipe: {0}")]
pub struct NotAPipe(String);

/// What a vacuum pipe says, as far as it may be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipe {
    /// `cache_seconds`: how long it need not be fetched again.
    pub cache: Seconds,
    /// The sum of all its target shares, those of machinetypes that are not used included.
    pub shares: f64,
    /// Its machinetypes, without those of a machine_model that no cloud has.
    pub entries: Vec<Entry>,
    /// How many were left out for their machine_model.
    pub other_models: usize,
    /// Names of options that pipes may not set, and of machinetypes beyond the most.
    pub ignored: Vec<String>,
}

/// One machinetype of a pipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place in the list, counted from 1.
    pub number: usize,
    /// What it says, or why it cannot be used. The reason holds no secret.
    pub told: Result<Told, String>,
}

/// What a pipe says of one machinetype.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What follows the prefix and a hyphen in its name. Not yet known to make a good name.
    pub suffix: String,
    /// Its own target share.
    pub share: Share,
    /// Its options by the names that a machinetype has for them; each may hold a secret.
    pub options: BTreeMap<String, Secret<String>>,
}

/// All pipes of which anything is known, by URL.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pipes(BTreeMap<Url, Known>);

/// A pipe and when that is what it said.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// When it was fetched.
    pub fetched: Timestamp,
    /// What it said.
    pub pipe: Pipe,
}

impl Pipes {
    /// What is known of the pipe at this address.
    pub fn get(&self, url: &Url) -> Option<&Known> {
        self.0.get(url)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Url, &Known)> {
        self.0.iter()
    }

    /// Notes what a pipe says.
    pub fn put(&mut self, url: Url, known: Known) {
        self.0.insert(url, known);
    }
}

impl FromIterator<(Url, Known)> for Pipes {
    fn from_iter<I: IntoIterator<Item = (Url, Known)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Pipe {
    /// Reads the document that a pipe's URL gives.
    ///
    /// # Errors
    /// When it is no JSON object with a list `machinetypes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAPipe> {
        if bytes.len() > MAX_BYTES {
            return Err(NotAPipe(format!("it has more than {MAX_BYTES} bytes")));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| NotAPipe("it is no UTF-8 text".into()))?;
        // The parser refuses more than 128 levels.
        let document: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| NotAPipe(format!("it is no JSON: {error}")))?;
        let Some(Value::Array(machinetypes)) = document.get("machinetypes") else {
            let what = "expected an object with a list \"machinetypes\"";
            return Err(NotAPipe(what.to_owned()));
        };
        let mut pipe = Self {
            cache: cache_seconds(document.get("cache_seconds"))?,
            shares: 0.0,
            entries: Vec::new(),
            other_models: 0,
            ignored: Vec::new(),
        };
        pipe.take_all(machinetypes);
        Ok(pipe)
    }

    fn take_all(&mut self, machinetypes: &[Value]) {
        let mut ignored = BTreeSet::new();
        let mut suffixes = BTreeSet::new();
        for (index, value) in machinetypes.iter().take(MOST_ENTRIES).enumerate() {
            let empty = Map::new();
            let members = lower_case(value.as_object().unwrap_or(&empty));
            let share = share(members.get("target_share"));
            self.shares += share.as_ref().map_or(0.0, |share| share.get());
            if !is_for_clouds(members.get("machine_model")) {
                self.other_models = self.other_models.saturating_add(1);
                continue;
            }
            let told = match share {
                _ if !value.is_object() => Err("expected an object".to_owned()),
                Ok(share) => told(&members, share, &mut ignored),
                Err(why) => Err(why),
            };
            let told = told.and_then(|told| {
                if suffixes.insert(told.suffix.clone()) {
                    Ok(told)
                } else {
                    let suffix = shortened(&told.suffix);
                    Err(format!("suffix = \"{suffix}\": another one has it already"))
                }
            });
            let number = index.saturating_add(1);
            self.entries.push(Entry { number, told });
        }
        let names = ignored.len();
        self.ignored.extend(ignored.into_iter().take(MOST_NAMES));
        if names > MOST_NAMES {
            let more = names.saturating_sub(MOST_NAMES);
            self.ignored.push(format!("{more} more"));
        }
        let untaken = machinetypes.len().saturating_sub(MOST_ENTRIES);
        if untaken > 0 {
            let what = format!("{untaken} machinetypes beyond the first {MOST_ENTRIES}");
            self.ignored.push(what);
        }
    }
}

/// The members of an object, with names as options have them.
fn lower_case(object: &Map<String, Value>) -> BTreeMap<String, &Value> {
    let members = object.iter();
    members
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect()
}

fn cache_seconds(value: Option<&Value>) -> Result<Seconds, NotAPipe> {
    let Some(value) = value else {
        return Ok(USUAL_CACHE);
    };
    let seconds = plain(value).and_then(|text| value::seconds(&text).ok());
    let seconds = seconds.ok_or_else(|| {
        NotAPipe("cache_seconds: expected whole seconds in place of what it says".to_owned())
    })?;
    Ok(seconds.min(LONGEST_CACHE))
}

fn is_for_clouds(model: Option<&&Value>) -> bool {
    let Some(model) = model else { return true };
    plain(model).is_some_and(|model| MODELS.contains(&model.as_str()))
}

fn share(value: Option<&&Value>) -> Result<Share, String> {
    let Some(value) = value else {
        return Ok(Share::default());
    };
    let text = plain(value).ok_or_else(|| not_plain("target_share"))?;
    value::share(&text).map_err(|bad| {
        let shown = shortened(&text);
        format!("target_share = \"{shown}\": {}", bad.why)
    })
}

/// The text of a value as it would stand in a file.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Bool(yes) => Some(if *yes { "True" } else { "False" }.to_owned()),
        Value::Number(number) => Some(match number.as_f64() {
            // What is whole is written so: 3600.0 are 3600 seconds.
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() < 1e15 => {
                format!("{whole:.0}")
            }
            Some(_) | None => number.to_string(),
        }),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn not_plain(name: &str) -> String {
    format!(
        "{}: expected a string, a number or a boolean",
        shortened(name)
    )
}

fn told(
    members: &BTreeMap<String, &Value>,
    share: Share,
    ignored: &mut BTreeSet<String>,
) -> Result<Told, String> {
    let suffix = members.get("suffix").ok_or("suffix is missing")?;
    let suffix = plain(suffix).ok_or_else(|| not_plain("suffix"))?;
    let mut options = BTreeMap::new();
    for (name, value) in members {
        match option_of(name) {
            Meaning::Option(option) => {
                let text = plain(value).ok_or_else(|| not_plain(name))?;
                check_place(option, &text)?;
                options.insert(option.to_owned(), Secret::new(text));
            }
            Meaning::Nothing => {}
            Meaning::Unknown => drop(ignored.insert(shortened(name))),
        }
    }
    Ok(Told {
        suffix,
        share,
        options,
    })
}

/// What the name of a member of an entry means.
enum Meaning<'a> {
    /// This option of the machinetype.
    Option(&'a str),
    /// Something that is allowed and is not an option here.
    Nothing,
    /// Nothing that a pipe may tell.
    Unknown,
}

fn option_of(name: &str) -> Meaning<'_> {
    let is_named = |accepted: &&str| match accepted.strip_suffix("XXX") {
        None => *accepted == name,
        Some(beginning) => name.strip_prefix(beginning).is_some_and(is_pattern_name),
    };
    if !ACCEPTED.iter().any(is_named) {
        return Meaning::Unknown;
    }
    match name {
        "image_signing_dn" => Meaning::Option("cernvm_signing_dn"),
        // The pipe's own words, which are not simply handed on.
        "suffix" | "target_share" | "machine_model" | "cache_seconds" => Meaning::Nothing,
        option if options::find(SectionKind::Machinetype, None, option).is_some() => {
            Meaning::Option(option)
        }
        _for_hypervisors => Meaning::Nothing,
    }
}

fn is_pattern_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Files that a pipe names are the site's own, in the pipe's directory: a name there, or a URL
/// where that can be one.
fn check_place(option: &str, text: &str) -> Result<(), String> {
    let why = match option {
        "user_data" | "root_image" if text.contains(['/', '\\']) => {
            if is_plain_url(text) {
                return Ok(());
            }
            "expected the name of a file without \"/\", or an http or https URL without \"/../\""
        }
        "user_data" | "root_image" | "heartbeat_file" => {
            if text.is_empty() || is_file_name(text) {
                return Ok(());
            }
            "expected the name of a file without \"/\""
        }
        option if option.starts_with("user_data_file_") => {
            if is_file_name(text) {
                return Ok(());
            }
            "expected the name of a file without \"/\""
        }
        _ => return Ok(()),
    };
    Err(format!("{option} = \"{}\": {why}", shortened(text)))
}

fn is_file_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && !text.contains(|c: char| "/\\".contains(c) || c.is_control())
}

fn is_plain_url(text: &str) -> bool {
    let goes_up = |part: &str| {
        let part = percent_decode_str(part).decode_utf8_lossy();
        part == ".." || part.contains(['/', '\\'])
    };
    let path = text.split(['?', '#']).next().unwrap_or_default();
    // The parser takes more than that for such a URL, "https:x" for example.
    let begins = ["https://", "http://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    begins && value::http_url(text).is_ok() && !path.split(['/', '\\']).any(goes_up)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(machinetypes: Value) -> Pipe {
        let document = json!({"cache_seconds": 60, "machinetypes": machinetypes});
        Pipe::parse(document.to_string().as_bytes()).unwrap()
    }

    /// What a pipe with one machinetype says of it, or why it cannot be used.
    fn one(members: Value) -> Result<BTreeMap<String, String>, String> {
        let mut entry = json!({"suffix": "a"});
        for (name, value) in members.as_object().unwrap() {
            entry[name] = value.clone();
        }
        let pipe = read(json!([entry]));
        let told = pipe.entries.into_iter().next().unwrap().told?;
        let options = told.options.into_iter();
        Ok(options
            .map(|(name, text)| (name, text.reveal().clone()))
            .collect())
    }

    #[test]
    fn values_are_strings_numbers_or_booleans() {
        let options = one(json!({
            "backoff_seconds": 600, "fizzle_seconds": " 900 ", "max_wallclock_seconds": 86400.0,
            "legacy_proxy": true, "user_data_proxy": "false", "user_data_option_n": 1.5,
            "IMAGE_SIGNING_DN": "/CN=x$", "user_data_option_x": "a\nb",
        }))
        .unwrap();
        for (name, text) in [
            ("backoff_seconds", "600"),
            ("fizzle_seconds", "900"),
            ("max_wallclock_seconds", "86400"),
            ("legacy_proxy", "True"),
            ("user_data_proxy", "false"),
            ("user_data_option_n", "1.5"),
            ("cernvm_signing_dn", "/CN=x$"),
            ("user_data_option_x", "a\nb"),
        ] {
            assert_eq!(options.get(name).map(String::as_str), Some(text), "{name}");
        }
        for bad in [json!(null), json!([1]), json!({})] {
            let why = one(json!({"backoff_seconds": bad})).unwrap_err();
            let expected = "backoff_seconds: expected a string, a number or a boolean";
            assert_eq!(why, expected);
        }
        // What has no meaning here may look as it likes.
        assert!(one(json!({"cvmfs_repositories": ["a", "b"], "root_device": null})).is_ok());
    }

    #[test]
    fn no_more_than_the_accepted_options_come_out() {
        let pipe = read(json!([
            {"suffix": "a", "x509dn": "/CN=x", "root_public_key": "k", "flavor_name": "huge",
             "user_data_proxy_cert": "/etc/shadow", "cernvm_signing_dn": "x", "scratch_device": "vdb",
             "user_data_option_": "x", "user_data_option_a-b": "x", "user_data_file_XXX": "f"},
            {"suffix": "b", "x509dn": "/CN=y", "y\n": 1}
        ]));
        assert_eq!(
            pipe.ignored,
            [
                "cernvm_signing_dn",
                "flavor_name",
                "root_public_key",
                "user_data_option_",
                "user_data_option_a-b",
                "user_data_proxy_cert",
                "x509dn",
                "y\\n"
            ]
        );
        let told = pipe.entries[0].told.as_ref().unwrap();
        let names: Vec<_> = told.options.keys().collect();
        assert_eq!(names, ["user_data_file_xxx"]);
    }

    #[test]
    fn nothing_names_a_local_path() {
        for (name, value) in [
            ("user_data", "user_data"),
            ("user_data", "https://x.org/a/b?c=/../d"),
            ("root_image", "image:cernvm4"),
            ("root_image", "http://x.org/a.iso"),
            ("user_data_file_ca", "ca .pem"),
            ("heartbeat_file", "vm-heartbeat"),
        ] {
            assert!(one(json!({name: value})).is_ok(), "{name} {value}");
        }
        for (name, value) in [
            ("user_data", "/etc/shadow"),
            ("user_data", "a/b"),
            ("user_data", ".."),
            ("user_data", "file:///etc/shadow"),
            ("user_data", "https://x.org/a/../b"),
            ("user_data", "https://x.org/a/%2E%2e/b"),
            ("user_data", "https://x.org/a/..%2fb"),
            ("user_data", "https://x.org/a\\..\\b"),
            ("user_data", "https://x.org/.."),
            ("user_data", "https:{//x.org/a"),
            ("user_data", "a\\b"),
            ("root_image", "image:../x"),
            ("root_image", "/images/x"),
            ("root_image", "ftp://x.org/a"),
            ("user_data_file_ca", "../ca.pem"),
            ("user_data_file_ca", "https://x.org/ca.pem"),
            ("user_data_file_ca", ""),
            ("user_data_file_ca", "a\0b"),
            ("heartbeat_file", "a/b"),
        ] {
            let why = one(json!({name: value})).unwrap_err();
            assert!(why.starts_with(name), "{name} {value}: {why}");
        }
    }

    #[test]
    fn shares_are_summed_over_all_and_one_bad_entry_spoils_no_other() {
        let pipe = read(json!([
            {"suffix": "a", "target_share": 1},
            {"suffix": "b", "target_share": "2.5", "machine_model": "docker"},
            {"suffix": "c", "target_share": -1},
            {"suffix": "a", "target_share": 0.5, "machine_model": "cernvm3"},
            {"target_share": 1},
            [],
            {"suffix": 7, "machine_model": "vm-raw"},
        ]));
        assert!((pipe.shares - 5.0).abs() < 1e-9);
        assert_eq!(pipe.other_models, 1);
        let all = pipe.entries.iter();
        let all: Vec<_> = all
            .map(|entry| match &entry.told {
                Ok(told) => format!("{} {} {}", entry.number, told.suffix, told.share),
                Err(why) => format!("{} {why}", entry.number),
            })
            .collect();
        assert_eq!(
            all,
            [
                "1 a 1",
                "3 target_share = \"-1\": expected a number, 0 or above",
                "4 suffix = \"a\": another one has it already",
                "5 suffix is missing",
                "6 expected an object",
                "7 7 0",
            ]
        );
    }

    #[test]
    fn what_is_no_pipe() {
        let deep = format!("{{\"machinetypes\": {}", "[".repeat(100_000));
        for (bytes, expected) in [
            (&b""[..], "no JSON"),
            (b"<html>", "no JSON"),
            (b"\xff\xfe", "no UTF-8"),
            (b"[]", "expected an object with a list"),
            (b"{}", "expected an object with a list"),
            (b"{\"machinetypes\": {}}", "expected an object with a list"),
            (
                b"{\"machinetypes\": [], \"cache_seconds\": -1}",
                "cache_seconds",
            ),
            (deep.as_bytes(), "no JSON"),
            (&vec![b' '; MAX_BYTES + 1], "more than"),
        ] {
            let error = Pipe::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn how_long_it_is_kept_and_how_much_is_taken() {
        let cache = |text: &str| Pipe::parse(text.as_bytes()).unwrap().cache.get();
        assert_eq!(cache("\u{feff}{\"machinetypes\": []}"), 3600);
        assert_eq!(
            cache("{\"machinetypes\": [], \"cache_seconds\": \"30\"}"),
            30
        );
        assert_eq!(
            cache("{\"machinetypes\": [], \"cache_seconds\": 1e9}"),
            604_800
        );
        let many: Vec<_> = (0..1000).map(|n| json!({"suffix": n, "z": 1})).collect();
        let pipe = read(json!(many));
        assert_eq!(pipe.entries.len(), MOST_ENTRIES);
        let last = pipe.ignored.last().unwrap();
        assert_eq!(last, "800 machinetypes beyond the first 200");
    }
}
