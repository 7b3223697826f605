//! Where the journal of a target lives, if nobody says otherwise.

use super::options::JournalPlace;
use crate::endpoint::Identity;
use crate::error::{Error, Kind, Result};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The journal's path; `None` if there is to be none.
///
/// `beside` is the path of a file target: its journal is `NAME.journal` beside it. Any other
/// target's is found by its identity under `$XDG_STATE_HOME/diskferry`, or `~/.local/state`.
///
/// # Errors
/// There is no home to keep it in.
pub(super) fn journal_path(
    place: &JournalPlace,
    target: &Identity,
    beside: Option<&Path>,
) -> Result<Option<PathBuf>> {
    match (place, beside) {
        (JournalPlace::None, _) => Ok(None),
        (JournalPlace::Path(path), _) => Ok(Some(path.clone())),
        (JournalPlace::Default, Some(file)) => Ok(Some(with_suffix(file, ".journal"))),
        (JournalPlace::Default, None) => {
            let key = blake3::hash(target.id.as_bytes()).to_hex();
            let key = key.get(..16).unwrap_or("target");
            Ok(Some(
                state_directory()?
                    .join("diskferry")
                    .join(format!("{key}.journal")),
            ))
        }
    }
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
    use super::{journal_path, manifest_path};
    use crate::endpoint::Identity;
    use crate::job::options::JournalPlace;
    use std::path::Path;

    #[test]
    fn a_file_has_its_journal_beside_it_and_two_devices_have_different_ones() {
        let disk = |id: &str| Identity {
            id: id.into(),
            size: 1,
            name: id.into(),
        };
        let path = |id, beside| {
            journal_path(&JournalPlace::Default, &disk(id), beside)
                .unwrap()
                .unwrap()
        };
        let beside = path("a", Some(Path::new("/x/disk.img")));
        assert_eq!(beside, Path::new("/x/disk.img.journal"));
        assert_eq!(
            manifest_path(&beside),
            Path::new("/x/disk.img.journal.manifest")
        );
        assert_ne!(path("wwn-1", None), path("wwn-2", None));
    }
}
