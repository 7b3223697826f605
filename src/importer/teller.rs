//! What the engine tells, in the words that people look for in the logs of importers.

use super::log;
use crate::endpoint::ServedBy;
use crate::report::{Event, Reporter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Hears what the engine tells, and logs it.
#[derive(Default)]
pub(super) struct Teller {
    served: Mutex<ServedBy>,
    percent: Mutex<u64>,
    unpacks: AtomicBool,
}

impl Teller {
    /// What served the disk, as far as it was told.
    pub(super) fn served(&self) -> ServedBy {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.clone()
    }

    /// Whether an image was begun to be unpacked.
    pub(super) fn unpacks(&self) -> bool {
        self.unpacks.load(Ordering::Relaxed)
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
                self.unpacks.store(true, Ordering::Relaxed);
                log(&format!("Unpacking {source} into {scratch}"));
            }
            Event::Warning { message } => log(message),
            _ => {}
        }
    }
}
