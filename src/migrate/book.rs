//! The record in memory and on disk, always the same: changed under one lock, durable first.

use super::phase::{Event, Refusal, Rules, State};
use super::record::Record;
use super::store::Store;
use crate::error::Result;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A record and where it is kept.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) store: Store,
    record: Mutex<Record>,
}

impl Book {
    /// Opens it at `record`, which is made durable.
    pub(super) fn new(store: Store, record: Record) -> Result<Self> {
        store.save(&record)?;
        Ok(Self {
            store,
            record: Mutex::new(record),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn directory(&self) -> &Path {
        self.store.directory()
    }

    /// As it is now.
    pub(super) fn record(&self) -> Record {
        self.lock().clone()
    }

    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Looks at it without a copy.
    pub(super) fn look<T>(&self, at: impl FnOnce(&Record) -> T) -> T {
        at(&self.lock())
    }

    /// Changes it. When this returns, the change is durable.
    pub(super) fn change<T>(&self, how: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let mut record = self.lock();
        let mut next = record.clone();
        let told = how(&mut next);
        if next != *record {
            self.store.save(&next)?;
            *record = next;
        }
        Ok(told)
    }

    /// Tells the machine of an event: the state before and after it, or why it changes nothing.
    pub(super) fn turn(
        &self,
        rules: &Rules,
        event: Event,
    ) -> Result<std::result::Result<(State, State), Refusal>> {
        let started = event == Event::Started;
        self.change(|record| {
            let before = record.state.clone();
            let after = before.on(rules, event)?;
            if started {
                record.taken_over();
            }
            record.turn(after.clone(), now());
            Ok((before, after))
        })
    }
}

/// Milliseconds since 1970, as the clock had it when this process first asked, and steady from then
/// on: how long something took is true also when the clock is set meanwhile.
pub(super) fn now() -> u64 {
    static FIRST: LazyLock<(u64, Instant)> = LazyLock::new(|| (clock(), Instant::now()));
    let (first, asked) = *FIRST;
    first.saturating_add(millis(asked.elapsed()))
}

/// Milliseconds since 1970 as the clock has it now, for moments and hours that people name.
pub(super) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
