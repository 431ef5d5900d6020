//! Where everything is below the state directory. The only code that knows these names:
//! site scripts and Apache read the same tree, so the names are an interface.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use crate::model::{MachineName, MachinetypeName, SpaceName};

/// The default state directory.
pub const DEFAULT_ROOT: &str = "/var/lib/vcycle";

/// Paths below one state directory, and the disk that it is on.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    disk: Disk,
}

/// The files of a machine's directory that hold one moment in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFile {
    /// Before the cloud was asked for it.
    Created,
    /// It began to run.
    Started,
    /// The last time that it was known to run, when that has become uncertain, or its start was set back
    /// with the clock and no scan has been made since.
    Updated,
    /// It ended.
    Stopped,
    /// Everything that its end asks for is on disk.
    Finished,
    /// We last asked the cloud to delete it.
    Deleted,
    /// The copy of what it wrote was whole (log_joboutputs).
    Logged,
}

impl TimeFile {
    /// The name of the file.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Updated => "updated",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
            Self::Deleted => "deleted",
            Self::Logged => "logged",
        }
    }
}

/// The three directories of a machine that VMs see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Published {
    /// What the whole machine has.
    Machinefeatures,
    /// What the job in it (the one payload) has.
    Jobfeatures,
    /// What the machine writes.
    Joboutputs,
}

impl Published {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Machinefeatures, Self::Jobfeatures, Self::Joboutputs];

    /// The name of the directory, which is also the last part of its URL.
    pub const fn dir_name(self) -> &'static str {
        match self {
            Self::Machinefeatures => "machinefeatures",
            Self::Jobfeatures => "jobfeatures",
            Self::Joboutputs => "joboutputs",
        }
    }
}

/// The file of a machine with the SHA-256 of the token that lets its holder write to joboutputs.
pub const TOKEN_HASH: &str = "joboutputs_token_sha256";

/// The file in joboutputs in which a VM says why it ended.
pub const SHUTDOWN_MESSAGE: &str = "shutdown_message";

impl<P: AsRef<Path>> From<P> for Layout {
    fn from(root: P) -> Self {
        Self::new(root.as_ref())
    }
}

impl Layout {
    /// Paths below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::on(Disk::default(), root)
    }

    /// Paths below `root` on `disk`.
    pub fn on(disk: Disk, root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            disk,
        }
    }

    /// The disk that they are on.
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directories of all machines.
    pub fn machines(&self) -> PathBuf {
        self.root.join("machines")
    }

    /// The directory of one machine.
    pub fn machine(&self, name: &MachineName) -> PathBuf {
        self.machines().join(name)
    }

    /// One of the directories of a machine that VMs see.
    pub fn published(&self, name: &MachineName, which: Published) -> PathBuf {
        self.machine(name).join(which.dir_name())
    }

    /// What is kept for the spaces.
    pub fn spaces(&self) -> PathBuf {
        self.root.join("spaces")
    }

    /// What is kept for one space.
    pub fn space(&self, space: &SpaceName) -> PathBuf {
        self.spaces().join(space)
    }

    /// An empty file whose modification time is the last complete scan of the space.
    pub fn last_scan(&self, space: &SpaceName) -> PathBuf {
        self.space(space).join("last_scan")
    }

    /// Where machines whose files could not be written have the last scan that could, each in a file
    /// of its name.
    pub fn unwritten_scans(&self, space: &SpaceName) -> PathBuf {
        self.space(space).join("unwritten_scans")
    }

    /// When everything in the space has to be down, as `vcycled shutdown` said, in Unix seconds.
    pub fn ordered_shutdown(&self, space: &SpaceName) -> PathBuf {
        self.space(space).join("shutdown_time")
    }

    /// What is kept for one machinetype.
    pub fn machinetype(&self, space: &SpaceName, machinetype: &MachinetypeName) -> PathBuf {
        self.space(space).join("machinetypes").join(machinetype)
    }

    /// The site's own files for one machinetype: what relative file names mean.
    pub fn machinetype_files(&self, space: &SpaceName, machinetype: &MachinetypeName) -> PathBuf {
        self.machinetype(space, machinetype).join("files")
    }

    /// The time of the last abort of a machinetype, in Unix seconds.
    pub fn last_abort_time(&self, space: &SpaceName, machinetype: &MachinetypeName) -> PathBuf {
        self.machinetype(space, machinetype).join("last_abort_time")
    }

    /// The longest that copies of what machines of a machinetype wrote are kept, in seconds, as it
    /// was last configured: for when the machinetype is gone.
    pub fn joboutputs_seconds(&self, space: &SpaceName, machinetype: &MachinetypeName) -> PathBuf {
        self.machinetype(space, machinetype)
            .join("joboutputs_seconds")
    }

    /// An empty file whose modification time is the last answer of the machinetype's remote server.
    pub fn remote_answered(&self, space: &SpaceName, machinetype: &MachinetypeName) -> PathBuf {
        self.machinetype(space, machinetype).join("remote_answered")
    }

    /// Copies of what machines wrote, by space, machinetype and machine.
    pub fn joboutputs(&self) -> PathBuf {
        self.root.join("joboutputs")
    }

    /// Copies of what the machines of one machinetype wrote.
    pub fn joboutputs_of(&self, space: &SpaceName, machinetype: &MachinetypeName) -> PathBuf {
        self.joboutputs().join(space).join(machinetype)
    }

    /// What vacuum pipes said when they were last fetched.
    pub fn pipes(&self) -> PathBuf {
        self.root.join("pipes")
    }

    /// Copies of images that are given as URLs.
    pub fn imagecache(&self) -> PathBuf {
        self.root.join("imagecache")
    }

    /// All accounting records, by day.
    pub fn apel_archive(&self) -> PathBuf {
        self.root.join("apel-archive")
    }

    /// Accounting records that wait to be sent, by day.
    pub fn apel_outgoing(&self) -> PathBuf {
        self.root.join("apel-outgoing")
    }

    /// The heartbeat lists of a space: what `/heartbeatlists/SPACE/` on the HTTPS server shows.
    pub fn heartbeat_lists(&self, space: &SpaceName) -> PathBuf {
        self.all_heartbeat_lists().join(space)
    }

    /// The heartbeat lists of all spaces.
    pub fn all_heartbeat_lists(&self) -> PathBuf {
        self.root.join("heartbeatlists")
    }

    /// Where files grow before they are renamed to their place; on the same file system.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What `vcycled migrate` has changed of machines that an older version made, by machine.
    pub fn migrated(&self) -> PathBuf {
        self.root.join("migrated")
    }

    /// Is there while a migration has begun and has not ended.
    pub fn migration_begun(&self) -> PathBuf {
        self.migrated().join("begun")
    }

    /// The directories that the last migration could not take over, one in a line.
    pub fn left_by_migration(&self) -> PathBuf {
        self.migrated().join("left")
    }

    /// The lock that keeps a second migration off the directory.
    pub fn migration_lock(&self) -> PathBuf {
        self.root.join("migrate.lock")
    }

    /// An empty file whose modification time is when machines of the space were last taken over from
    /// an older version.
    pub fn taken_over(&self, space: &SpaceName) -> PathBuf {
        self.space(space).join("taken_over")
    }

    /// The local socket of the running daemon.
    pub fn socket(&self) -> PathBuf {
        self.root.join("vcycled.sock")
    }

    /// What whoever asks the admin endpoint from elsewhere has to show.
    pub fn admin_token(&self) -> PathBuf {
        self.root.join("admin_token")
    }

    /// The lock that keeps a second daemon off the directory.
    pub fn lock(&self) -> PathBuf {
        self.root.join("vcycled.lock")
    }
}
