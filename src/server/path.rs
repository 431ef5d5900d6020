//! From the path of a request to what it names. The only place that reads a client's path.

use percent_encoding::percent_decode_str;

use super::reply::Refusal;
use crate::model::{MachineName, MachinetypeName, SpaceName};
use crate::state::Published;

/// Longer paths are refused: a machine name has 200 bytes, a file name 255, all of them perhaps
/// percent-encoded.
const MAX_PATH: usize = 2048;

/// The longest name that a file system takes.
const MAX_FILE_NAME: usize = 255;

/// The name of a file in one of the published directories: `A-Za-z0-9._+-` and blanks, at most
/// 255 bytes, not beginning with a dot. It is one component that cannot lead elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// Takes `text` as a name, `None` when it is not one.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+- ".contains(&byte);
        let good = !text.is_empty()
            && text.len() <= MAX_FILE_NAME
            && !text.starts_with('.')
            && text.bytes().all(allowed);
        good.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a path names: `/machines/MACHINE/DIRECTORY`, with a slash, or with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The machine; whether it exists is for the disk to say.
    pub machine: MachineName,
    /// Which of its directories.
    pub directory: Published,
    /// What in it.
    pub leaf: Leaf,
}

/// The end of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// The directory without the slash that belongs there.
    NoSlash,
    /// The directory.
    Directory,
    /// A file.
    File(FileName),
}

impl Target {
    /// Reads the path of a request. It is decoded once, component by component; slashes that
    /// follow each other count as one, as in other servers of the same tree.
    ///
    /// # Errors
    /// 404 for what is nowhere in the tree, 400 for a name that nothing can have, 414 for a path
    /// that is too long.
    pub fn parse(path: &str) -> Result<Self, Refusal> {
        if path.len() > MAX_PATH {
            return Err(Refusal::new(
                http::StatusCode::URI_TOO_LONG,
                "the path is too long",
            ));
        }
        let parts = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(decode)
            .collect::<Result<Vec<_>, _>>()?;
        let Some((top, rest)) = parts.split_first() else {
            return Err(Refusal::not_found());
        };
        let (machine, directory, file) = match without_space(rest) {
            [machine, directory] if top == "machines" => (machine, directory, None),
            [machine, directory, file] if top == "machines" => (machine, directory, Some(file)),
            _ => return Err(Refusal::not_found()),
        };
        let machine = MachineName::new(machine.as_str()).map_err(|_| Refusal::not_found())?;
        let directory = Published::ALL
            .into_iter()
            .find(|known| known.dir_name() == directory)
            .ok_or_else(Refusal::not_found)?;
        let leaf = match file {
            Some(name) => Leaf::File(FileName::new(name).ok_or_else(bad_name)?),
            None if path.ends_with('/') => Leaf::Directory,
            None => Leaf::NoSlash,
        };
        Ok(Self {
            machine,
            directory,
            leaf,
        })
    }
}

/// VMs that Vcycle 03 made were told URLs with the name of their space before that of the machine.
fn without_space(parts: &[String]) -> &[String] {
    match parts {
        [space, rest @ ..]
            if MachineName::new(space.as_str()).is_err()
                && SpaceName::new(space.as_str()).is_ok()
                && rest
                    .first()
                    .is_some_and(|name| MachineName::new(name.as_str()).is_ok()) =>
        {
            rest
        }
        _ => parts,
    }
}

/// What a path `/heartbeatlists/SPACE/MACHINETYPE` names; whether there is such a list is for the
/// disk to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatList {
    /// The space.
    pub space: SpaceName,
    /// The machinetype.
    pub machinetype: MachinetypeName,
}

impl HeartbeatList {
    /// Reads the path of a request, `None` when it names no heartbeat list. The names need no
    /// percent-encoding; what has some is none of them.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.trim_start_matches('/');
        if path.len() > MAX_PATH || rest.len() == path.len() {
            return None;
        }
        let mut parts = rest.split('/').filter(|part| !part.is_empty());
        let found = (parts.next()?, parts.next()?, parts.next()?);
        let ("heartbeatlists", space, machinetype) = found else {
            return None;
        };
        if parts.next().is_some() || path.ends_with('/') {
            return None;
        }
        Some(Self {
            space: SpaceName::new(space).ok()?,
            machinetype: MachinetypeName::new(machinetype).ok()?,
        })
    }
}

fn bad_name() -> Refusal {
    Refusal::new(
        http::StatusCode::BAD_REQUEST,
        "a file name has 1 to 255 of A-Z a-z 0-9 . _ + - and blank, and does not begin with a dot",
    )
}

fn decode(part: &str) -> Result<String, Refusal> {
    let bad = || Refusal::new(http::StatusCode::BAD_REQUEST, "the path cannot be decoded");
    let decoded = percent_decode_str(part).decode_utf8().map_err(|_| bad())?;
    if decoded.contains(['/', '\\', '\0']) {
        return Err(bad());
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const MACHINE: &str = "vcycle-a-abcdefghij";

    fn file(name: &str) -> Leaf {
        Leaf::File(FileName::new(name).unwrap())
    }

    #[test]
    fn directories_and_files_of_a_machine() {
        let cases = [
            ("machinefeatures", Published::Machinefeatures, Leaf::NoSlash),
            ("jobfeatures/", Published::Jobfeatures, Leaf::Directory),
            ("jobfeatures//", Published::Jobfeatures, Leaf::Directory),
            ("jobfeatures/job_id", Published::Jobfeatures, file("job_id")),
            ("joboutputs/a%20b", Published::Joboutputs, file("a b")),
            ("joboutputs//x", Published::Joboutputs, file("x")),
            ("joboutputs/a+b-c.d", Published::Joboutputs, file("a+b-c.d")),
        ];
        for (end, directory, leaf) in cases {
            let found = Target::parse(&format!("/machines/{MACHINE}/{end}")).unwrap();
            let expected = Target {
                machine: MachineName::new(MACHINE).unwrap(),
                directory,
                leaf,
            };
            assert_eq!(found, expected, "{end}");
            let with_space = format!("/machines/vcycle01.example.org/{MACHINE}/{end}");
            assert_eq!(Target::parse(&with_space).unwrap(), expected, "{end}");
        }
    }

    #[test]
    fn paths_that_lead_nowhere() {
        let long = "a".repeat(256);
        let cases = [
            ("/", 404),
            ("", 404),
            ("*", 404),
            ("/machines/", 404),
            ("/machines/MACHINE", 404),
            ("/machines/MACHINE/", 404),
            ("/machines/MACHINE/user_data", 404),
            ("/machines/MACHINE/joboutputs/a/b", 404),
            ("/machines/MACHINE/joboutputs/../user_data", 404),
            ("/machines/../machines/MACHINE/joboutputs/x", 404),
            ("/machines/other/joboutputs/x", 404),
            ("/machines/UPPER/MACHINE/joboutputs/x", 404),
            ("/machines/a/b/MACHINE/joboutputs/x", 404),
            ("/machines/MACHINE/MACHINE/joboutputs/x", 404),
            ("/machines/example.org/other/joboutputs/x", 404),
            ("/machines/MACHINE/joboutputs/..", 400),
            ("/machines/MACHINE/joboutputs/%2e%2e", 400),
            ("/machines/MACHINE/joboutputs/%252e", 400),
            ("/machines/MACHINE/joboutputs/..%2fuser_data", 400),
            ("/machines/MACHINE/joboutputs/a%5Cb", 400),
            ("/machines/MACHINE/joboutputs/a\\b", 400),
            ("/machines/MACHINE/joboutputs/a%00", 400),
            ("/machines/MACHINE/joboutputs/a%ff", 400),
            ("/machines/MACHINE/joboutputs/.htaccess", 400),
            ("/machines/MACHINE/joboutputs/LONG", 400),
        ];
        for (path, status) in cases {
            let path = path.replace("MACHINE", MACHINE).replace("LONG", &long);
            let refusal = Target::parse(&path).unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{path}");
        }
        let endless = Target::parse(&"/a".repeat(MAX_PATH)).unwrap_err();
        assert_eq!(endless.status, StatusCode::URI_TOO_LONG);
    }

    #[test]
    fn heartbeat_lists_of_a_space_and_a_machinetype() {
        let found = HeartbeatList::parse("/heartbeatlists/example.org/atlas-1").unwrap();
        assert_eq!(found.space.as_str(), "example.org");
        assert_eq!(found.machinetype.as_str(), "atlas-1");
        assert_eq!(
            HeartbeatList::parse("//heartbeatlists//example.org//atlas-1"),
            Some(found)
        );
        for nowhere in [
            "",
            "*",
            "/heartbeatlists",
            "/heartbeatlists/example.org",
            "/heartbeatlists/example.org/",
            "/heartbeatlists/example.org/atlas/",
            "/heartbeatlists/example.org/atlas/x",
            "/heartbeatlists/../atlas",
            "/heartbeatlists/example.org/..",
            "/heartbeatlists/example.org/.x",
            "/heartbeatlists/example.org/a%2fb",
            "/heartbeatlists/example.org/%61tlas",
            "/machines/example.org/atlas",
            "heartbeatlists/example.org/atlas",
        ] {
            assert_eq!(HeartbeatList::parse(nowhere), None, "{nowhere}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_plain_component(
            end in prop_oneof![any::<String>(), "[./%\\\\a-f0-9 ]{0,20}"]
        ) {
            let parsed = Target::parse(&format!("/machines/{MACHINE}/joboutputs/{end}"));
            if let Ok(Target { leaf: Leaf::File(name), .. }) = parsed {
                prop_assert!(!name.as_str().contains(['/', '\\', '\0']));
                prop_assert!(!name.as_str().starts_with('.'));
                prop_assert!(name.as_str().len() <= MAX_FILE_NAME);
            }
        }
    }
}
