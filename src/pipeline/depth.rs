//! How many bytes should be in flight.
//!
//! As many as the way there and back holds: what a request of a mebibyte takes when nothing stands
//! before it, times the rate of the fastest way. More waits in a line somewhere, falls out of the
//! caches on the way, and makes servers map memory anew for every request; less leaves the way
//! empty. Of all requests of a pass the quickest tells how long the way is, since a line only ever
//! adds to that (`docs/decisions/0005-in-flight.md`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// In flight wherever the other side is: four of the requests that a pass begins with.
pub(super) const LEAST: u64 = 4 << 20;

/// In flight at most: what longer ways would hold is memory that a pod does not have.
const MOST: u64 = 16 << 20;

/// Answers before more than that is sent out. The first ones tell of caches that are cold; and what
/// is sent too early makes a line, behind which nobody sees how short the way is.
const ANSWERS: u64 = 24;

/// Bytes that the fastest way takes in a millisecond.
const RATE: u64 = 6 << 20;

/// The quickest answers of both ends.
#[derive(Debug)]
pub(super) struct Depth {
    read: Quickest,
    write: Quickest,
    answers: AtomicU64,
}

impl Depth {
    pub(super) fn new() -> Self {
        Self {
            read: Quickest::new(),
            write: Quickest::new(),
            answers: AtomicU64::new(0),
        }
    }

    /// The source answered a request after `time`.
    pub(super) fn read_in(&self, time: Duration) {
        self.read.note(time);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The target had written a request after `time`.
    pub(super) fn written_in(&self, time: Duration) {
        self.write.note(time);
    }

    /// Bytes that should be in flight now.
    pub(super) fn bytes(&self) -> u64 {
        if self.answers.load(Ordering::Relaxed) < ANSWERS {
            return LEAST;
        }
        held(self.read.get().saturating_add(self.write.get()))
    }
}

/// Bytes that a way of this length holds, within bounds.
fn held(way: Duration) -> u64 {
    let micros = u64::try_from(way.as_micros()).unwrap_or(u64::MAX);
    (micros.saturating_mul(RATE) / 1000).clamp(LEAST, MOST)
}

/// The shortest of many times, in microseconds. Told by requests, asked by the loop.
#[derive(Debug)]
struct Quickest(AtomicU64);

impl Quickest {
    const NONE: u64 = u64::MAX;

    fn new() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    fn note(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(Self::NONE);
        self.0.fetch_min(micros, Ordering::Relaxed);
    }

    /// Zero until there was one.
    fn get(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            Self::NONE => Duration::ZERO,
            micros => Duration::from_micros(micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWERS, Depth, LEAST, MOST};
    use std::time::Duration;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// As much was answered as it takes to be believed, in these times.
    fn after(read: Duration, written: Duration) -> Depth {
        let depth = Depth::new();
        for _ in 0..ANSWERS {
            depth.read_in(read);
            depth.written_in(written);
        }
        depth
    }

    #[test]
    fn little_is_in_flight_where_all_answer_at_once() {
        assert_eq!(Depth::new().bytes(), LEAST);
        assert_eq!(after(micros(350), micros(120)).bytes(), LEAST);
    }

    #[test]
    fn a_long_way_is_filled_whichever_end_it_leads_to() {
        let ways = [(micros(2400), micros(100)), (micros(400), micros(2100))];
        for (read, written) in ways {
            assert_eq!(after(read, written).bytes(), 15 << 20);
        }
    }

    #[test]
    fn no_way_is_so_long_that_memory_ends() {
        let hour = Duration::from_secs(3600);
        assert_eq!(after(hour, Duration::ZERO).bytes(), MOST);
        assert_eq!(after(hour, Duration::MAX).bytes(), MOST);
    }

    #[test]
    fn a_line_does_not_make_the_way_longer() {
        let depth = after(micros(1000), Duration::ZERO);
        let before = depth.bytes();
        assert!(before > LEAST);
        depth.read_in(micros(90_000));
        assert_eq!(depth.bytes(), before);
    }

    #[test]
    fn the_first_answers_do_not_count_for_much() {
        let depth = Depth::new();
        for _ in 1..ANSWERS {
            depth.read_in(micros(5000));
        }
        assert_eq!(depth.bytes(), LEAST);
        depth.read_in(micros(400));
        assert_eq!(depth.bytes(), LEAST);
    }
}
