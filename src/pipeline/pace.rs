//! When the next barrier is due, and when the end is near. Pure: time comes in as a value.

use std::time::{Duration, Instant};

/// A barrier at least this often, while anything was written.
const BARRIER_EVERY: Duration = Duration::from_secs(1);

/// A barrier is due when this much waits for it.
const BARRIER_BYTES: u64 = 512 << 20;

/// Nothing more is sent while this much waits: a crash never repeats more (guarantee 2).
const UNRECORDED_MAX: u64 = 1 << 30;

/// How long that takes: a context of AIO 30 ms on an idle machine.
const TEARDOWN: Duration = Duration::from_millis(50);

/// Whether what is `left` takes no longer than to take down what is slow to, if it goes on as what
/// was `done` in the time that has `passed`. Both in bytes.
#[must_use]
pub fn ends_soon(done: u64, left: u64, passed: Duration) -> bool {
    let needs = u128::from(left).saturating_mul(passed.as_nanos());
    needs <= u128::from(done).saturating_mul(TEARDOWN.as_nanos())
}

/// Decides when the next barrier is due.
#[derive(Debug)]
pub(super) struct Barriers {
    last: Instant,
    /// Bytes that completed since the last barrier began.
    unrecorded: u64,
    /// Bytes that the running barrier covers.
    recording: u64,
}

impl Barriers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            unrecorded: 0,
            recording: 0,
        }
    }

    pub(super) fn completed(&mut self, bytes: u64) {
        self.unrecorded = self.unrecorded.saturating_add(bytes);
    }

    /// Whether one should begin, if none is running. `full`: the ledger asks for one.
    pub(super) fn is_due(&self, now: Instant, full: bool) -> bool {
        let late = now.saturating_duration_since(self.last) >= BARRIER_EVERY;
        self.unrecorded > 0 && (full || late || self.unrecorded >= BARRIER_BYTES)
    }

    /// When to look again; `None` while nothing waits to be recorded.
    pub(super) fn next(&self) -> Option<Instant> {
        self.last
            .checked_add(BARRIER_EVERY)
            .filter(|_| self.unrecorded > 0)
    }

    /// Whether more would be at risk than may be.
    pub(super) fn must_wait(&self) -> bool {
        self.unrecorded.saturating_add(self.recording) >= UNRECORDED_MAX
    }

    pub(super) fn began(&mut self, now: Instant) {
        self.last = now;
        self.recording = std::mem::take(&mut self.unrecorded);
    }

    pub(super) fn ended(&mut self) {
        self.recording = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{BARRIER_BYTES, Barriers, ends_soon};
    use std::time::{Duration, Instant};

    #[test]
    fn the_end_is_near_when_what_is_left_takes_as_long_as_taking_down() {
        let passed = Duration::from_secs(1);
        assert!(!ends_soon(0, 1, passed), "nothing was done yet");
        assert!(!ends_soon(1000, 51, passed));
        assert!(ends_soon(1000, 50, passed));
        assert!(ends_soon(0, 0, passed), "nothing is left");
        assert!(ends_soon(u64::MAX, 1, Duration::from_secs(1 << 24)));
    }

    #[test]
    fn a_barrier_is_due_after_a_second_or_half_a_gibibyte_and_never_for_nothing() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let mut barriers = Barriers::new(start);
        assert!(!barriers.is_due(later, true), "nothing was written");
        assert_eq!(
            barriers.next(),
            None,
            "an idle pass must not wake up for it"
        );
        barriers.completed(1);
        assert!(!barriers.is_due(start, false));
        assert!(barriers.is_due(start, true));
        assert!(barriers.is_due(later, false));
        barriers.completed(BARRIER_BYTES);
        assert!(barriers.is_due(start, false));
    }

    #[test]
    fn no_more_than_a_gibibyte_is_ever_at_risk() {
        let now = Instant::now();
        let mut barriers = Barriers::new(now);
        barriers.completed(BARRIER_BYTES);
        barriers.began(now);
        barriers.completed(BARRIER_BYTES - 1);
        assert!(!barriers.must_wait());
        barriers.completed(1);
        assert!(
            barriers.must_wait(),
            "a barrier that has not ended protects nothing"
        );
        barriers.ended();
        assert!(!barriers.must_wait());
    }
}
