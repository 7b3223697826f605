//! The journal as a whole: recovered, appended to.

use super::frame::{MAGIC, encode, is_journal, recover};
use super::history::History;
use super::hold::hold;
use super::record::Record;
use crate::error::{Error, Kind, Result};
use crate::sys::names::{real_path, sync_name};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A journal larger than this is not one of ours: a barrier a second for a month is 600 MB.
const MAX_FILE: u64 = 1 << 30;

/// An open journal. Holds its lock until dropped.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    history: History,
    /// It was not there before.
    is_new: bool,
}

impl Journal {
    /// Opens or creates the journal at `path`, takes its lock, and cuts off a torn tail.
    ///
    /// # Errors
    /// Another process holds it, it is damaged, or the file cannot be used.
    pub fn open(path: &Path) -> Result<Self> {
        Self::locked(path, |_, error| Err(error))
    }

    /// The same to begin anew: one that is damaged is open, too. It tells nothing, and stays as it
    /// is until it is [cleared](Self::clear).
    ///
    /// # Errors
    /// Another process holds it, it is no journal, or the file cannot be used.
    pub fn open_anew(path: &Path) -> Result<Self> {
        Self::locked(path, |bytes, error| match is_journal(bytes) {
            true => Ok(()),
            false => Err(error),
        })
    }

    /// `damaged` decides what becomes of one that cannot be read.
    fn locked(path: &Path, damaged: impl FnOnce(&[u8], Error) -> Result<()>) -> Result<Self> {
        let doing = || format!("open the journal {}", path.display());
        let (mut file, is_new) = hold(path, &doing())?;
        let bytes = read(&mut file).map_err(|error| error.context(doing()))?;
        let mut journal = Self {
            file,
            path: path.to_owned(),
            history: History::default(),
            is_new,
        };
        match replay(&bytes) {
            Ok((history, valid)) => {
                journal.history = history;
                journal.cut(valid)?;
            }
            Err(error) => damaged(&bytes, error).map_err(|error| error.context(doing()))?,
        }
        Ok(journal)
    }

    /// What the journal at `path` tells, for people; `None` if there is none. Takes no lock and
    /// changes nothing.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn peek(path: &Path) -> Result<Option<History>> {
        let doing = || format!("read the journal {}", path.display());
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(doing(), error)),
        };
        let replayed = read(&mut file).and_then(|bytes| replay(&bytes));
        let (history, _) = replayed.map_err(|error| error.context(doing()))?;
        Ok(Some(history))
    }

    /// What it tells so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record; returns when it is durable.
    ///
    /// # Errors
    /// The record cannot follow what is there, or is not durable.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.history.apply(record)?;
        let bytes = encode(record)?;
        self.write(&bytes)
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// The file cannot be emptied.
    pub fn clear(&mut self) -> Result<()> {
        self.history = History::default();
        self.cut(0)
    }

    /// Keeps the first `valid` bytes; an empty journal gets its magic, and its name made durable.
    fn cut(&mut self, valid: usize) -> Result<()> {
        let length = u64::try_from(valid).unwrap_or(u64::MAX);
        let failed = |error| Error::io(format!("cut the journal {}", self.path.display()), error);
        self.file.set_len(length).map_err(failed)?;
        self.file.seek(SeekFrom::Start(length)).map_err(failed)?;
        if valid == 0 {
            self.write(MAGIC)?;
            sync_parent(&self.path)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| Error::io(format!("write the journal {}", self.path.display()), error))
    }
}

impl Drop for Journal {
    /// A run that was refused leaves no journal that tells nothing. The lock is still held.
    fn drop(&mut self) {
        if self.is_new && self.history.begin.is_none() {
            let _ = real_path(&self.path).and_then(fs::remove_file);
        }
    }
}

/// All of it, or of a file that is none what shows that.
fn read(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read it", error))?;
    Ok(bytes)
}

/// What it tells, and how many of its bytes do.
fn replay(bytes: &[u8]) -> Result<(History, usize)> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(Error::new(Kind::Corrupt, "it is larger than any journal"));
    }
    let recovered = recover(bytes)?;
    Ok((History::of(&recovered.records)?, recovered.valid))
}

/// An id that no other journal has.
#[must_use]
pub fn unique_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").map_or_else(
        |_| format!("{:?}-{}", SystemTime::now(), std::process::id()),
        |text| text.trim().to_owned(),
    )
}

/// Makes the name of a new file durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    sync_name(path)
        .map_err(|error| Error::io(format!("make the name {} durable", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::Journal;
    use crate::digest::Algorithm;
    use crate::endpoint::Identity;
    use crate::error::Kind;
    use crate::journal::History;
    use crate::journal::record::{Begin, Record, VERSION};
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::symlink;

    fn begin() -> Record {
        let target = Identity {
            id: "t".into(),
            size: 1,
            name: "t".into(),
        };
        let digest = Algorithm::Xxh3;
        Record::Begin(Begin {
            version: VERSION,
            id: "i".into(),
            target,
            size: 1,
            digest,
        })
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/journal");
        let first = Journal::open(&path).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error.line().contains("another diskferry"),
            "{}",
            error.line()
        );
        drop(first);
        Journal::open(&path).unwrap();
    }

    #[test]
    fn one_that_was_made_and_tells_nothing_is_not_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("journal"), dir.path().join("link"));
        symlink("journal", &link).unwrap();
        for name in [&path, &link] {
            drop(Journal::open(name).unwrap());
            assert!(!path.exists());
        }
        let mut journal = Journal::open(&link).unwrap();
        journal.append(&begin()).unwrap();
        drop(journal);
        drop(Journal::open(&path).unwrap());
        assert!(path.exists());
        // As a process leaves it that was killed; and it was there before us.
        fs::write(&path, "").unwrap();
        drop(Journal::open(&path).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_appending_goes_on_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::open(&path).unwrap().append(&begin()).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&[9, 0, 0, 0, 1])
            .unwrap();
        let journal = Journal::open(&path).unwrap();
        assert!(journal.history().begin.is_some());
        drop(journal);
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.append(&begin()).is_err(), "only one begin");
        journal.clear().unwrap();
        journal.append(&begin()).unwrap();
    }

    #[test]
    fn a_damaged_journal_can_be_begun_anew_and_stays_as_it_is_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::open(&path).unwrap().append(&begin()).unwrap();
        let sound = fs::read(&path).unwrap();
        for at in [0, 15, 20, 30] {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, [&damaged[..], b"more"].concat()).unwrap();
            let held = fs::read(&path).unwrap();
            let error = Journal::open(&path).unwrap_err();
            assert!(error.line().contains("--restart"), "{}", error.line());
            let mut journal = Journal::open_anew(&path).unwrap();
            assert_eq!(*journal.history(), History::default());
            assert_eq!(fs::read(&path).unwrap(), held, "{at}");
            journal.clear().unwrap();
            journal.append(&begin()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), sound, "{at}");
        }
    }

    #[test]
    fn what_is_no_journal_is_not_begun_anew_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        for bytes in [&b"x"[..], b"#!/bin/sh\necho hello\n", &[7; 300]] {
            fs::write(&path, bytes).unwrap();
            for open in [Journal::open, Journal::open_anew] {
                let error = open(&path).unwrap_err();
                assert_eq!(error.kind(), Kind::Refused, "{}", error.line());
                assert!(error.line().contains("precious"), "{}", error.line());
                assert_eq!(fs::read(&path).unwrap(), bytes);
            }
        }
    }
}
