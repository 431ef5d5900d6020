//! A full disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::factory::{Factory, MachineDir, SPACE, until};

/// A small file system of its own.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// Mounts it, which takes a root who may; says so when that is not to be had.
    pub fn mount(place: PathBuf) -> Option<Self> {
        fs::create_dir(&place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m,mode=0755", "vcycle-test"]);
        match mount.arg(&place).output() {
            Ok(done) if done.status.success() => Some(Self(place)),
            Ok(done) => {
                let why = String::from_utf8_lossy(&done.stderr).into_owned();
                eprintln!("skipped: a tmpfs cannot be mounted here: {}", why.trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: there is no mount command: {error}");
                None
            }
        }
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for size in [65_536, 4096, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
    }

    pub fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for a daemon that is still being killed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Lets so many cycles go by. Nothing tells of them: what a scan shows cannot be written down.
fn cycles(count: u64) {
    std::thread::sleep(Duration::from_secs(count));
}

#[test]
fn a_full_disk_creates_nothing_loses_nothing_and_is_told_once() {
    let mut factory = Factory::new();
    let Some(disk) = SmallDisk::mount(factory.path("disk")) else {
        return;
    };
    factory = factory.state_at(disk.0.join("state"));
    let space = format!(
        "max_machines = 20\nsimulated_job_seconds = 3\n{}",
        factory.vm_certificate()
    );
    let text = factory.space(SPACE, &space) + &factory.machinetype(SPACE, "atlas", "");
    factory.conf("space", &text);
    let daemon = factory.start();
    // From now on machines are created, start and end in every cycle.
    let finished = |machine: &MachineDir| machine.read("finished").is_some();
    until("a machine has ended", || {
        factory.machines().into_iter().find(finished)
    });
    disk.fill();
    let full = || factory.log_lines("nothing is created until there is room");
    until("it is told", || full().pop());
    // What was being created when it was found out comes to its end before the next scan.
    cycles(3);
    let machines = factory.machines();
    let ended = machines.iter().filter(|machine| finished(machine)).count();
    let said = factory.log().lines().count();
    cycles(5);
    assert_eq!(factory.machines(), machines, "nothing is created");
    let still = machines.iter().filter(|machine| finished(machine)).count();
    assert_eq!(still, ended, "there is no room to write down an end");
    assert_eq!(full().len(), 1, "said once");
    // The VM's own trouble is told once too: by the server that cannot take its last words, by
    // the VM, and by the embedded cloud, whose file is on the same disk.
    let log = factory.log();
    let more: Vec<_> = log.lines().skip(said).collect();
    assert!(more.len() <= 3, "{more:#?}");

    disk.make_room();
    until("it is told", || factory.log_lines("has room again").pop());
    until("all that were there are accounted for", || {
        let done = machines.iter().all(finished);
        done.then_some(())
    });
    let records = factory.records("apel-archive");
    for machine in &machines {
        let line = format!("\nLocalJobId: {}\n", machine.read("uuid").unwrap());
        let count = records
            .iter()
            .filter(|(_, text)| text.contains(&line))
            .count();
        assert_eq!(count, 1, "{machine:?}");
    }
    until("machines are created again", || {
        (factory.machines().len() > machines.len()).then_some(())
    });
    daemon.end();
}
