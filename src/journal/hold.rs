//! The journal's file: found or made, and locked.

use crate::error::{Error, Kind, Result};
use crate::sys::names::{folder_of, is_named, real_path};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// How often a file is opened that has lost its name by the time it is locked. Others only remove what is
/// empty, so the second or third one keeps it.
const TRIES: usize = 100;

/// Opens the file at `path`, or makes it and the folders it is in, and takes its lock. With whether it
/// was made.
///
/// # Errors
/// `Refused` if another process has the lock, or it is no regular file; or it cannot be opened or made.
/// All say what was `doing`.
pub(super) fn hold(path: &Path, doing: &str) -> Result<(File, bool)> {
    let failed = |error| Error::io(doing.to_owned(), error);
    let refused = |why| Error::new(Kind::Refused, doing.to_owned()).because(why);
    make_folder(folder_of(path)).map_err(failed)?;
    let path = real_path(path).map_err(failed)?;
    for _ in 0..TRIES {
        let (file, is_new) = match open_or_make(&path) {
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            opened => opened.map_err(failed)?,
        };
        if !file.metadata().map_err(failed)?.is_file() {
            let hint = "name a file with --journal PATH, or go without with --no-journal";
            return Err(refused("this is no regular file").hint(hint));
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                return Err(refused("another diskferry is working on this target"));
            }
            locked => locked.map_err(|error| failed(error.into()))?,
        }
        if is_named(&file, &path) {
            return Ok((file, is_new));
        }
    }
    // Of a file system that numbers a file anew each time it is asked, nothing can be held.
    let hint = "name one on another file system with --journal PATH";
    Err(refused("it is another file each time it is looked at").hint(hint))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => error,
    })
}

fn open_or_make(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok((options.create_new(true).open(path)?, true))
        }
        opened => Ok((opened?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::hold;
    use crate::error::Kind;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/null")] {
            let error = hold(path, "open it").unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{}", error.line());
            assert!(error.line().contains("regular file"), "{}", error.line());
        }
        fs::write(dir.path().join("file"), "").unwrap();
        let error = hold(&dir.path().join("file/journal"), "open it").unwrap_err();
        assert!(
            error.line().to_lowercase().contains("not a directory"),
            "{}",
            error.line()
        );
    }

    #[test]
    fn the_lock_is_on_the_file_that_has_the_name_although_others_remove_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (inside, times) = (AtomicBool::new(false), AtomicUsize::new(0));
        let contend = || {
            while times.load(Ordering::Relaxed) < 300 {
                let Ok((file, _)) = hold(&path, "open it") else {
                    continue;
                };
                assert!(!inside.swap(true, Ordering::SeqCst), "two hold it at once");
                thread::yield_now();
                inside.store(false, Ordering::SeqCst);
                fs::remove_file(&path).unwrap();
                times.fetch_add(1, Ordering::Relaxed);
                drop(file);
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(contend);
            }
        });
    }
}
