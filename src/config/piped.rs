//! Puts what vacuum pipes say into the merged sections, as if somebody had written it there.
//!
//! Each machinetype of a pipe becomes a section `[machinetype SPACE PREFIX-SUFFIX]` of [`Raw`],
//! complete, with the origin of each value. What is the site's own goes before what the pipe says,
//! in this order: `[machinetype SPACE PREFIX-SUFFIX]`, `[vacuum_pipe SPACE PREFIX]` with
//! `[DEFAULT]`, which counts in it as in every section, the pipe.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use url::Url;

use super::options::{self, SectionKind};
use super::pipe::{Entry, Pipe, Pipes, Told};
use super::problem::{Origin, Problem, shortened};
use super::raw::{Piped, Raw, RawSection, RawValue};
use super::read::Findings;
use super::value;
use crate::model::{MachineName, MachinetypeName, SpaceName};

/// The option that names the pipe.
const URL: &str = "vacuum_pipe_url";
const SHARE: &str = "target_share";

/// The longest name of a machinetype that leaves room for the names of its machines.
const LONGEST_NAME: usize = 200 - MachineName::PREFIX.len() - 1 - MachineName::RANDOM_CHARS;

/// A section `[vacuum_pipe SPACE PREFIX]`.
struct Section<'a> {
    header: &'a str,
    space: SpaceName,
    prefix: MachinetypeName,
    options: &'a RawSection,
    /// As people may see it.
    shown: Arc<str>,
    /// Its target share, which the machinetypes have between them.
    share: f64,
}

/// Adds the machinetypes of all pipes of which something is known.
pub(super) fn expand(raw: &mut Raw, pipes: &Pipes, findings: &Findings) {
    let mut all: BTreeMap<String, Piped> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for (section, url) in sections(raw) {
        let Some(known) = pipes.get(&url) else {
            continue;
        };
        told.insert(section.header.to_owned());
        say_what_is_ignored(&section, &known.pipe, findings);
        for entry in &known.pipe.entries {
            let made = piped(raw, &section, &known.pipe, entry).and_then(|piped| {
                let header = format!("machinetype {} {}", piped.space, piped.name);
                match all.entry(header) {
                    MapEntry::Vacant(place) => drop(place.insert(piped)),
                    MapEntry::Occupied(_) => {
                        return Err(format!("another pipe makes {} already", piped.name));
                    }
                }
                Ok(())
            });
            if let Err(why) = made {
                let what = format!("a machinetype is left out: {why}");
                let problem = Problem::warning(what).at(Some(&section.origin(entry)));
                findings.add(problem.in_section(section.header));
            }
        }
    }
    raw.piped = all;
    raw.told_pipes = told;
}

/// The sections of pipes whose name and URL are in order; what is wrong with others is said when
/// they are read.
fn sections(raw: &Raw) -> Vec<(Section<'_>, Url)> {
    let all = raw.sections.iter();
    all.filter_map(|(header, options)| {
        let words: Vec<&str> = header.split(' ').collect();
        let ["vacuum_pipe", space, prefix] = words.as_slice() else {
            return None;
        };
        let counts = |name| {
            let own = options.options.get(name);
            own.or_else(|| raw.defaults.options.get(name))
        };
        let url = value::http_url(&counts(URL)?.text).ok()?;
        let share = counts(SHARE).and_then(|share| value::share(&share.text).ok());
        let section = Section {
            header,
            space: SpaceName::new(*space).ok()?,
            prefix: MachinetypeName::new(*prefix).ok()?,
            options,
            // Users and queries may be secrets.
            shown: format!("{}{}", url.origin().ascii_serialization(), url.path()).into(),
            share: share.unwrap_or_default().get(),
        };
        Some((section, url))
    })
    .collect()
}

impl Section<'_> {
    fn origin(&self, entry: &Entry) -> Origin {
        Origin::Entry {
            pipe: Arc::clone(&self.shown),
            entry: entry.number,
        }
    }

    fn name(&self, told: &Told) -> Result<MachinetypeName, String> {
        let name = format!("{}-{}", self.prefix, told.suffix);
        let suffix = shortened(&told.suffix);
        if told.suffix.is_empty() || name.len() > LONGEST_NAME {
            let why = format!("expected a name of at most {LONGEST_NAME} characters with it");
            return Err(format!("suffix = \"{suffix}\": {why}"));
        }
        MachinetypeName::new(name).map_err(|_| {
            format!("suffix = \"{suffix}\": expected lower-case letters, digits and \"-\"")
        })
    }
}

fn say_what_is_ignored(section: &Section<'_>, pipe: &Pipe, findings: &Findings) {
    if !pipe.ignored.is_empty() {
        let what = format!(
            "not used, as pipes may not say it: {}",
            pipe.ignored.join(", ")
        );
        let problem = Problem::warning(what).in_pipe(&section.shown);
        findings.add(problem.in_section(section.header));
    }
}

fn piped(raw: &Raw, section: &Section<'_>, pipe: &Pipe, entry: &Entry) -> Result<Piped, String> {
    let told = entry.told.as_ref().map_err(Clone::clone)?;
    let name = section.name(told)?;
    let header = format!("machinetype {} {name}", section.space);
    let own = raw.sections.get(&header);
    let origin = section.origin(entry);
    let remote = |text: &str| RawValue {
        text: text.to_owned(),
        origin: Some(origin.clone()),
        hidden: false,
        after_secret: false,
    };
    let mut merged = Overlay::default();
    if let Some(own) = own {
        merged.lay_under(&own.options);
    }
    let mut of_section = section.options.options.clone();
    of_section.retain(|name, _| name != URL && name != SHARE);
    merged.lay_under(&of_section);
    merged.cover(raw.defaults.options.keys().filter(|name| *name != SHARE));
    let options = told.options.iter();
    let mut from_pipe: BTreeMap<_, _> = options
        .map(|(name, text)| (name.clone(), remote(text.reveal())))
        .collect();
    let share = section.share * part(told.share.get(), pipe.shares);
    from_pipe.insert(SHARE.to_owned(), remote(&share.to_string()));
    merged.lay_under(&from_pipe);
    let place = own.and_then(|own| own.origin.clone());
    Ok(Piped {
        space: section.space.clone(),
        name,
        prefix: section.prefix.clone(),
        section: RawSection {
            origin: place.or_else(|| Some(origin.clone())),
            options: merged.options,
        },
        origin,
    })
}

/// `share` as a part of `all`, from 0 to 1.
fn part(share: f64, all: f64) -> f64 {
    if share > 0.0 && all > 0.0 {
        (share / all).min(1.0)
    } else {
        0.0
    }
}

/// Options of several layers, of which the upper ones hide those of the same meaning below.
#[derive(Default)]
struct Overlay {
    options: BTreeMap<String, RawValue>,
    covered: BTreeSet<String>,
}

impl Overlay {
    /// Adds the options of the next lower layer. Unknown ones are left out: they have been warned of
    /// where they stand.
    fn lay_under(&mut self, layer: &BTreeMap<String, RawValue>) {
        for (name, value) in layer {
            let Some(meaning) = meaning(name) else {
                continue;
            };
            let hidden = hidden_by(&meaning).any(|upper| self.covered.contains(upper));
            if !hidden {
                self.options.insert(name.clone(), value.clone());
            }
        }
        self.cover(layer.keys());
    }

    /// Hides these options in all layers below.
    fn cover<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        self.covered.extend(names.filter_map(|name| meaning(name)));
    }
}

/// What an option is about. Options that exclude each other are about the same.
fn meaning(name: &str) -> Option<String> {
    let spec = options::find(SectionKind::Machinetype, None, name)?;
    Some(match spec.name {
        "hs06_per_processor" => "hs06".to_owned(),
        "user_data_file_XXX" => name.replacen("_file_", "_option_", 1),
        "user_data_option_XXX" => name.to_owned(),
        other => other.to_owned(),
    })
}

/// What hides something of this meaning below it: the same, and the other way to ask for a proxy.
fn hidden_by(meaning: &str) -> impl Iterator<Item = &str> {
    let others: &[&str] = match meaning {
        "user_data_proxy" => &["user_data_proxy_cert", "user_data_proxy_key"],
        "user_data_proxy_cert" | "user_data_proxy_key" => &["user_data_proxy"],
        _ => &[],
    };
    std::iter::once(meaning).chain(others.iter().copied())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::pipe::Known;
    use super::super::tests::{SMALL, context, raw};
    use super::super::{Config, MachinetypeConfig, UserDataSource, conclude, interpret, judge};
    use super::*;
    use crate::model::{Seconds, Timestamp};

    const PIPE: &str = "[vacuum_pipe example.org lhcb]\nvacuum_pipe_url = https://x/p?token=t\n\
                        target_share = 2\nflavor_name = m1.large\n";

    fn known(machinetypes: &Value) -> Pipes {
        let document = json!({ "machinetypes": machinetypes }).to_string();
        let pipe = Pipe::parse(document.as_bytes()).unwrap();
        let fetched = Timestamp::from_unix(1_000_000);
        let mut pipes = Pipes::default();
        let url = Url::parse("https://x/p?token=t").unwrap();
        pipes.put(url, Known { fetched, pipe });
        pipes
    }

    /// Everything that a machinetype needs, as the pipe says it.
    fn entry(suffix: &str, more: &Value) -> Value {
        let mut entry = json!({
            "suffix": suffix, "target_share": 1, "backoff_seconds": 600, "fizzle_seconds": 900,
            "root_image": "https://x/cernvm.iso", "user_data": "user_data",
            "image_signing_dn": "/CN=sign$", "heartbeat_file": "beat", "heartbeat_seconds": "700",
            "root_image": "image:cernvm4",
        });
        for (name, value) in more.as_object().unwrap() {
            entry[name] = value.clone();
        }
        entry
    }

    fn read(text: &str, machinetypes: &Value) -> (Raw, Option<Config>, Vec<String>) {
        let (mut raw, syntax) = raw(&[("/c", text)]);
        assert_eq!(syntax, []);
        let findings = Findings::default();
        expand(&mut raw, &known(machinetypes), &findings);
        let (config, problems) = judge(&raw, &context(), findings);
        let (config, problems) = conclude(config, problems);
        let problems = problems.iter().map(ToString::to_string);
        // Options that this version only checks are no matter of this test.
        let problems = problems.filter(|problem| !problem.contains("without effect"));
        (raw, config, problems.collect())
    }

    fn machinetype<'a>(config: &'a Config, name: &str) -> &'a MachinetypeConfig {
        let space = config.spaces.first_key_value().unwrap().1;
        let name = MachinetypeName::new(name).unwrap();
        space.machinetypes.get(&name).unwrap()
    }

    fn names(config: &Config) -> Vec<&str> {
        let space = config.spaces.first_key_value().unwrap().1;
        space
            .machinetypes
            .keys()
            .map(|name| name.as_str())
            .collect()
    }

    #[test]
    fn what_is_local_goes_before_the_pipe() {
        let text = format!(
            "[DEFAULT]\naccounting_fqan = /default\n{SMALL}{PIPE}fizzle_seconds = 33\n\
             user_data_option_x = section\nmax_machines = 9\n\
             [machinetype example.org lhcb-a]\nfizzle_seconds = 44\ncernvm_signing_dn = /CN=mine\n\
             flavor_names = tiny\nuser_data_proxy_cert = /c\nuser_data_proxy_key = /c\n\
             heartbeat_file =\nheartbeat_seconds = 0\n"
        );
        let more = json!({
            "accounting_fqan": "/pipe", "user_data_file_x": "f", "user_data_proxy": false,
            "user_data_file_y": "g",
        });
        let (_, config, problems) = read(&text, &json!([entry("a", &more), entry("b", &more)]));
        assert_eq!(problems, [""; 0]);
        let config = config.unwrap();
        assert_eq!(names(&config), ["atlas", "lhcb-a", "lhcb-b"]);
        let (a, b) = (
            machinetype(&config, "lhcb-a"),
            machinetype(&config, "lhcb-b"),
        );
        assert_eq!((a.fizzle.get(), b.fizzle.get()), (44, 33));
        assert_eq!((a.backoff, b.max_machines), (Seconds::new(600), Some(9)));
        assert_eq!(a.cernvm_signing_dn.as_deref(), Some("/CN=mine"));
        assert_eq!(b.cernvm_signing_dn.as_deref(), Some("/CN=sign$"));
        assert_eq!(a.accounting_fqan.as_deref(), Some("/default"));
        assert_eq!(
            (&a.flavor_names[0][..], &b.flavor_names[0][..]),
            ("tiny", "m1.large")
        );
        assert_eq!(b.user_data_options["x"].reveal(), "section");
        assert!(!b.user_data_files.contains_key("x"));
        assert!(a.user_data_proxy.is_some() && b.user_data_proxy.is_none());
        assert_eq!(
            (&a.heartbeat_file, b.heartbeat_file.as_deref()),
            (&None, Some("beat"))
        );
        // Files are those of the pipe's prefix.
        let files = "/state/spaces/example.org/machinetypes/lhcb/files";
        assert_eq!(
            b.user_data,
            UserDataSource::File(format!("{files}/user_data").into())
        );
        assert_eq!(
            a.user_data_files["y"],
            std::path::PathBuf::from(format!("{files}/g"))
        );
    }

    #[test]
    fn the_share_of_the_section_is_divided() {
        let shares = |text: &str, of: [f64; 3]| {
            let entries = json!([
                entry("a", &json!({"target_share": of[0]})),
                entry("b", &json!({"target_share": of[1]})),
                entry(
                    "c",
                    &json!({"target_share": of[2], "machine_model": "docker"})
                ),
            ]);
            let (_, config, problems) = read(text, &entries);
            assert_eq!(problems, [""; 0]);
            let config = config.unwrap();
            assert_eq!(names(&config), ["atlas", "lhcb-a", "lhcb-b"]);
            ["lhcb-a", "lhcb-b"].map(|name| machinetype(&config, name).target_share.get())
        };
        let both = format!("{SMALL}{PIPE}");
        assert_eq!(shares(&both, [3.0, 1.0, 0.0]), [1.5, 0.5]);
        // What is not used has its share all the same.
        assert_eq!(shares(&both, [1.0, 1.0, 2.0]), [0.5, 0.5]);
        assert_eq!(shares(&both, [0.0, 0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(shares(&both, [1e308, 1e308, 1e308]), [0.0, 0.0]);
        let local = format!("{both}[machinetype example.org lhcb-b]\ntarget_share = 7\n");
        assert_eq!(shares(&local, [3.0, 1.0, 0.0]), [1.5, 7.0]);
        let none = both.replace("target_share = 2\n", "");
        assert_eq!(shares(&none, [3.0, 1.0, 0.0]), [0.0, 0.0]);
        // In [DEFAULT] it is what each section has, and so also the one of the pipe.
        let default = format!("[DEFAULT]\ntarget_share = 4\n{none}");
        assert_eq!(shares(&default, [3.0, 1.0, 0.0]), [3.0, 1.0]);
    }

    #[test]
    fn what_a_pipe_has_wrong_leaves_out_no_more_than_that() {
        let entries = json!([
            entry("a", &json!({"backoff_seconds": "10m", "legacy_proxy": "maybe"})),
            entry("B", &json!({})),
            entry("c", &json!({"x509dn": "/CN=x", "flavor_name": "huge"})),
            entry("d", &json!({"user_data": "/etc/shadow"})),
            entry("e", &json!({"min_processors": 8})),
            entry("..", &json!({})),
            {"suffix": "g"},
        ]);
        let local = "[machinetype example.org lhcb-e]\nmax_processors = 4\n";
        let (_, config, problems) = read(&format!("{SMALL}{PIPE}{local}"), &entries);
        assert_eq!(names(&config.unwrap()), ["atlas", "lhcb-c"]);
        let place = "https://x/p";
        let expected = [
            ": warning: [vacuum_pipe example.org lhcb] not used, as pipes may not say it: \
             flavor_name, x509dn",
            " entry 1: warning: [machinetype example.org lhcb-a] is left out: backoff_seconds = \
             \"10m\": expected whole seconds (and 1 more) (write 600)",
            " entry 2: warning: [vacuum_pipe example.org lhcb] a machinetype is left out: \
             suffix = \"B\": expected lower-case letters, digits and \"-\"",
            " entry 4: warning: [vacuum_pipe example.org lhcb] a machinetype is left out: \
             user_data = \"/etc/shadow\": expected the name of a file without \"/\", or an http or \
             https URL without \"/../\"",
            " entry 5: warning: [machinetype example.org lhcb-e] is left out: max_processors = \
             \"4\": is less than min_processors, 8",
            " entry 6: warning: [vacuum_pipe example.org lhcb] a machinetype is left out: \
             suffix = \"..\": expected lower-case letters, digits and \"-\"",
            " entry 7: warning: [machinetype example.org lhcb-g] is left out: backoff_seconds \
             is missing; it is required (and 3 more)",
        ];
        let expected = expected.map(|what| format!("{place}{what}"));
        assert_eq!(problems, expected);
    }

    #[test]
    fn what_the_files_have_wrong_is_an_error() {
        let text = format!("{SMALL}{PIPE}max_machines = x\n");
        let (_, config, problems) = read(&text, &json!([entry("a", &json!({}))]));
        assert_eq!(config, None);
        assert!(problems.iter().any(|problem| problem.starts_with("/c:")));
        let text = format!("{SMALL}{PIPE}[machinetype example.org lhcb-a]\nheartbeat_file = /x\n");
        let (_, config, problems) = read(&text, &json!([entry("a", &json!({}))]));
        assert_eq!(config, None);
        let what = "/c:19: [machinetype example.org lhcb-a] heartbeat_file";
        assert!(
            problems.iter().any(|problem| problem.starts_with(what)),
            "{problems:?}"
        );
    }

    #[test]
    fn a_section_beside_the_pipe_is_a_machinetype_or_warned_of() {
        let own = "[machinetype example.org lhcb-old]\nbackoff_seconds = 1\nfizzle_seconds = 1\n\
                   flavor_name = f\nroot_image = image:x\nuser_data = old\n\
                   [machinetype example.org lhcb-z]\nmax_machines = 1\n";
        let (_, config, problems) = read(&format!("{SMALL}{PIPE}{own}"), &json!([]));
        let config = config.unwrap();
        assert_eq!(names(&config), ["atlas", "lhcb-old"]);
        let files = "/state/spaces/example.org/machinetypes/lhcb-old/files/old";
        let user_data = &machinetype(&config, "lhcb-old").user_data;
        assert_eq!(*user_data, UserDataSource::File(files.into()));
        assert_eq!(
            problems,
            [
                "/c:24: warning: [machinetype example.org lhcb-z] is not used: [vacuum_pipe \
                 example.org lhcb] makes no such machinetype now, and it is none by itself"
            ]
        );
        // One machinetype of two pipes is the first one's.
        let pipes = format!("{SMALL}{PIPE}{}", PIPE.replace("lhcb", "lhcb-a"));
        let entries = json!([entry("a-b", &json!({})), entry("b", &json!({}))]);
        let (_, config, problems) = read(&pipes, &entries);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("a machinetype is left out: another pipe makes lhcb-a-b already")
        );
        let expected = ["atlas", "lhcb-a-a-b", "lhcb-a-b", "lhcb-b"];
        assert_eq!(names(&config.unwrap()), expected);
    }

    /// A snapshot is replayed where nothing is known of pipes.
    #[test]
    fn a_snapshot_has_the_machinetypes_of_pipes() {
        let more = json!({"user_data_option_x": "hunter2"});
        let text = format!("{SMALL}{PIPE}");
        let (raw, config, _) = read(&text, &json!([entry("a", &more)]));
        let config = config.unwrap();
        let space = config.spaces.first_key_value().unwrap().0;
        let json = raw.only_space(space).to_json();
        assert_eq!(
            json["machinetype example.org lhcb-a"]["backoff_seconds"],
            json!({"value": "600", "pipe": "https://x/p", "entry": 1})
        );
        assert!(!json.to_string().contains("hunter2") && !raw.to_ini().contains("hunter2"));
        let replayed = Raw::from_json(&json).unwrap();
        let (again, problems) = interpret(&replayed, &context());
        assert_eq!(again.is_none(), problems.iter().any(Problem::is_error));
        let again = again.unwrap();
        assert_eq!(names(&again), names(&config));
        let share = machinetype(&again, "lhcb-a").target_share;
        assert_eq!(share, machinetype(&config, "lhcb-a").target_share);
    }
}
