//! Which disk a target is, and where its journal lives if nobody says otherwise.

use super::open::is_stream_type;
use super::options::JournalPlace;
use crate::address::Address;
use crate::endpoint::Identity;
use crate::error::{Error, Kind, Result};
use crate::nbd::uri::Uri;
use crate::sys::names::real_path;
use crate::sys::sysfs::Device;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A target before it is opened for writing: enough to find its journal.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) identity: Identity,
    sort: Sort,
}

/// What a journal of a target would be good for.
#[derive(Debug)]
enum Sort {
    /// A regular file at this path without symbolic links, existing or to be.
    File(PathBuf),
    /// A disk that is found again.
    Disk,
    /// Nobody knows what it holds in the next run: it is nowhere, or another server's by then.
    Unknown,
    /// It is written once, in order, and nothing of it is there afterwards.
    Stream,
}

/// Finds out which disk a target is, without opening it for writing.
///
/// # Errors
/// The path of a file has no directory.
pub(super) fn find_target(address: &Address, size: u64) -> Result<Found> {
    let found = |id: String, sort| {
        let name = address.to_string();
        let identity = Identity { id, size, name };
        Ok(Found { identity, sort })
    };
    let path = match address {
        Address::Path(path) => path,
        Address::Nbd(uri) => return found(uri.parse::<Uri>()?.to_string(), Sort::Disk),
        Address::Stdio => return found(address.to_string(), Sort::Stream),
        Address::Null | Address::Child(_) => return found(address.to_string(), Sort::Unknown),
        Address::Vddk(_) | Address::Http(_) => return found(address.to_string(), Sort::Disk),
    };
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => {
            found(Device::of(meta.rdev()).stable_id(), Sort::Disk)
        }
        Ok(meta) if is_stream_type(meta.file_type()) => {
            found(path.display().to_string(), Sort::Stream)
        }
        _ => {
            let whole = real_path(path)
                .map_err(|error| Error::io(format!("open {}", path.display()), error))?;
            found(format!("file:{}", whole.display()), Sort::File(whole))
        }
    }
}

impl Found {
    /// The journal's path; `None` if there is to be none.
    ///
    /// That of a file is `NAME.journal` beside it. Any other disk's is found by its identity under
    /// `$XDG_STATE_HOME/diskferry`, or `~/.local/state`. Where the next run would not find what this
    /// one wrote there is none, unless the user names one; and never of a stream.
    ///
    /// # Errors
    /// There is no home to keep it in, or it could not be used, or is the target itself.
    pub(super) fn journal(&self, place: &JournalPlace) -> Result<Option<PathBuf>> {
        match (place, &self.sort) {
            (JournalPlace::Path(_), Sort::Stream) => {
                let what = format!(
                    "{} is a stream, which no journal helps to resume",
                    self.identity
                );
                Err(Error::new(Kind::Usage, what).hint("leave out --journal"))
            }
            (JournalPlace::Path(path), Sort::File(file)) if leads_to(path, file) => {
                let what = format!(
                    "{} is the target, and cannot be its journal",
                    path.display()
                );
                Err(Error::new(Kind::Usage, what).hint("name another place for the journal"))
            }
            (JournalPlace::Path(path), _) => Ok(Some(path.clone())),
            (JournalPlace::None, _) | (_, Sort::Unknown | Sort::Stream) => Ok(None),
            (JournalPlace::Default, Sort::File(file)) => Ok(Some(with_suffix(file, ".journal"))),
            (JournalPlace::Default, Sort::Disk) => {
                let key = blake3::hash(self.identity.id.as_bytes()).to_hex();
                let key = key.get(..16).unwrap_or("target");
                let name = format!("{key}.journal");
                Ok(Some(state_directory()?.join("diskferry").join(name)))
            }
        }
    }
}

/// Whether copies to `target` keep a journal.
#[must_use]
pub fn is_journaled(target: &Address, place: &JournalPlace) -> bool {
    match place {
        JournalPlace::None => false,
        JournalPlace::Path(_) => true,
        JournalPlace::Default => find_target(target, 0)
            .is_ok_and(|found| matches!(found.sort, Sort::File(_) | Sort::Disk)),
    }
}

fn leads_to(path: &Path, file: &Path) -> bool {
    real_path(path).is_ok_and(|real| real == file)
}

/// The manifest's path: beside its journal.
pub(super) fn manifest_path(journal: &Path) -> PathBuf {
    with_suffix(journal, ".manifest")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}

/// `$XDG_STATE_HOME`, or `~/.local/state`.
///
/// # Errors
/// There is no home.
pub fn state_directory() -> Result<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "no place for the journal: neither XDG_STATE_HOME nor HOME is set",
            )
            .hint("name one with --journal PATH, or go without with --no-journal")
        })
}

#[cfg(test)]
mod tests {
    use super::{Found, Sort, find_target, is_journaled, manifest_path};
    use crate::address::Address;
    use crate::endpoint::Identity;
    use crate::error::Kind;
    use crate::job::options::JournalPlace;
    use std::path::Path;

    #[test]
    fn a_file_has_its_journal_beside_it_and_two_devices_have_different_ones() {
        let path = |id: &str, sort| {
            let identity = Identity {
                id: id.into(),
                size: 1,
                name: id.into(),
            };
            let found = Found { identity, sort };
            found.journal(&JournalPlace::Default).unwrap().unwrap()
        };
        let beside = path("a", Sort::File("/x/disk.img".into()));
        assert_eq!(beside, Path::new("/x/disk.img.journal"));
        assert_eq!(
            manifest_path(&beside),
            Path::new("/x/disk.img.journal.manifest")
        );
        assert_ne!(path("wwn-1", Sort::Disk), path("wwn-2", Sort::Disk));
    }

    #[test]
    fn what_the_next_run_does_not_find_has_no_journal_by_itself_and_a_stream_has_none_at_all() {
        let named = JournalPlace::Path("j".into());
        for (target, may_be_named) in [
            (Address::Stdio, false),
            (Address::Path("/dev/zero".into()), false),
            (Address::Null, true),
            (Address::Child(vec!["nbdkit".to_owned()]), true),
        ] {
            let found = find_target(&target, 1).unwrap();
            assert_eq!(found.journal(&JournalPlace::Default).unwrap(), None);
            assert!(!is_journaled(&target, &JournalPlace::Default), "{target}");
            match found.journal(&named) {
                Ok(path) => assert!(may_be_named && path == Some("j".into()), "{target}"),
                Err(error) => assert!(!may_be_named && error.kind() == Kind::Usage, "{target}"),
            }
        }
    }
}
