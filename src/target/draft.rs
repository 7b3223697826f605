//! A new image while it is written: under another name until it is whole and durable, and gone if
//! it never gets there.

use super::partial::{self, Finish};
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::blocking;
use crate::sys::disk::{Disk, Open};
use crate::sys::queue::Queue;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The file of an image that is written.
#[derive(Debug)]
pub(super) struct Draft {
    queue: Queue,
    name: String,
    /// Bytes of the disk in the image.
    size: u64,
    finish: Finish,
    named: AtomicBool,
}

impl Draft {
    /// Begins the image of a disk of `size` bytes at `path`, whose name is free or may be taken;
    /// written past the page cache if it is `direct`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there that may not be replaced; or the file cannot be
    /// made.
    pub(super) async fn create(
        path: &Path,
        size: u64,
        overwrite: bool,
        direct: bool,
    ) -> Result<Self> {
        let (name, owned) = (path.display().to_string(), path.to_owned());
        let opened = blocking(move || Ok(open(&owned, overwrite, direct))).await;
        let opened = opened.map_err(|error| Error::io(format!("create {name}"), error))?;
        let (queue, finish) = opened?;
        Ok(Self {
            queue,
            name,
            size,
            finish,
            named: AtomicBool::new(false),
        })
    }

    /// The file.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The name that it will have, without its directory.
    pub(super) fn file_name(&self) -> String {
        let name = self.finish.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Bytes of the disk in the image.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// As people know it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn identity(&self) -> Identity {
        identity(&self.queue, &self.finish.path, &self.name, self.size)
    }

    /// Checks a request, which begins and ends with a multiple of `align` bytes or with the disk.
    pub(super) fn cut(&self, doing: &str, range: ByteRange, align: u32) -> Result<()> {
        self.bounds(doing, range)?;
        let whole = |at: u64| at.is_multiple_of(align.into());
        if whole(range.start) && (whole(range.end) || range.end == self.size) {
            return Ok(());
        }
        let why = format!("{doing} {}: not aligned to {align} bytes", self.name);
        Err(Error::new(Kind::Usage, why).at(range.start))
    }

    /// Checks that `range` lies on the disk.
    pub(super) fn bounds(&self, doing: &str, range: ByteRange) -> Result<()> {
        check_bounds(doing, &self.name, range, self.size)
    }

    /// The error of a request.
    pub(super) fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        failed(doing, &self.name, offset, error)
    }

    /// The error of what is done with the image as a whole.
    pub(super) fn unfinished(&self, error: io::Error) -> Error {
        Error::io(format!("complete {}", self.name), error)
    }

    pub(super) async fn set_length(&self, length: u64) -> io::Result<()> {
        set_length(&self.queue, length).await
    }

    /// Makes durable what was written.
    pub(super) async fn flush(&self) -> Result<()> {
        flush(&self.queue, &self.name).await
    }

    /// It is whole and durable: gives it its name.
    ///
    /// # Errors
    /// As for [`Finish::give_name`].
    pub(super) async fn give_name(&self) -> Result<()> {
        self.finish.clone().give_name(&self.name).await?;
        self.named.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Draft {
    /// What is not an image yet will never be one.
    fn drop(&mut self) {
        if !self.named.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.finish.partial);
        }
    }
}

/// Blocks.
fn open(path: &Path, overwrite: bool, direct: bool) -> Result<(Queue, Finish)> {
    let (fd, finish) = partial::create(path, overwrite)?;
    let how = Open {
        write: true,
        exclusive: false,
        direct,
    };
    // A file has no direct reads to try before it has bytes.
    let disk = rustix::fs::ftruncate(&fd, 1 << 20)
        .map_err(io::Error::from)
        .and_then(|()| Disk::from_fd(fd, &finish.partial, how))
        .map_err(|error| Error::io(format!("create {}", path.display()), error))?;
    Ok((Queue::new(disk), finish))
}

/// What requests to a local file may look like, whose offsets are multiples of `align`.
pub(super) fn limits(align: u32) -> Limits {
    Limits {
        align,
        preferred: 1 << 20,
        max: 32 << 20,
        in_flight: 16,
    }
}

/// Who a file at `path` is.
///
/// The inode keeps its number when the file gets its name. The number of the file system is left
/// out: it may change when that is mounted again.
pub(super) fn identity(queue: &Queue, path: &Path, name: &str, size: u64) -> Identity {
    let inode = queue.disk().stat().st_ino;
    Identity {
        id: format!("file:{}#{inode}", path.display()),
        size,
        name: name.to_owned(),
    }
}

/// The error of a request to the file `name`.
pub(super) fn failed(doing: &str, name: &str, offset: u64, error: io::Error) -> Error {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    let error = Error::io(format!("{doing} {name}"), error).at(offset);
    if full {
        error.hint("make room on its file system and run the same command again")
    } else {
        error
    }
}

/// Makes durable what was written to the file `name`.
pub(super) async fn flush(queue: &Queue, name: &str) -> Result<()> {
    let synced = queue.run(Disk::sync).await;
    synced.map_err(|error| Error::io(format!("flush {name}"), error))
}

pub(super) async fn set_length(queue: &Queue, length: u64) -> io::Result<()> {
    let set = move |disk: &Disk| Ok(rustix::fs::ftruncate(disk.fd(), length)?);
    queue.run(set).await
}
