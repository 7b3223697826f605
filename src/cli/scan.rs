//! Walks over all of a source in order: what reads as zero, and what must be read, in pieces.

use crate::buffer::{Budget, Buffer};
use crate::digest::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::job::options::Tuning;
use crate::plan::{self, Shape, Step, steps};
use crate::source::{Source, all_extents};
use bytes::Bytes;
use std::sync::Arc;

/// The longest read, in bytes; a multiple of the block that is digested.
const PIECE: u64 = 1 << 20;

/// How much of a disk is asked about at a time.
pub(super) const WINDOW: u64 = 1 << 30;

/// The windows of a disk of `size` bytes, in order.
pub(super) fn windows(size: u64) -> impl Iterator<Item = ByteRange> {
    plan::windows(shape(size))
}

fn shape(size: u64) -> Shape {
    Shape {
        size,
        grain: BLOCK,
        window: WINDOW,
        coalesce: 0,
    }
}

/// A source that is read by many requests at a time within a budget.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) source: Arc<dyn Source>,
    budget: Budget,
    /// Reads that fit into the budget together, so that none ever waits for one behind it.
    pub(super) width: usize,
    piece: u64,
}

impl Reader {
    /// Reads `source` with the `share`th part of what `tuning` allows.
    pub(super) fn new(source: Arc<dyn Source>, tuning: &Tuning, share: u64) -> Self {
        let memory = tuning.memory / share.max(1);
        let most = u64::from(source.limits().max).min(PIECE);
        // Whole blocks that both the source and the budget take at once; one block at least.
        let piece = (most.min(memory) / BLOCK).max(1).saturating_mul(BLOCK);
        let fit = usize::try_from(memory / piece).unwrap_or(usize::MAX);
        Self {
            budget: Budget::new(
                usize::try_from(memory).unwrap_or(usize::MAX),
                tuning.requests,
            ),
            width: fit.min(tuning.requests).max(1),
            source,
            piece,
        }
    }

    /// What lies in `window`, in order and in full: zeroes as long as they are, data in pieces.
    ///
    /// `window` starts on a multiple of the block. A source that cannot tell what is zero has
    /// none. Past the end of the source there is nothing.
    pub(super) async fn plan(&self, window: ByteRange, extents: bool) -> Result<Vec<Step>> {
        let size = self.source.size();
        let window = ByteRange::new(window.start, window.end.min(size));
        let known = if extents {
            all_extents(self.source.as_ref(), window).await?
        } else {
            Vec::new()
        };
        let mut found = Vec::new();
        for step in steps(shape(size), window, &[window], &known) {
            let Step::Copy(mut rest) = step else {
                found.push(step);
                continue;
            };
            while !rest.is_empty() {
                let (piece, after) = rest.split(self.piece);
                found.push(Step::Copy(piece));
                rest = after;
            }
        }
        Ok(found)
    }

    /// The bytes of `range`, and perhaps some more after it, as the source's alignment has it.
    ///
    /// `range` starts on a multiple of the block, or is in a disk whose requests need no more
    /// alignment than it has.
    pub(super) async fn read(&self, range: ByteRange) -> Result<Buffer> {
        let align = u64::from(self.source.limits().align);
        let whole = range.align_out(align, self.source.size());
        let length = usize::try_from(whole.len())
            .map_err(|_| Error::new(Kind::Io, "a read is too long").at(range.start))?;
        let buffer = self.budget.take(length).await;
        self.source.read(whole.start, buffer).await
    }

    /// The bytes of `range`, which may start anywhere, and no more.
    pub(super) async fn exactly(&self, range: ByteRange) -> Result<Bytes> {
        let align = u64::from(self.source.limits().align);
        let whole = range.align_out(align, self.source.size());
        let bytes = self.read(range).await?.freeze();
        let inner = |at: u64| {
            let at = usize::try_from(at.saturating_sub(whole.start)).unwrap_or(usize::MAX);
            at.min(bytes.len())
        };
        Ok(bytes.slice(inner(range.start)..inner(range.end)))
    }
}
