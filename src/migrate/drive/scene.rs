//! All that the actions of a migration work with.

use super::pool::{Links, Pool};
use crate::address::Address;
use crate::changes::guest::{Guest, Point};
use crate::error::{Error, Kind, Result};
use crate::job::Context;
use crate::job::options::{Reading, Tuning};
use crate::migrate::board::Board;
use crate::migrate::book::{self, Book};
use crate::migrate::phase::{Event, Refusal, Rules, State};
use crate::migrate::plan::Plan;
use crate::migrate::record::Record;
use crate::migrate::status;
use crate::pipeline::Stop;
use crate::pipeline::counters::Counters;
use crate::report::{self, OfDisk, Reporter};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Before a call to the guest, or an action, is repeated; doubled each time.
pub(super) const FIRST_DELAY: Duration = Duration::from_millis(250);

/// And no longer than this.
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// A migration in this process.
pub(crate) struct Scene {
    pub(crate) plan: Plan,
    pub(crate) rules: Rules,
    pub(crate) book: Book,
    pub(crate) board: Board,
    pub(crate) reporter: Arc<dyn Reporter>,
    pool: Pool,
    /// The VM, once it was reached.
    guest: Mutex<Option<Arc<dyn Guest>>>,
    /// The point that stands, as the guest told it.
    points: Mutex<Vec<Point>>,
    /// Hurried passes, one after the other.
    rounds: AtomicU32,
}

impl Scene {
    pub(crate) fn new(plan: Plan, book: Book, reporter: Arc<dyn Reporter>) -> Self {
        let board = book.look(Board::new);
        Self {
            rules: plan.rules(),
            pool: Pool::new(&plan.limits),
            plan,
            book,
            board,
            reporter,
            guest: Mutex::default(),
            points: Mutex::default(),
            rounds: AtomicU32::new(0),
        }
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// A pass begins, hurried or not.
    pub(super) fn count_round(&self, hurried: bool) {
        let rounds = if hurried {
            self.rounds().saturating_add(1)
        } else {
            0
        };
        self.rounds.store(rounds, Ordering::Relaxed);
    }

    pub(super) fn tell(&self, event: &report::Event) {
        self.reporter.event(event);
    }

    pub(crate) fn warn(&self, message: String) {
        tracing::warn!("{message}");
        self.tell(&report::Event::Warning { message });
    }

    /// What tells the changes of a disk cannot be relied on: durable, and told, when this returns.
    pub(super) fn lose_tracking(&self, disk: usize, why: &str, for_good: bool) -> Result<()> {
        let lose = |record: &mut Record| record.lose_tracking(disk, why, for_good);
        if !self.book.change(lose)? {
            return Ok(());
        }
        self.board.change(|live| {
            if let Some(lost) = live.lost.get_mut(disk) {
                *lost = lost.saturating_add(1);
            }
        });
        let (name, point) = self.book.look(|record| {
            let disk = record.disks.get(disk);
            let name = disk.map(|disk| disk.name.clone()).unwrap_or_default();
            (name, record.state.point)
        });
        tracing::error!(disk = name, point, why, for_good, "tracking is lost");
        self.tell(&report::Event::TrackingLost {
            disk: name,
            point,
            why: why.to_owned(),
            for_good,
        });
        Ok(())
    }

    /// Whether all of a disk is compared, whatever tells its changes.
    pub(super) fn compares(&self, disk: usize) -> bool {
        let planned = self.plan.disks.get(disk);
        planned.is_some_and(|disk| disk.digest_only)
            || self.book.look(|record| {
                let disk = record.disks.get(disk);
                disk.is_some_and(|disk| disk.untracked.is_some())
            })
    }

    /// Tells the machine of an event. What comes of it is durable when this returns.
    pub(crate) fn turn(&self, event: Event) -> Result<std::result::Result<State, Refusal>> {
        let told = format!("{event:?}");
        let turned = self.book.turn(&self.rules, event)?;
        let (before, after) = match turned {
            Ok(states) => states,
            Err(refusal) => {
                tracing::debug!(event = told, %refusal, "refused");
                return Ok(Err(refusal));
            }
        };
        tracing::info!(event = told, from = ?before.step, to = ?after.step, point = after.point);
        let (was, is) = (before.phase(), after.phase());
        if was != is {
            // Of a cutover that was called off, once: what comes after it comes for other reasons.
            let off = after.called_off.clone();
            let off = off.filter(|_| before.called_off != after.called_off);
            let why = after.stopped.clone().or(off);
            self.tell(&report::Event::Phase {
                vm: self.plan.vm.clone(),
                phase: status::name(is),
                point: after.point,
                why,
            });
        }
        Ok(Ok(after))
    }

    /// The VM, reached anew if need be.
    async fn guest(&self) -> Result<Arc<dyn Guest>> {
        let known = self
            .guest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(guest) = known {
            return Ok(guest);
        }
        let id = self.book.look(|record| record.id.clone());
        let directory = Some(self.book.directory());
        let reaching = self.plan.guest.connect(&self.plan, &id, directory);
        let guest = reaching.await?;
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest.clone());
        Ok(guest)
    }

    /// Asks the guest, for as long as the plan allows what may pass.
    pub(super) async fn ask<T>(
        &self,
        what: &str,
        mut halt: Stop,
        call: impl AsyncFn(&dyn Guest) -> Result<T>,
    ) -> Result<T> {
        let began = Instant::now();
        let mut delay = FIRST_DELAY;
        loop {
            let answer = match self.guest().await {
                Ok(guest) => call(&*guest).await,
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(answer) => {
                    self.board.change(|live| live.trying = None);
                    tracing::debug!(what, took = ?began.elapsed(), "the guest answered");
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let late = began.elapsed().saturating_add(delay) > self.plan.retry;
            if error.kind() != Kind::Transient || late {
                return Err(error.context(what.to_owned()));
            }
            let message = format!("{what}: {}; trying again", error.line());
            if delay == FIRST_DELAY {
                self.warn(message.clone());
            }
            self.board.change(|live| {
                live.retries = live.retries.saturating_add(1);
                live.trying = Some(message);
            });
            tokio::select! {
                () = halt.requested() => return Err(interrupted()),
                () = sleep(delay) => {}
            }
            delay = delay.saturating_mul(2).min(LONGEST_DELAY);
        }
    }

    /// Asks the guest, and takes no for an answer.
    pub(super) async fn ask_once<T>(
        &self,
        call: impl AsyncFn(&dyn Guest) -> Result<T>,
    ) -> Result<T> {
        let guest = self.guest().await?;
        call(&*guest).await
    }

    /// Bytes of each disk that changed since a point, if the guest can tell. Asked once.
    pub(super) async fn changed_since(&self, point: u32) -> Result<Option<Vec<Option<u64>>>> {
        let changed = self.guest().await?.changed_since(point).await?;
        let compared = |disk: usize| self.compares(disk);
        Ok(changed.map(|disks| {
            let disks = disks.into_iter().enumerate();
            disks
                // What is compared is compared as a whole.
                .map(|(i, changed)| changed.filter(|_| !compared(i)))
                .collect()
        }))
    }

    /// The point that stands.
    pub(super) fn points(&self) -> Vec<Point> {
        self.points
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_points(&self, points: Vec<Point>) {
        *self.points.lock().unwrap_or_else(PoisonError::into_inner) = points;
    }

    /// How what runs on one disk is tuned; what it shares with the others is in its context.
    pub(super) fn tuning(&self, links: Links) -> Tuning {
        let limits = &self.plan.limits;
        Tuning {
            memory: limits.memory,
            connections_at_most: links.each,
            requests: limits.requests,
            retry: self.plan.retry,
            ..Tuning::default()
        }
    }

    /// How many disks are worked on at once, and their connections; `sources` if they are read, too.
    pub(super) fn links(&self, sources: &[Point]) -> Links {
        Links::of(&self.plan, &self.ends(sources))
    }

    /// What each disk is copied from, if that is known, and to.
    fn ends<'a>(&'a self, sources: &'a [Point]) -> Vec<Vec<&'a Address>> {
        let disks = self.plan.disks.iter().enumerate().map(|(i, disk)| {
            let source = sources.get(i).map(|point| &point.address);
            source.into_iter().chain([&disk.target]).collect()
        });
        disks.collect()
    }

    /// Bytes per second that all disks together may have in this hour; `None` is as many as it goes.
    pub(super) fn rate_now(&self) -> Option<u64> {
        self.follow_clock();
        self.pool.at_most(&self.ends(&self.points()))
    }

    /// The surroundings of a job on one disk, between `ends`.
    pub(super) fn context(
        &self,
        disk: &str,
        ends: &[&Address],
        counters: &Arc<Counters>,
        stop: &Stop,
    ) -> Context {
        let reporter = Arc::new(OfDisk::new(disk, self.reporter.clone()));
        Context {
            counters: counters.clone(),
            steered: true,
            shared: self.pool.shared(ends),
            ..Context::new(reporter, stop.clone())
        }
    }

    /// The rate of this hour.
    pub(super) fn follow_clock(&self) {
        self.pool.follow(book::clock() / 1000);
    }
}

/// A guest's disk is bytes: what these look like is the guest's own affair.
pub(crate) fn raw() -> Reading {
    Reading {
        format: Some("raw".to_owned()),
        ..Reading::default()
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "stopped").hint("the same command goes on where this one stopped")
}
