//! What a running migration shows of itself: read by `status`, metrics and the progress line.

use super::forecast::Forecast;
use super::record::Record;
use crate::pipeline::counters::{Counters, Totals};
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Live numbers of a migration.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Live>);

/// All that is shown and is not in the record.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    /// The counters of what runs on each disk, in the order of the plan.
    pub(super) counters: Vec<Arc<Counters>>,
    /// Bytes of each disk that what runs deals with, where that is known.
    pub(super) goals: Vec<Option<u64>>,
    /// What ended before, summed up, disk by disk.
    ended: Vec<Totals>,
    /// Nanoseconds that it waited for source, target, processor and limits.
    waited: Vec<[u64; 4]>,
    /// What is expected.
    pub(super) forecast: Forecast,
    /// What would help.
    pub(super) advice: Option<String>,
    /// When policy looks again.
    pub(super) due: Option<Instant>,
    /// Calls to the guest that were repeated.
    pub(super) retries: u64,
    /// What is being tried again, and why.
    pub(super) trying: Option<String>,
    /// Bytes of each disk that changed since the last point, as the guest told, and when.
    pub(super) changed: Option<(Instant, Vec<Option<u64>>)>,
    /// How often tracking was lost, disk by disk.
    pub(super) lost: Vec<u64>,
}

impl Board {
    pub(super) fn new(record: &Record) -> Self {
        let live = Live {
            ended: record.disks.iter().map(|_| Totals::default()).collect(),
            waited: record.disks.iter().map(|_| [0; 4]).collect(),
            lost: record.disks.iter().map(|_| 0).collect(),
            ..Live::default()
        };
        Self(Mutex::new(live))
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    pub(super) fn live(&self) -> Live {
        self.lock().clone()
    }

    pub(super) fn change(&self, how: impl FnOnce(&mut Live)) {
        how(&mut self.lock());
    }

    /// Something begins on every disk, with counters of its own.
    pub(super) fn begin(&self, goals: Vec<Option<u64>>) -> Vec<Arc<Counters>> {
        let mut live = self.lock();
        live.settle();
        // It is about another point soon.
        live.changed = None;
        live.counters = goals.iter().map(|_| Arc::default()).collect();
        live.goals = goals;
        live.counters.clone()
    }

    /// What the guest told of changes no longer ago than `fresh`, and how long ago.
    pub(super) fn changed(&self, fresh: Duration) -> (Duration, Vec<Option<u64>>) {
        let live = self.lock();
        let told = live.changed.as_ref();
        let told = told.map(|(when, changed)| (when.elapsed(), changed.clone()));
        told.filter(|(age, _)| *age <= fresh).unwrap_or_default()
    }

    /// Whether the guest should be asked again.
    pub(super) fn changes_are_older_than(&self, age: Duration) -> bool {
        let live = self.lock();
        live.changed
            .as_ref()
            .is_none_or(|(when, _)| when.elapsed() >= age)
    }

    /// What ran has ended.
    pub(super) fn end(&self) {
        self.lock().settle();
    }
}

impl Live {
    fn settle(&mut self) {
        let counters = mem::take(&mut self.counters);
        let sums = self.ended.iter_mut().zip(&mut self.waited);
        for ((ended, waited), counters) in sums.zip(counters) {
            *ended = sum(ended, &counters.snapshot());
            *waited = add(*waited, waits(&counters));
        }
        self.goals.clear();
    }

    /// What runs on a disk; nothing if nothing does.
    pub(super) fn running(&self, disk: usize) -> Totals {
        let counters = self.counters.get(disk);
        counters
            .map(|counters| counters.snapshot())
            .unwrap_or_default()
    }

    /// All that this process did on a disk.
    pub(super) fn totals(&self, disk: usize) -> Totals {
        let ended = self.ended.get(disk).copied().unwrap_or_default();
        sum(&ended, &self.running(disk))
    }

    /// Nanoseconds that this process waited on a disk for source, target, processor and limits.
    pub(super) fn waits(&self, disk: usize) -> [u64; 4] {
        let ended = self.waited.get(disk).copied().unwrap_or_default();
        let running = self.counters.get(disk).map(|counters| waits(counters));
        add(ended, running.unwrap_or_default())
    }

    /// Whether the guest was asked what has changed on a disk since the last point, and did not tell.
    pub(super) fn is_untold(&self, disk: usize) -> bool {
        self.changed.is_some() && self.changed(disk).is_none()
    }

    /// Bytes of a disk that changed since the last point, if the guest told.
    pub(super) fn changed(&self, disk: usize) -> Option<u64> {
        let (_, changed) = self.changed.as_ref()?;
        changed.get(disk).copied().flatten()
    }

    /// Time until policy looks again.
    pub(super) fn until_due(&self) -> Option<Duration> {
        Some(self.due?.saturating_duration_since(Instant::now()))
    }
}

fn waits(counters: &Counters) -> [u64; 4] {
    let all = [
        &counters.source_wait,
        &counters.target_wait,
        &counters.compute,
        &counters.limit_wait,
    ];
    all.map(|wait| wait.load(Ordering::Relaxed))
}

fn add(mut one: [u64; 4], other: [u64; 4]) -> [u64; 4] {
    for (one, other) in one.iter_mut().zip(other) {
        *one = one.saturating_add(other);
    }
    one
}

/// Both together; position and bottleneck are those of the later one.
fn sum(one: &Totals, other: &Totals) -> Totals {
    Totals {
        read: one.read.saturating_add(other.read),
        written: one.written.saturating_add(other.written),
        zeroed: one.zeroed.saturating_add(other.zeroed),
        skipped: one.skipped.saturating_add(other.skipped),
        verified: one.verified.saturating_add(other.verified),
        retries: one.retries.saturating_add(other.retries),
        ..*other
    }
}

/// What runs on all disks, as if they were one.
pub(super) fn together(live: &Live) -> Totals {
    let disks = 0..live.counters.len();
    let each = disks.map(|disk| live.running(disk));
    each.fold(Totals::default(), |all, one| Totals {
        position: all.position.saturating_add(one.position),
        ..sum(&all, &one)
    })
}
