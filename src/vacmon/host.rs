//! This host in numbers, from `/proc` and the file systems. What cannot be found out is left out:
//! nobody is told of it in each cycle.

use std::fs;
use std::path::Path;

/// This host at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// The root file system.
    pub root: Option<Room>,
    /// The file system of the state directory.
    pub state: Option<Room>,
    /// The load average of the last fifteen minutes.
    pub load_average: Option<f64>,
    /// The release of the kernel.
    pub kernel_version: String,
    /// The operating system, as it presents itself.
    pub os_issue: Option<String>,
    /// When it booted, in Unix seconds.
    pub boot_time: Option<u64>,
    /// Its memory.
    pub memory: Option<Memory>,
}

/// What a file system has left for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In KiB.
    pub kb: u64,
    /// In files.
    pub inodes: u64,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What is not free: caches are in it.
    pub used: u64,
    /// Swap space in use.
    pub swap_used: u64,
    /// Swap space that is not.
    pub swap_free: u64,
}

impl Host {
    /// Looks. May block.
    pub fn look(state_dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let kernel = rustix::system::uname();
        Self {
            root: room(Path::new("/")),
            state: room(state_dir),
            load_average: read("/proc/loadavg").and_then(|text| load_average(&text)),
            kernel_version: kernel.release().to_string_lossy().into_owned(),
            os_issue: read("/etc/issue")
                .and_then(|text| issue(&text))
                .or_else(|| read("/etc/os-release").and_then(|text| pretty_name(&text))),
            boot_time: read("/proc/stat").and_then(|text| boot_time(&text)),
            memory: read("/proc/meminfo").and_then(|text| memory(&text)),
        }
    }
}

fn room(path: &Path) -> Option<Room> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(Room {
        kb: found.f_bavail.saturating_mul(found.f_frsize) / 1024,
        inodes: found.f_favail,
    })
}

/// The third number.
fn load_average(text: &str) -> Option<f64> {
    let load: f64 = text.split_whitespace().nth(2)?.parse().ok()?;
    load.is_finite().then_some(load)
}

fn boot_time(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn memory(text: &str) -> Option<Memory> {
    let of = |name: &str| {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (total, swap_free) = (of("MemTotal")?, of("SwapFree")?);
    Some(Memory {
        total,
        used: total.saturating_sub(of("MemFree")?),
        swap_used: of("SwapTotal")?.saturating_sub(swap_free),
        swap_free,
    })
}

/// The first line of `/etc/issue`, without what a terminal would fill in.
fn issue(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let mut shown = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            // `\l`, or with an argument `\4{eth0}`.
            '\\' => {
                characters.next();
                if characters.as_str().starts_with('{') {
                    characters.find(|character| *character == '}');
                }
            }
            other if other.is_control() => {}
            other => shown.push(other),
        }
    }
    let shown = shown.trim();
    (!shown.is_empty()).then(|| shown.to_owned())
}

fn pretty_name(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_tells_everything() {
        let host = Host::look(Path::new("/tmp"));
        assert!(host.root.is_some_and(|room| room.kb > 0), "{host:?}");
        assert!(host.state.is_some() && host.load_average.is_some());
        assert!(host.boot_time.is_some_and(|time| time > 1_000_000_000));
        assert!(host.memory.is_some_and(|memory| memory.used < memory.total));
        assert!(!host.kernel_version.is_empty());
        assert_eq!(Host::look(Path::new("/nonexistent")).state, None);
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(load_average("0.10 0.25 1.50 2/345 6789\n"), Some(1.5));
        assert_eq!(load_average("0.10 0.25"), None);
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\nx 1\n"),
            Some(1_700_000_000)
        );
        let text = "MemTotal:  1000 kB\nMemFree:   300 kB\nMemAvailable: 900 kB\n\
                    SwapCached: 7 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n";
        let expected = Memory {
            total: 1000,
            used: 700,
            swap_used: 30,
            swap_free: 20,
        };
        assert_eq!(memory(text), Some(expected));
        assert_eq!(memory("MemTotal: 1000 kB\n"), None);
    }

    #[test]
    fn the_issue_is_shown_without_what_a_terminal_fills_in() {
        for (text, shown) in [
            (
                "Debian GNU/Linux 12 \\n \\l\n\n",
                Some("Debian GNU/Linux 12"),
            ),
            ("\\S\nKernel \\r on an \\m\n", None),
            ("Site \\4{eth0} host\\", Some("Site  host")),
            ("", None),
        ] {
            assert_eq!(issue(text).as_deref(), shown, "{text:?}");
        }
        let text = "NAME=x\nPRETTY_NAME=\"AlmaLinux 9.4\"\n";
        assert_eq!(pretty_name(text).as_deref(), Some("AlmaLinux 9.4"));
    }
}
