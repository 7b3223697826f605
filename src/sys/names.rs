//! Names of files: where one leads, whether a file still has it, and that it lasts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `path` without symbolic links. What it leads to need not exist: then this is where it would be.
///
/// # Errors
/// A folder on the way is not there, or may not be searched.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Links in a circle are another error, so this ends.
            if let Ok(to) = fs::read_link(path) {
                return real_path(&folder_of(path).join(to));
            }
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(fs::canonicalize(folder_of(path))?.join(name))
        }
        other => other,
    }
}

/// The folder that `path` is in.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

/// Whether `path` still names `file`: whoever had its lock before us may have removed it.
#[must_use]
pub fn is_named(file: &File, path: &Path) -> bool {
    let id = |facts: fs::Metadata| (facts.dev(), facts.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => id(ours) == id(named),
        _ => false,
    }
}

/// Makes durable that `path` has its name, or has lost it.
///
/// # Errors
/// Its folder cannot be opened or synced.
pub fn sync_name(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{is_named, real_path};
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_name_leads_to_a_file_that_is_not_there_yet_through_links_and_links_to_links() {
        let room = tempfile::tempdir().unwrap();
        let real = room.path().canonicalize().unwrap();
        let inside = |name: &str| room.path().join(name);
        fs::create_dir(inside("folder")).unwrap();
        symlink("folder/disk", inside("near")).unwrap();
        symlink(inside("near"), inside("far")).unwrap();
        for name in ["folder/disk", "near", "far", "folder/../near"] {
            assert_eq!(real_path(&inside(name)).unwrap(), real.join("folder/disk"));
        }
        fs::write(inside("folder/disk"), "").unwrap();
        assert_eq!(real_path(&inside("far")).unwrap(), real.join("folder/disk"));
    }

    #[test]
    fn a_name_that_leads_nowhere_is_an_error() {
        let room = tempfile::tempdir().unwrap();
        let inside = |name: &str| room.path().join(name);
        symlink("b", inside("a")).unwrap();
        symlink("a", inside("b")).unwrap();
        symlink("missing/disk", inside("astray")).unwrap();
        for name in ["a", "astray", "missing/disk"] {
            assert!(real_path(&inside(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_that_was_removed_and_made_anew_has_lost_its_name() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("file");
        let file = File::create(&path).unwrap();
        assert!(is_named(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_named(&file, &path));
        File::create(&path).unwrap();
        assert!(!is_named(&file, &path));
    }
}
