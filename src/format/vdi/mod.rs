//! VDI, the disks of VirtualBox. Read-only.
//!
//! Follows VirtualBox's own sources, for there is no other specification. A header, a map of blocks
//! (entry → number of the block in the file), and blocks, each after `block_extra` bytes that belong
//! to nobody's disk.
//!
//! ```text
//!  layout.rs   bytes as VirtualBox has them             no logic
//!  header.rs   a header that was checked                no I/O
//!  open.rs     a file, and the parents that it is a difference to
//!  mod.rs      a checked header → where bytes are
//!  promises.rs   what the parsers promise, for fuzz targets
//! ```
//!
//! A difference names its parent by UUID. Which file that is, only the registry of the machine knows
//! that made it; here it is looked for among the VDIs beside the image. Not read: undo images, which
//! no VirtualBox of this century makes.

mod header;
mod layout;
mod open;
#[cfg(feature = "testkit")]
pub mod promises;
#[cfg(test)]
mod tests;

pub use header::Fault;

use super::{Ends, Facts, Format, Image, Layer, Mapped, Opener, PARTS_MAX, Pages, Storage, To};
use super::{over, push_layer};
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use header::{Block, Disk, uuid};
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

    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(open::image(storage, opener).await?))
    }
}

#[derive(Debug)]
struct VdiImage {
    pages: Pages,
    disk: Disk,
    parent: Option<Box<VdiImage>>,
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
        let kind = match (&self.disk.parent, self.disk.fixed) {
            (Some(_), _) => "difference",
            (None, true) => "fixed",
            (None, false) => "dynamic",
        };
        let parent = self.disk.parent.map(|parent| uuid(&parent.id));
        Facts {
            format: Vdi.name(),
            file: self.pages.storage().identity().name,
            virtual_size: self.disk.size,
            cluster_size: Some(self.disk.block),
            backing: self.parent.as_ref().map(|parent| Box::new(parent.facts())),
            ..Facts::default()
        }
        .with("type", kind)
        .with("id", uuid(&self.disk.id))
        .with("parent id", parent)
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
            let layer = match block.map_err(|fault| self.failed(fault, whole.start))? {
                Block::Below => Layer::Below,
                Block::Zero => Layer::Here(To::Zero),
                Block::At(at) => Layer::Here(self.here(at, whole, range.start)?),
            };
            push_layer(&mut found, range, layer);
        }
        let parent = self.parent.as_deref().map(|parent| parent as &dyn Image);
        over(found, parent).await
    }
}
