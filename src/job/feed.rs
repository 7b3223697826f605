//! Asks source and tracker, window by window, and plans.

use crate::changes::Tracker;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, RangeSet};
use crate::pipeline::Planned;
use crate::plan::{Shape, steps, windows, worth_asking};
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

    async fn plan(&self, window: ByteRange) -> Result<Planned> {
        let todo = self.todo(window).await?;
        let extents = self.extents(&todo).await?;
        Ok(Planned {
            window,
            steps: steps(self.shape, window, &todo, &extents),
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
