//! What the engine tells, in the words that people look for in the logs of importers.

use super::log;
use super::metrics::Gauge;
use crate::endpoint::ServedBy;
use crate::report::{Event, Reporter};
use std::sync::{Arc, Mutex, PoisonError};

/// Hears what the engine tells, and logs it.
pub(super) struct Teller {
    gauge: Arc<Gauge>,
    served: Mutex<ServedBy>,
    percent: Mutex<u64>,
}

impl Teller {
    /// Tells `gauge`, too, what counts as progress.
    pub(super) fn new(gauge: &Arc<Gauge>) -> Self {
        Self {
            gauge: Arc::clone(gauge),
            served: Mutex::default(),
            percent: Mutex::default(),
        }
    }

    /// What served the disk, as far as it was told.
    pub(super) fn served(&self) -> ServedBy {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.clone()
    }
}

impl Reporter for Teller {
    fn event(&self, event: &Event) {
        match event {
            Event::ServedBy(served) => {
                log(&format!("VDDK version in-use: {}", served.version));
                log(&format!("VDDK connected to host: {}", served.host));
                *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served.clone();
            }
            Event::Progress {
                totals,
                size,
                throughput,
                ..
            } => {
                let percent = totals
                    .position
                    .saturating_mul(100)
                    .checked_div(*size)
                    .unwrap_or(0);
                let mut told = self.percent.lock().unwrap_or_else(PoisonError::into_inner);
                if percent > *told {
                    *told = percent;
                    log(&format!(
                        "Transferred {}/{size} bytes ({percent}%) at {throughput} bytes/second overall",
                        totals.position
                    ));
                }
            }
            Event::Unpack { source, scratch } => {
                self.gauge.unpack();
                log(&format!("Unpacking {source} into {scratch}"));
            }
            Event::Warning { message } => log(message),
            _ => {}
        }
    }
}
