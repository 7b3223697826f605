//! VHDX, the disks of Hyper-V: fixed, dynamic, differencing. Read-only.
//!
//! Follows [MS-VHDX]; section numbers are that document's. A file is two headers (the newer valid
//! one counts, §2.2.2), a log to replay before anything else is believed (§2.3), two copies of a
//! table of regions (§2.2.3), metadata that say what the disk is (§2.6), and a block allocation
//! table that maps guest blocks to file offsets (§2.5). The log is replayed in memory: the file is
//! never written.
//!
//! ```text
//!  layout.rs   bytes as the specification draws them     no logic
//!  header.rs   headers, regions, metadata, checked       no I/O
//!  log.rs      log → the sectors that it changes         no I/O
//!  bat.rs      entries → where blocks are                no I/O
//!  overlay.rs  a file as its log leaves it
//!  open.rs     a file → a disk and its parents
//!  fault.rs    what can be wrong
//!  promises.rs   what the parsers promise, for fuzz targets
//! ```
//!
//! [MS-VHDX]: https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx

mod bat;
mod fault;
mod header;
pub(crate) mod layout;
mod log;
mod open;
mod overlay;
#[cfg(feature = "testkit")]
pub mod promises;
#[cfg(test)]
mod tests;

pub use fault::Fault;

use super::{
    Ends, Facts, Format, Image, Layer, Mapped, Opener, PARTS_MAX, Pages, Storage, To, over,
    push_layer,
};
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use bat::{Bat, Block};
use std::sync::Arc;

/// Entries of the table that are read at once: 32 KiB of it.
const ENTRIES: u64 = 4096;

/// The format.
#[derive(Debug)]
pub struct Vhdx;

#[async_trait]
impl Format for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn probe(&self, ends: &Ends<'_>) -> bool {
        ends.head.starts_with(&layout::FILE_SIGNATURE)
    }

    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(open::disk(storage, opener).await?))
    }
}

/// A disk that is open.
#[derive(Debug)]
struct VhdxImage {
    /// Of the file as its log leaves it.
    pages: Pages,
    size: u64,
    bat: Bat,
    data_write_guid: layout::Guid,
    parent: Option<Box<VhdxImage>>,
    facts: Facts,
}

#[async_trait]
impl Image for VhdxImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        // Blocks are long; what lies inside of one is raw.
        1 << 20
    }

    fn facts(&self) -> Facts {
        let backing = self.parent.as_ref().map(|parent| Box::new(parent.facts()));
        Facts {
            backing,
            ..self.facts.clone()
        }
    }

    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let index = |at: u64| at.checked_div(self.bat.block).unwrap_or(0);
        let first = index(range.start);
        let count = index(range.end.saturating_sub(1))
            .saturating_sub(first)
            .saturating_add(1);
        let count = count.min(self.bat.neighbours(first)).min(ENTRIES);
        let mut found = Vec::new();
        let entries = self
            .pages
            .read("block table", self.bat.entries(first, count))
            .await?;
        for (number, entry) in (first..).zip(entries.as_chunks::<8>().0) {
            if found.len() >= PARTS_MAX {
                break;
            }
            let whole = ByteRange::at(number.saturating_mul(self.bat.block), self.bat.block);
            let window = whole.intersect(range);
            let block = self.bat.block(u64::from_le_bytes(*entry));
            let block = block.map_err(|fault| self.failed(fault, whole.start))?;
            match block {
                Block::Below => push_layer(&mut found, window, Layer::Below),
                Block::Zero => push_layer(&mut found, window, Layer::Here(To::Zero)),
                Block::At(at) => {
                    let layer = self.here(at, whole, window.start)?;
                    push_layer(&mut found, window, layer);
                }
                Block::Partly(at) => self.map_partly(number, at, window, &mut found).await?,
            }
        }
        let parent = self.parent.as_deref().map(|parent| parent as &dyn Image);
        over(found, parent).await
    }
}

impl VhdxImage {
    fn failed(&self, fault: Fault, at: u64) -> crate::error::Error {
        let doing = format!("map {}", self.pages.storage().identity());
        fault.while_doing(doing).at(at)
    }

    /// What is at `start` in the block `whole`, which is at `at`. All of it must be in the file.
    fn here(&self, at: u64, whole: ByteRange, start: u64) -> Result<Layer> {
        let storage = Arc::clone(self.pages.storage());
        let len = whole.end.min(self.size).saturating_sub(whole.start);
        let (range, size) = (ByteRange::at(at, len), storage.size());
        if range.end > size {
            let what = "block";
            return Err(self.failed(Fault::Outside { what, range, size }, whole.start));
        }
        let offset = at.saturating_add(start.saturating_sub(whole.start));
        Ok(Layer::Here(To::Raw { storage, offset }))
    }

    /// Appends `window` of the block `number`, some sectors of which are at `at`.
    async fn map_partly(
        &self,
        number: u64,
        at: u64,
        window: ByteRange,
        found: &mut Vec<(ByteRange, Layer)>,
    ) -> Result<()> {
        let (block, sector) = (self.bat.block, self.bat.sector);
        let whole = ByteRange::at(number.saturating_mul(block), block);
        let entry = self
            .pages
            .read("block table", self.bat.bitmap_entry(number))
            .await?;
        let entry = entry
            .first_chunk::<8>()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let bits = self.bat.bitmap(number, entry);
        let bits = bits.map_err(|fault| self.failed(fault, whole.start))?;
        // Only the bits of the window: those of a large block are many.
        let index = |at: u64| {
            at.saturating_sub(whole.start)
                .checked_div(sector)
                .unwrap_or(0)
        };
        let first = index(window.start) & !7;
        let last = index(window.end.saturating_sub(1));
        let bytes = ByteRange::new(
            bits.start.saturating_add(first >> 3),
            bits.start.saturating_add(last >> 3).saturating_add(1),
        );
        let bitmap = self.pages.read("sector bitmap", bytes).await?;
        let mut rest = window;
        while !rest.is_empty() && found.len() < PARTS_MAX {
            let number = index(rest.start);
            let end = whole
                .start
                .saturating_add(number.saturating_add(1).saturating_mul(sector));
            let part = ByteRange::new(rest.start, end.min(rest.end));
            let layer = match is_here(&bitmap, number.saturating_sub(first)) {
                true => self.here(at, whole, part.start)?,
                false => Layer::Below,
            };
            push_layer(found, part, layer);
            rest.start = part.end;
        }
        Ok(())
    }
}

/// Whether a bitmap has the bit of `sector`. The first sector is the least significant bit.
fn is_here(bitmap: &[u8], sector: u64) -> bool {
    let byte = usize::try_from(sector >> 3)
        .ok()
        .and_then(|at| bitmap.get(at));
    byte.is_some_and(|byte| byte & (1 << (sector & 7)) != 0)
}
