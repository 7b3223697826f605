//! Does the tracker tell all? Some blocks that it calls unchanged are read and compared all the same.

use crate::buffer::Budget;
use crate::digest::{Algorithm, BLOCK};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::pipeline::counters::Counters;
use crate::pipeline::{Known, RateLimit};
use crate::plan::Sample;
use crate::source::Source;
use futures_util::stream::{self, StreamExt};
use std::sync::{Arc, OnceLock};

/// Blocks that are looked at together.
const TOGETHER: usize = 8;

/// Looks at a share of the blocks that a tracker calls unchanged.
#[derive(Clone, Debug)]
pub(super) struct Doubts {
    pub(super) sample: Sample,
    pub(super) source: Arc<dyn Source>,
    pub(super) known: Arc<dyn Known>,
    pub(super) algorithm: Algorithm,
    pub(super) budget: Budget,
    pub(super) counters: Arc<Counters>,
    /// What is looked at waits for all of them.
    pub(super) rates: Vec<RateLimit>,
    /// Where a change was left out, once that is so.
    pub(super) caught: Arc<OnceLock<u64>>,
}

impl Doubts {
    /// Compares the chosen blocks that lie in `unreported` with what is known of them.
    ///
    /// # Errors
    /// One differs, and `caught` says where; or the source or the record cannot be read.
    pub(super) async fn look(&self, unreported: &[ByteRange]) -> Result<()> {
        let chosen: Vec<_> = unreported
            .iter()
            .flat_map(|range| whole_blocks(*range, self.source.size()))
            .filter(|block| self.sample.holds(block.start / BLOCK))
            .collect();
        let mut looks = stream::iter(chosen)
            .map(|block| self.compare(block))
            .buffer_unordered(TOGETHER);
        while let Some(same) = looks.next().await {
            same?;
        }
        Ok(())
    }

    async fn compare(&self, block: ByteRange) -> Result<()> {
        let Some(digest) = self.known.digests(block)?.first().copied().flatten() else {
            return Ok(());
        };
        RateLimit::pass_all(&self.rates, block.len(), &self.counters).await;
        let length = usize::try_from(block.len()).unwrap_or(0);
        let buffer = self.budget.take(length).await;
        let data = self.source.read(block.start, buffer).await?;
        Counters::add(&self.counters.read, block.len());
        if self.algorithm.digest(&data) == digest {
            return Ok(());
        }
        // Another may have been caught at the same time; either will do.
        let _ = self.caught.set(block.start);
        Err(Error::new(Kind::Refused, "the tracker left out a change").at(block.start))
    }
}

/// The blocks that lie in `range` as a whole; the last one of the disk may be short.
fn whole_blocks(range: ByteRange, size: u64) -> impl Iterator<Item = ByteRange> {
    let inner = range.align_in(BLOCK);
    let end = if range.end >= size { size } else { inner.end };
    let first = inner.start / BLOCK;
    (first..end.div_ceil(BLOCK).max(first))
        .map(move |block| ByteRange::at(block.saturating_mul(BLOCK), BLOCK))
        .map(move |block| block.intersect(ByteRange::new(0, size)))
}

#[cfg(test)]
mod tests {
    use super::whole_blocks;
    use crate::digest::BLOCK;
    use crate::extent::ByteRange;

    #[test]
    fn a_block_that_a_change_touches_is_never_looked_at() {
        let size = 10 * BLOCK + 5;
        let found = |start, end| {
            let blocks = whole_blocks(ByteRange::new(start, end), size);
            blocks
                .map(|block| (block.start / BLOCK, block.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(1, 3 * BLOCK - 1), [(1, BLOCK)]);
        assert_eq!(found(BLOCK - 1, BLOCK + 1), []);
        assert_eq!(found(9 * BLOCK, size), [(9, BLOCK), (10, 5)]);
        assert_eq!(found(10 * BLOCK + 1, size), []);
    }
}
