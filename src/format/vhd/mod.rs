//! VHD, the disks of Virtual PC, Xen and the first Hyper-V: fixed, dynamic, differencing.
//! Read-only.
//!
//! Follows the "Virtual Hard Disk Image Format Specification" (Microsoft, 2006). A footer says what
//! the disk is; a dynamic disk has a table of blocks, each after a bitmap of its sectors. In a
//! differencing disk that bitmap, most significant bit first, says which sectors are here and which
//! are in the parent. In a dynamic one it is not looked at: a block that exists is there as a whole,
//! and writers differ in what they put into the bitmap.
//!
//! ```text
//!  layout.rs   bytes as the specification draws them    no logic
//!  header.rs   bytes → something that was checked       no I/O
//!  footer.rs   the footer of a fixed disk that is written   pure
//!  open.rs     a file → a disk and its parents
//!  mod.rs      a disk → where its bytes are
//!  promises.rs   what the parsers promise, for fuzz targets
//! ```

mod footer;
mod header;
mod layout;
mod open;
#[cfg(feature = "testkit")]
pub mod promises;
#[cfg(test)]
mod tests;

use super::{
    Ends, Facts, Format, Image, Layer, Mapped, Opener, PARTS_MAX, Pages, Storage, To, over,
    push_layer,
};
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
pub use footer::fixed_footer;
use header::{Blocks, Kind};
pub use header::{Fault, is_fixed};
pub use layout::SECTOR;
use std::sync::Arc;

/// The format.
#[derive(Debug)]
pub struct Vhd;

#[async_trait]
impl Format for Vhd {
    fn name(&self) -> &'static str {
        "vhd"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["vpc"]
    }

    /// A dynamic disk begins with a copy of its footer; of a fixed one the end must be looked at.
    fn probe(&self, ends: &Ends<'_>) -> bool {
        let last = ends.tail.len().checked_sub(512);
        let last = last.and_then(|at| ends.tail.get(at..)).unwrap_or_default();
        let fixed = matches!(header::footer(last), Ok(Some(disk)) if disk.kind == Kind::Fixed);
        fixed || ends.head.starts_with(&layout::FOOTER_COOKIE)
    }

    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(open::disk(storage, opener).await?))
    }
}

/// A disk that is open.
#[derive(Debug)]
struct VhdImage {
    pages: Pages,
    size: u64,
    id: [u8; 16],
    /// None of a fixed disk, which lies in the file as it is.
    blocks: Option<Blocks>,
    parent: Option<Box<VhdImage>>,
    facts: Facts,
}

#[async_trait]
impl Image for VhdImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.blocks.as_ref().map_or(64 << 10, |blocks| blocks.block)
    }

    fn facts(&self) -> Facts {
        let backing = self.parent.as_ref().map(|parent| Box::new(parent.facts()));
        Facts {
            backing,
            ..self.facts.clone()
        }
    }

    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let Some(blocks) = &self.blocks else {
            let (storage, offset) = (Arc::clone(self.pages.storage()), range.start);
            let to = To::Raw { storage, offset };
            return Ok(vec![Mapped { range, to }]);
        };
        let mut found = Vec::new();
        let mut rest = range;
        while !rest.is_empty() && found.len() < PARTS_MAX {
            let index = rest.start.checked_div(blocks.block).unwrap_or(0);
            let whole = ByteRange::at(index.saturating_mul(blocks.block), blocks.block);
            let window = whole.intersect(rest);
            let at = blocks.table.start.saturating_add(index.saturating_mul(4));
            let entry = self.pages.read("block table", ByteRange::at(at, 4)).await?;
            let entry = entry
                .iter()
                .fold(0, |all, byte| (all << 8) | u32::from(*byte));
            match header::block_at(entry) {
                None => push_layer(&mut found, window, Layer::Below),
                Some(at) => {
                    self.map_block(blocks, at, whole, window, &mut found)
                        .await?;
                }
            }
            rest.start = window.end;
        }
        let parent = self.parent.as_deref().map(|parent| parent as &dyn Image);
        over(found, parent).await
    }
}

impl VhdImage {
    /// Appends where `window` of the block `whole` is, whose bitmap is at `at`.
    async fn map_block(
        &self,
        blocks: &Blocks,
        at: u64,
        whole: ByteRange,
        window: ByteRange,
        found: &mut Vec<(ByteRange, Layer)>,
    ) -> Result<()> {
        let storage = self.pages.storage();
        let (data, size) = (at.saturating_add(blocks.bitmap), storage.size());
        let range = ByteRange::at(data, whole.end.min(self.size).saturating_sub(whole.start));
        if range.end > size {
            let what = "block";
            let fault = Fault::Outside { what, range, size };
            let doing = format!("map {}", storage.identity());
            return Err(fault.while_doing(doing).at(whole.start));
        }
        let here = |start: u64| {
            let offset = data.saturating_add(start.saturating_sub(whole.start));
            let storage = Arc::clone(storage);
            Layer::Here(To::Raw { storage, offset })
        };
        if self.parent.is_none() {
            push_layer(found, window, here(window.start));
            return Ok(());
        }
        let bitmap = ByteRange::at(at, blocks.bitmap);
        let bitmap = self.pages.read("sector bitmap", bitmap).await?;
        let mut rest = window;
        while !rest.is_empty() && found.len() < PARTS_MAX {
            let sector = rest.start.saturating_sub(whole.start).checked_div(SECTOR);
            let sector = sector.unwrap_or(0);
            let after = whole
                .start
                .saturating_add(sector.saturating_add(1).saturating_mul(SECTOR));
            let part = ByteRange::new(rest.start, after.min(rest.end));
            let layer = match is_here(&bitmap, sector) {
                true => here(part.start),
                false => Layer::Below,
            };
            push_layer(found, part, layer);
            rest.start = part.end;
        }
        Ok(())
    }
}

/// Whether a bitmap has the bit of `sector`. The first sector is the most significant bit.
fn is_here(bitmap: &[u8], sector: u64) -> bool {
    let byte = usize::try_from(sector >> 3)
        .ok()
        .and_then(|at| bitmap.get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (sector & 7)) != 0)
}
