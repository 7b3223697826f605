//! A file that grows beside its final name, and gets that name only when it is whole and durable.

use super::preflight::LOSE;
use crate::error::{Error, Kind, Result};
use crate::sys::blocking;
use crate::sys::names::{real_path, sync_name};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How a partial file becomes whole.
#[derive(Clone, Debug)]
pub(super) struct Finish {
    pub(super) partial: PathBuf,
    pub(super) path: PathBuf,
    pub(super) replace: bool,
}

/// Where the file grows until it is whole.
#[must_use]
pub fn partial_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

/// Creates the partial file of a new file at `path`, whose name is free or may be taken. Blocks.
///
/// # Errors
/// [`Kind::Refused`] if something is there that may not be replaced, or another process is
/// writing it; or the file cannot be made.
pub(super) fn create(path: &Path, overwrite: bool) -> Result<(OwnedFd, Finish)> {
    let shown = path.display();
    let path = real_path(path).map_err(|error| Error::io(format!("create {shown}"), error))?;
    match fs::metadata(&path) {
        Ok(found) if !found.is_file() => {
            return Err(refused(&path, "is there and is not a regular file"));
        }
        Ok(_) if !overwrite => {
            return Err(exists(&path));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("look at {shown}"), error));
        }
        _ => {}
    }
    let partial = partial_path(&path);
    let fd = replace_partial(&partial).map_err(|error| could_not_open(&partial, error))?;
    let finish = Finish {
        partial,
        path,
        replace: overwrite,
    };
    Ok((fd, finish))
}

/// Creates the partial file anew; one that nobody is writing is a leftover.
pub(super) fn replace_partial(partial: &Path) -> io::Result<OwnedFd> {
    match open_locked(partial, OFlags::empty()) {
        Ok(_locked) => fs::remove_file(partial)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    open_locked(partial, OFlags::CREATE | OFlags::EXCL)
}

/// Opens with `more` flags and takes the lock that says that we are writing it.
pub(super) fn open_locked(path: &Path, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::ResourceBusy.into()),
        // A file system without locks: nothing to hold.
        _ => Ok(fd),
    }
}

pub(super) fn could_not_open(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::ResourceBusy {
        return refused(path, "is being written by another process");
    }
    Error::io(format!("create {}", path.display()), error)
}

pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::new(Kind::Refused, format!("{} {why}", path.display()))
}

/// What is there may not be replaced.
#[must_use]
pub fn exists(path: &Path) -> Error {
    refused(path, "exists").hint(LOSE)
}

impl Finish {
    /// Gives the file, which people know as `name`, its name, and makes that durable.
    ///
    /// # Errors
    /// `Refused` if something appeared there in the meantime; or it cannot be renamed.
    pub(super) async fn give_name(self, name: &str) -> Result<()> {
        let path = self.path.clone();
        let finished = blocking(move || self.run()).await;
        finished.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => refused(&path, "appeared during the copy").hint(LOSE),
            _ => Error::io(format!("rename to {name}"), error),
        })
    }

    /// Blocks.
    fn run(&self) -> io::Result<()> {
        if self.replace {
            fs::rename(&self.partial, &self.path)?;
        } else {
            rename_new(&self.partial, &self.path)?;
        }
        sync_name(&self.path)
    }
}

/// Renames, but not over something that appeared in the meantime.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it: look, then rename.
        Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
        result => Ok(result?),
    }
}
