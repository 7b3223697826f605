//! The loop: dispatch, settle, barrier, stop.

use super::counters::Counters;
use super::depth::Depth;
use super::flight::Flight;
use super::known::Known;
use super::ledger::Ledger;
use super::pace::{Barriers, ends_soon};
use super::rate::RateLimit;
use super::request::{self, Part, Settled, Shared, Stage};
use super::sizer::{RequestSize, Sizer};
use super::stop::Stop;
use super::team::{Allowance, Share};
use crate::buffer::Budget;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::plan::{Done, Frontier, Step};
use crate::source::Source;
use crate::target::{Target, Zeroing};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long requests that are out may still take once an end was asked for, and then the barrier
/// that records them. Together less than the second that a user waits.
const GRACE: Duration = Duration::from_millis(400);

/// Bytes of all requests together: more is memory that a pod does not have.
const ENOUGH_BYTES: u64 = super::depth::MOST;

/// Steps that wait to be cut and sent while more are planned: planning runs ahead of copying.
const LOOKAHEAD: usize = 64;

/// What a crash repeats of a range that was zeroed counts as this part of one that was copied:
/// nothing is read or sent for it.
const ZERO_WEIGHT: u64 = 64;

/// The steps of one window.
#[derive(Debug)]
pub struct Planned {
    /// What the steps deal with, gaps between them included.
    pub window: ByteRange,
    /// In order.
    pub steps: Vec<Step>,
    /// Bytes of the window that need no step: the target is known to hold what it must.
    pub skipped: u64,
}

/// What a run of the pipeline needs.
#[derive(Debug)]
pub struct Setup {
    /// Read from.
    pub source: Arc<dyn Source>,
    /// Written to.
    pub target: Arc<dyn Target>,
    /// Buffers and request slots; may be shared with other jobs.
    pub budget: Budget,
    /// Told as it happens.
    pub counters: Arc<Counters>,
    /// Requests in flight.
    pub requests: usize,
    /// Bytes of a request.
    pub request_size: RequestSize,
    /// Requests start on multiples of this where they are cut.
    pub grain: u64,
    /// Runs of this many zero bytes in data are zeroed, not written; 0 finds none.
    pub sparse: u32,
    /// What becomes of the space under zeroes.
    pub zeroing: Zeroing,
    /// The target reads as zero wherever this pass has not written: nothing needs zeroing.
    pub reads_zero: bool,
    /// Write only blocks that differ from what is known here, which needs a ledger.
    pub known: Option<Arc<dyn Known>>,
    /// Bytes per second; may be shared with other jobs.
    pub rates: Vec<RateLimit>,
    /// Requests that other jobs need are not used; at most `requests` all the same.
    pub share: Option<Share>,
    /// Bytes of the disk.
    pub size: u64,
    /// What an earlier run of this pass made durable.
    pub done: Done,
    /// Nothing is asked of the target after this: it is not read back.
    pub last: bool,
}

/// Runs all steps of `feed`; ends with a barrier if there is a `ledger`.
///
/// Without a ledger nothing is flushed: the caller does that.
///
/// # Errors
/// The first failure of any request, flush or record; or `Interrupted` after an orderly stop. In
/// both cases what had completed was recorded as far as the target could still be flushed.
pub async fn run<F>(
    setup: Setup,
    feed: F,
    ledger: Option<&mut dyn Ledger>,
    stop: Stop,
) -> Result<()>
where
    F: Stream<Item = Result<Planned>> + Send,
{
    let mut run = Run::new(setup, ledger);
    let mut feed = std::pin::pin!(feed);
    let outcome = run.work(feed.as_mut(), stop).await;
    match outcome {
        Ok(()) => run.last_barrier().await,
        Err(error) => {
            run.settle_what_is_out().await;
            Err(error)
        }
    }
}

type InFlight = FuturesUnordered<BoxFuture<'static, Result<Stage>>>;

struct Run<'a> {
    shared: Arc<Shared>,
    ledger: Option<&'a mut dyn Ledger>,
    in_flight: InFlight,
    flight: Flight,
    barrier: Option<BoxFuture<'static, Result<()>>>,
    queue: VecDeque<Step>,
    /// End of the last window that was taken from the feed.
    fed: u64,
    frontier: Frontier,
    sizer: Sizer,
    share: Option<Share>,
    size: u64,
    barriers: Barriers,
    /// When this run began, and what had been dealt with by then.
    began: Instant,
    before: u64,
    /// Nothing is asked of the target after this.
    last: bool,
    /// Those who have something to take down were told to begin.
    ending: bool,
    requests: usize,
    grain: u64,
}

impl<'a> Run<'a> {
    fn new(setup: Setup, ledger: Option<&'a mut dyn Ledger>) -> Self {
        let now = Instant::now();
        let before = setup.counters.dealt.load(Ordering::Relaxed);
        let shared = Shared {
            source: setup.source,
            target: setup.target,
            budget: setup.budget,
            counters: setup.counters,
            sparse: usize::try_from(setup.sparse).unwrap_or(0),
            zeroing: setup.zeroing,
            reads_zero: setup.reads_zero,
            digest: ledger.as_ref().map(|ledger| ledger.algorithm()),
            rates: setup.rates,
            depth: Depth::new(),
            known: setup.known,
        };
        Self {
            shared: Arc::new(shared),
            ledger,
            in_flight: FuturesUnordered::new(),
            flight: Flight::default(),
            barrier: None,
            queue: VecDeque::new(),
            fed: setup.done.below,
            frontier: Frontier::resume(&setup.done),
            sizer: Sizer::new(setup.request_size),
            share: setup.share,
            size: setup.size,
            barriers: Barriers::new(now),
            began: now,
            before,
            last: setup.last,
            ending: false,
            requests: setup.requests.max(1),
            grain: setup.grain.max(1),
        }
    }

    async fn work<F>(&mut self, mut feed: Pin<&mut F>, mut stop: Stop) -> Result<()>
    where
        F: Stream<Item = Result<Planned>> + Send,
    {
        let mut feed_ended = false;
        loop {
            self.dispatch();
            if feed_ended && self.queue.is_empty() && self.in_flight.is_empty() {
                return self.end_barrier().await;
            }
            self.begin_barrier_if_due();
            let wake = self.barriers.next().filter(|_| self.waits_for_barrier());
            tokio::select! {
                biased;
                () = stop.requested() => return Err(self.interrupted()),
                Some(stage) = self.in_flight.next() => self.advance(stage?)?,
                flushed = running(&mut self.barrier) => {
                    self.barrier = None;
                    self.barriers.ended();
                    flushed?;
                }
                planned = feed.next(), if !feed_ended && self.queue.len() < LOOKAHEAD => match planned {
                    Some(planned) => self.enqueue(planned?),
                    None => feed_ended = true,
                },
                () = until(wake) => {}
            }
        }
    }

    fn interrupted(&self) -> Error {
        let error = Error::new(Kind::Interrupted, "stopped by a signal");
        error.hint(match self.ledger {
            Some(_) => "run the same command again to continue",
            None => "nothing records what is done: the same command begins anew",
        })
    }

    /// A barrier will be due some time, and none is running.
    fn waits_for_barrier(&self) -> bool {
        self.ledger.is_some() && self.barrier.is_none()
    }

    fn enqueue(&mut self, planned: Planned) {
        self.fed = planned.window.end;
        Counters::add(&self.shared.counters.skipped, planned.skipped);
        Counters::add(&self.shared.counters.dealt, planned.skipped);
        self.queue.extend(planned.steps);
        if self.queue.is_empty() {
            self.note_position();
        }
    }

    /// Sends out as much as may be out.
    fn dispatch(&mut self) {
        let may = self.allowance();
        let ahead = self.ahead(may);
        while self.flight.has_room(self.queue.front(), may, ahead) && !self.barriers.must_wait() {
            let Some(step) = self.cut_next() else { break };
            self.frontier.sent(step.range());
            self.flight.sent(step);
            self.in_flight
                .push(Box::pin(request::begin(self.shared.clone(), step)));
        }
    }

    /// What may be in flight now.
    fn allowance(&self) -> Allowance {
        let all = Allowance {
            slots: self.requests,
            bytes: ENOUGH_BYTES,
            alone: true,
        };
        let Some(share) = &self.share else { return all };
        let left = self.shared.counters.left(self.size);
        let may = share.allowance(left, ENOUGH_BYTES);
        Allowance {
            slots: may.slots.min(self.requests),
            ..may
        }
    }

    /// Bytes that the source should be asked for, in the same proportion as all that may be out.
    fn ahead(&self, may: Allowance) -> u64 {
        let enough = u128::from(self.shared.depth.bytes());
        let part = u128::from(may.bytes).saturating_mul(enough) / u128::from(ENOUGH_BYTES);
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// The next request: the first step, or as much of it as a request may be long.
    fn cut_next(&mut self) -> Option<Step> {
        let step = self.queue.pop_front()?;
        let Step::Copy(range) = step else {
            return Some(step);
        };
        // Cut where a multiple of the request size lies, so that requests stay aligned after a
        // ragged start.
        let size = self.sizer.size().max(self.grain);
        let misaligned = range.start.checked_rem(size).unwrap_or(0);
        let (now, later) = range.split(size.saturating_sub(misaligned));
        if !later.is_empty() {
            self.queue.push_front(Step::Copy(later));
        }
        Some(Step::Copy(now))
    }

    /// What was read goes on to the target; what is there is settled.
    fn advance(&mut self, stage: Stage) -> Result<()> {
        match stage {
            Stage::Read(read) => {
                self.flight.read(read.step());
                let shared = self.shared.clone();
                self.in_flight.push(Box::pin(request::finish(shared, read)));
                Ok(())
            }
            Stage::Settled(settled) => self.settle(settled),
        }
    }

    fn settle(&mut self, settled: Settled) -> Result<()> {
        let Settled { step, parts } = settled;
        let range = step.range();
        Counters::add(&self.shared.counters.dealt, range.len());
        if let Some(ledger) = &mut self.ledger {
            for part in &parts {
                match part {
                    Part::Zero(range) => ledger.zeroed(*range)?,
                    Part::Data { offset, digests } => ledger.copied(*offset, digests)?,
                }
            }
        }
        self.frontier.finished(range);
        self.flight.ended(step);
        let repeated = match step {
            Step::Copy(_) => {
                self.sizer.completed(range.len(), self.began.elapsed());
                range.len()
            }
            Step::Zero(_) => range.len().div_ceil(ZERO_WEIGHT),
        };
        // Without a ledger no barrier comes that would make it count as safe again.
        if self.ledger.is_some() {
            self.barriers.completed(repeated);
        }
        self.note_position();
        self.tell_if_ending();
        Ok(())
    }

    fn tell_if_ending(&mut self) {
        if self.ending {
            return;
        }
        let counters = &self.shared.counters;
        let dealt = counters.dealt.load(Ordering::Relaxed);
        let (done, left) = (dealt.saturating_sub(self.before), counters.left(self.size));
        self.ending = ends_soon(done, left, self.began.elapsed());
        if !self.ending {
            return;
        }
        self.shared.source.ending();
        if self.last {
            self.shared.target.ending();
        }
    }

    fn note_position(&mut self) {
        if self.queue.is_empty() {
            self.frontier.planned_to(self.fed);
        }
        let position = self.frontier.position();
        self.shared
            .counters
            .position
            .fetch_max(position, Ordering::Relaxed);
    }

    fn begin_barrier_if_due(&mut self) {
        let full = self.ledger.as_ref().is_some_and(|ledger| ledger.is_full());
        if self.barrier.is_none() && self.barriers.is_due(Instant::now(), full) {
            self.begin_barrier();
        }
    }

    /// What completed until now becomes durable, then recorded; in that order (guarantee 2).
    fn begin_barrier(&mut self) {
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        let commit = ledger.checkpoint(self.frontier.done());
        self.barriers.began(Instant::now());
        let shared = self.shared.clone();
        self.barrier = Some(Box::pin(async move {
            let began = Instant::now();
            shared.target.flush().await?;
            Counters::spent(&shared.counters.target_wait, began.elapsed());
            tokio::task::spawn_blocking(commit)
                .await
                .map_err(|error| Error::new(Kind::Io, "record a barrier").because(error))?
        }));
    }

    async fn end_barrier(&mut self) -> Result<()> {
        match self.barrier.take() {
            Some(barrier) => barrier.await,
            None => Ok(()),
        }
    }

    async fn last_barrier(&mut self) -> Result<()> {
        self.begin_barrier();
        self.end_barrier().await
    }

    /// After a failure or a stop: what is out may come back for a moment, and is recorded.
    async fn settle_what_is_out(&mut self) {
        let deadline = tokio::time::Instant::now() + GRACE;
        while let Ok(Some(outcome)) = tokio::time::timeout_at(deadline, self.in_flight.next()).await
        {
            // Another failure says nothing new; what did succeed still counts.
            if outcome.and_then(|stage| self.advance(stage)).is_err() {
                tracing::debug!("another request failed while the pass was ending");
            }
        }
        let recorded = tokio::time::timeout(GRACE, async {
            self.end_barrier().await?;
            self.last_barrier().await
        });
        if !matches!(recorded.await, Ok(Ok(()))) {
            tracing::debug!("the last barrier could not be completed; the one before it counts");
        }
    }
}

/// Waits for the barrier, if there is one.
async fn running(barrier: &mut Option<BoxFuture<'static, Result<()>>>) -> Result<()> {
    match barrier {
        Some(barrier) => barrier.await,
        None => std::future::pending().await,
    }
}

/// Waits for a moment, if there is one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
