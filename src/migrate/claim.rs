//! Targets that belong to a migration for as long as a process drives it, also between its passes.
//!
//! A pass has its target to itself, but between two passes nobody has it open: another migration
//! could fill it meanwhile, and each would find out only later. The claim is a `flock` that no pass
//! asks for, and ends with the process, whichever way that ends:
//!
//! * of a device, on the device;
//! * of a file, on `.NAME.migration` beside it. The file itself is locked by each pass, and may not be
//!   there yet. What a process that was killed leaves of it is taken over by the next one.
//!
//! A server has nothing of the kind: who else writes to an NBD export is not to be known.

use super::plan::Plan;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::sys::names::{is_named, real_path};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How often a claim is asked for whose file others remove just then. A file system that numbers a file
/// anew each time it is asked has no claims.
const TRIES: usize = 100;

/// A target that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    _locked: File,
    /// What is removed then.
    beside: Option<PathBuf>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(path) = &self.beside {
            // Still locked: nobody has it as his own.
            let _ = fs::remove_file(path);
        }
    }
}

/// Claims every device and file of `plan`. What cannot be opened is told when it is checked as a
/// target.
///
/// # Errors
/// `Refused`: another process has claimed one of them.
pub(super) fn targets(plan: &Plan) -> Result<Vec<Claim>> {
    let mut claimed = Vec::new();
    for disk in &plan.disks {
        let Address::Path(path) = &disk.target else {
            continue;
        };
        match claim(path) {
            Ok(Some(claim)) => claimed.push(claim),
            Ok(None) => {}
            Err(Errno::WOULDBLOCK) => {
                let (path, disk) = (path.display(), &disk.name);
                let what = format!("the target of disk {disk}, {path}, is of another migration");
                return Err(Error::new(Kind::Refused, what)
                    .hint("a process that drives it has it locked, also between passes"));
            }
            Err(error) => {
                let doing = format!("lock the target {}", path.display());
                return Err(Error::io(doing, io::Error::from(error)));
            }
        }
    }
    Ok(claimed)
}

fn claim(path: &Path) -> std::result::Result<Option<Claim>, Errno> {
    // Looked at before it is opened: opening a pipe would wait for whoever fills it.
    match fs::metadata(path).map(|facts| facts.file_type()) {
        Ok(kind) if kind.is_block_device() => device(path),
        Ok(kind) if kind.is_file() => file(path),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => file(path),
        Err(_) => Ok(None),
    }
}

fn device(path: &Path) -> std::result::Result<Option<Claim>, Errno> {
    let Ok(device) = File::open(path) else {
        return Ok(None);
    };
    flock(&device, FlockOperation::NonBlockingLockExclusive)?;
    Ok(Some(Claim {
        _locked: device,
        beside: None,
    }))
}

fn file(path: &Path) -> std::result::Result<Option<Claim>, Errno> {
    let Some(beside) = beside(path) else {
        return Ok(None);
    };
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options.write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(flags);
    for _ in 0..TRIES {
        let Ok(lock) = options.open(&beside) else {
            return Ok(None);
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // A file system without locks.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => return Ok(None),
            locked => locked?,
        }
        // Whoever had it before us may have removed it before we locked it.
        if is_named(&lock, &beside) {
            return Ok(Some(Claim {
                _locked: lock,
                beside: Some(beside),
            }));
        }
    }
    Ok(None)
}

/// Where the claim of a file is, whether that is there by now or not: the same for all its names
/// that are symbolic links.
fn beside(path: &Path) -> Option<PathBuf> {
    let real = real_path(path).ok()?;
    let mut name = OsString::from(".");
    name.push(real.file_name()?);
    name.push(".migration");
    Some(real.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::claim;
    use rustix::io::Errno;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_claimed_by_one_whether_it_is_there_or_not_and_nothing_is_left_beside_it() {
        let room = tempfile::tempdir().unwrap();
        let (file, link) = (room.path().join("disk"), room.path().join("link"));
        let first = claim(&file).unwrap().unwrap();
        assert_eq!(claim(&file).unwrap_err(), Errno::WOULDBLOCK);
        fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(claim(&link).unwrap_err(), Errno::WOULDBLOCK);
        drop(first);
        // As a process leaves it that was killed.
        fs::write(room.path().join(".disk.migration"), "").unwrap();
        drop(claim(&link).unwrap().unwrap());
        let mut left: Vec<_> = fs::read_dir(room.path()).unwrap().flatten().collect();
        left.sort_by_key(fs::DirEntry::file_name);
        let left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
        assert_eq!(left, ["disk", "link"]);
    }
}
