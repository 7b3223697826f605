//! Records the progress of a pass in its journal and manifest.

use crate::digest::{Algorithm, BLOCK, Digest};
use crate::error::Result;
use crate::extent::{ByteRange, RangeSet};
use crate::journal::{Journal, Manifest, Mark, Record};
use crate::pipeline::{Commit, Ledger};
use crate::plan::Done;
use crate::report::{Event, Reporter};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A checkpoint comes early when so many manifest pages of 4 KiB wait for it: a scattered delta
/// touches a page for each change.
const PAGES_MAX: usize = 2048;

/// The journal, shared with the thread that appends to it.
pub(super) type SharedJournal = Arc<Mutex<Journal>>;

/// Appends one record.
pub(super) fn append(journal: &SharedJournal, record: &Record) -> Result<()> {
    journal
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .append(record)
}

/// A manifest, and the journal it belongs to if there is one.
pub(super) struct JobLedger {
    pub(super) manifest: Manifest,
    pub(super) journal: Option<SharedJournal>,
    /// Told what is durable and recorded.
    reporter: Arc<dyn Reporter>,
    /// What is written was claimed before, and is known again after the next barrier.
    pub(super) claimed: bool,
    /// Written since the last barrier; kept only of what was claimed.
    written: RangeSet,
}

impl JobLedger {
    pub(super) fn new(
        manifest: Manifest,
        journal: Option<SharedJournal>,
        reporter: Arc<dyn Reporter>,
        claimed: bool,
    ) -> Self {
        Self {
            manifest,
            journal,
            reporter,
            claimed,
            written: RangeSet::default(),
        }
    }

    fn wrote(&mut self, range: ByteRange) {
        if self.claimed {
            self.written.insert(range);
        }
    }
}

impl Ledger for JobLedger {
    fn algorithm(&self) -> Algorithm {
        self.manifest.algorithm()
    }

    fn copied(&mut self, offset: u64, digests: &[Digest]) -> Result<()> {
        let blocks = u64::try_from(digests.len()).unwrap_or(u64::MAX);
        self.wrote(ByteRange::at(offset, blocks.saturating_mul(BLOCK)));
        self.manifest.record(offset, digests)
    }

    fn zeroed(&mut self, range: ByteRange) -> Result<()> {
        self.wrote(range);
        self.manifest.zero(range)
    }

    fn is_full(&self) -> bool {
        self.manifest.pending() > PAGES_MAX
    }

    fn checkpoint(&mut self, done: Done) -> Commit {
        let digests = self.manifest.checkpoint();
        let (marks, written) = (self.manifest.marks(), mem::take(&mut self.written));
        let (journal, reporter) = (self.journal.clone(), self.reporter.clone());
        let began = Instant::now();
        Box::new(move || {
            // Between the two, the target was flushed.
            let flush = began.elapsed().as_secs_f64();
            digests.write()?;
            // Only now: a mark says that the digest in the file is right. It need not be durable
            // before the record; a mark that is lost makes a block less known than it is.
            for range in written.iter() {
                marks.put(range, Mark::Known)?;
            }
            if let Some(journal) = journal {
                let position = done.below;
                append(&journal, &Record::Barrier { done })?;
                reporter.event(&Event::Barrier { position, flush });
            }
            Ok(())
        })
    }
}
