//! What a pass has done so far, by kind, and where its time went. Read while it runs.

use crate::source::stream::Tally;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Live counters of one pass. Only ever grow; shared with whoever shows progress.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes read from the source.
    pub read: AtomicU64,
    /// Bytes written to the target as data.
    pub written: AtomicU64,
    /// Bytes zeroed on the target.
    pub zeroed: AtomicU64,
    /// Bytes left alone: known to be right on the target already.
    pub skipped: AtomicU64,
    /// Bytes read back from the target and proven.
    pub verified: AtomicU64,
    /// Everything below this offset has been dealt with in this pass.
    pub position: AtomicU64,
    /// Bytes that this pass has to deal with; zero while that is not known.
    pub goal: AtomicU64,
    /// Bytes of them that have been dealt with.
    pub dealt: AtomicU64,
    /// Requests that had to be repeated. The endpoints that repeat them count.
    pub retries: Arc<AtomicU64>,
    /// What came of a source that comes in order, packed as it is.
    pub tally: Tally,
    /// Nanoseconds that requests waited for the source.
    pub source_wait: AtomicU64,
    /// Nanoseconds that requests waited for the target.
    pub target_wait: AtomicU64,
    /// Nanoseconds spent on digests and zero detection.
    pub compute: AtomicU64,
    /// Nanoseconds that requests were held back by `--rate`.
    pub limit_wait: AtomicU64,
}

impl Counters {
    /// Bytes that are left of a disk of `size` bytes: of the goal, if there is one that is known.
    #[must_use]
    pub fn left(&self, size: u64) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        match load(&self.goal) {
            0 => size.saturating_sub(load(&self.position)),
            goal => goal.saturating_sub(load(&self.dealt)),
        }
    }

    /// Adds to one counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds a duration to one of the waits.
    pub fn spent(counter: &AtomicU64, time: Duration) {
        Self::add(counter, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The numbers as of now. Each is right by itself; together they may be a request apart.
    #[must_use]
    pub fn snapshot(&self) -> Totals {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let nanos = |counter: &AtomicU64| Duration::from_nanos(load(counter));
        Totals {
            read: load(&self.read),
            written: load(&self.written),
            zeroed: load(&self.zeroed),
            skipped: load(&self.skipped),
            verified: load(&self.verified),
            position: load(&self.position),
            goal: load(&self.goal),
            dealt: load(&self.dealt),
            retries: load(&self.retries),
            bottleneck: Bottleneck::of(
                nanos(&self.source_wait),
                nanos(&self.target_wait),
                nanos(&self.compute),
                nanos(&self.limit_wait),
            ),
        }
    }
}

/// Counters at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Totals {
    /// Read from the source.
    pub read: u64,
    /// Written to the target as data.
    pub written: u64,
    /// Zeroed on the target.
    pub zeroed: u64,
    /// Left alone, known to be right.
    pub skipped: u64,
    /// Read back and proven.
    pub verified: u64,
    /// Everything below has been dealt with.
    pub position: u64,
    /// What this pass has to deal with; zero while that is not known.
    pub goal: u64,
    /// How much of it has been dealt with.
    pub dealt: u64,
    /// Requests repeated.
    pub retries: u64,
    /// What the pass mostly waits for.
    pub bottleneck: Bottleneck,
}

impl Totals {
    /// How much of how much is done, of a disk of `size` bytes: of what this pass has to deal with
    /// if that is known, else of the disk.
    #[must_use]
    pub fn part(&self, size: u64) -> (u64, u64) {
        match self.goal {
            0 => (self.position, size),
            goal => (self.dealt.min(goal), goal),
        }
    }
}

/// What a pass mostly waits for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bottleneck {
    /// Nothing has been waited for yet.
    #[default]
    None,
    /// The source answers slowly.
    Source,
    /// The target takes writes slowly.
    Target,
    /// Digests and zero detection.
    Cpu,
    /// The user's `--rate`.
    Limit,
}

impl Bottleneck {
    /// The largest of the four waits.
    fn of(source: Duration, target: Duration, cpu: Duration, limit: Duration) -> Self {
        [
            (source, Self::Source),
            (target, Self::Target),
            (cpu, Self::Cpu),
            (limit, Self::Limit),
        ]
        .into_iter()
        .filter(|(time, _)| !time.is_zero())
        .max_by_key(|(time, _)| *time)
        .map_or(Self::None, |(_, what)| what)
    }
}
