//! One machine's directory: made whole, read once, changed a file at a time.

mod read;
mod said;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use read::{Loaded, Unread};

use read::load_directory;

use super::{Disk, IoContext, Published, StateError, Store, TOKEN_HASH, TimeFile, disk};
use crate::model::{
    CloudId, Ended, FactoryName, MachineFiles, MachineName, MachinetypeName, Seconds, Secret,
    SpaceName, Timestamp, TokenHash,
};

/// Everything that the directory of a new machine holds.
#[derive(Clone, Debug)]
pub struct NewMachine {
    /// Its name.
    pub name: MachineName,
    /// Its space.
    pub space: SpaceName,
    /// Its machinetype.
    pub machinetype: MachinetypeName,
    /// The factory.
    pub manager: FactoryName,
    /// Now; or, for a machine found on the cloud without a directory, what the cloud says.
    pub created: Timestamp,
    /// The cloud's identifier, for a machine found on the cloud.
    pub id: Option<CloudId>,
    /// Who may write to joboutputs, as a distinguished name in slash form.
    pub https_x509dn: Option<String>,
    /// Whose holder may write to joboutputs as well.
    pub token: Option<TokenHash>,
    /// `fizzle_seconds` of the machinetype.
    pub fizzle: Option<Seconds>,
    /// `hepscore23_per_processor` of the machinetype.
    pub hepscore23_per_processor: Option<f64>,
    /// `accounting_fqan` of the machinetype.
    pub accounting_fqan: Option<String>,
    /// `log_joboutputs` of the machinetype.
    pub log_joboutputs: bool,
    /// The cloud's identifier of the flavor that is asked for.
    pub flavor: Option<String>,
    /// The zone that is asked for.
    pub zone: Option<String>,
    /// The contextualization; `None` for a machine found on the cloud.
    pub user_data: Option<Secret<Vec<u8>>>,
    /// Files of `machinefeatures`: key to value. A key without value must not be in it.
    pub machinefeatures: BTreeMap<&'static str, String>,
    /// Files of `jobfeatures`.
    pub jobfeatures: BTreeMap<&'static str, String>,
}

impl Store {
    /// The group of another web server, whose CGI program writes to joboutputs: that of `machines`,
    /// when the admin has given that directory the setgid bit.
    fn writers(&self) -> Option<u32> {
        const SETGID: u32 = 0o2000;
        let found = fs::metadata(self.layout.machines()).ok()?;
        (found.mode() & SETGID != 0).then(|| found.gid())
    }

    /// Makes a machine's directory, whole, by rename, and tells what is now in it.
    ///
    /// # Errors
    /// When anything cannot be written; then there is no directory. A directory of that name
    /// that exists already is an error too, and is left as it is.
    pub fn create_machine(&self, new: &NewMachine) -> Result<MachineFiles, StateError> {
        let disk = self.layout.disk();
        let growing = disk::temporary_path(&self.layout.tmp());
        let place = self.layout.machine(&new.name);
        // The error names the place and not what grows in `tmp`, whose name is never the same: a
        // trouble that lasts has to be the same text each time.
        let made = fill_machine(disk, &growing, (new, self.writers()))
            .context("create", &place)
            .and_then(|()| {
                load_directory(disk, &growing, new.name.clone()).map_err(|error| error.at(&place))
            })
            .and_then(|files| {
                // rename(2) onto a directory succeeds when that is empty: look first. Nobody
                // else makes machine directories, so nothing can come in between.
                if place.exists() {
                    return Err(io::Error::from(io::ErrorKind::AlreadyExists))
                        .context("create", &place);
                }
                disk.rename(&growing, &place).context("create", &place)?;
                Ok(files)
            });
        if made.is_err() {
            disk.discard(&growing);
        }
        made
    }

    /// Whether somebody has removed a machine's directory. Where those of machines cannot be had at
    /// all, as on a disk that is not mounted, or where that cannot be told, nobody has.
    pub fn has_lost(&self, name: &MachineName) -> bool {
        let path = self.layout.machine(name);
        let looked = self.layout.disk().read(&path);
        let found = looked.and_then(|()| fs::symlink_metadata(&path));
        let is_missing = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        is_missing && self.layout.machines().is_dir()
    }

    /// Writes one of the time files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_time(
        &self,
        name: &MachineName,
        which: TimeFile,
        time: Timestamp,
    ) -> Result<(), StateError> {
        let path = self.layout.machine(name).join(which.file_name());
        self.write(&path, time.to_string().as_bytes(), disk::PUBLIC)
    }

    /// Removes one of the time files. One that is not there is no error.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove_time(&self, name: &MachineName, which: TimeFile) -> Result<(), StateError> {
        let path = self.layout.machine(name).join(which.file_name());
        self.layout
            .disk()
            .remove_file(&path)
            .context("remove", &path)
    }

    /// Writes the cloud's identifier: `uuid`, and `job_id` for the VM itself. An identifier of EC2's
    /// form is in `instance_id` too, as in the trees of older versions.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_id(&self, name: &MachineName, id: &CloudId) -> Result<(), StateError> {
        let job_id = self
            .layout
            .published(name, Published::Jobfeatures)
            .join("job_id");
        self.write(&job_id, id.as_str().as_bytes(), disk::PUBLIC)?;
        let dir = self.layout.machine(name);
        if is_ec2(id) {
            self.write(
                &dir.join("instance_id"),
                id.as_str().as_bytes(),
                disk::PUBLIC,
            )?;
        }
        self.write(&dir.join("uuid"), id.as_str().as_bytes(), disk::PUBLIC)
    }

    /// Writes by how much the clock was set back while it ran.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_clock_set_back(&self, name: &MachineName, by: Seconds) -> Result<(), StateError> {
        let path = self.layout.machine(name).join("clock_set_back");
        self.write(&path, by.to_string().as_bytes(), disk::PUBLIC)
    }

    /// Writes the zone that the cloud placed it in.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_zone(&self, name: &MachineName, zone: &str) -> Result<(), StateError> {
        let path = self.layout.machine(name).join("zone");
        self.write(&path, zone.as_bytes(), disk::PUBLIC)
    }

    /// Writes which volumes the cloud made for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_volumes(&self, name: &MachineName, volumes: &[String]) -> Result<(), StateError> {
        let path = self.layout.machine(name).join("volumes");
        self.write(&path, volumes.join("\n").as_bytes(), disk::PUBLIC)
    }

    /// Writes why we destroy it. The first reason stays, whatever a later try is for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_ended(&self, name: &MachineName, ended: Ended) -> Result<(), StateError> {
        let path = self.layout.machine(name).join("ended");
        if path.exists() {
            return Ok(());
        }
        self.write(&path, ended.word().as_bytes(), disk::PUBLIC)
    }

    /// Moves the moment that it is told to be down by. VMs see it at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_shutdowntime(&self, name: &MachineName, time: Timestamp) -> Result<(), StateError> {
        for (which, key) in [
            (Published::Machinefeatures, "shutdowntime"),
            (Published::Jobfeatures, "shutdowntime_job"),
        ] {
            let path = self.layout.published(name, which).join(key);
            self.write(&path, time.to_string().as_bytes(), disk::PUBLIC)?;
        }
        Ok(())
    }

    /// Removes a machine's directory.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove_machine(&self, name: &MachineName) -> Result<(), StateError> {
        let path = self.layout.machine(name);
        self.layout
            .disk()
            .remove_dir(&self.layout.tmp(), &path)
            .context("remove", &path)
    }
}

/// Writes everything below `dir`, which must not exist, and syncs it.
fn fill_machine(
    disk: &Disk,
    dir: &Path,
    (new, writers): (&NewMachine, Option<u32>),
) -> io::Result<()> {
    let public = |path: &Path, text: &str| disk.create_synced(path, text.as_bytes(), disk::PUBLIC);
    disk.create_dir(dir, 0o755)?;
    public(&dir.join("created"), &new.created.to_string())?;
    public(&dir.join("machinetype_name"), new.machinetype.as_str())?;
    public(&dir.join("space_name"), new.space.as_str())?;
    public(&dir.join("manager"), new.manager.as_str())?;
    if let Some(dn) = &new.https_x509dn {
        public(&dir.join("https_x509dn"), dn)?;
    }
    if let Some(token) = &new.token {
        public(&dir.join(TOKEN_HASH), &token.to_string())?;
    }
    if let Some(fizzle) = new.fizzle {
        public(&dir.join("fizzle_seconds"), &fizzle.to_string())?;
    }
    if let Some(power) = new.hepscore23_per_processor {
        public(&dir.join("hepscore23_per_processor"), &power.to_string())?;
    }
    if let Some(fqan) = &new.accounting_fqan {
        public(&dir.join("accounting_fqan"), fqan)?;
    }
    if new.log_joboutputs {
        public(&dir.join("log_joboutputs"), "True")?;
    }
    for (file, text) in [("flavor", &new.flavor), ("zone", &new.zone)] {
        if let Some(text) = text {
            public(&dir.join(file), text)?;
        }
    }
    if let Some(user_data) = &new.user_data {
        disk.create_synced(&dir.join("user_data"), user_data.reveal(), disk::PRIVATE)?;
    }
    if let Some(id) = &new.id {
        if is_ec2(id) {
            public(&dir.join("instance_id"), id.as_str())?;
        }
        public(&dir.join("uuid"), id.as_str())?;
    }
    for which in Published::ALL {
        let sub = dir.join(which.dir_name());
        match (which, writers) {
            (Published::Joboutputs, Some(group)) => disk.create_dir_for(&sub, group)?,
            _ => disk.create_dir(&sub, 0o755)?,
        }
        let files = match which {
            Published::Machinefeatures => &new.machinefeatures,
            Published::Jobfeatures => &new.jobfeatures,
            Published::Joboutputs => continue,
        };
        for (key, value) in files {
            public(&sub.join(key), value)?;
        }
        if let (Published::Jobfeatures, Some(id)) = (which, &new.id) {
            public(&sub.join("job_id"), id.as_str())?;
        }
        disk.sync_dir(&sub)?;
    }
    disk.sync_dir(dir)
}

/// Whether an identifier has the form of EC2's.
fn is_ec2(id: &CloudId) -> bool {
    id.as_str().starts_with("i-")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::state::disk::{Effect, Watch};
    use crate::state::{Layout, SHUTDOWN_MESSAGE};

    fn new_machine(name: &str) -> NewMachine {
        NewMachine {
            name: MachineName::new(name).unwrap(),
            space: SpaceName::new("example.org").unwrap(),
            machinetype: MachinetypeName::new("a").unwrap(),
            manager: FactoryName::new("factory.example.org").unwrap(),
            created: Timestamp::from_unix(1000),
            id: None,
            https_x509dn: Some("/DC=org/CN=vm".to_owned()),
            token: None,
            fizzle: Some(Seconds::new(600)),
            hepscore23_per_processor: Some(11.25),
            accounting_fqan: Some("/vo/Role=NULL".to_owned()),
            log_joboutputs: true,
            flavor: Some("flavor-1".to_owned()),
            zone: Some("zone-a".to_owned()),
            user_data: Some(Secret::new(b"secret".to_vec())),
            machinefeatures: BTreeMap::from([("total_cpu", "2".to_owned())]),
            jobfeatures: BTreeMap::from([
                ("allocated_cpu", "2".to_owned()),
                ("shutdowntime_job", "87400".to_owned()),
            ]),
        }
    }

    #[test]
    fn a_machine_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let new = new_machine("vcycle-a-abcdefghij");
        let made = store.create_machine(&new).unwrap();
        store.set_id(&new.name, &CloudId::new("uuid-1")).unwrap();
        store
            .set_time(&new.name, TimeFile::Started, Timestamp::from_unix(1060))
            .unwrap();
        store.set_ended(&new.name, Ended::Heartbeat).unwrap();
        let volumes = ["volume-1".to_owned(), "volume-2".to_owned()];
        store.set_volumes(&new.name, &volumes).unwrap();
        assert_eq!(made.flavor, new.flavor);
        assert_eq!(made.zone, new.zone);
        store
            .set_shutdowntime(&new.name, Timestamp::from_unix(5000))
            .unwrap();
        let loaded = store.load_machines().unwrap();
        assert!(loaded.unread.is_empty(), "{:?}", loaded.unread);
        assert_eq!(
            loaded.machines,
            [MachineFiles {
                id: Some(CloudId::new("uuid-1")),
                started: Some(Timestamp::from_unix(1060)),
                ended: Some(Ended::Heartbeat),
                shutdowntime: Some(Timestamp::from_unix(5000)),
                volumes: volumes.to_vec(),
                ..made
            }]
        );
        let user_data = store.layout().machine(&new.name).join("user_data");
        let mode = fs::metadata(user_data).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_second_machine_of_the_same_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let new = new_machine("vcycle-a-abcdefghij");
        store.create_machine(&new).unwrap();
        assert!(store.create_machine(&new).is_err());
        assert_eq!(fs::read_dir(store.layout().tmp()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_directory_is_reported_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store
            .create_machine(&new_machine("vcycle-a-aaaaaaaaaa"))
            .unwrap();
        let bad = new_machine("vcycle-a-bbbbbbbbbb");
        store.create_machine(&bad).unwrap();
        let created = store.layout().machine(&bad.name).join("created");
        Disk::default()
            .write(dir.path(), &created, b"yesterday", 0o644)
            .unwrap();
        let loaded = store.load_machines().unwrap();
        assert_eq!(loaded.machines.len(), 1);
        let problem = loaded.unread[0].to_string();
        assert!(problem.contains("vcycle-a-bbbbbbbbbb/created"), "{problem}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::remove_dir(store.layout().tmp()).unwrap();
        let new = new_machine("vcycle-a-abcdefghij");
        let [first, second] = [0, 1].map(|_| store.create_machine(&new).unwrap_err().to_string());
        assert!(first.contains("machines/vcycle-a-abcdefghij"), "{first}");
        assert_eq!(first, second);
    }

    #[test]
    fn what_no_vm_can_have_written_is_no_message() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let new = new_machine("vcycle-a-abcdefghij");
        store.create_machine(&new).unwrap();
        let outputs = store.layout().published(&new.name, Published::Joboutputs);
        let message = outputs.join(SHUTDOWN_MESSAGE);
        std::os::unix::fs::symlink("/etc/hostname", &message).unwrap();
        assert_eq!(store.shutdown_message(&new.name).unwrap(), None);
        fs::remove_file(&message).unwrap();
        fs::create_dir(&message).unwrap();
        assert_eq!(store.shutdown_message(&new.name).unwrap(), None);
    }

    #[test]
    fn a_message_of_the_vm_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let new = new_machine("vcycle-a-abcdefghij");
        store.create_machine(&new).unwrap();
        assert_eq!(store.shutdown_message(&new.name).unwrap(), None);
        store
            .leave_shutdown_message(&new.name, "700 Failed to start")
            .unwrap();
        store
            .leave_shutdown_message(&new.name, "700 Passed shutdowntime")
            .unwrap();
        let message = store.shutdown_message(&new.name).unwrap().unwrap();
        assert_eq!(message.text(), "700 Failed to start");
        store.remove_machine(&new.name).unwrap();
        assert!(!store.layout().machine(&new.name).exists());
    }

    #[test]
    fn a_message_of_ours_is_there_after_a_power_loss() {
        /// The directories that were synced since the last link.
        #[derive(Debug, Default)]
        struct Synced(Mutex<Vec<PathBuf>>);
        impl Watch for Synced {
            fn before(&self, effect: Effect<'_>) -> io::Result<()> {
                let mut synced = self.0.lock().unwrap();
                match effect {
                    Effect::Link(..) => synced.clear(),
                    Effect::SyncDir(path) => synced.push(path.to_owned()),
                    _ => {}
                }
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let synced = Arc::new(Synced::default());
        let disk = Disk::watched(Arc::<Synced>::clone(&synced));
        let store = Store::open(Layout::on(disk, dir.path())).unwrap();
        let new = new_machine("vcycle-a-abcdefghij");
        store.create_machine(&new).unwrap();
        let joboutputs = store.layout().published(&new.name, Published::Joboutputs);
        for text in ["700 Failed to start", "700 Passed shutdowntime"] {
            store.leave_shutdown_message(&new.name, text).unwrap();
            assert_eq!(
                *synced.0.lock().unwrap(),
                std::slice::from_ref(&joboutputs),
                "{text}"
            );
        }
    }
}
