//! From one end of the disk to the other: what feeds the pipeline in a pass, and what it runs on.

use super::claims::Claims;
use super::copy::Job;
use super::decide::Start;
use super::doubts::Doubts;
use super::feed::{Ahead, Feed};
use super::ledger::{JobLedger, append};
use super::options::Baseline;
use super::untracked::Untracked;
use crate::digest::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::journal::Record;
use crate::pipeline::{Known, Ledger, RequestSize, Setup, Share, run};
use crate::plan::{Done, Sample, Shape};
use crate::target::{Untouched, Zeroing};
use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// The planner looks at this much of a disk at a time.
const WINDOW: u64 = 1 << 30;

/// Bytes of a request at first, unless the source prefers longer ones. A server that takes memory for
/// each anew, as QEMU's do, spends twice as long on the same bytes where they come as 1 MiB: that is
/// given back to the system each time, and comes as pages that are zeroed.
const REQUEST_LEAST: u32 = 512 << 10;

/// Bytes of the longest request.
const REQUEST_MAX: u32 = 2 << 20;

/// Changes that lie this close are read as one.
const COALESCE: u64 = BLOCK;

impl Job<'_> {
    /// Whether blocks must be claimed before they are written: there is something to be unsure of.
    pub(super) fn claims_blocks(&self) -> bool {
        self.whole && self.journal.is_some()
    }

    /// Copies what there is to copy. A tracker that is caught leaving out a change is believed no
    /// more: then all of the disk is compared, from the beginning. Says whether that is so.
    pub(super) async fn copy(
        &self,
        done: Done,
        mut ledger: Option<&mut JobLedger>,
    ) -> Result<bool> {
        let caught = Arc::default();
        if self.grain() > BLOCK && self.compares() {
            let what = "blocks of 64 KiB are compared, and the target only takes longer ones";
            return Err(Error::new(Kind::Unsupported, what));
        }
        let swept = self.sweep(done, ledger.as_deref_mut(), self.compares(), &caught);
        match (swept.await, caught.get()) {
            (Err(_), Some(offset)) => {
                self.caught(*offset)?;
                self.sweep(Done::default(), ledger, true, &caught).await?;
                Ok(true)
            }
            (swept, _) => swept.map(|()| self.distrusted),
        }
    }

    /// Whether all is read and only what differs is written.
    pub(super) fn compares(&self) -> bool {
        self.distrusted || self.options.pass.changes_since == Some(Baseline::Digest)
    }

    /// Requests begin on digest blocks, and on units of the target.
    fn grain(&self) -> u64 {
        BLOCK.max(self.target.limits().align.into())
    }

    /// From here on all is compared, also after a crash; by another pass, if whoever runs this one
    /// wants to decide that.
    pub(super) fn caught(&self, offset: u64) -> Result<()> {
        if let Some(journal) = &self.journal {
            append(journal, &Record::Distrust { offset })?;
        }
        if self.context.steered {
            return Err(Untracked::LeftOut(offset).into_error());
        }
        self.context.warn(format!(
            "the tracker left out a change at offset {offset:#x}: it is not believed any more, and \
             all of the disk is read and compared"
        ));
        Ok(())
    }

    async fn sweep(
        &self,
        done: Done,
        ledger: Option<&mut JobLedger>,
        compare: bool,
        caught: &Arc<OnceLock<u64>>,
    ) -> Result<()> {
        let claims = self.claims(ledger.as_deref());
        let known = claims.clone().filter(|_| compare);
        let feed = Feed {
            source: self.opened.source.clone(),
            tracker: self.opened.tracker.clone().filter(|_| !compare),
            shape: Shape {
                size: self.size(),
                grain: self.grain(),
                window: WINDOW,
                coalesce: COALESCE,
            },
            done: done.to_set(),
            ask_extents: self.options.zeroes.extents,
            finds_zeroes: self.options.zeroes.sparse > 0,
            ahead: match claims.clone() {
                None => Ahead::Nothing,
                Some(known) if compare => Ahead::Compare(known),
                Some(known) => Ahead::Claim(known),
            },
            doubts: claims
                .filter(|_| !compare)
                .and_then(|known| self.doubts(known, caught)),
        };
        let ledger = ledger.map(|ledger| ledger as &mut dyn Ledger);
        let goal = self.goal(feed.clone(), done.bytes());
        let (setup, stop) = (self.setup(done, known), self.context.stop.clone());
        tokio::select! {
            biased;
            outcome = run(setup, feed.stream(), ledger, stop) => outcome?,
            error = goal => return error,
        }
        // What was planned may have been joined or split a little otherwise than was foreseen.
        let counters = &self.context.counters;
        if counters.goal.load(Ordering::Relaxed) > 0 {
            let dealt = counters.dealt.load(Ordering::Relaxed);
            counters.goal.store(dealt, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Finds out how much there is to do, while the pass runs already. Ends only if it fails.
    async fn goal(&self, feed: Feed, done: u64) -> Result<()> {
        let counters = self.context.counters.clone();
        let before = counters.dealt.load(Ordering::Relaxed);
        let total = match feed.tracker {
            Some(_) => feed.total().await?,
            None => self.size().saturating_sub(done),
        };
        let goal = before.saturating_add(total);
        counters.goal.store(goal, Ordering::Relaxed);
        pending().await
    }

    /// What must be told before blocks are written: there is something to be unsure of.
    fn claims(&self, ledger: Option<&JobLedger>) -> Option<Arc<dyn Known>> {
        let ledger = ledger.filter(|ledger| ledger.claimed)?;
        Some(Arc::new(Claims::new(ledger.manifest.view())))
    }

    /// The user doubts the tracker.
    fn doubts(&self, known: Arc<dyn Known>, caught: &Arc<OnceLock<u64>>) -> Option<Doubts> {
        let ppm = self.options.distrust_ppm;
        self.opened.tracker.as_ref().filter(|_| ppm > 0)?;
        Some(Doubts {
            sample: Sample {
                seed: self.seed.wrapping_add(self.number.into()),
                ppm,
            },
            source: self.opened.source.clone(),
            known,
            algorithm: self.options.digest,
            budget: self.budget.clone(),
            counters: self.context.counters.clone(),
            rates: self.context.rates(&self.options.tuning),
            caught: caught.clone(),
        })
    }

    /// Whether it is read back, or a tracker that is caught may make all of it be compared.
    fn wants_the_target_after(&self) -> bool {
        let proof = self.wants_proof() || self.wants_what_it_wrote_compared();
        proof || self.options.distrust_ppm > 0
    }

    fn share(&self) -> Option<Share> {
        let team = self.context.shared.team.as_ref()?;
        Some(team.join(self.context.counters.left(self.size())))
    }

    /// As the user says, or adaptive within what both ends can take.
    fn request_size(&self) -> RequestSize {
        let max = self.target.limits().max.clamp(64 << 10, REQUEST_MAX);
        match self.options.tuning.request_size {
            Some(size) => RequestSize::Fixed(size),
            None => RequestSize::Adaptive {
                start: self.opened.source.limits().preferred.max(REQUEST_LEAST),
                max,
            },
        }
    }

    /// Whether zeroes need not be written. Only a pass that nothing went before can rely on it: a
    /// resumed one may have left data where the source has zeroes by now.
    pub(super) fn reads_zero(&self) -> bool {
        let promised = self.options.zeroes.target_is_zero;
        let untouched = promised || self.target.untouched() == Untouched::Zero;
        untouched && self.start == Start::Fresh
    }

    fn setup(&self, done: Done, known: Option<Arc<dyn Known>>) -> Setup {
        let zeroes = &self.options.zeroes;
        Setup {
            source: self.opened.source.clone(),
            target: self.target.clone(),
            budget: self.budget.clone(),
            counters: self.context.counters.clone(),
            requests: self.options.tuning.requests,
            request_size: self.request_size(),
            grain: self.grain(),
            // What is not a whole unit of the target cannot be left out by itself.
            sparse: match zeroes.sparse {
                0 => 0,
                sparse => sparse.max(self.target.limits().align),
            },
            zeroing: if zeroes.allocated {
                Zeroing::Allocate
            } else {
                Zeroing::Unmap
            },
            reads_zero: self.reads_zero(),
            known,
            rates: self.context.rates(&self.options.tuning),
            share: self.share(),
            size: self.size(),
            done,
            last: !self.wants_the_target_after(),
        }
    }
}
