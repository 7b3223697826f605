//! Records the progress of a pass in its journal and manifest.

use crate::digest::{Algorithm, Digest};
use crate::error::Result;
use crate::extent::ByteRange;
use crate::journal::{Journal, Manifest, Record};
use crate::pipeline::{Commit, Ledger};
use crate::plan::Done;
use std::sync::{Arc, Mutex, PoisonError};

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
#[derive(Debug)]
pub(super) struct JobLedger {
    pub(super) manifest: Manifest,
    pub(super) journal: Option<SharedJournal>,
}

impl Ledger for JobLedger {
    fn algorithm(&self) -> Algorithm {
        self.manifest.algorithm()
    }

    fn copied(&mut self, offset: u64, digests: &[Digest]) -> Result<()> {
        self.manifest.record(offset, digests)
    }

    fn zeroed(&mut self, range: ByteRange) -> Result<()> {
        self.manifest.zero(range)
    }

    fn is_full(&self) -> bool {
        self.manifest.pending() > PAGES_MAX
    }

    fn checkpoint(&mut self, done: Done) -> Commit {
        let digests = self.manifest.checkpoint();
        let journal = self.journal.clone();
        Box::new(move || {
            digests.write()?;
            match journal {
                Some(journal) => append(&journal, &Record::Barrier { done }),
                None => Ok(()),
            }
        })
    }
}
