//! A dynamic VHDX as target, for Hyper-V.
//!
//! Writes come in any order; a block gets its place when its first data arrive, and the file only
//! grows. The block table is in memory, eight bytes a block (a few MiB for the largest disk), and
//! is written with the headers at the end. The file gets its name when it is durable; there is no
//! journal of it. `head.rs` is what is before the blocks; pure.

mod head;

use super::partial::{self, Finish};
use super::zeroing::{Method, Zeroer};
use super::{Target, Untouched, Zeroing};
use crate::buffer::Buffer;
use crate::digest::is_zero;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::blocking;
use crate::sys::disk::{Disk, Open};
use crate::sys::queue::Queue;
use async_trait::async_trait;
use bytes::Bytes;
use head::Shape;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// §2.1: the largest disk.
const SIZE_MAX: u64 = 64 << 40;

/// The file is made longer in steps of this many bytes.
const STEP: u64 = 256 << 20;

/// What the image will be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct VhdxOptions {
    /// Bytes of the disk.
    pub size: u64,
    /// A file of that name may be replaced.
    pub overwrite: bool,
}

/// A VHDX that is written. See the [module](self).
#[derive(Debug)]
pub struct VhdxTarget {
    queue: Queue,
    blocks: Mutex<Blocks>,
    zeroer: Zeroer,
    shape: Shape,
    size: u64,
    name: String,
    finish: Finish,
    finished: AtomicBool,
}

/// Where the blocks are.
#[derive(Debug)]
struct Blocks {
    /// Offset in the file; 0 is nowhere.
    places: Vec<u64>,
    /// The end of the last one.
    end: u64,
    /// Bytes that the file has been made long.
    length: u64,
}

impl VhdxTarget {
    /// Begins a new image at `path`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there that may not be replaced; the disk is larger than
    /// a VHDX can be; or the file cannot be made.
    pub async fn create(path: &Path, options: VhdxOptions) -> Result<Self> {
        let name = path.display().to_string();
        if options.size > SIZE_MAX {
            let what = format!("{name}: a VHDX holds 64 TiB at most");
            return Err(Error::new(Kind::Unsupported, what));
        }
        let owned = path.to_owned();
        let opened = blocking(move || Ok(open(&owned, options))).await;
        let opened = opened.map_err(|error| Error::io(format!("create {name}"), error))?;
        let (queue, finish) = opened?;
        let shape = Shape::new(options.size);
        let blocks = Blocks {
            places: vec![0; usize::try_from(shape.blocks()).unwrap_or(0)],
            end: shape.payload(),
            length: 0,
        };
        Ok(Self {
            queue,
            blocks: Mutex::new(blocks),
            zeroer: Zeroer::new(),
            shape,
            size: options.size,
            name,
            finish,
            finished: AtomicBool::new(false),
        })
    }

    /// The parts of `range` that lie in one block each: its number, the part, and what of the
    /// block is before it.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (usize, ByteRange, u64)> + use<> {
        let size = self.shape.block;
        let mut rest = range;
        std::iter::from_fn(move || {
            let block = rest.start / size;
            let skip = rest.start % size;
            let (part, after) = rest.split(size.saturating_sub(skip));
            rest = after;
            let number = usize::try_from(block).unwrap_or(usize::MAX);
            (!part.is_empty()).then_some((number, part, skip))
        })
    }

    /// Where `range` is in the file; blocks that are nowhere get a place if `wanted` says so.
    async fn place(
        &self,
        range: ByteRange,
        wanted: impl Fn(ByteRange) -> bool + Send,
    ) -> io::Result<Vec<(Option<u64>, ByteRange)>> {
        let mut found = Vec::new();
        let mut blocks = self.blocks.lock().await;
        for (number, part, skip) in self.parts(range) {
            let end = blocks.end;
            let past = || io::Error::other("a block past the end of the disk");
            let place = blocks.places.get_mut(number).ok_or_else(past)?;
            if *place == 0 && wanted(part) {
                *place = end;
            }
            let at = (*place != 0).then(|| place.saturating_add(skip));
            if at.is_some_and(|at| at >= end) {
                blocks.end = end.saturating_add(self.shape.block);
            }
            found.push((at, part));
        }
        if blocks.end > blocks.length {
            blocks.length = blocks.end.next_multiple_of(STEP);
            self.set_length(blocks.length).await?;
        }
        Ok(found)
    }

    async fn set_length(&self, length: u64) -> io::Result<()> {
        let set = move |disk: &Disk| Ok(rustix::fs::ftruncate(disk.fd(), length)?);
        self.queue.run(set).await
    }

    async fn store(&self, range: ByteRange, data: &Bytes) -> io::Result<()> {
        let slice = |part: ByteRange| {
            let at = |offset: u64| length(offset.saturating_sub(range.start)).min(data.len());
            data.slice(at(part.start)..at(part.end))
        };
        let placed = self.place(range, |part| !is_zero(&slice(part))).await?;
        for (at, part) in placed {
            if let Some(at) = at {
                self.queue.write(at, slice(part)).await?;
            }
        }
        Ok(())
    }

    async fn clear(&self, range: ByteRange, zeroing: Zeroing) -> io::Result<()> {
        let keep = zeroing == Zeroing::Allocate;
        let methods = match zeroing {
            Zeroing::Unmap => [Method::PunchHole, Method::Write],
            Zeroing::Allocate => [Method::ZeroRange, Method::Write],
        };
        for (at, part) in self.place(range, |_| keep).await? {
            if let Some(at) = at {
                let there = ByteRange::at(at, part.len());
                self.zeroer.zero(&self.queue, there, &methods).await?;
            }
        }
        Ok(())
    }

    async fn load(&self, range: ByteRange, mut buffer: Buffer) -> io::Result<Buffer> {
        for (at, part) in self.place(range, |_| false).await? {
            let from = length(part.start.saturating_sub(range.start));
            let to = from.saturating_add(length(part.len()));
            let to = buffer.get_mut(from..to).unwrap_or_default();
            match at {
                None => to.fill(0),
                Some(at) => {
                    let there = ByteRange::at(at, part.len());
                    let bytes = Buffer::unbudgeted(to.len());
                    to.copy_from_slice(&super::read_back(&self.queue, there, bytes).await?);
                }
            }
        }
        Ok(buffer)
    }

    /// The table first, what leads to it when that is durable.
    async fn complete(&self) -> Result<()> {
        let failed = |error| Error::io(format!("complete {}", self.name), error);
        let blocks = self.blocks.lock().await;
        let table = Bytes::from(self.shape.table_bytes(&blocks.places));
        let at = Shape::table_at();
        self.queue.write(at, table).await.map_err(failed)?;
        self.set_length(blocks.end).await.map_err(failed)?;
        drop(blocks);
        self.flush().await?;
        let ids = blocking(ids).await.map_err(failed)?;
        let head = Bytes::from(self.shape.head(ids));
        self.queue.write(0, head).await.map_err(failed)?;
        self.flush().await
    }

    fn cut(&self, doing: &str, range: ByteRange) -> Result<()> {
        check_bounds(doing, &self.name, range, self.size)?;
        let align = u64::from(self.queue.disk().align());
        if range.start.is_multiple_of(align) {
            return Ok(());
        }
        let why = format!("{doing} {}: not aligned to {align} bytes", self.name);
        Err(Error::new(Kind::Usage, why).at(range.start))
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        Error::io(format!("{doing} {}", self.name), error).at(offset)
    }
}

/// Blocks.
fn open(path: &Path, options: VhdxOptions) -> Result<(Queue, Finish)> {
    let (fd, finish) = partial::create(path, options.overwrite)?;
    let how = Open {
        write: true,
        exclusive: false,
        direct: true,
    };
    // A file has no direct reads to try before it has bytes.
    let disk = rustix::fs::ftruncate(&fd, 1 << 20)
        .map_err(io::Error::from)
        .and_then(|()| Disk::from_fd(fd, &finish.partial, how))
        .map_err(|error| Error::io(format!("create {}", path.display()), error))?;
    Ok((Queue::new(disk), finish))
}

/// Names that no other file has. Blocks.
fn ids() -> io::Result<[[u8; 16]; 3]> {
    let mut ids = [[0; 16]; 3];
    let mut random = File::open("/dev/urandom")?;
    for id in &mut ids {
        random.read_exact(id)?;
    }
    Ok(ids)
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[async_trait]
impl Target for VhdxTarget {
    fn capacity(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        Limits {
            align: self.queue.disk().align(),
            preferred: 1 << 20,
            max: 32 << 20,
            in_flight: 16,
        }
    }

    fn identity(&self) -> Identity {
        let inode = self.queue.disk().stat().st_ino;
        Identity {
            id: format!("file:{}#{inode}", self.finish.path.display()),
            size: self.size,
            name: self.name.clone(),
        }
    }

    fn untouched(&self) -> Untouched {
        Untouched::Zero
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        self.cut("write", range)?;
        let stored = self.store(range, &data).await;
        stored.map_err(|error| self.failed("write", offset, error))
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        self.cut("zero", range)?;
        let cleared = self.clear(range, zeroing).await;
        cleared.map_err(|error| self.failed("zero", range.start, error))
    }

    /// Of the data; the table is durable when the image is complete, and worth nothing before.
    async fn flush(&self) -> Result<()> {
        let synced = self.queue.run(Disk::sync).await;
        synced.map_err(|error| Error::io(format!("flush {}", self.name), error))
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read back", &self.name, range, self.size)?;
        let loaded = self.load(range, buffer).await;
        loaded.map_err(|error| self.failed("read back", offset, error))
    }

    async fn finalize(&self) -> Result<()> {
        self.complete().await?;
        self.finish.clone().give_name(&self.name).await?;
        self.finished.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for VhdxTarget {
    /// What is not an image yet will never be one.
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.finish.partial);
        }
    }
}
