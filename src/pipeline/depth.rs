//! How much the source should be asked for at once.
//!
//! As much as the way there and back holds: the time of a request when nothing stands before it,
//! times the rate of the fastest way. More waits in a line somewhere, falls out of the caches on the
//! way, and makes servers map memory anew for every request; less leaves the way empty. Of all
//! requests of a pass the quickest tells how long the way is, since a line only ever adds to that
//! (`docs/decisions/0005-in-flight.md`).

use crate::endpoint::Quickest;
use std::time::Duration;

/// Asked for wherever the source is: three of the requests that a pass over NBD begins with. More
/// would be a line from the start, and the first answers would tell of the line, not of the way.
const LEAST: u64 = 3 << 19;

/// Asked for at most: what longer ways would hold is memory that a pod does not have.
pub(super) const MOST: u64 = 16 << 20;

/// Answers before more than the least is asked for. The first ones tell of caches that are cold; and
/// what is sent too early makes a line, behind which nobody sees how short the way is.
const ANSWERS: u64 = 24;

/// Bytes that the fastest way takes in a millisecond.
const RATE: u64 = 6 << 20;

/// How far the source is. Told by requests, asked by the loop.
#[derive(Debug)]
pub(super) struct Depth {
    answers: Quickest,
}

impl Depth {
    pub(super) fn new() -> Self {
        Self {
            answers: Quickest::after(ANSWERS),
        }
    }

    /// The source answered a request after `time`.
    pub(super) fn answered_in(&self, time: Duration) {
        self.answers.answered_in(time);
    }

    /// Bytes that it should be asked for now.
    pub(super) fn bytes(&self) -> u64 {
        let Some(quickest) = self.answers.get() else {
            return LEAST;
        };
        let micros = u64::try_from(quickest.as_micros()).unwrap_or(u64::MAX);
        (micros.saturating_mul(RATE) / 1000).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWERS, Depth, LEAST, MOST};
    use std::time::Duration;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// As many answers as it takes to be believed.
    fn after(time: Duration) -> Depth {
        let depth = Depth::new();
        (0..ANSWERS).for_each(|_| depth.answered_in(time));
        depth
    }

    #[test]
    fn a_source_that_answers_at_once_is_asked_for_little() {
        assert_eq!(Depth::new().bytes(), LEAST);
        assert_eq!(after(micros(200)).bytes(), LEAST);
    }

    #[test]
    fn a_long_way_is_filled() {
        assert_eq!(after(micros(2500)).bytes(), 15 << 20);
    }

    #[test]
    fn no_way_is_so_long_that_memory_ends() {
        assert_eq!(after(Duration::from_secs(3600)).bytes(), MOST);
        assert_eq!(after(Duration::MAX).bytes(), MOST);
    }

    #[test]
    fn a_line_does_not_make_the_way_longer() {
        let depth = after(micros(1000));
        let before = depth.bytes();
        assert!(before > LEAST);
        depth.answered_in(micros(90_000));
        assert_eq!(depth.bytes(), before);
    }

    #[test]
    fn the_first_answers_do_not_count_for_much() {
        let depth = Depth::new();
        (1..ANSWERS).for_each(|_| depth.answered_in(micros(5000)));
        assert_eq!(depth.bytes(), LEAST);
        depth.answered_in(micros(200));
        assert_eq!(depth.bytes(), LEAST);
    }
}
