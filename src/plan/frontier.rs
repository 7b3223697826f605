//! Which steps are out, and up to where everything is done.
//!
//! Steps go out in order and come back in any order. What is done is then one number, the
//! frontier, and a few ranges above it: at most as many as there are requests in flight, however
//! large the disk. That is what a journal barrier stores.

use crate::extent::{ByteRange, RangeSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a pass has dealt with: everything below `below`, and the ranges `above` it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Everything below this offset.
    pub below: u64,
    /// Ranges above it as start and end, in order.
    pub above: Vec<(u64, u64)>,
}

impl Done {
    /// As a set of bytes.
    #[must_use]
    pub fn to_set(&self) -> RangeSet {
        let below = ByteRange::new(0, self.below);
        let above = self
            .above
            .iter()
            .map(|&(start, end)| ByteRange::new(start, end));
        std::iter::once(below).chain(above).collect()
    }

    /// Bytes that are done.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.to_set().bytes()
    }
}

/// Follows the steps of a pass.
#[derive(Debug, Default)]
pub struct Frontier {
    /// Starts of the requests that are out.
    out: BTreeSet<u64>,
    /// Finished above the frontier.
    above: RangeSet,
    /// Everything below was planned, and was either sent out or needs nothing.
    planned: u64,
}

impl Frontier {
    /// Continues where `done` says.
    #[must_use]
    pub fn resume(done: &Done) -> Self {
        Self {
            out: BTreeSet::new(),
            above: done.to_set(),
            planned: done.below,
        }
    }

    /// A request for `range` goes out. Requests go out in order of their start.
    pub fn sent(&mut self, range: ByteRange) {
        self.planned = self.planned.max(range.start);
        self.out.insert(range.start);
    }

    /// Everything below `offset` has gone out or needs nothing.
    pub fn planned_to(&mut self, offset: u64) {
        self.planned = self.planned.max(offset);
    }

    /// The request for `range` is complete: what it wrote was taken by the target.
    pub fn finished(&mut self, range: ByteRange) {
        self.out.remove(&range.start);
        self.above.insert(range);
        let frontier = self.position();
        self.above.remove(ByteRange::new(0, frontier));
    }

    /// Everything below this offset is complete.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.out
            .first()
            .copied()
            .unwrap_or(self.planned)
            .min(self.planned)
    }

    /// What is complete now.
    #[must_use]
    pub fn done(&self) -> Done {
        let below = self.position();
        let above = self.above.within(ByteRange::new(below, u64::MAX));
        Done {
            below,
            above: above.map(|range| (range.start, range.end)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Done, Frontier};
    use crate::extent::{ByteRange, RangeSet};
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, proptest};

    #[test]
    fn the_frontier_waits_for_the_oldest_request() {
        let mut frontier = Frontier::default();
        let ranges: Vec<_> = (0..3).map(|i| ByteRange::at(i * 10, 10)).collect();
        ranges.iter().for_each(|range| frontier.sent(*range));
        frontier.planned_to(30);
        frontier.finished(ranges[2]);
        frontier.finished(ranges[1]);
        assert_eq!(
            frontier.done(),
            Done {
                below: 0,
                above: vec![(10, 30)]
            }
        );
        frontier.finished(ranges[0]);
        assert_eq!(
            frontier.done(),
            Done {
                below: 30,
                above: vec![]
            }
        );
    }

    #[test]
    fn what_was_done_before_a_crash_is_still_done_after_it() {
        let done = Done {
            below: 100,
            above: vec![(120, 130)],
        };
        let mut frontier = Frontier::resume(&done);
        assert_eq!(frontier.done(), done);
        frontier.sent(ByteRange::new(100, 120));
        frontier.sent(ByteRange::new(130, 140));
        frontier.finished(ByteRange::new(130, 140));
        assert_eq!(
            frontier.done(),
            Done {
                below: 100,
                above: vec![(120, 140)]
            }
        );
    }

    proptest! {
        /// Whatever order requests finish in, and wherever it is cut: what is called done was
        /// finished or needed nothing, and a resumed run has every other request still to do.
        #[test]
        fn nothing_is_called_done_that_was_not_finished(
            steps in vec((0u64..8, 1u64..8, any::<bool>()), 0..40),
            order in vec(any::<u32>(), 40),
        ) {
            let mut frontier = Frontier::default();
            let mut requests = Vec::new();
            let mut at = 0;
            for (gap, len, _) in &steps {
                let range = ByteRange::at(at + gap, *len);
                frontier.sent(range);
                requests.push(range);
                at = range.end;
            }
            frontier.planned_to(at);
            let mut finished = RangeSet::default();
            let mut sorted: Vec<_> = requests.iter().zip(&steps).zip(&order).collect();
            sorted.sort_by_key(|(_, key)| **key);
            for ((range, (_, _, finishes)), _) in sorted {
                if *finishes {
                    frontier.finished(*range);
                    finished.insert(*range);
                }
                let done = frontier.done().to_set();
                for request in &requests {
                    let called_done = done.within(*request).next().is_some();
                    prop_assert!(!called_done || finished.covers(*request), "{:?}", request);
                    prop_assert!(!finished.covers(*request) || done.covers(*request));
                }
            }
        }
    }
}
