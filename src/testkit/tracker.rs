//! A tracker in memory that tells what a test noted, and nothing of what it hides.

use crate::changes::{Changes, Tracker};
use crate::error::Result;
use crate::extent::{ByteRange, RangeSet};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError};

/// Tells changes. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct MemTracker(Arc<Mutex<RangeSet>>);

impl MemTracker {
    /// `range` changed.
    pub fn note(&self, range: ByteRange) {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.insert(range);
    }

    /// Never tells that `range` changed, as a tracker that lies.
    pub fn hide(&self, range: ByteRange) {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.remove(range);
    }
}

#[async_trait]
impl Tracker for MemTracker {
    async fn changes(&self, window: ByteRange) -> Result<Changes> {
        let changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Changes {
            known: window,
            changed: changed.within(window).collect(),
        })
    }
}
