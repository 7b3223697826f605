//! How far each digest of a manifest can be relied on: a byte a block, behind the digests.
//!
//! A digest says what the target holds only while nothing is written there. So a block is marked
//! [`Mark::Unsure`], durably, before a write to it is issued, and [`Mark::Known`] only after that
//! write was flushed and its digest was synced. Whatever a crash cuts short, every block that may
//! hold something other than its digest says is unsure.
//!
//! A byte and not a bit: a range is marked by writing it, nothing is read and put together before.

use crate::digest::BLOCK;
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// How far the digest of a block can be relied on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mark {
    /// The target holds it.
    #[default]
    Known,
    /// Something was written there since, or was about to be: the target may hold anything.
    Unsure,
    /// The target was read back past its cache and holds it.
    Proven,
}

impl Mark {
    fn byte(self) -> u8 {
        match self {
            Self::Known => 0,
            Self::Unsure => 1,
            Self::Proven => 2,
        }
    }

    /// What a byte means; one that we never write means nothing good.
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Known,
            2 => Self::Proven,
            _ => Self::Unsure,
        }
    }
}

/// Marks that are written at a time, to bound memory.
const PIECE: u64 = 64 << 10;

/// The marks of all blocks of a disk. Cloning shares them; nothing of them is kept in memory.
#[derive(Clone, Debug)]
pub struct Marks {
    file: Arc<File>,
    /// Where they begin in the file.
    base: u64,
}

impl Marks {
    pub(super) fn new(file: Arc<File>, base: u64) -> Self {
        Self { file, base }
    }

    /// Marks every block that `range` touches. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// They cannot be written.
    pub fn put(&self, range: ByteRange, mark: Mark) -> Result<()> {
        let (first, end) = blocks(range);
        let whole = usize::try_from(PIECE.min(end.saturating_sub(first))).unwrap_or(0);
        let bytes = vec![mark.byte(); whole];
        let mut at = first;
        while at < end {
            let count = PIECE.min(end.saturating_sub(at));
            let piece = usize::try_from(count).unwrap_or(0);
            self.file
                .write_all_at(bytes.get(..piece).unwrap_or(&[]), self.offset(at))
                .map_err(|error| failed("write", error))?;
            at = at.saturating_add(count);
        }
        Ok(())
    }

    /// Makes every mark durable that was put before. Blocks.
    ///
    /// # Errors
    /// Some may be lost.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| failed("write", error))
    }

    /// The marks of the blocks that `range` touches.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn of(&self, range: ByteRange) -> Result<Vec<Mark>> {
        let (first, end) = blocks(range);
        let count = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count];
        self.file
            .read_exact_at(&mut bytes, self.offset(first))
            .map_err(|error| failed("read", error))?;
        Ok(bytes.into_iter().map(Mark::of).collect())
    }

    fn offset(&self, block: u64) -> u64 {
        self.base.saturating_add(block)
    }
}

/// First block of `range`, and the one behind its last.
fn blocks(range: ByteRange) -> (u64, u64) {
    match range.is_empty() {
        true => (0, 0),
        false => (range.start / BLOCK, range.end.div_ceil(BLOCK)),
    }
}

fn failed(doing: &str, error: io::Error) -> Error {
    Error::io(format!("{doing} the marks of the manifest"), error)
}

#[cfg(test)]
mod tests {
    use super::{Mark, Marks};
    use crate::digest::BLOCK;
    use crate::extent::ByteRange;
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert_eq, proptest};
    use std::sync::Arc;

    const BLOCKS: u64 = 200_000;

    fn marks() -> Marks {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 + BLOCKS).unwrap();
        Marks::new(Arc::new(file), 10)
    }

    #[test]
    fn a_byte_that_was_never_written_by_us_is_nothing_to_rely_on() {
        for byte in 0..=u8::MAX {
            let mark = Mark::of(byte);
            assert_eq!(mark == Mark::Unsure, byte != 0 && byte != 2, "{byte}");
        }
    }

    #[test]
    fn an_empty_range_marks_nothing() {
        let marks = marks();
        marks.put(ByteRange::new(5, 5), Mark::Unsure).unwrap();
        assert_eq!(marks.of(ByteRange::new(0, BLOCK)).unwrap(), [Mark::Known]);
    }

    proptest! {
        /// Oracle: one mark per block in a plain array. A range that touches a block marks it.
        #[test]
        fn every_block_that_is_touched_has_the_last_mark(
            steps in vec((0..BLOCKS * BLOCK, 1..90_000 * BLOCK, 0u8..3), 1..6),
        ) {
            let marks = marks();
            let disk = ByteRange::new(0, BLOCKS * BLOCK);
            let mut oracle = vec![Mark::Known; usize::try_from(BLOCKS).unwrap()];
            for (start, len, mark) in steps {
                let range = ByteRange::at(start, len).intersect(disk);
                marks.put(range, Mark::of(mark)).unwrap();
                for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
                    oracle[usize::try_from(block).unwrap()] = Mark::of(mark);
                }
            }
            let found = marks.of(disk).unwrap();
            prop_assert_eq!(found.iter().zip(&oracle).position(|(a, b)| a != b), None);
        }
    }
}
