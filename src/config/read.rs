//! Takes the options of one section one by one, and gathers every problem on the way.
//!
//! Each `take_*` gives a value or nothing. Nothing may mean that there was a problem; that is
//! noted, and no configuration comes out in the end, so callers go on with whatever fits.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::model::Secret;

use super::options::{self, ApiName, OptionSpec, Preset, SectionKind};
use super::problem::{Origin, Problem, shortened};
use super::raw::{HIDDEN, Raw, RawSection, RawValue};
use super::value::{self, Bad, Parsed};

/// Problems after which no more names are suggested: comparing names takes time.
const MOST_SUGGESTIONS: usize = 200;

/// What is gathered over all sections. Sections are read one after the other, so a cell will do.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Problem>>,
}

impl Findings {
    pub fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Whether one of the problems is an error.
    pub fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(Problem::is_error)
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// The candidate that somebody who wrote `word` probably meant.
    pub fn nearest<'a>(
        &self,
        word: &str,
        candidates: impl Iterator<Item = &'a str>,
    ) -> Option<&'a str> {
        if self.problems.borrow().len() < MOST_SUGGESTIONS {
            value::nearest(word, candidates)
        } else {
            None
        }
    }
}

/// The options of one section.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    /// The kind of the section, which says what options there are.
    pub kind: SectionKind,
    /// The header's text.
    pub name: &'a str,
    /// What the space speaks; `None` while it is not known.
    pub api: Option<ApiName>,
    /// Only a part of the options is expected here; the rest comes from elsewhere.
    pub partial: bool,
    pub section: &'a RawSection,
    pub defaults: &'a RawSection,
    pub findings: &'a Findings,
}

/// A value and the option that it was found for.
struct Found<'a> {
    spec: &'static OptionSpec,
    /// The name that the file uses.
    name: &'a str,
    text: &'a str,
    raw: Option<&'a RawValue>,
}

impl Found<'_> {
    fn origin(&self) -> Option<&Origin> {
        self.raw.and_then(|raw| raw.origin.as_ref())
    }

    fn is_hidden(&self) -> bool {
        self.raw.is_some_and(|raw| raw.hidden)
    }
}

impl<'a> Reader<'a> {
    pub fn new(
        raw: &'a Raw,
        kind: SectionKind,
        name: &'a str,
        section: &'a RawSection,
        findings: &'a Findings,
    ) -> Self {
        Self {
            kind,
            name,
            api: None,
            partial: false,
            section,
            defaults: &raw.defaults,
            findings,
        }
    }

    /// Takes an option that is a plain value.
    pub fn take<T>(&self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let found = self.find(name)?;
        match parse(found.text) {
            Ok(value) => Some(value),
            // What a snapshot hides was in order when the snapshot was made.
            Err(_) if found.is_hidden() => None,
            Err(bad) => {
                self.complain_of(&found, bad);
                None
            }
        }
    }

    /// Takes an option that is text, where an empty value is as good as none.
    pub fn take_text<T>(&self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        self.take(name, |text| {
            if text.is_empty() {
                Ok(None)
            } else {
                parse(text).map(Some)
            }
        })
        .flatten()
    }

    /// Takes an option that must be there and must not be empty.
    pub fn require<T>(&self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        match self.find(name) {
            None => {
                if !self.partial {
                    let problem = Problem::error(format!("{name} is missing; it is required"));
                    self.add(problem.with_option(name), self.section.origin.as_ref());
                }
                None
            }
            Some(found) if found.text.is_empty() => {
                self.complain_of(&found, Bad::new("is empty; it is required"));
                None
            }
            Some(_) => self.take(name, parse),
        }
    }

    /// Takes a list; none is an empty one.
    pub fn take_list(&self, name: &str) -> Vec<String> {
        self.take(name, value::list).unwrap_or_default()
    }

    /// Takes a secret.
    pub fn take_secret(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Parsed<String>,
    ) -> Option<Secret<String>> {
        let hidden = self.find(name).is_some_and(|found| found.is_hidden());
        let text = if hidden {
            Some(HIDDEN.to_owned())
        } else {
            self.take_text(name, |text| {
                if text == HIDDEN {
                    Err(Bad::new("was hidden when this configuration was printed")
                        .with_help(Some("put the real value in its place".to_owned())))
                } else {
                    parse(text)
                }
            })
        };
        text.map(Secret::new)
    }

    /// Takes a secret that must be there and must not be empty.
    pub fn require_secret(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Parsed<String>,
    ) -> Option<Secret<String>> {
        match self.find(name) {
            Some(found) if !found.text.is_empty() => self.take_secret(name, parse),
            Some(_) | None => self.require(name, |_| Ok(None)).flatten(),
        }
    }

    /// Takes a file name: absolute, or relative to `dir` where there is one.
    pub fn take_path(&self, name: &str, dir: Option<&Path>) -> Option<PathBuf> {
        self.take_text(name, |text| path(text, dir))
    }

    /// The options whose names begin like `name`, which ends in `XXX`: the rest of the name, and
    /// the value. An option in the section hides one of the same name in `[DEFAULT]`.
    pub fn take_all<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> std::collections::BTreeMap<String, T> {
        let mut all = std::collections::BTreeMap::new();
        let (Some(spec), Some(prefix)) = (self.spec(name), name.strip_suffix("XXX")) else {
            return all;
        };
        let own = &self.section.options;
        let inherited = self.defaults.options.iter();
        let inherited = inherited.filter(|(name, _)| !own.contains_key(*name));
        for (name, raw) in own.iter().chain(inherited) {
            let Some(rest) = name.strip_prefix(prefix).filter(|rest| !rest.is_empty()) else {
                continue;
            };
            let found = Found {
                spec,
                name,
                text: &raw.text,
                raw: Some(raw),
            };
            if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                let why = format!("expected letters, digits and \"_\" after {prefix}");
                self.complain_of(&found, Bad::new(why));
                continue;
            }
            match parse(found.text) {
                Ok(value) => drop(all.insert(rest.to_owned(), value)),
                Err(bad) => self.complain_of(&found, bad),
            }
        }
        all
    }

    /// Whether the files give the option, under any of its names.
    pub fn gives(&self, name: &str) -> bool {
        self.find(name).is_some_and(|found| found.raw.is_some())
    }

    /// Whether the option has an empty value.
    pub fn is_empty(&self, name: &str) -> bool {
        self.find(name).is_some_and(|found| found.text.is_empty())
    }

    /// Where the files give the option.
    pub fn origin_of(&self, name: &str) -> Option<&'a Origin> {
        self.find(name)?.raw?.origin.as_ref()
    }

    /// Notes an error with an option that was found, or with the whole section.
    pub fn error(&self, option: &str, what: impl Into<String>, help: Option<String>) {
        let problem = Problem::error(what).with_option(option).with_help(help);
        let origin = self.origin_of(option).or(self.section.origin.as_ref());
        self.add(problem, origin);
    }

    /// Notes a warning with an option that was found.
    pub fn warning(&self, option: &str, what: impl Into<String>) {
        let problem = Problem::warning(what).with_option(option);
        let origin = self.origin_of(option).or(self.section.origin.as_ref());
        self.add(problem, origin);
    }

    /// Looks at every option of the section once: unknown ones, those of another API, those with a
    /// deprecated name, and those whose effect comes later.
    pub fn check_names(&self) {
        for (name, raw) in &self.section.options {
            if let Some(spec) = options::find(self.kind, self.api, name) {
                self.check_name(spec, name, raw);
            } else if options::is_known(Some(self.kind), name) {
                let api = self.api.map_or("", ApiName::word);
                let what = format!("{name} has no meaning with api = {api}; it is not used");
                self.add(
                    Problem::warning(what).with_option(name),
                    raw.origin.as_ref(),
                );
            } else {
                self.add(self.unknown(name, raw), raw.origin.as_ref());
            }
        }
        for (name, raw) in &self.defaults.options {
            let own = self.section.options.contains_key(name);
            if let Some(spec) = options::find(self.kind, self.api, name).filter(|_| !own) {
                self.check_name(spec, name, raw);
            }
        }
    }

    fn check_name(&self, spec: &OptionSpec, name: &str, raw: &RawValue) {
        if spec.deprecated.contains(&name) {
            let what = format!("{name} is deprecated; its new name is {}", spec.name);
            self.add(
                Problem::warning(what).with_option(name),
                raw.origin.as_ref(),
            );
        }
    }

    fn unknown(&self, name: &str, raw: &RawValue) -> Problem {
        if raw.after_secret {
            let what = "unknown option right after a secret; it is not shown, as it may be the \
                        rest of the secret";
            let help = "begin each further line of a value with white space";
            return Problem::warning(what).with_help(Some(help.to_owned()));
        }
        let known = options::of_section(Some(self.kind))
            .filter(|spec| spec.is_for(self.api))
            .flat_map(OptionSpec::names);
        unknown_option(name, self.findings.nearest(name, known))
    }

    fn spec(&self, name: &str) -> Option<&'static OptionSpec> {
        options::find(self.kind, self.api, name)
    }

    /// The value that counts: the section's own under any of the option's names, else that of
    /// `[DEFAULT]`, else the one in the table.
    fn find(&self, name: &str) -> Option<Found<'a>> {
        let spec = self.spec(name)?;
        for section in [self.section, self.defaults] {
            let mut given = spec
                .names()
                .filter_map(|name| Some((name, section.options.get(name)?)));
            let Some((name, raw)) = given.next() else {
                continue;
            };
            return Some(Found {
                spec,
                name,
                text: &raw.text,
                raw: Some(raw),
            });
        }
        match spec.preset {
            Preset::Text(text) if !self.partial => Some(Found {
                spec,
                name: spec.name,
                text,
                raw: None,
            }),
            Preset::Text(_) | Preset::Required | Preset::Off | Preset::Told => None,
        }
    }

    /// Two names of one option with different values: which one is meant cannot be told.
    pub fn check_doubles(&self) {
        for spec in options::of_section(Some(self.kind)).filter(|spec| spec.is_for(self.api)) {
            let given: Vec<_> = spec
                .names()
                .filter_map(|name| Some((name, self.section.options.get(name)?)))
                .collect();
            for pair in given.windows(2) {
                if let [(first, one), (second, other)] = pair
                    && one.text != other.text
                {
                    let what = format!(
                        "{first} and {second} are names of one option, with different values here"
                    );
                    let problem = Problem::error(what)
                        .with_option(second)
                        .with_help(Some(format!("keep {}", spec.name)));
                    self.add(problem, other.origin.as_ref());
                }
            }
        }
    }

    fn complain_of(&self, found: &Found<'_>, bad: Bad) {
        let Bad { why, help } = bad;
        let shown = options::shown_value(Some(self.kind), found.name, found.text);
        let value = if shown == HIDDEN {
            String::new()
        } else {
            format!(" = \"{}\"", shortened(&shown))
        };
        let problem = Problem::error(format!("{}{value}: {why}", found.name))
            .with_option(found.spec.name)
            .with_help(help);
        self.add(problem, found.origin());
    }

    fn add(&self, problem: Problem, origin: Option<&Origin>) {
        self.findings.add(problem.at(origin).in_section(self.name));
    }
}

/// A warning about an option that no section of its kind has.
pub(super) fn unknown_option(name: &str, near: Option<&str>) -> Problem {
    let near = near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
    Problem::warning(format!("unknown option \"{}\"{near}", shortened(name))).with_option(name)
}

/// A file name: absolute, or relative to `dir` where there is one.
pub(super) fn path(text: &str, dir: Option<&Path>) -> Parsed<PathBuf> {
    let text = value::line(text)?;
    match dir {
        _ if text.starts_with('/') => Ok(PathBuf::from(text)),
        Some(dir) if !value::is_url(&text) => Ok(dir.join(text)),
        Some(_) => Err(Bad::new("expected a file name, not a URL")),
        None => Err(Bad::new("expected a file name that begins with /")),
    }
}
