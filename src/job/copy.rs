//! One pass, from its first record to its last.
//!
//! The order is the guarantee: check everything, record what begins, copy with barriers, flush,
//! prove if asked, give the target its name, and only then record that the pass is complete.

use super::context::Context;
use super::decide::Start;
use super::ledger::{JobLedger, SharedJournal, append};
use super::open::Opened;
use super::options::CopyOptions;
use super::place::manifest_path;
use super::prove::{Proof, Scope, recorded};
use super::recognize::{recognize, recognize_target};
use super::sectors;
use crate::buffer::Budget;
use crate::endpoint::Identity;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::{Begin, Journal, Manifest, Mark, PassBegin, Record, VERSION, unique_id};
use crate::pipeline::counters::Totals;
use crate::plan::Done;
use crate::report::{Event, Ticker};
use crate::target::Target;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a run achieved.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Bytes by kind.
    pub totals: Totals,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Whether every block was read back from the target and compared.
    pub proven: bool,
    /// Whether the tracker left out a change, so that all was compared.
    pub distrusted: bool,
}

/// A pass that is ready to run.
pub(super) struct Job<'a> {
    pub(super) options: &'a CopyOptions,
    pub(super) context: Context,
    pub(super) opened: Opened,
    pub(super) target: Arc<dyn Target>,
    /// As the journal knows the target.
    pub(super) identity: Identity,
    pub(super) budget: Budget,
    pub(super) start: Start,
    pub(super) number: u32,
    /// A pass was complete before: the target holds a whole disk.
    pub(super) whole: bool,
    /// Somebody else made that, and what some blocks hold is not known.
    pub(super) adopted: bool,
    /// An earlier run of this pass caught its tracker leaving out a change.
    pub(super) distrusted: bool,
    /// Chooses what is looked at in doubt, together with the number of the pass.
    pub(super) seed: u64,
    /// A proof of everything was begun and is not complete.
    pub(super) proving: bool,
    pub(super) journal: Option<SharedJournal>,
    pub(super) began: Instant,
}

impl Job<'_> {
    /// Runs the pass.
    ///
    /// # Errors
    /// As for [`copy`](super::copy).
    pub(super) async fn run(mut self) -> Result<Outcome> {
        self.preflight().await?;
        let mut done = self.still_done().await?;
        self.announce(&done);
        if self.start == Start::Finished {
            return self.finished().await;
        }
        let mut ledger = self.record_begin()?.map(|manifest| self.ledger(manifest));
        // Where zeroes are left out, what a probe leaves behind would stay.
        if self.start == Start::Fresh && !self.reads_zero() {
            self.probe().await?;
        }
        if let (true, Some(ledger)) = (self.adopted && self.compares(), ledger.as_mut()) {
            self.context.warn(
                "the target holds a copy of somebody else's: it is read before it is compared",
            );
            self.learn(&mut ledger.manifest).await?;
        }
        if let Some(offset) = self.recognize(ledger.as_ref()).await? {
            self.caught(offset)?;
            (self.distrusted, done) = (true, Done::default());
        }
        let ticker = self.ticker();
        let distrusted = self.copy(done, ledger.as_mut()).await?;
        if let Some(ledger) = &ledger {
            ledger.manifest.marks().sync()?;
        }
        if ledger.is_none() {
            // With one, the pass ended with a barrier, and nothing was written since.
            self.target.flush().await?;
        }
        let proven = self.read_back(ledger.as_ref()).await?;
        if let Some(checked) = &self.opened.checked {
            checked.finish().await?;
        }
        self.target.finalize().await?;
        if let Some(journal) = &self.journal {
            append(
                journal,
                &Record::PassDone {
                    number: self.number,
                    proven,
                    at: now(),
                },
            )?;
        }
        drop(ticker);
        Ok(self.done(proven, distrusted))
    }

    fn ledger(&self, manifest: Manifest) -> JobLedger {
        let reporter = self.context.reporter.clone();
        JobLedger::new(
            manifest,
            self.journal.clone(),
            reporter,
            self.claims_blocks(),
        )
    }

    /// Reads back what is to be; whether all of the target is proven then.
    async fn read_back(&self, ledger: Option<&JobLedger>) -> Result<bool> {
        let Some(ledger) = ledger else {
            return Ok(false);
        };
        if self.wants_proof() {
            self.prove(&ledger.manifest, self.scope()).await?;
            return Ok(true);
        }
        if self.wants_what_it_wrote_compared() {
            self.prove(&ledger.manifest, Scope::Ours).await?;
        }
        Ok(false)
    }

    /// What can be refused before byte 0, once both ends are known.
    async fn preflight(&self) -> Result<()> {
        self.check_proof_is_possible()?;
        if self.start == Start::Fresh && !self.options.allow_sector_mismatch {
            sectors::check(&self.opened.source, &self.target).await?;
        }
        Ok(())
    }

    fn announce(&self, done: &Done) {
        self.context.tell(&Event::Start {
            source: self.opened.source.identity().name,
            target: self.target.identity().name,
            size: self.size(),
            pass: self.options.pass.name(),
            number: self.number,
            resumed: done.bytes(),
        });
        if let Some(served) = self.opened.source.served_by() {
            self.context.tell(&Event::ServedBy(served));
        }
    }

    fn ticker(&self) -> Ticker {
        Ticker::start(
            &self.context.reporter,
            self.context.counters.clone(),
            self.size(),
        )
    }

    /// This very pass completed before: says so, and proves that it still holds.
    async fn finished(&self) -> Result<Outcome> {
        self.context
            .warn("this pass was completed before; the target is compared with its manifest");
        let manifest = self.open_manifest()?;
        let ticker = self.ticker();
        self.prove(&manifest, Scope::All).await?;
        drop(ticker);
        if let Some(journal) = &self.journal {
            // Or the next one would go on with this proof, and find nothing left to read.
            append(journal, &Record::Proven { at: now() })?;
        }
        Ok(self.done(true, false))
    }

    fn done(&self, proven: bool, distrusted: bool) -> Outcome {
        let totals = self.context.counters.snapshot();
        self.context.tell(&Event::Done {
            pass: self.options.pass.name(),
            totals,
            size: self.size(),
            elapsed: self.began.elapsed().as_secs_f64(),
            proven,
        });
        Outcome {
            totals,
            size: self.size(),
            proven,
            distrusted,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.opened.source.size()
    }

    /// Proof is asked for, or this is the final pass.
    pub(super) fn wants_proof(&self) -> bool {
        if self.options.adopt && self.is_delta_on_the_unknown() {
            return false;
        }
        let possible = self.target.can_read_back() && !self.is_delta_on_the_unknown();
        self.options
            .verify
            .unwrap_or(self.options.pass.is_final && possible)
    }

    /// The same, on a target that somebody else copied: what was written onto it is compared, and
    /// nothing is proven by that.
    pub(super) fn wants_what_it_wrote_compared(&self) -> bool {
        let default = self.options.pass.is_final && self.target.can_read_back();
        self.is_delta_on_the_unknown() && self.options.verify.unwrap_or(default)
    }

    /// All of it if a user asks; else what was not proven since it was written.
    fn scope(&self) -> Scope {
        match self.options.verify {
            Some(true) => Scope::All,
            _ => Scope::Unproven,
        }
    }

    /// What blocks must hold that did not change is nowhere.
    fn is_delta_on_the_unknown(&self) -> bool {
        let unknown = self.journal.is_none() || (self.adopted && !self.compares());
        unknown && self.options.pass.changes_since.is_some()
    }

    fn check_proof_is_possible(&self) -> Result<()> {
        let unknown = self.is_delta_on_the_unknown();
        if self.options.verify == Some(true) && unknown && self.options.adopt {
            self.context
                .warn("what somebody else copied is not verified, as it was never compared; what is written now is");
        } else if self.options.verify == Some(true) && unknown {
            let what = "a delta cannot be verified without the journal of all passes before it";
            return Err(Error::new(Kind::Usage, what).hint("leave out --no-journal or --verify"));
        }
        if self.options.distrust_ppm > 0 && self.is_delta_on_the_unknown() {
            let what = "without the journal of the passes before, a tracker cannot be doubted";
            return Err(
                Error::new(Kind::Usage, what).hint("leave out --no-journal or --distrust-tracking")
            );
        }
        if self.options.verify == Some(true) && !self.target.can_read_back() {
            let what = "this target cannot be read back, so nothing can be verified";
            return Err(Error::new(Kind::Usage, what).hint("leave out --verify"));
        }
        Ok(())
    }

    /// Records that the pass begins, and opens or creates its manifest. `None`: nothing wants one.
    fn record_begin(&self) -> Result<Option<Manifest>> {
        let Some(journal) = self.journal.clone() else {
            let wanted = self.wants_proof();
            let create = || Manifest::temporary(self.options.digest, self.size());
            return wanted.then(create).transpose();
        };
        let manifest = match &self.start {
            Start::Fresh => self.begin_journal(&journal)?,
            Start::Adopt => self.adopt(&journal)?,
            _ => self.open_manifest()?,
        };
        if !matches!(self.start, Start::Resume { .. }) {
            append(&journal, &Record::Pass(self.pass_begin()))?;
        }
        Ok(Some(manifest))
    }

    fn pass_begin(&self) -> PassBegin {
        PassBegin {
            number: self.number,
            pass: self.options.pass.name().to_owned(),
            since: self.options.pass.since(),
            source: self.opened.source.identity(),
            at: now(),
        }
    }

    fn begin_journal(&self, journal: &SharedJournal) -> Result<Manifest> {
        let id = unique_id();
        let path = self.manifest_path(journal);
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        // A journal that was begun and never got to its first pass begins again.
        journal.clear()?;
        let manifest = Manifest::create(&path, &id, self.options.digest, self.size())?;
        journal.append(&Record::Begin(Begin {
            version: VERSION,
            id,
            target: self.identity.clone(),
            size: self.size(),
            digest: self.options.digest,
        }))?;
        Ok(manifest)
    }

    /// Begins the journal of a target that somebody else copied to. That nothing of it is known is
    /// durable before it counts as whole.
    fn adopt(&self, journal: &SharedJournal) -> Result<Manifest> {
        let marks = self.begin_journal(journal)?.marks();
        marks.put(ByteRange::new(0, self.size()), Mark::Unsure)?;
        marks.sync()?;
        append(journal, &Record::Adopted { at: now() })?;
        // Opened anew: one that was just made takes what nobody recorded for zeroes.
        self.open_manifest()
    }

    pub(super) fn open_manifest(&self) -> Result<Manifest> {
        let missing = || {
            Error::new(
                Kind::Usage,
                "there is no journal, so nothing to compare with",
            )
        };
        let journal = self.journal.as_ref().ok_or_else(missing)?;
        open_manifest(&journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn manifest_path(&self, journal: &SharedJournal) -> PathBuf {
        manifest_path(
            journal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .path(),
        )
    }

    /// Measures what zeroes the target, while all of it is still to be written.
    async fn probe(&self) -> Result<()> {
        let Some(report) = self.target.probe(ByteRange::new(0, self.size())).await? else {
            return Ok(());
        };
        self.context.tell(&Event::Probe {
            report: report.clone(),
        });
        match &self.journal {
            Some(journal) => append(journal, &Record::Probe { report }),
            None => Ok(()),
        }
    }

    /// Before a delta: are these the disks of the pass before it?
    ///
    /// Gives where the tracker left out a change, if it is doubted and did.
    async fn recognize(&self, ledger: Option<&JobLedger>) -> Result<Option<u64>> {
        let (Some(ledger), Some(_)) = (ledger, &self.journal) else {
            return Ok(None);
        };
        let view = ledger.manifest.view();
        if self.whole {
            recognize_target(&self.target, &view, self.size(), &self.budget).await?;
        }
        let doubted = self.options.distrust_ppm > 0 || self.context.steered;
        match &self.opened.tracker {
            Some(tracker) if !self.distrusted => {
                let source = &self.opened.source;
                recognize(source, tracker, &view, &self.budget, doubted).await
            }
            _ => Ok(None),
        }
    }

    /// Reads back what `scope` says and compares it.
    async fn prove(&self, manifest: &Manifest, scope: Scope) -> Result<()> {
        let proof = Proof {
            target: &self.target,
            manifest,
            scope,
            size: self.size(),
            budget: &self.budget,
            counters: &self.context.counters,
            requests: self.options.tuning.requests.min(16),
            rates: self.context.rates(&self.options.tuning),
            team: self.context.shared.team.clone(),
        };
        if scope == Scope::All && !self.proving {
            proof.forget()?;
            if let Some(journal) = &self.journal {
                append(journal, &Record::Prove { at: now() })?;
            }
        }
        self.context.tell(&Event::Verify {
            bytes: proof.left()?,
        });
        let proof = proof.run(self.context.stop.clone()).await;
        recorded(proof, &self.context, |record| match &self.journal {
            Some(journal) => append(journal, record),
            None => Ok(()),
        })
    }
}

/// The manifest that belongs to a journal that has begun.
///
/// # Errors
/// There is none, or it is damaged.
pub(super) fn open_manifest(journal: &Journal) -> Result<Manifest> {
    let path = manifest_path(journal.path());
    match &journal.history().begin {
        Some(begin) => Manifest::open(&path, &begin.id, begin.digest, begin.size),
        None => Err(Error::new(
            Kind::Refused,
            "nothing was copied yet by this journal",
        )),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
