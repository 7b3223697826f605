//! §2.5: the block allocation table. Pure.

use super::fault::Fault;
use super::header::Disk;
use super::layout::state;
use crate::extent::ByteRange;

/// Where entries are, and what blocks there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bat {
    region: ByteRange,
    /// Bytes of a block.
    pub(super) block: u64,
    /// Blocks that share a sector bitmap, whose entry follows theirs.
    ratio: u64,
    /// Bytes of a sector.
    pub(super) sector: u64,
    differencing: bool,
}

/// What an entry says of its block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Block {
    /// It is in the parent, or nowhere.
    Below,
    Zero,
    /// It is at this offset.
    At(u64),
    /// Some of its sectors are at this offset; the bitmap says which.
    Partly(u64),
}

impl Bat {
    /// The table in `region` of a disk.
    pub(super) fn new(region: ByteRange, disk: &Disk) -> Result<Self, Fault> {
        // A sector bitmap has 1 MiB, a bit a sector.
        let ratio = (disk.sector << 23).checked_div(disk.block).unwrap_or(0);
        let bat = Self {
            region,
            block: disk.block,
            ratio: ratio.max(1),
            sector: disk.sector,
            differencing: disk.parent.is_some(),
        };
        let blocks = disk.size.div_ceil(disk.block.max(1));
        let last = blocks.saturating_sub(1);
        let needed = match bat.differencing {
            true => bat.bitmap_entry(last).end,
            false => bat.entries(last, 1).end,
        };
        if blocks > 0 && needed > region.end {
            let (name, found) = ("block table length", region.len());
            return Err(Fault::Number { name, found });
        }
        Ok(bat)
    }

    /// How many entries, from that of `block` on, have no bitmap's entry between them.
    pub(super) fn neighbours(&self, block: u64) -> u64 {
        let within = block.checked_rem(self.ratio).unwrap_or(0);
        self.ratio.saturating_sub(within)
    }

    /// Where the entries of `count` neighbours are.
    pub(super) fn entries(&self, block: u64, count: u64) -> ByteRange {
        let bitmaps = block.checked_div(self.ratio).unwrap_or(0);
        self.at(block.saturating_add(bitmaps), count)
    }

    /// Where the entry of the bitmap of `block` is.
    pub(super) fn bitmap_entry(&self, block: u64) -> ByteRange {
        let chunk = block.checked_div(self.ratio).unwrap_or(0);
        let before = chunk.saturating_add(1).saturating_mul(self.ratio);
        self.at(before.saturating_add(chunk), 1)
    }

    fn at(&self, index: u64, count: u64) -> ByteRange {
        let start = self.region.start.saturating_add(index.saturating_mul(8));
        ByteRange::at(start, count.saturating_mul(8))
    }

    /// What the entry of a payload block says.
    pub(super) fn block(&self, entry: u64) -> Result<Block, Fault> {
        let at = offset(entry);
        match entry & 7 {
            state::NOT_PRESENT => Ok(Block::Below),
            state::UNDEFINED | state::ZERO | state::UNMAPPED => Ok(Block::Zero),
            state::FULLY_PRESENT if at > 0 => Ok(Block::At(at)),
            state::PARTIALLY_PRESENT if at > 0 && self.differencing => Ok(Block::Partly(at)),
            _ => Err(Fault::Entry { entry }),
        }
    }

    /// Where the sector bitmap of `block` has its bits, by the entry of the bitmap.
    pub(super) fn bitmap(&self, block: u64, entry: u64) -> Result<ByteRange, Fault> {
        if entry & 7 != state::FULLY_PRESENT || offset(entry) == 0 {
            return Err(Fault::Entry { entry });
        }
        let len = self
            .block
            .checked_div(self.sector.saturating_mul(8))
            .unwrap_or(0);
        let place = block
            .checked_rem(self.ratio)
            .unwrap_or(0)
            .saturating_mul(len);
        Ok(ByteRange::at(offset(entry).saturating_add(place), len))
    }
}

/// The upper 44 bits of an entry count MiB.
fn offset(entry: u64) -> u64 {
    (entry >> 20) << 20
}
