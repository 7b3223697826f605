//! VDI, the disks of VirtualBox. Read-only.
//!
//! Follows VirtualBox's own sources, for there is no other specification. A header, a map of blocks
//! (entry → number of the block in the file), and blocks, each after `block_extra` bytes that belong
//! to nobody's disk.
//!
//! ```text
//!  layout.rs   bytes as VirtualBox has them             no logic
//!  header.rs   a header that was checked                no I/O
//!  mod.rs      a checked header → where bytes are
//!  promises.rs   what the parsers promise, for fuzz targets
//! ```
//!
//! Not read: differences. They name their parent by UUID, and only the registry of the machine that
//! made them knows its file.

mod header;
mod layout;
#[cfg(feature = "testkit")]
pub mod promises;
#[cfg(test)]
mod tests;

pub use header::Fault;

use super::{Ends, Facts, Format, Image, Mapped, Opener, PARTS_MAX, Pages, Storage, To};
use super::{push_mapped, read_range};
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use header::{Block, Disk};
use std::sync::Arc;

/// Entries of the map that are read at once: 16 KiB of it.
const ENTRIES: u64 = 4096;

/// The format.
#[derive(Debug)]
pub struct Vdi;

#[async_trait]
impl Format for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn probe(&self, ends: &Ends<'_>) -> bool {
        let signature = ends.head.get(layout::SIGNATURE_AT..).unwrap_or_default();
        signature.starts_with(&layout::SIGNATURE.to_le_bytes())
    }

    async fn open(&self, storage: Arc<dyn Storage>, _opener: &Opener) -> Result<Arc<dyn Image>> {
        let len = u64::try_from(size_of::<layout::Header>()).unwrap_or(0);
        let head = ByteRange::new(0, len);
        let bytes = read_range(storage.as_ref(), "header", head).await?;
        let disk = header::header(&bytes, storage.size());
        let doing = || format!("open {}", storage.identity());
        let disk = disk.map_err(|fault| fault.while_doing(doing()))?;
        let pages = Pages::new(storage);
        Ok(Arc::new(VdiImage { pages, disk }))
    }
}

#[derive(Debug)]
struct VdiImage {
    pages: Pages,
    disk: Disk,
}

impl VdiImage {
    fn failed(&self, fault: Fault, at: u64) -> Error {
        let doing = format!("map {}", self.pages.storage().identity());
        fault.while_doing(doing).at(at)
    }

    /// What is at `start` in the block `whole`, which is at `at`. All of it must be in the file.
    fn here(&self, at: u64, whole: ByteRange, start: u64) -> Result<To> {
        let storage = Arc::clone(self.pages.storage());
        let len = whole.end.min(self.disk.size).saturating_sub(whole.start);
        let (range, size) = (ByteRange::at(at, len), storage.size());
        if range.end > size {
            let what = "block";
            return Err(self.failed(Fault::Outside { what, range, size }, whole.start));
        }
        let offset = at.saturating_add(start.saturating_sub(whole.start));
        Ok(To::Raw { storage, offset })
    }
}

#[async_trait]
impl Image for VdiImage {
    fn size(&self) -> u64 {
        self.disk.size
    }

    fn unit(&self) -> u64 {
        self.disk.block
    }

    fn facts(&self) -> Facts {
        let kind = if self.disk.fixed { "fixed" } else { "dynamic" };
        Facts {
            format: Vdi.name(),
            file: self.pages.storage().identity().name,
            virtual_size: self.disk.size,
            cluster_size: Some(self.disk.block),
            ..Facts::default()
        }
        .with("type", kind)
        .with("id", self.disk.id.as_str())
    }

    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let index = |at: u64| at.checked_div(self.disk.block).unwrap_or(0);
        let first = index(range.start);
        let count = index(range.end.saturating_sub(1)).saturating_sub(first);
        let count = count.saturating_add(1).min(ENTRIES);
        let at = self.disk.map.start.saturating_add(first.saturating_mul(4));
        let entries = ByteRange::at(at, count.saturating_mul(4));
        let entries = self.pages.read("block map", entries).await?;
        let mut found = Vec::new();
        for (number, entry) in (first..).zip(entries.as_chunks::<4>().0) {
            if found.len() >= PARTS_MAX {
                break;
            }
            let whole = ByteRange::at(number.saturating_mul(self.disk.block), self.disk.block);
            let range = whole.intersect(range);
            let block = self.disk.block(u32::from_le_bytes(*entry));
            let to = match block.map_err(|fault| self.failed(fault, whole.start))? {
                Block::Zero => To::Zero,
                Block::At(at) => self.here(at, whole, range.start)?,
            };
            push_mapped(&mut found, Mapped { range, to });
        }
        Ok(found)
    }
}
