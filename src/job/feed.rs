//! Asks source and tracker, window by window, and plans.

use super::doubts::Doubts;
use crate::changes::Tracker;
use crate::digest::{BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, RangeSet};
use crate::pipeline::{Known, Planned};
use crate::plan::{Shape, Step, runs, steps, windows, worth_asking};
use crate::source::{Source, all_extents};
use futures_util::stream::{self, Stream, StreamExt};
use std::sync::Arc;

/// Windows that are looked at together: hides the latency of asking.
const AHEAD: usize = 4;

/// Where the work of a pass comes from.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    pub(super) source: Arc<dyn Source>,
    /// Only what changed; `None` is everything.
    pub(super) tracker: Option<Arc<dyn Tracker>>,
    pub(super) shape: Shape,
    /// Dealt with by an earlier run of this pass.
    pub(super) done: RangeSet,
    /// Ask the source what is zero.
    pub(super) ask_extents: bool,
    pub(super) ahead: Ahead,
    /// Whether the tracker is believed.
    pub(super) doubts: Option<Doubts>,
}

/// What happens to steps before they are handed out.
#[derive(Clone, Debug)]
pub(super) enum Ahead {
    /// Nothing: the target does not hold a whole disk yet.
    Nothing,
    /// All of them are claimed, so that no request has to wait for it.
    Claim(Arc<dyn Known>),
    /// Zeroes that the target is known to hold are left out; requests claim what they write.
    Compare(Arc<dyn Known>),
}

impl Feed {
    /// The windows of the disk, planned, in order.
    pub(super) fn stream(self) -> impl Stream<Item = Result<Planned>> + Send {
        let shape = self.shape;
        let feed = Arc::new(self);
        stream::iter(windows(shape))
            .map(move |window| {
                let feed = feed.clone();
                async move { feed.plan(window).await }
            })
            .buffered(AHEAD)
    }

    /// Bytes that there are to be dealt with, asked of the tracker ahead of the pass.
    ///
    /// # Errors
    /// The tracker cannot tell.
    pub(super) async fn total(&self) -> Result<u64> {
        let shape = self.shape;
        let mut areas = stream::iter(windows(shape))
            .map(|window| async move {
                let todo = self.todo(window).await?;
                let steps = steps(shape, window, &todo, &[]).into_iter();
                Ok::<u64, Error>(
                    steps.fold(0u64, |sum, step| sum.saturating_add(step.range().len())),
                )
            })
            .buffered(AHEAD);
        let mut total = 0u64;
        while let Some(bytes) = areas.next().await {
            total = total.saturating_add(bytes?);
        }
        Ok(total)
    }

    async fn plan(&self, window: ByteRange) -> Result<Planned> {
        let todo = self.todo(window).await?;
        if let Some(doubts) = &self.doubts {
            doubts.look(&self.unreported(window, &todo)).await?;
        }
        let extents = self.extents(&todo).await?;
        let mut steps = steps(self.shape, window, &todo, &extents);
        let mut skipped = 0;
        match &self.ahead {
            Ahead::Nothing => {}
            Ahead::Claim(known) => {
                let ranges: Vec<_> = steps.iter().map(|step| step.range()).collect();
                known.claim(&ranges).await?;
            }
            Ahead::Compare(known) => (steps, skipped) = self.without_zeroes(&**known, &steps)?,
        }
        Ok(Planned {
            window,
            steps,
            skipped,
        })
    }

    /// What the source says is zero, where asking pays.
    async fn extents(&self, todo: &[ByteRange]) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        if self.ask_extents {
            for part in worth_asking(todo) {
                let part = part.align_out(self.shape.grain, self.shape.size);
                found.extend(all_extents(&*self.source, part).await?);
            }
        }
        Ok(found)
    }

    /// The steps without zeroes that the target is known to hold, and how many bytes those are.
    fn without_zeroes(&self, known: &dyn Known, steps: &[Step]) -> Result<(Vec<Step>, u64)> {
        let mut left = Vec::new();
        let mut skipped = 0u64;
        for step in steps {
            let Step::Zero(range) = *step else {
                left.push(*step);
                continue;
            };
            let known = known.digests(range)?;
            let wanted = known.iter().map(|digest| *digest != Some(Digest::ZERO));
            let before = left.len();
            left.extend(runs(range, BLOCK, wanted).into_iter().map(Step::Zero));
            let zeroed = left.iter().skip(before).map(|step| step.range().len());
            let zeroed = zeroed.fold(0u64, u64::saturating_add);
            skipped = skipped.saturating_add(range.len().saturating_sub(zeroed));
        }
        Ok((left, skipped))
    }

    /// What of the window the tracker calls unchanged, without what is done.
    fn unreported(&self, window: ByteRange, todo: &[ByteRange]) -> Vec<ByteRange> {
        let todo: RangeSet = todo.iter().copied().collect();
        let gaps = self.done.gaps(window).into_iter();
        gaps.flat_map(|gap| todo.gaps(gap)).collect()
    }

    /// What of the window must be dealt with: what changed, without what is done.
    async fn todo(&self, window: ByteRange) -> Result<Vec<ByteRange>> {
        let gaps = self.done.gaps(window);
        let Some(tracker) = &self.tracker else {
            return Ok(gaps);
        };
        let mut todo = Vec::new();
        for gap in gaps {
            let mut rest = gap;
            while !rest.is_empty() {
                let answer = tracker.changes(rest).await?;
                let progress = answer.known.start == rest.start
                    && !answer.known.is_empty()
                    && rest.covers(answer.known);
                if !progress {
                    return Err(Error::new(
                        Kind::Corrupt,
                        format!("the tracker answered {} for {rest}", answer.known),
                    ));
                }
                todo.extend(answer.changed);
                rest = ByteRange::new(answer.known.end, rest.end);
            }
        }
        Ok(todo)
    }
}
