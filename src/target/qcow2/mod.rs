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

use super::Zeroing;
use super::draft::Draft;
use super::drafted::Drafted;
use super::zeroing::Zeroer;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::qcow2::geometry::Geometry;
pub use crate::format::qcow2::header::Compression;
use bytes::Bytes;
use std::io;
use std::path::Path;
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
    draft: Draft,
    tables: Mutex<Tables>,
    zeroer: Zeroer,
    geometry: Geometry,
    options: Qcow2Options,
}

impl Qcow2Target {
    /// Begins a new image at `path`.
    ///
    /// # Errors
    /// `Usage` if there are no such images; [`Kind::Refused`] if something is there that may not
    /// be replaced; or the file cannot be made.
    pub async fn create(path: &Path, options: Qcow2Options) -> Result<Self> {
        let geometry = check(&options)?;
        // Within a page, what goes past the page cache must not meet what goes through it.
        let page = rustix::param::page_size() as u64;
        let direct = options.cluster >= page.max(4096);
        let draft = Draft::create(path, options.size, options.overwrite, direct).await?;
        let tables = Tables::new(draft.queue().clone(), geometry, options.size).await;
        let tables = tables.map_err(|error| draft.failed("create", 0, error))?;
        let target = Self {
            draft,
            tables: Mutex::new(tables),
            zeroer: Zeroer::new(),
            geometry,
            options,
        };
        if options.preallocate {
            let made = target.preallocate().await;
            made.map_err(|error| target.draft.failed("create", 0, error))?;
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

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Drafted for Qcow2Target {
    fn draft(&self) -> &Draft {
        &self.draft
    }

    fn align(&self) -> u32 {
        match self.options.compression {
            Some(_) => u32::try_from(self.options.cluster).unwrap_or(u32::MAX),
            None => self.draft.queue().disk().align(),
        }
    }

    async fn store(&self, range: ByteRange, data: Bytes) -> io::Result<()> {
        self.put(range, data).await
    }

    async fn clear(&self, range: ByteRange, zeroing: Zeroing) -> io::Result<()> {
        self.blank(range, zeroing).await
    }

    async fn load(&self, range: ByteRange, buffer: Buffer) -> Result<Buffer> {
        self.fetch(range, buffer).await
    }

    /// Tables first, the header when they are durable.
    async fn complete(&self) -> Result<()> {
        let failed = |error| self.draft.unfinished(error);
        let roots = self.tables.lock().await.finish().await.map_err(failed)?;
        self.draft.flush().await?;
        let header = header::bytes(&self.options, self.geometry, roots);
        let doing = || format!("complete {}", self.draft.name());
        let header = Bytes::from(header.map_err(|error| error.context(doing()))?);
        self.draft.queue().write(0, header).await.map_err(failed)?;
        self.draft.flush().await
    }
}
