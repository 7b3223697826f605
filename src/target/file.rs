//! A regular file as target: whole under its name, or not there.
//!
//! A new file grows as `.NAME.partial` beside its final name, and gets that name only when it is
//! complete and durable. It is created sparse, so what is never written reads as zeroes.

use super::draft;
use super::partial::{Finish, could_not_open, open_locked, refused, replace_partial};
pub use super::partial::{exists, partial_path};
use super::zeroing::{Method, Zeroer};
use super::{Target, Untouched, Zeroing};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::blocking;
use crate::sys::disk::{Disk, Open};
use crate::sys::names::real_path;
use crate::sys::queue::Queue;
use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::OFlags;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How a file is opened for writing.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOptions {
    /// Bytes that it will have. A file that is written in place may be larger and stays so.
    pub size: u64,
    /// How many it will have is not known: it becomes as long as what is written.
    pub grows: bool,
    /// A file of that name may be replaced.
    pub overwrite: bool,
    /// Write into the file of that name, which is created if there is none.
    pub in_place: bool,
    /// A journal shows that an earlier run began it: go on with the partial file.
    pub resuming: bool,
    /// So many bytes of it were copied, as a journal shows. What they are in must be there, and as
    /// long as it was: zeroes are not made up for it. All of them: it may have its name already.
    pub done: u64,
    /// Go through the page cache even if the file can be written directly.
    pub page_cache: bool,
}

/// A regular file that is written. See the [module](self).
#[derive(Debug)]
pub struct FileTarget {
    queue: Queue,
    /// The name that it will have, free of symbolic links.
    path: PathBuf,
    name: String,
    size: u64,
    /// Where a file ends that grows, so far.
    end: Option<AtomicU64>,
    untouched: Untouched,
    zeroer: Zeroer,
    finish: Option<Finish>,
    /// It is whole under its name.
    named: AtomicBool,
}

/// What [`prepare`] opened.
struct Prepared {
    disk: Disk,
    path: PathBuf,
    size: u64,
    fresh: bool,
    finish: Option<Finish>,
}

impl FileTarget {
    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there that may not be replaced, or another process is
    /// writing it; or the file cannot be made.
    pub async fn open(path: &Path, options: FileOptions) -> Result<Self> {
        let name = path.display().to_string();
        let owned = path.to_owned();
        let prepared = blocking(move || Ok(prepare(&owned, options)))
            .await
            .map_err(|error| Error::io(format!("create {name}"), error))??;
        Ok(Self {
            queue: Queue::new(prepared.disk),
            path: prepared.path,
            name,
            size: prepared.size,
            end: options.grows.then(AtomicU64::default),
            untouched: if prepared.fresh {
                Untouched::Zero
            } else {
                Untouched::Unknown
            },
            zeroer: Zeroer::new(),
            finish: prepared.finish,
            named: AtomicBool::new(false),
        })
    }

    /// Bytes that it has.
    fn length(&self) -> u64 {
        let end = self.end.as_ref();
        end.map_or(self.size, |end| end.load(Ordering::Acquire))
    }

    fn cut(&self, doing: &str, range: ByteRange) -> Result<()> {
        match &self.end {
            Some(end) => {
                end.fetch_max(range.end, Ordering::AcqRel);
            }
            None => check_bounds(doing, &self.name, range, self.size)?,
        }
        if range
            .start
            .is_multiple_of(u64::from(self.queue.disk().align()))
        {
            return Ok(());
        }
        let align = self.queue.disk().align();
        let why = format!("{doing} {}: not aligned to {align} bytes", self.name);
        Err(Error::new(Kind::Usage, why).at(range.start))
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        draft::failed(doing, &self.name, offset, error)
    }
}

/// What grew half-way cannot be gone on with.
impl Drop for FileTarget {
    fn drop(&mut self) {
        let finish = self.finish.as_ref().filter(|_| self.end.is_some());
        if let Some(finish) = finish.filter(|_| !self.named.load(Ordering::Acquire)) {
            let _ = fs::remove_file(&finish.partial);
        }
    }
}

/// Opens what `options` ask for. Blocks.
fn prepare(path: &Path, options: FileOptions) -> Result<Prepared> {
    let shown = path.display();
    let path = real_path(path).map_err(|error| Error::io(format!("create {shown}"), error))?;
    let existing = match fs::metadata(&path) {
        Ok(found) if found.is_file() => true,
        Ok(_) => return Err(refused(&path, "is there and is not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io(format!("look at {shown}"), error)),
    };
    let partial = partial_path(&path);
    let is_begun = options.resuming && partial.exists();
    // An earlier run may have been cut off between the rename and its last record.
    let all_done = options.resuming && options.done >= options.size;
    if options.in_place || (existing && !is_begun && all_done) {
        return in_place(path, options);
    }
    if options.done > 0 && !is_begun {
        return Err(gone(&partial));
    }
    if existing && !options.overwrite && !is_begun {
        return Err(exists(&path));
    }
    let made = if is_begun {
        open_locked(&partial, OFlags::empty())
    } else {
        // Before the first barrier a power cut may have taken it, and nothing is lost with it.
        replace_partial(&partial)
    };
    let fd = made.map_err(|error| could_not_open(&partial, error))?;
    if is_begun {
        length_of(&fd, &partial, options)?;
    }
    let least = if options.grows { 1 << 20 } else { 0 };
    let disk = with_size(fd, &partial, options, options.size.max(least))?;
    Ok(Prepared {
        disk,
        size: options.size,
        fresh: !options.resuming,
        finish: Some(Finish {
            partial,
            path: path.clone(),
            replace: options.overwrite,
        }),
        path,
    })
}

/// Opens `path` itself. Unless it holds something, creates it if need be, and makes it large enough.
fn in_place(path: PathBuf, options: FileOptions) -> Result<Prepared> {
    let (fd, fresh) = match open_locked(&path, OFlags::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && options.done > 0 => {
            return Err(gone(&path));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (open_locked(&path, OFlags::CREATE | OFlags::EXCL), true)
        }
        other => (other, false),
    };
    let fd = fd.map_err(|error| could_not_open(&path, error))?;
    let size = length_of(&fd, &path, options)?.max(options.size);
    let disk = with_size(fd, &path, options, size)?;
    Ok(Prepared {
        disk,
        path,
        size,
        fresh,
        finish: None,
    })
}

/// How long the file is.
///
/// # Errors
/// It is shorter than what was copied to it.
fn length_of(fd: &OwnedFd, path: &Path, options: FileOptions) -> Result<u64> {
    let stat = rustix::fs::fstat(fd).map_err(|error| could_not_open(path, error.into()))?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if options.done == 0 || found >= options.size {
        return Ok(found);
    }
    let size = options.size;
    let why = format!("is too small: it has {found} bytes, and the disk copied to it {size}");
    Err(refused(path, &why).hint("copy the whole disk anew, with --restart --overwrite"))
}

/// What was copied is not there any more.
fn gone(path: &Path) -> Error {
    let why = "is not there, and the disk was copied to it";
    refused(path, why).hint("copy the whole disk anew, with --restart")
}

/// Sets the length first: a file has no direct reads to try before it has bytes.
fn with_size(fd: OwnedFd, path: &Path, options: FileOptions, size: u64) -> Result<Disk> {
    let how = Open {
        write: true,
        exclusive: false,
        direct: !options.page_cache,
    };
    rustix::fs::ftruncate(&fd, size)
        .map_err(io::Error::from)
        .and_then(|()| Disk::from_fd(fd, path, how))
        .map_err(|error| Error::io(format!("make {} {size} bytes long", path.display()), error))
}

#[async_trait]
impl Target for FileTarget {
    fn capacity(&self) -> Option<u64> {
        self.end.is_none().then_some(self.size)
    }

    fn limits(&self) -> Limits {
        draft::limits(self.queue.disk().align())
    }

    fn identity(&self) -> Identity {
        draft::identity(&self.queue, &self.path, &self.name, self.size)
    }

    fn untouched(&self) -> Untouched {
        self.untouched
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.cut("write", ByteRange::at(offset, data.len() as u64))?;
        let written = self.queue.write(offset, data).await;
        written.map_err(|error| self.failed("write", offset, error))
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        self.cut("zero", range)?;
        let methods = Method::of_file(zeroing);
        let zeroed = self.zeroer.zero(&self.queue, range, &methods).await;
        zeroed.map_err(|error| self.failed("zero", range.start, error))
    }

    async fn flush(&self) -> Result<()> {
        draft::flush(&self.queue, &self.name).await
    }

    async fn is_hole(&self, range: ByteRange) -> Result<bool> {
        let data = self
            .queue
            .run(move |disk| disk.next_data(range.start))
            .await;
        match data {
            Ok(data) => Ok(data.is_none_or(|data| data >= range.end)),
            // The file system cannot tell.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(self.failed("map", range.start, error)),
        }
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read back", &self.name, range, self.length())?;
        super::read_back(&self.queue, range, buffer)
            .await
            .map_err(|error| self.failed("read back", offset, error))
    }

    fn ending(&self) {
        self.queue.ending();
    }

    async fn finalize(&self) -> Result<()> {
        if self.end.is_some() {
            let end = self.length();
            let cut = draft::set_length(&self.queue, end).await;
            cut.map_err(|error| self.failed("give its length to", end, error))?;
        }
        self.flush().await?;
        if let Some(finish) = self.finish.clone() {
            finish.give_name(&self.name).await?;
        }
        self.named.store(true, Ordering::Release);
        Ok(())
    }
}
