//! The job directory: everything of one migration that outlives a process.
//!
//! ```text
//!  lock                 held by the one process that drives
//!  migration.json       the record; replaced as a whole, so it is the old one or the new one
//!  control              the socket at which that process listens
//!  disks/NAME.journal   what is on the target, and its manifest beside it
//!  certificate.json     the proof, at the end
//!  failure.txt          what went before the last failure
//! ```

use super::plan::Plan;
use super::record::Record;
use crate::error::{Error, Kind, Result};
use crate::job::state_directory;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const RECORD: &str = "migration.json";

/// Where the directory of a VM's migration is, if the user does not say: under the state directory.
///
/// # Errors
/// There is no home to keep it in.
pub fn usual_directory(vm: &str) -> Result<PathBuf> {
    Ok(state_directory()?
        .join("diskferry")
        .join("migrations")
        .join(vm))
}

/// A job directory that this process alone may change.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    /// Takes a directory, which is made if it is not there.
    ///
    /// # Errors
    /// `Refused` if another process drives this migration; or the directory cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        let failed =
            |error| Error::io(format!("open the directory {}", directory.display()), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join("disks"))
            .map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format!(
                    "another process drives the migration in {}",
                    directory.display()
                );
                Err(Error::new(Kind::Refused, what)
                    .hint("diskferry status shows it, cutover and cancel steer it"))
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The journal of a disk.
    #[must_use]
    pub fn journal(&self, disk: &str) -> PathBuf {
        self.directory.join("disks").join(format!("{disk}.journal"))
    }

    /// What was recorded, if anything was.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn load(&self) -> Result<Option<Record>> {
        load(&self.directory)
    }

    /// Makes a record durable: when this returns, it is what the next process finds.
    ///
    /// # Errors
    /// It may or may not be durable: nothing may be done that relies on it.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::new(Kind::Io, "write the record").because(error))?;
        self.replace(RECORD, &text)
    }

    /// Replaces a file of the directory as a whole.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        replace(&path, content)
            .map_err(|error| Error::io(format!("write {}", path.display()), error))
    }

    /// Forgets what was copied to a disk: its journal and manifest go.
    ///
    /// # Errors
    /// They may still be there.
    pub fn forget_copy(&self, disk: &str) -> Result<()> {
        let journal = self.journal(disk);
        let mut manifest = journal.clone().into_os_string();
        manifest.push(".manifest");
        for path in [journal, PathBuf::from(manifest)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(format!("remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        let disks = self.directory.join("disks");
        sync(&disks).map_err(|error| Error::io(format!("sync {}", disks.display()), error))
    }

    /// Moves everything of an older migration into a directory of its own, beside this one's files.
    ///
    /// # Errors
    /// Something could not be moved.
    pub fn put_aside(&self, now: u64) -> Result<PathBuf> {
        let aside = self.directory.join(format!("before-{now}"));
        let failed = |error| Error::io(format!("move the old files to {}", aside.display()), error);
        fs::create_dir(&aside).map_err(failed)?;
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let kept = name == "lock" || name.to_string_lossy().starts_with("before-");
            if !kept {
                fs::rename(entry.path(), aside.join(&name)).map_err(failed)?;
            }
        }
        DirBuilder::new()
            .mode(0o700)
            .create(self.directory.join("disks"))
            .map_err(failed)?;
        sync(&self.directory).map_err(failed)?;
        Ok(aside)
    }
}

/// What is recorded in a directory, whoever drives the migration.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn load(directory: &Path) -> Result<Option<Record>> {
    let path = directory.join(RECORD);
    match fs::read_to_string(&path) {
        Ok(text) => Record::parse(&text)
            .map(Some)
            .map_err(|error| error.context(format!("read {}", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

/// The directory that a word on the command line means: itself, or that of the plan of that name.
///
/// # Errors
/// It is neither.
pub fn directory_of(word: &Path, state: Option<&Path>) -> Result<PathBuf> {
    match (state, word.is_dir()) {
        (Some(state), _) => Ok(state.to_owned()),
        (None, true) => Ok(word.to_owned()),
        (None, false) => usual_directory(&Plan::read(word)?.vm),
    }
}

/// Write, sync, rename, sync: in no moment is there half a file of that name.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{Plan, Record, Store, load};
    use crate::error::Kind;
    use std::fs;

    fn record() -> Record {
        let text = "{vm: v, guest: {nbd: {command: [x]}}, \
                    disks: [{name: a, source: s, target: /dev/a}]}";
        Record::new(&Plan::parse(text).unwrap(), "id".to_owned(), 1)
    }

    #[test]
    fn one_process_drives_and_anybody_may_look() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(load(directory.path()).unwrap(), None);
        store.save(&record()).unwrap();
        assert_eq!(load(directory.path()).unwrap(), Some(record()));
        drop(store);
        assert!(Store::open(directory.path()).is_ok());
    }

    #[test]
    fn half_a_new_record_does_not_hide_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.save(&record()).unwrap();
        fs::write(directory.path().join("migration.new"), "{\"vers").unwrap();
        assert_eq!(store.load().unwrap(), Some(record()));
        store.save(&record()).unwrap();
    }

    #[test]
    fn what_is_put_aside_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.save(&record()).unwrap();
        fs::write(store.journal("a"), "x").unwrap();
        let aside = store.put_aside(7).unwrap();
        assert_eq!(store.load().unwrap(), None);
        assert_eq!(load(&aside).unwrap(), Some(record()));
        assert!(aside.join("disks/a.journal").exists() && !store.journal("a").exists());
    }
}
