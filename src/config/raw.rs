//! The merged configuration before anything is made of it: sections, options, and where each value
//! came from. Can be written as INI or JSON with its secrets hidden, and read back from JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ini::{EscapePolicy, Ini, LineSeparator, Properties, WriteOption};
use serde_json::{Map, Value, json};

use crate::model::{MachinetypeName, SpaceName};

use super::ini::{FileSection, section_name};
use super::options::{self, SectionKind};
use super::problem::Origin;

/// What stands where a secret was. A file that has it as a secret's value is in error; a snapshot
/// that has it can be used for everything but connecting.
pub const HIDDEN: &str = "[hidden]";

/// The key of `[DEFAULT]`, whose options count in every section that has none of that name.
pub(super) const DEFAULT_SECTION: &str = "default";

/// All sections of all files, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// By the header's text, in lower case and with single blanks.
    pub(super) sections: BTreeMap<String, RawSection>,
    /// `[DEFAULT]`.
    pub(super) defaults: RawSection,
    /// The machinetypes that vacuum pipes make, by the header that stands for each: complete, with
    /// what `sections` has for them put in.
    pub(super) piped: BTreeMap<String, Piped>,
    /// The headers of the vacuum pipes of which something is known.
    pub(super) told_pipes: BTreeSet<String>,
}

/// A machinetype that a vacuum pipe makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piped {
    /// Which one.
    pub space: SpaceName,
    /// Which one.
    pub name: MachinetypeName,
    /// The prefix of the pipe's section, under which its files are.
    pub prefix: MachinetypeName,
    /// Where the pipe says it.
    pub origin: Origin,
    /// All its options.
    pub section: RawSection,
}

/// One section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawSection {
    /// Its first header.
    pub origin: Option<Origin>,
    /// By name, in lower case.
    pub options: BTreeMap<String, RawValue>,
}

/// The value of an option that counts, which is the last one given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawValue {
    /// As it stands in the file; the lines of a continued value are joined with newlines.
    pub text: String,
    /// Where; `None` in a snapshot written by hand.
    pub origin: Option<Origin>,
    /// It came from a snapshot that hides it.
    pub hidden: bool,
    /// It is no known option and comes next after a secret: it may be the rest of the secret, where
    /// somebody forgot to indent the second line. Neither name nor value are shown.
    pub after_secret: bool,
}

/// Why a JSON value is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration in JSON: {place}: {why}")]
pub struct NotAConfiguration {
    place: String,
    why: &'static str,
}

impl Raw {
    /// Adds the sections of one more file; its values win over those that are there.
    pub(super) fn merge(&mut self, sections: Vec<FileSection>) {
        for FileSection {
            name,
            origin,
            options: found,
        } in sections
        {
            let kind = SectionKind::of_header(&name);
            let section = self.section_mut(&name);
            section.origin.get_or_insert(origin);
            let mut secret_before = false;
            for (name, text, origin) in found {
                // What is left of an encoded secret on a line of its own ends in `=` or `==`.
                let after_secret = secret_before
                    && matches!(text.as_str(), "" | "=")
                    && !options::is_known(kind, &name);
                secret_before = after_secret || options::is_secret(&name);
                let value = RawValue {
                    text,
                    origin: Some(origin),
                    hidden: false,
                    after_secret,
                };
                section.options.insert(name, value);
            }
        }
    }

    fn section_mut(&mut self, name: &str) -> &mut RawSection {
        if name == DEFAULT_SECTION {
            &mut self.defaults
        } else {
            self.sections.entry(name.to_owned()).or_default()
        }
    }

    /// The part of the configuration that one space needs: its own section, those of its
    /// machinetypes and vacuum pipes, `[server]` and `[DEFAULT]`.
    pub fn only_space(&self, space: &SpaceName) -> Self {
        let of_space = |name: &str| {
            let mut words = name.split(' ');
            match words.next() {
                Some("server") => true,
                Some("space" | "machinetype" | "vacuum_pipe") => {
                    words.next() == Some(space.as_str())
                }
                Some(_) | None => false,
            }
        };
        Self {
            sections: self
                .sections
                .iter()
                .filter(|(name, _)| of_space(name))
                .map(|(name, section)| (name.clone(), section.clone()))
                .collect(),
            defaults: self.defaults.clone(),
            piped: self
                .piped
                .iter()
                .filter(|(_, piped)| piped.space == *space)
                .map(|(name, piped)| (name.clone(), piped.clone()))
                .collect(),
            told_pipes: self.told_pipes.clone(),
        }
    }

    /// The headers of all sections of the files but `[DEFAULT]`.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// All sections, with what vacuum pipes say in them.
    fn with_pipes(&self) -> BTreeMap<&String, &RawSection> {
        let own = self.sections.iter();
        let piped = self
            .piped
            .iter()
            .map(|(name, piped)| (name, &piped.section));
        own.chain(piped).collect()
    }

    /// The options that count in a section, those of `[DEFAULT]` included, as they stand in the
    /// files: secrets are not hidden.
    pub fn options(&self, section: &str) -> impl Iterator<Item = (&str, &str)> {
        let section = self.sections.get(section);
        self.counting(section)
            .map(|(name, value, _)| (name.as_str(), value.text.as_str()))
    }

    /// Name, value, and whether it comes from `[DEFAULT]`, for all options of a section.
    fn counting<'a>(
        &'a self,
        section: Option<&'a RawSection>,
    ) -> impl Iterator<Item = (&'a String, &'a RawValue, bool)> {
        let own = section.into_iter().flat_map(|section| &section.options);
        let is_own =
            move |name: &String| section.is_some_and(|section| section.options.contains_key(name));
        let inherited = self.defaults.options.iter();
        let inherited = inherited.filter(move |(name, _)| !is_own(name));
        own.map(|(name, value)| (name, value, false))
            .chain(inherited.map(|(name, value)| (name, value, true)))
    }

    /// Reads what [`Raw::to_json`] writes, and what a person writes by hand:
    /// `{"space x": {"api": "openstack", "max_machines": 10}, "machinetype x a": {...}}`. A value
    /// is a string, a number, a boolean, or an object with `value`, `file` and `line`.
    ///
    /// # Errors
    /// When the JSON has another shape.
    pub fn from_json(json: &Value) -> Result<Self, NotAConfiguration> {
        let bad = |place: &str, why| NotAConfiguration {
            place: place.to_owned(),
            why,
        };
        let sections = json
            .as_object()
            .ok_or_else(|| bad("the whole", "expected an object of sections"))?;
        let mut raw = Self::default();
        for (header, options) in sections {
            let options = options
                .as_object()
                .ok_or_else(|| bad(header, "expected an object of options"))?;
            let name = section_name(header);
            raw.section_mut(&name);
            for (option, json) in options {
                let value = value_from_json(json)
                    .map_err(|why| bad(&format!("{header}: {option}"), why))?;
                let inherited = json.get("default").and_then(Value::as_bool) == Some(true);
                let section = if inherited {
                    &mut raw.defaults
                } else {
                    raw.section_mut(&name)
                };
                let option = option.to_lowercase();
                // `[DEFAULT]` is told with every section, and hidden where the option means nothing.
                if !(inherited && value.hidden && section.options.contains_key(&option)) {
                    section.options.insert(option, value);
                }
            }
        }
        Ok(raw)
    }

    /// Every section with every option that counts in it, each as an object with `value`, `file`
    /// and `line`, and `"default": true` where it comes from `[DEFAULT]`. Secrets are hidden.
    pub fn to_json(&self) -> Value {
        let sections = self.with_pipes().into_iter().map(|(name, section)| {
            let kind = SectionKind::of_header(name);
            let options: Map<String, Value> = self
                .counting(Some(section))
                .filter(|(_, value, _)| !value.after_secret)
                .map(|(option, value, inherited)| {
                    let json = value_to_json(kind, option, value, inherited);
                    (option.clone(), json)
                })
                .collect();
            (name.clone(), Value::Object(options))
        });
        Value::Object(sections.collect())
    }

    /// One INI file that says the same, without comments, secrets hidden.
    pub fn to_ini(&self) -> String {
        let mut ini = Ini::new();
        if !self.defaults.options.is_empty() {
            add_to_ini(&mut ini, "DEFAULT", &self.defaults);
        }
        let mut names: Vec<_> = self.with_pipes().into_iter().collect();
        names.sort_by_key(|(name, _)| print_order(name));
        for (name, section) in names {
            add_to_ini(&mut ini, name, section);
        }
        let as_it_is = WriteOption {
            escape_policy: EscapePolicy::Nothing,
            line_separator: LineSeparator::CR,
            kv_separator: " = ",
        };
        let mut bytes = Vec::new();
        // Writing to memory cannot fail.
        let _: std::io::Result<()> = ini.write_to_opt(&mut bytes, as_it_is);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn value_from_json(json: &Value) -> Result<RawValue, &'static str> {
    const WHY: &str = "expected a string, a number, a boolean, or an object with \"value\"";
    let (plain, origin) = match json.as_object() {
        Some(object) => (object.get("value").ok_or(WHY)?, origin_from_json(object)),
        None => (json, None),
    };
    let text = match plain {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "true".to_owned(),
        Value::Bool(false) => "false".to_owned(),
        Value::Null | Value::Array(_) | Value::Object(_) => return Err(WHY),
    };
    let hidden = text == HIDDEN;
    Ok(RawValue {
        text,
        origin,
        hidden,
        after_secret: false,
    })
}

fn origin_from_json(object: &Map<String, Value>) -> Option<Origin> {
    let number = |name: &str| {
        let number = object.get(name).and_then(Value::as_u64).unwrap_or(0);
        usize::try_from(number).unwrap_or(0)
    };
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    if let Some(pipe) = text("pipe") {
        return Some(Origin::Entry {
            pipe: pipe.into(),
            entry: number("entry"),
        });
    }
    Some(Origin::Line {
        file: Path::new(text("file")?).into(),
        line: number("line"),
    })
}

fn value_to_json(
    kind: Option<SectionKind>,
    option: &str,
    value: &RawValue,
    inherited: bool,
) -> Value {
    let mut object = Map::new();
    let text = options::shown_value(kind, option, &value.text);
    object.insert("value".to_owned(), json!(text));
    match &value.origin {
        Some(Origin::Line { file, line }) => {
            object.insert("file".to_owned(), json!(file.to_string_lossy()));
            object.insert("line".to_owned(), json!(line));
        }
        Some(Origin::Entry { pipe, entry }) => {
            object.insert("pipe".to_owned(), json!(pipe));
            object.insert("entry".to_owned(), json!(entry));
        }
        None => {}
    }
    if inherited {
        object.insert("default".to_owned(), json!(true));
    }
    Value::Object(object)
}

fn add_to_ini(ini: &mut Ini, name: &str, section: &RawSection) {
    let kind = SectionKind::of_header(name);
    let mut properties = Properties::new();
    for (option, value) in &section.options {
        if !value.after_secret {
            let text = options::shown_value(kind, option, &value.text);
            properties.insert(option.clone(), text.replace('\n', "\n    "));
        }
    }
    ini.entry(Some(name.to_owned())).or_insert(properties);
}

/// `[server]` first, then each space followed by what belongs to it.
fn print_order(name: &str) -> (u8, String, u8, String) {
    let mut words = name.split(' ').map(str::to_owned);
    let kind = words.next().unwrap_or_default();
    let space = words.next().unwrap_or_default();
    let rest = words.next().unwrap_or_default();
    match kind.as_str() {
        "server" => (0, space, 0, rest),
        "space" => (1, space, 0, rest),
        "machinetype" => (1, space, 1, rest),
        "vacuum_pipe" => (1, space, 2, rest),
        _ => (2, kind, 0, space),
    }
}
