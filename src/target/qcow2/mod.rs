//! A qcow2 image as target, version 3: uncompressed, or every cluster compressed.
//!
//! Writes come in any order, so a cluster gets its place in the file when its data arrive; the
//! file only grows. Tables are kept in memory up to a few MiB (`blocks.rs`), and the header, without
//! which nothing is an image, is written last. Until then the file has another name: a copy that
//! is cut short leaves no image that looks whole, and is begun again. There is no journal of it.
//!
//! ```text
//!  write.rs   requests → places in the file
//!  pack.rs    clusters → compressed bytes               pure
//!  space.rs   where the next bytes go                   pure
//!  tables.rs  L1, L2 and refcounts of a growing file
//!  blocks.rs  tables, of which some are in memory
//!  read.rs    what was written, read back
//!  header.rs  what comes last                           pure
//! ```
//!
//! Compressed images are written in requests of whole clusters, so their clusters have at most
//! 64 KiB: what a pass deals with at once.

mod blocks;
mod header;
mod pack;
mod read;
mod space;
mod tables;
mod write;

use super::partial::{self, Finish};
use super::zeroing::Zeroer;
use super::{Target, Untouched, Zeroing};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::qcow2::geometry::Geometry;
pub use crate::format::qcow2::header::Compression;
use crate::sys::blocking;
use crate::sys::disk::{Disk, Open};
use crate::sys::queue::Queue;
use async_trait::async_trait;
use bytes::Bytes;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tables::Tables;
use tokio::sync::Mutex;

/// Clusters of a compressed image are at most this long, in bytes.
const COMPRESSED_CLUSTER_MAX: u64 = 64 << 10;

/// Bytes of an L1 table at most: qemu opens no longer one.
const L1_MAX: u64 = 32 << 20;

/// What the image will be like.
#[derive(Clone, Copy, Debug)]
pub struct Qcow2Options {
    /// Bytes of the disk.
    pub size: u64,
    /// A file of that name may be replaced.
    pub overwrite: bool,
    /// Bytes of a cluster: a power of two.
    pub cluster: u64,
    /// How clusters are compressed; `None` stores them as they are.
    pub compression: Option<Compression>,
    /// Give every cluster its place from the start, in the order of the disk.
    pub preallocate: bool,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            size: 0,
            overwrite: false,
            cluster: 64 << 10,
            compression: None,
            preallocate: false,
        }
    }
}

/// A qcow2 image that is written. See the [module](self).
#[derive(Debug)]
pub struct Qcow2Target {
    queue: Queue,
    tables: Mutex<Tables>,
    zeroer: Zeroer,
    geometry: Geometry,
    options: Qcow2Options,
    name: String,
    finish: Finish,
    finished: AtomicBool,
}

impl Qcow2Target {
    /// Begins a new image at `path`.
    ///
    /// # Errors
    /// `Usage` if there are no such images; [`Kind::Refused`] if something is there that may not
    /// be replaced; or the file cannot be made.
    pub async fn create(path: &Path, options: Qcow2Options) -> Result<Self> {
        let name = path.display().to_string();
        let geometry = check(&options)?;
        let owned = path.to_owned();
        let opened = blocking(move || Ok(open(&owned, options))).await;
        let failed = |error| Error::io(format!("create {name}"), error);
        let (queue, finish) = opened.map_err(failed)??;
        let tables = Tables::new(queue.clone(), geometry, options.size).await;
        let target = Self {
            tables: Mutex::new(tables.map_err(failed)?),
            queue,
            zeroer: Zeroer::new(),
            geometry,
            options,
            name,
            finish,
            finished: AtomicBool::new(false),
        };
        if options.preallocate {
            let made = target.preallocate().await;
            made.map_err(|error| target.failed("create", 0, error))?;
        }
        Ok(target)
    }

    async fn preallocate(&self) -> io::Result<()> {
        let mut tables = self.tables.lock().await;
        let mut at = 0;
        while at < self.options.size {
            let (raw, _) = tables.new_standard().await?;
            tables.set_entry(at, raw).await?;
            at = at.saturating_add(self.options.cluster);
        }
        Ok(())
    }

    /// The parts of `range` that lie in one cluster each, with the start of that cluster.
    fn clusters(&self, range: ByteRange) -> impl Iterator<Item = (u64, ByteRange)> + use<> {
        let cluster = self.geometry.cluster();
        let mut rest = range;
        std::iter::from_fn(move || {
            let start = rest.start & !cluster.saturating_sub(1);
            let end = start.saturating_add(cluster);
            let (part, after) = rest.split(end.saturating_sub(rest.start));
            rest = after;
            (!part.is_empty()).then_some((start, part))
        })
    }

    fn cut(&self, doing: &str, range: ByteRange) -> Result<()> {
        check_bounds(doing, &self.name, range, self.options.size)?;
        let align = u64::from(self.limits().align);
        let whole = |at: u64| at.is_multiple_of(align);
        if whole(range.start) && (whole(range.end) || range.end == self.options.size) {
            return Ok(());
        }
        let why = format!("{doing} {}: not aligned to {align} bytes", self.name);
        Err(Error::new(Kind::Usage, why).at(range.start))
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let error = Error::io(format!("{doing} {}", self.name), error).at(offset);
        if full {
            error.hint("make room on its file system and run the same command again")
        } else {
            error
        }
    }

    /// Tables first, the header when they are durable.
    async fn complete(&self) -> Result<()> {
        let failed = |error| Error::io(format!("complete {}", self.name), error);
        let roots = self.tables.lock().await.finish().await.map_err(failed)?;
        self.flush().await?;
        let header = header::bytes(&self.options, self.geometry, roots);
        let header = header.map_err(|error| error.context(format!("complete {}", self.name)))?;
        let header = Bytes::from(header);
        self.queue.write(0, header).await.map_err(failed)?;
        self.flush().await
    }
}

/// Refuses images that there are not, or that cannot be written in requests.
fn check(options: &Qcow2Options) -> Result<Geometry> {
    let cluster = options.cluster;
    let usage = |what: String| Error::new(Kind::Usage, what);
    let geometry = Geometry::new(cluster.trailing_zeros(), false).ok();
    let geometry = geometry.filter(|_| cluster.is_power_of_two());
    let geometry = geometry.ok_or_else(|| {
        usage(format!("qcow2 has no clusters of {cluster} bytes"))
            .hint("a power of two from 512 to 2M")
    })?;
    if options.compression.is_some() && cluster > COMPRESSED_CLUSTER_MAX {
        let what = format!("compressed clusters of {cluster} bytes are not written");
        return Err(Error::new(Kind::Unsupported, what).hint("64K are the most"));
    }
    if options.compression.is_some() && options.preallocate {
        return Err(usage(
            "compressed clusters have no place in advance".to_owned(),
        ));
    }
    if geometry.l1_needed(options.size).saturating_mul(8) > L1_MAX {
        let what = format!("clusters of {cluster} bytes are too small for a disk of this size");
        return Err(usage(what).hint("use larger clusters"));
    }
    Ok(geometry)
}

/// Blocks.
fn open(path: &Path, options: Qcow2Options) -> Result<(Queue, Finish)> {
    let (fd, finish) = partial::create(path, options.overwrite)?;
    // Within a page, what goes past the page cache must not meet what goes through it.
    let page = rustix::param::page_size() as u64;
    let how = Open {
        write: true,
        exclusive: false,
        direct: options.cluster >= page.max(4096),
    };
    // A file has no direct reads to try before it has bytes.
    let disk = rustix::fs::ftruncate(&fd, 1 << 20)
        .map_err(io::Error::from)
        .and_then(|()| Disk::from_fd(fd, &finish.partial, how))
        .map_err(|error| Error::io(format!("create {}", path.display()), error))?;
    Ok((Queue::new(disk), finish))
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[async_trait]
impl Target for Qcow2Target {
    fn capacity(&self) -> Option<u64> {
        Some(self.options.size)
    }

    fn limits(&self) -> Limits {
        let align = match self.options.compression {
            Some(_) => u32::try_from(self.options.cluster).unwrap_or(u32::MAX),
            None => self.queue.disk().align(),
        };
        Limits {
            align,
            preferred: 1 << 20,
            max: 32 << 20,
            in_flight: 16,
        }
    }

    fn identity(&self) -> Identity {
        let inode = self.queue.disk().stat().st_ino;
        Identity {
            id: format!("file:{}#{inode}", self.finish.path.display()),
            size: self.options.size,
            name: self.name.clone(),
        }
    }

    fn untouched(&self) -> Untouched {
        Untouched::Zero
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        self.cut("write", range)?;
        let stored = self.store(range, data).await;
        stored.map_err(|error| self.failed("write", offset, error))
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        self.cut("zero", range)?;
        let cleared = self.clear(range, zeroing).await;
        cleared.map_err(|error| self.failed("zero", range.start, error))
    }

    /// Of the data; the tables are durable when the image is complete, and worth nothing before.
    async fn flush(&self) -> Result<()> {
        let synced = self.queue.run(Disk::sync).await;
        synced.map_err(|error| Error::io(format!("flush {}", self.name), error))
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read back", &self.name, range, self.options.size)?;
        self.load(range, buffer).await
    }

    async fn finalize(&self) -> Result<()> {
        self.complete().await?;
        self.finish.clone().give_name(&self.name).await?;
        self.finished.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Qcow2Target {
    /// What is not an image yet will never be one.
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.finish.partial);
        }
    }
}
