//! Events of one disk among several.

use super::{Event, Reporter};
use std::sync::Arc;

/// Tells events as those of one disk.
pub struct OfDisk {
    disk: String,
    inner: Arc<dyn Reporter>,
}

impl OfDisk {
    /// Tells `inner` that what happens, happens to `disk`.
    #[must_use]
    pub fn new(disk: &str, inner: Arc<dyn Reporter>) -> Self {
        Self {
            disk: disk.to_owned(),
            inner,
        }
    }
}

impl Reporter for OfDisk {
    fn event(&self, event: &Event) {
        self.inner.disk_event(&self.disk, event);
    }
}
