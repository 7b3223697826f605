//! One bit per block of a disk, set and read by many threads at once.

use crate::extent::ByteRange;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of disk under one bit: what QEMU and vSphere track by, too.
pub const GRAIN: u64 = 64 << 10;

/// One bit per [`GRAIN`] of a disk.
#[derive(Debug)]
pub struct Bitmap {
    words: Vec<AtomicU64>,
    size: u64,
}

impl Bitmap {
    /// A bitmap for a disk of `size` bytes, all clear.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let words = size.div_ceil(GRAIN).div_ceil(64);
        let words = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { words, size }
    }

    /// The number of the block that holds byte `offset`.
    #[must_use]
    pub fn block_of(offset: u64) -> u64 {
        offset / GRAIN
    }

    /// Sets the bit of a block.
    pub fn set(&self, block: u64) {
        if let Some((word, bit)) = self.place(block) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Clears the bit of a block.
    pub fn clear(&self, block: u64) {
        if let Some((word, bit)) = self.place(block) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Whether the bit of a block is set.
    #[must_use]
    pub fn get(&self, block: u64) -> bool {
        self.place(block)
            .is_some_and(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
    }

    /// Bytes of disk whose bits are set.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let whole = ByteRange::new(0, self.size);
        let set = self.runs(whole, |block| self.get(block));
        set.iter().filter(|(_, on)| *on).map(|(r, _)| r.len()).sum()
    }

    /// `range`, cut where `test` changes from one block to the next.
    #[must_use]
    pub fn runs(&self, range: ByteRange, test: impl Fn(u64) -> bool) -> Vec<(ByteRange, bool)> {
        let mut runs: Vec<(ByteRange, bool)> = Vec::new();
        for part in blocks(range.intersect(ByteRange::new(0, self.size))) {
            let on = test(Self::block_of(part.start));
            match runs.last_mut() {
                Some((run, kind)) if *kind == on => run.end = part.end,
                _ => runs.push((part, on)),
            }
        }
        runs
    }

    fn place(&self, block: u64) -> Option<(&AtomicU64, u64)> {
        let word = usize::try_from(block / 64).ok()?;
        Some((self.words.get(word)?, 1 << (block % 64)))
    }
}

/// `range`, cut where blocks end.
pub(super) fn blocks(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        let (part, after) = rest.split(GRAIN - rest.start % GRAIN);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::{Bitmap, ByteRange, GRAIN};

    #[test]
    fn the_last_block_of_a_disk_is_as_short_as_the_disk() {
        let bitmap = Bitmap::new(GRAIN * 65 + 1);
        bitmap.set(65);
        bitmap.set(66);
        assert_eq!(bitmap.bytes(), 1);
        bitmap.set(0);
        assert_eq!(bitmap.bytes(), GRAIN + 1);
        bitmap.clear(65);
        assert!(bitmap.get(0) && !bitmap.get(65));
    }

    #[test]
    fn runs_cover_the_range_and_change_kind_at_every_cut() {
        let bitmap = Bitmap::new(GRAIN * 9);
        [1, 2, 5].iter().for_each(|block| bitmap.set(*block));
        let runs = bitmap.runs(ByteRange::new(10, GRAIN * 6), |b| bitmap.get(b));
        let ends: Vec<_> = runs
            .iter()
            .map(|(run, on)| (run.end / GRAIN, *on))
            .collect();
        assert_eq!(ends, [(1, false), (3, true), (5, false), (6, true)]);
        assert_eq!(runs[0].0.start, 10);
    }
}
