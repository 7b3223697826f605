//! The connections of one client: which one takes a request, and how a lost one comes back.
//!
//! A connection that was lost is made again when somebody needs it: at once by a request that has
//! no other, in the background while others carry on. Attempts are spaced, however many requests
//! wait for them.

use super::barrier::Barrier;
use super::connection::Connection;
use super::dial::Dialer;
use super::options::{Options, Retry};
use crate::endpoint::Quickest;
use crate::error::{Error, Kind, Result};
use crate::nbd::child::Child;
use crate::nbd::export::Export;
use crate::nbd::handshake::Agreed;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep_until};

/// Reads after which it is known how soon a server answers. More than it takes to warm caches: a server
/// that is near and was taken to be far keeps the long buffers that it was then asked to make.
const FIRST_ANSWERS: u64 = 100;

/// All connections to one export.
#[derive(Debug)]
pub(super) struct Pool {
    dialer: Dialer,
    slots: Vec<Slot>,
    /// The export as the first connection found it.
    export: Export,
    barrier: Mutex<Barrier>,
    patience: Duration,
    retry: Retry,
    retries: Arc<AtomicU64>,
    /// How soon reads are answered.
    reads: Quickest,
    child: Option<Child>,
}

/// A place for one connection.
#[derive(Debug)]
struct Slot {
    live: Mutex<Arc<Connection>>,
    revival: AsyncMutex<Revival>,
    /// Attempts to make it again that have ended.
    attempts: AtomicU64,
}

/// What is known of attempts to make a connection again.
#[derive(Debug, Default)]
struct Revival {
    failures: u32,
    not_before: Option<Instant>,
    /// Why the last one failed, for all who waited for it.
    error: Option<(Kind, String)>,
}

impl Pool {
    /// Makes the first connection, and as many others as are wanted and allowed.
    pub(super) async fn connect(
        dialer: Dialer,
        child: Option<Child>,
        options: &Options,
    ) -> Result<Self> {
        let patience = options.timeouts.request;
        let first = match (dialer.dial().await, &child) {
            (Ok(first), _) => first,
            (Err(error), Some(child)) => return Err(child.explain(error).await),
            (Err(error), None) => return Err(error),
        };
        let export = first.1.export.clone();
        let start =
            |(stream, agreed): (_, Agreed)| Slot::new(Connection::start(stream, &agreed, patience));
        let mut slots = vec![start(first)];
        let several = export.flags.can_multi_conn() || options.force_multi_conn;
        let wanted = if several { options.connections } else { 1 };
        // All at once: a handshake is several round trips.
        for dialed in join_all((1..wanted).map(|_| dialer.dial())).await {
            match dialed {
                Ok(next) => {
                    next.1.export.check_unchanged(&export)?;
                    slots.push(start(next));
                }
                Err(error) => tracing::warn!("one connection less: {}", error.line()),
            }
        }
        Ok(Self {
            dialer,
            slots,
            export,
            barrier: Mutex::default(),
            patience,
            retry: options.retry,
            retries: options.retried.clone(),
            reads: Quickest::after(FIRST_ANSWERS),
            child,
        })
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn connections(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn retry(&self) -> Retry {
        self.retry
    }

    pub(super) fn barrier(&self) -> MutexGuard<'_, Barrier> {
        self.barrier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something is tried again.
    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// How soon reads are answered.
    pub(super) fn reads(&self) -> &Quickest {
        &self.reads
    }

    /// The connection with the least to do, made again if there is none.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Arc<Connection>> {
        let mut best: Option<Arc<Connection>> = None;
        let mut lost = None;
        for (index, slot) in self.slots.iter().enumerate() {
            let connection = slot.current();
            if !connection.is_live() {
                lost = Some(index);
            } else if best.as_ref().is_none_or(|b| connection.load() < b.load()) {
                best = Some(connection);
            }
        }
        match (best, lost) {
            (Some(best), Some(index)) => {
                self.revive_aside(index);
                Ok(best)
            }
            (Some(best), None) => Ok(best),
            (None, _) => self.revive(0).await,
        }
    }

    /// Every connection, made again where needed.
    pub(super) async fn take_all(self: &Arc<Self>) -> Result<Vec<Arc<Connection>>> {
        let mut all = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter().enumerate() {
            let connection = slot.current();
            all.push(if connection.is_live() {
                connection
            } else {
                self.revive(index).await?
            });
        }
        Ok(all)
    }

    /// Makes a connection again without anyone waiting for it, unless that is under way.
    fn revive_aside(self: &Arc<Self>, index: usize) {
        let idle = self.slots.get(index).is_some_and(|slot| {
            let revival = slot.revival.try_lock();
            revival.is_ok_and(|r| r.not_before.is_none_or(|time| time <= Instant::now()))
        });
        if idle {
            let pool = self.clone();
            tokio::spawn(async move {
                if let Err(error) = pool.revive(index).await {
                    tracing::warn!("connection {index} is not back yet: {}", error.line());
                }
            });
        }
    }

    /// Makes the connection of a slot again, once, after the pause that is due. Those who wait
    /// meanwhile share the outcome, so that a deadline is not spent on standing in line.
    async fn revive(self: &Arc<Self>, index: usize) -> Result<Arc<Connection>> {
        let slot = self
            .slots
            .get(index)
            .ok_or_else(|| Error::new(Kind::Io, "no such connection"))?;
        let before = slot.attempts.load(Ordering::SeqCst);
        let mut revival = slot.revival.lock().await;
        let current = slot.current();
        if current.is_live() {
            return Ok(current);
        }
        if let (true, Some((kind, why))) = (
            slot.attempts.load(Ordering::SeqCst) != before,
            &revival.error,
        ) {
            return Err(Error::new(*kind, why.clone()));
        }
        if let Some(time) = revival.not_before {
            sleep_until(time).await;
        }
        let dialled = self.redial(index).await;
        slot.attempts.fetch_add(1, Ordering::SeqCst);
        match dialled {
            Ok(connection) => {
                *revival = Revival::default();
                slot.replace(connection.clone());
                tracing::warn!("connection {index} is back");
                Ok(connection)
            }
            Err(error) => {
                let pause = self.retry.pause(revival.failures, Duration::ZERO);
                revival.failures = revival.failures.saturating_add(1);
                revival.not_before = pause.and_then(|pause| Instant::now().checked_add(pause));
                revival.error = Some((error.kind(), error.line()));
                Err(error)
            }
        }
    }

    async fn redial(&self, index: usize) -> Result<Arc<Connection>> {
        let (stream, agreed) = match (self.dialer.dial().await, &self.child) {
            (Ok(made), _) => made,
            (Err(error), Some(child)) => return Err(child.explain(error).await),
            (Err(error), None) => return Err(error),
        };
        agreed.export.check_unchanged(&self.export)?;
        let elsewhere = self
            .slots
            .iter()
            .enumerate()
            .any(|(other, slot)| other != index && slot.current().is_changing());
        self.barrier().reconnected(elsewhere);
        let connection = Connection::start(stream, &agreed, self.patience);
        Ok(Arc::new(connection))
    }

    /// Ends all connections politely, and the child.
    pub(super) async fn close(&self) {
        for slot in &self.slots {
            slot.current().close().await;
        }
        if let Some(child) = &self.child {
            child.stop().await;
        }
    }
}

impl Slot {
    fn new(connection: Connection) -> Self {
        Self {
            live: Mutex::new(Arc::new(connection)),
            revival: AsyncMutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    fn current(&self) -> Arc<Connection> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn replace(&self, connection: Arc<Connection>) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}
