//! Which sections there are and how they belong together: spaces, their machinetypes, the server.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{MachinetypeName, SpaceName};

use super::options::{self, ApiName, OptionSpec, SectionKind};
use super::problem::{Problem, shortened};
use super::raw::{Piped, Raw, RawSection};
use super::read::{Findings, Reader, unknown_option};
use super::space::SpaceHead;
use super::value::{Bad, Parsed};
use super::{
    Api, Benchmark, Config, Context, MachinetypeConfig, SpaceConfig, machinetype, server, space,
    value,
};

/// A section's header, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Header {
    Space(SpaceName),
    Machinetype(SpaceName, MachinetypeName),
    VacuumPipe(SpaceName, MachinetypeName),
    Server,
}

/// A section with its header's text.
type Named<'a> = (&'a str, &'a RawSection);

/// The sections by what they are.
#[derive(Default)]
struct Sorted<'a> {
    spaces: BTreeMap<SpaceName, Named<'a>>,
    machinetypes: BTreeMap<(SpaceName, MachinetypeName), Named<'a>>,
    pipes: BTreeMap<(SpaceName, MachinetypeName), Named<'a>>,
    server: Option<Named<'a>>,
}

/// Reads all sections. The configuration is complete only if the findings hold no error.
pub(super) fn read(raw: &Raw, context: &Context, findings: &Findings) -> Option<Config> {
    let sorted = sort(raw, findings);
    check_defaults(raw, findings);
    check_belonging(&sorted, findings);
    let assembly = Assembly {
        raw,
        context,
        findings,
        sorted: &sorted,
    };
    let mut heads: BTreeMap<&SpaceName, SpaceHead> = sorted
        .spaces
        .iter()
        .map(|(name, section)| (name, assembly.space(name, *section)))
        .collect();
    let pipes = sorted.pipes.iter();
    let pipes = pipes
        .filter_map(|(key, section)| assembly.pipe(key, *section, &heads))
        .collect();
    for (key, section) in &sorted.machinetypes {
        assembly.machinetype(key, *section, &mut heads);
    }
    for (header, piped) in &raw.piped {
        assembly.piped(header, piped, &mut heads);
    }
    let spaces: BTreeMap<SpaceName, SpaceConfig> = heads
        .into_iter()
        .filter_map(|(name, head)| Some((name.clone(), head.config?)))
        .collect();
    for space in spaces.values() {
        assembly.check_references(space);
    }
    let server = assembly.server(&spaces)?;
    Some(Config {
        spaces,
        server,
        pipes,
    })
}

fn sort<'a>(raw: &'a Raw, findings: &Findings) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    for (name, section) in &raw.sections {
        let named = (name.as_str(), section);
        match header(name) {
            Ok(Header::Space(space)) => drop(sorted.spaces.insert(space, named)),
            Ok(Header::Machinetype(space, name)) => {
                sorted.machinetypes.insert((space, name), named);
            }
            Ok(Header::VacuumPipe(space, prefix)) => {
                sorted.pipes.insert((space, prefix), named);
            }
            Ok(Header::Server) => sorted.server = Some(named),
            Err(Bad { why, help }) => {
                let problem = Problem::error(why).with_help(help);
                findings.add(problem.at(section.origin.as_ref()).in_section(name));
            }
        }
    }
    sorted
}

fn header(name: &str) -> Parsed<Header> {
    let (kind, names) = name.split_once(' ').unwrap_or((name, ""));
    let names: Vec<&str> = names.split(' ').filter(|name| !name.is_empty()).collect();
    let space = |name: &str| SpaceName::new(name).map_err(bad_name);
    let machinetype = |name: &str| MachinetypeName::new(name).map_err(bad_name);
    match (SectionKind::of_header(kind), names.as_slice()) {
        (Some(SectionKind::Space), [name]) => Ok(Header::Space(space(name)?)),
        (Some(SectionKind::Machinetype), [of, name]) => {
            Ok(Header::Machinetype(space(of)?, machinetype(name)?))
        }
        (Some(SectionKind::VacuumPipe), [of, prefix]) => {
            Ok(Header::VacuumPipe(space(of)?, machinetype(prefix)?))
        }
        (Some(SectionKind::Server), []) => Ok(Header::Server),
        (Some(SectionKind::Space), _) => Err(Bad::new("expected [space NAME]")),
        (Some(SectionKind::Machinetype), _) => Err(Bad::new("expected [machinetype SPACE NAME]")),
        (Some(SectionKind::VacuumPipe), _) => Err(Bad::new("expected [vacuum_pipe SPACE PREFIX]")),
        (Some(SectionKind::Server), _) => Err(Bad::new("expected [server]")),
        (None, _) => {
            let words = SectionKind::ALL.map(SectionKind::word);
            let help = value::nearest(kind, words.into_iter());
            let help = match kind {
                // What Vcycle before 0.6 called them.
                "vmtype" => Some("write [machinetype SPACE NAME]".to_owned()),
                _ => help.map(|word| format!("did you mean [{word} ...]?")),
            };
            let what =
                "unknown kind of section; expected space, machinetype, vacuum_pipe or server";
            Err(Bad::new(what).with_help(help))
        }
    }
}

fn bad_name(error: crate::model::InvalidName) -> Bad {
    const LONGEST: usize = 300;
    let text = error.to_string();
    if text.len() > LONGEST {
        return Bad::new("a name is longer than 200 characters");
    }
    Bad::new(text)
}

/// An option of `[DEFAULT]` that no section has is as unknown as any other.
fn check_defaults(raw: &Raw, findings: &Findings) {
    for (name, value) in &raw.defaults.options {
        if !options::is_known(None, name) {
            let known = options::of_section(None).flat_map(OptionSpec::names);
            let problem = unknown_option(name, findings.nearest(name, known));
            findings.add(problem.at(value.origin.as_ref()).in_section("DEFAULT"));
        }
    }
}

/// Every space needs a machinetype, and the other way round.
fn check_belonging(sorted: &Sorted<'_>, findings: &Findings) {
    let children = sorted.machinetypes.iter().chain(&sorted.pipes);
    for ((space, _), (header, section)) in children {
        if !sorted.spaces.contains_key(space) {
            let names = sorted.spaces.keys().map(SpaceName::as_str);
            let near = findings.nearest(space.as_str(), names);
            let help = near.map(|near| format!("did you mean the space {near}?"));
            let problem = Problem::error(format!("there is no [space {space}]")).with_help(help);
            findings.add(problem.at(section.origin.as_ref()).in_section(header));
        }
    }
    let used = sorted.machinetypes.keys().chain(sorted.pipes.keys());
    let used: BTreeSet<_> = used.map(|(space, _)| space).collect();
    for (space, (header, section)) in &sorted.spaces {
        if !used.contains(space) {
            let help = format!("add a section [machinetype {space} NAME]");
            let problem = Problem::error("has no machinetype").with_help(Some(help));
            findings.add(problem.at(section.origin.as_ref()).in_section(header));
        }
    }
}

/// A site that has asked for HEPscore23 does not want 1.0 in its records.
fn check_benchmark(reader: &Reader<'_>, benchmark: Benchmark, machinetype: &MachinetypeConfig) {
    if benchmark == Benchmark::Hepscore23 && machinetype.hepscore23_per_processor.is_none() {
        let what = "hepscore23_per_processor is not given, but benchmark = hepscore23: accounting records say 1.0";
        reader.warning("hepscore23_per_processor", what);
    }
}

/// What reading each section needs.
struct Assembly<'a> {
    raw: &'a Raw,
    context: &'a Context,
    findings: &'a Findings,
    sorted: &'a Sorted<'a>,
}

impl<'a> Assembly<'a> {
    fn reader(&self, kind: SectionKind, (header, section): Named<'a>) -> Reader<'a> {
        Reader::new(self.raw, kind, header, section, self.findings)
    }

    fn space(&self, name: &SpaceName, section: Named<'a>) -> SpaceHead {
        let reader = self.reader(SectionKind::Space, section);
        space::read(reader, name, self.context.hostname.as_str())
    }

    fn machinetype(
        &self,
        (space, name): &(SpaceName, MachinetypeName),
        section: Named<'a>,
        heads: &mut BTreeMap<&SpaceName, SpaceHead>,
    ) {
        let mut reader = self.reader(SectionKind::Machinetype, section);
        let mut head = heads.get_mut(space);
        reader.api = head.as_ref().and_then(|head| head.api);
        let flavors = head.as_ref().map_or(&[][..], |head| &head.flavor_names);
        let files = self.files(space, name);
        reader.partial = self.raw.piped.contains_key(section.0)
            || self.pipe_of(space, name).is_some() && {
                let aside = Findings::default();
                let alone = Reader {
                    findings: &aside,
                    ..reader
                };
                machinetype::read(&alone, name, flavors, &files);
                aside.has_errors()
            };
        let read = machinetype::read(&reader, name, flavors, &files);
        if reader.partial {
            self.check_use(space, name, section);
        } else if let (Some(machinetype), Some(config)) =
            (read, head.as_mut().and_then(|head| head.config.as_mut()))
        {
            check_benchmark(&reader, config.benchmark, &machinetype);
            config.machinetypes.insert(name.clone(), machinetype);
        }
    }

    /// The header of the vacuum pipe to whose machinetypes a section with this name can add.
    fn pipe_of(&self, space: &SpaceName, name: &MachinetypeName) -> Option<&'a str> {
        let mut pipes = self.sorted.pipes.iter();
        let found = pipes.find(|((of, prefix), _)| {
            let rest = name.as_str().strip_prefix(prefix.as_str());
            of == space && rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('-'))
        });
        found.map(|(_, (header, _))| *header)
    }

    /// Warns of a section that adds to a machinetype that its pipe does not make.
    fn check_use(&self, space: &SpaceName, name: &MachinetypeName, (header, section): Named<'_>) {
        let Some(pipe) = self.pipe_of(space, name) else {
            return;
        };
        if self.raw.told_pipes.contains(pipe) && !self.raw.piped.contains_key(header) {
            let what = format!(
                "is not used: [{pipe}] makes no such machinetype now, and it is none by itself"
            );
            let problem = Problem::warning(what).at(section.origin.as_ref());
            self.findings.add(problem.in_section(header));
        }
    }

    /// Reads a machinetype that a vacuum pipe makes. An error in it leaves it out, whoever made it:
    /// what the files alone have wrong has been said where they were read.
    fn piped(
        &self,
        header: &'a str,
        piped: &'a Piped,
        heads: &mut BTreeMap<&SpaceName, SpaceHead>,
    ) {
        let Some(head) = heads.get_mut(&piped.space) else {
            return;
        };
        let aside = Findings::default();
        let kind = SectionKind::Machinetype;
        let mut reader = Reader::new(self.raw, kind, header, &piped.section, &aside);
        reader.api = head.api;
        let files = self.files(&piped.space, &piped.prefix);
        let read = machinetype::read(&reader, &piped.name, &head.flavor_names, &files);
        let problems = aside.into_problems();
        let errors: Vec<_> = problems
            .iter()
            .filter(|problem| problem.is_error())
            .collect();
        if let Some(first) = errors.first() {
            let more = match errors.len().saturating_sub(1) {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let what = format!("is left out: {}{more}", first.what);
            let problem = Problem::warning(what).with_help(first.help.clone());
            let problem = problem.at(Some(&piped.origin)).in_section(header);
            self.findings.add(problem);
            return;
        }
        for problem in problems {
            if problem.pipe.is_some() {
                self.findings.add(problem);
            }
        }
        if let (Some(machinetype), Some(config)) = (read, head.config.as_mut()) {
            config.machinetypes.insert(piped.name.clone(), machinetype);
        }
    }

    /// Reads the section of a vacuum pipe: its address, and what it says of all its machinetypes.
    fn pipe(
        &self,
        (space, prefix): &(SpaceName, MachinetypeName),
        section: Named<'a>,
        heads: &BTreeMap<&SpaceName, SpaceHead>,
    ) -> Option<url::Url> {
        let mut reader = self.reader(SectionKind::VacuumPipe, section);
        reader.api = heads.get(space).and_then(|head| head.api);
        let url = reader.require("vacuum_pipe_url", value::http_url);
        reader.partial = true;
        machinetype::read(&reader, prefix, &[], &self.files(space, prefix));
        url
    }

    fn server(&self, spaces: &BTreeMap<SpaceName, SpaceConfig>) -> Option<super::ServerConfig> {
        const HTTPS: u16 = 443;
        let nothing = RawSection::default();
        let (header, section) = self.sorted.server.unwrap_or(("server", &nothing));
        let kind = SectionKind::Server;
        let reader = Reader::new(self.raw, kind, header, section, self.findings);
        let mut ports = spaces.values().map(|space| space.https_port);
        let first = ports.next().unwrap_or(HTTPS);
        let port = if ports.all(|port| port == first) {
            first
        } else {
            HTTPS
        };
        server::read(&reader, port)
    }

    /// Machinetypes that options of the space or of other machinetypes name.
    fn check_references(&self, space: &SpaceConfig) {
        let piped = self.sorted.pipes.keys().any(|(of, _)| *of == space.name);
        let check = |reader: Reader<'_>, option: &str, name: &str| {
            let mut known = space.machinetypes.keys().map(MachinetypeName::as_str);
            if !piped && !known.any(|known| known == name) {
                let known = space.machinetypes.keys().map(MachinetypeName::as_str);
                let help = self
                    .findings
                    .nearest(name, known)
                    .map(|near| format!("write {near}"));
                let what = format!("{option}: the space has no machinetype {}", shortened(name));
                reader.error(option, what, help);
            }
        };
        if let (Api::Simulated(options), Some(section)) =
            (&space.api, self.sorted.spaces.get(&space.name))
        {
            let mut reader = self.reader(SectionKind::Space, *section);
            reader.api = Some(ApiName::Simulated);
            for name in options.work.keys() {
                check(reader, "simulated_work", name);
            }
        }
        for machinetype in space.machinetypes.values() {
            let key = (space.name.clone(), machinetype.name.clone());
            if let (Some((name, _)), Some(section)) = (
                &machinetype.cvmfs_proxy_machinetype,
                self.sorted.machinetypes.get(&key),
            ) {
                let reader = self.reader(SectionKind::Machinetype, *section);
                if let Some(other) = space.machinetypes.get(name)
                    && other.heartbeat_file.is_none()
                {
                    let what = format!(
                        "cvmfs_proxy_machinetype: {name} has no heartbeat_file, by which its \
                         machines would be known to be alive, so none of them is ever used"
                    );
                    reader.warning("cvmfs_proxy_machinetype", what);
                }
                check(reader, "cvmfs_proxy_machinetype", name.as_str());
            }
        }
    }

    fn files(&self, space: &SpaceName, machinetype: &MachinetypeName) -> std::path::PathBuf {
        let state = &self.context.state_dir;
        let spaces = state.join("spaces").join(space);
        spaces.join("machinetypes").join(machinetype).join("files")
    }
}
