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

/// Bytes at the start of a disk that are read without asking what of them is zero, so that copying
/// begins while the first answer is looked for: a server may look through the whole disk for it.
const HEAD: u64 = 64 << 20;

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
    /// Zeroes are found in data as well, so not all need be asked for.
    pub(super) finds_zeroes: bool,
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
        let parts = self.parts();
        let feed = Arc::new(self);
        stream::iter(parts)
            .map(move |(window, ask)| {
                let feed = feed.clone();
                async move { feed.plan(window, ask).await }
            })
            .buffered(AHEAD)
    }

    /// The windows, and whether to ask what of them is zero.
    fn parts(&self) -> impl Iterator<Item = (ByteRange, bool)> + use<> {
        let (shape, ask) = (self.shape, self.ask_extents);
        let is_long = shape.size >= shape.window;
        let starts_at_once = ask && is_long && self.finds_zeroes && self.tracker.is_none();
        windows(shape).flat_map(move |window| {
            let head = if starts_at_once && window.start == 0 {
                HEAD
            } else {
                0
            };
            let (head, rest) = window.split(head);
            let parts = [(head, false), (rest, ask)];
            parts.into_iter().filter(|(part, _)| !part.is_empty())
        })
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

    async fn plan(&self, window: ByteRange, ask: bool) -> Result<Planned> {
        let todo = self.todo(window).await?;
        if let Some(doubts) = &self.doubts {
            doubts.look(&self.unreported(window, &todo)).await?;
        }
        let extents = if ask {
            self.extents(&todo).await?
        } else {
            Vec::new()
        };
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
        for part in worth_asking(todo) {
            let part = part.align_out(self.shape.grain, self.shape.size);
            found.extend(all_extents(&*self.source, part).await?);
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

#[cfg(test)]
mod tests {
    use super::{Ahead, Feed, HEAD};
    use crate::extent::{ByteRange, RangeSet};
    use crate::plan::{Shape, Step};
    use crate::testkit::MemSource;
    use futures_util::stream::TryStreamExt;
    use std::sync::Arc;

    const SIZE: u64 = 2 * HEAD;

    /// What is planned for an empty disk.
    async fn steps(window: u64, finds_zeroes: bool) -> Vec<Step> {
        let feed = Feed {
            source: Arc::new(MemSource::new(SIZE)),
            tracker: None,
            shape: Shape {
                size: SIZE,
                grain: 65536,
                window,
                coalesce: 0,
            },
            done: RangeSet::default(),
            ask_extents: true,
            finds_zeroes,
            ahead: Ahead::Nothing,
            doubts: None,
        };
        let planned: Vec<_> = feed.stream().try_collect().await.unwrap();
        planned.into_iter().flat_map(|part| part.steps).collect()
    }

    #[tokio::test]
    async fn a_long_disk_is_read_while_its_source_is_asked_if_zeroes_are_found_in_data() {
        let all = ByteRange::new(0, SIZE);
        let (head, rest) = all.split(HEAD);
        assert_eq!(
            steps(SIZE, true).await,
            [Step::Copy(head), Step::Zero(rest)]
        );
        assert_eq!(
            steps(SIZE, false).await,
            [Step::Zero(all)],
            "nobody would find them"
        );
        assert_eq!(
            steps(2 * SIZE, true).await,
            [Step::Zero(all)],
            "it is short: one answer tells of all"
        );
    }
}
