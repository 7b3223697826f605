//! A regular file or block device as source, read past the page cache where that works.
//!
//! Holes are asked of the file system, window by window. A block device has none to tell of.

use super::Source;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, push_merged};
use crate::format::AtHand;
use crate::sys::blocking;
use crate::sys::disk::{Disk, Open};
use crate::sys::queue::Queue;
use crate::sys::sysfs::Device;
use async_trait::async_trait;
use rustix::fs::FileType;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Extents that one answer holds at most, so that a shredded file costs no more memory.
const EXTENTS_MAX: usize = 1024;

/// How a file or device is opened for reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSourceOptions {
    /// Go through the page cache even if the disk can be read directly.
    pub page_cache: bool,
}

/// A regular file or block device that is read. See the [module](self).
#[derive(Debug)]
pub struct FileSource {
    queue: Queue,
    name: String,
    id: String,
    size: u64,
}

impl FileSource {
    /// Opens what is at `path`.
    ///
    /// # Errors
    /// Nothing is there, it may not be read, or it is neither a regular file nor a block device.
    pub async fn open(path: &Path, options: FileSourceOptions) -> Result<Self> {
        let name = path.display().to_string();
        let owned = path.to_owned();
        blocking(move || Ok(open_now(&owned, options)))
            .await
            .map_err(|error| Error::io(format!("open {name}"), error))?
    }

    /// The file of `size` bytes behind `queue`, which people know by `name` and journals by `id`.
    #[must_use]
    pub fn over(queue: Queue, name: String, id: String, size: u64) -> Self {
        Self {
            queue,
            name,
            id,
            size,
        }
    }

    /// Whether reads go past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.queue.disk().is_direct()
    }

    /// Less could be read at `offset` than was there once; `now` is what is there now.
    fn shrank(&self, now: io::Result<u64>, offset: u64) -> Error {
        let (name, size) = (&self.name, self.size);
        match now {
            Ok(now) => {
                let why = format!("read {name}: the source shrank to {now} bytes from {size}");
                Error::new(Kind::Io, why).at(offset)
            }
            Err(error) => self.failed("read", offset, error),
        }
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        Error::io(format!("{doing} {}", self.name), error).at(offset)
    }
}

/// Opens, looks, names. Blocks.
fn open_now(path: &Path, options: FileSourceOptions) -> Result<FileSource> {
    let name = path.display().to_string();
    let failed = |error| Error::io(format!("open {name}"), error);
    // Looked at before it is opened: to open a FIFO or a tape is to change it.
    let stat = fs::metadata(path).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.mode());
    if !kind.is_file() && !kind.is_block_device() {
        let why = format!("{name} is neither a regular file nor a block device");
        return Err(Error::new(Kind::Usage, why));
    }
    let how = Open {
        write: false,
        exclusive: false,
        direct: !options.page_cache,
    };
    let disk = Disk::open(path, how).map_err(failed)?;
    let size = disk.size().map_err(failed)?;
    let id = if disk.is_block_device() {
        Device::of(disk.stat().st_rdev).stable_id()
    } else {
        let real = fs::canonicalize(path).map_err(failed)?;
        format!("file:{}#{}", real.display(), disk.stat().st_ino)
    };
    Ok(FileSource {
        queue: Queue::new(disk),
        name,
        id,
        size,
    })
}

#[async_trait]
impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits {
            align: self.queue.disk().align(),
            preferred: 1 << 20,
            max: 32 << 20,
            in_flight: 16,
        }
    }

    /// The number of the file system is left out: it may change when that is mounted again.
    fn identity(&self) -> Identity {
        Identity {
            id: self.id.clone(),
            size: self.size,
            name: self.name.clone(),
        }
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read", &self.name, range, self.size)?;
        let read = self.queue.read(offset, buffer).await;
        let (buffer, count) = read.map_err(|error| self.failed("read", offset, error))?;
        if count < buffer.len() {
            let now = self.queue.run(Disk::size).await;
            return Err(self.shrank(now, offset));
        }
        Ok(buffer)
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        check_bounds("map", &self.name, range, self.size)?;
        if self.queue.disk().is_block_device() {
            return Ok(vec![Extent::data(range)]);
        }
        let found = self.queue.run(move |disk| extents_of(disk, range)).await;
        found.map_err(|error| self.failed("map", range.start, error))
    }

    fn ending(&self) {
        self.queue.ending();
    }

    fn at_hand(&self) -> Option<&dyn AtHand> {
        self.queue.needs_threads().then_some(self)
    }
}

impl AtHand for FileSource {
    fn read_now(&self, offset: u64, space: &mut [u8]) -> Result<()> {
        let range = ByteRange::at(offset, space.len() as u64);
        check_bounds("read", &self.name, range, self.size)?;
        let read = self.queue.disk().read(offset, space);
        match read.map_err(|error| self.failed("read", offset, error))? {
            count if count < space.len() => Err(self.shrank(self.queue.disk().size(), offset)),
            _ => Ok(()),
        }
    }
}

/// Data and holes of a prefix of `range`, as the file system tells them. Blocks.
fn extents_of(disk: &Disk, range: ByteRange) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut rest = range;
    while !rest.is_empty() && extents.len() < EXTENTS_MAX {
        let data = match disk.next_data(rest.start) {
            Ok(data) => data.unwrap_or(rest.end).clamp(rest.start, rest.end),
            // The file system cannot tell.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => rest.start,
            Err(error) => return Err(error),
        };
        push_merged(&mut extents, Extent::zero(ByteRange::new(rest.start, data)));
        if data == rest.end {
            // Past a truncation there is no data either: whoever reads finds out.
            break;
        }
        let hole = disk
            .next_hole(data)?
            .clamp(data.saturating_add(1), rest.end);
        push_merged(&mut extents, Extent::data(ByteRange::new(data, hole)));
        rest = ByteRange::new(hole, rest.end);
    }
    Ok(extents)
}
