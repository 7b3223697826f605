//! A directory that is gone when it is dropped, whatever happened in between.

use crate::error::{Error, Kind, Result};
use rustix::fs::statvfs;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// How often, and after which pause, it is tried again to remove the directory.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// A directory of our own, which goes with all that is in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `parent`, which must have `room` bytes free.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is less room, or the directory cannot be made.
    pub fn create(parent: &Path, room: u64) -> Result<Self> {
        let failed = |error| Error::io(format!("make a directory in {}", parent.display()), error);
        let stat = statvfs(parent).map_err(|error| failed(error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < room {
            let doing = format!(
                "the demo needs {} MiB in {}, which has {}",
                room >> 20,
                parent.display(),
                free >> 20
            );
            return Err(Error::new(Kind::Refused, doing)
                .hint("use a smaller --size, or a --directory where there is room"));
        }
        let path = parent.join(format!("diskferry-demo-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(failed)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A child that was killed a moment ago may still be making a file in it.
        for _ in 0..TRIES {
            match std::fs::remove_dir_all(&self.0) {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::NotFound => return,
                Err(error) => tracing::debug!(%error, "a directory is not empty yet"),
            }
            sleep(PAUSE);
        }
        tracing::warn!(path = %self.0.display(), "a directory is left behind");
    }
}
