//! What happens in a job, as values: rendered for people or as one JSON object per line.

use crate::pipeline::counters::Totals;
use serde::Serialize;

/// Something that happened. Documented field by field in `docs/events.md`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Both ends are open and every check has passed; nothing has been written yet.
    Start {
        /// The source, as people know it.
        source: String,
        /// The target, as people know it.
        target: String,
        /// Size of the disk in bytes.
        size: u64,
        /// `full`, `delta` or `final`.
        pass: &'static str,
        /// Number of this pass over this target, from 1.
        number: u32,
        /// Bytes that an earlier run of this pass made durable.
        resumed: u64,
    },
    /// What the target really does when it is asked to zero (guarantee 3).
    Probe {
        /// The measurement, as `target::probe` describes it.
        report: serde_json::Value,
    },
    /// How far the pass is. At least once a second, also when nothing moves.
    Progress {
        /// Bytes by kind.
        #[serde(flatten)]
        totals: Totals,
        /// Size of the disk in bytes.
        size: u64,
        /// Seconds since the start of this run.
        elapsed: f64,
        /// Bytes read, or read back to be verified, per second; smoothed over a few seconds.
        throughput: u64,
        /// Seconds until all of the disk is dealt with; null while there is nothing to go by.
        eta: Option<f64>,
    },
    /// Everything up to here is durable and recorded.
    Barrier {
        /// Everything below this offset is done.
        position: u64,
        /// How long the flush took, in seconds.
        flush: f64,
    },
    /// The target is read back and compared with its manifest.
    Verify {
        /// Bytes that will be compared.
        bytes: u64,
    },
    /// Something that the user should know and that did not stop the job.
    Warning {
        /// One line.
        message: String,
    },
    /// The pass is complete and durable. Always the last event of a run that exits 0.
    Done {
        /// `full`, `delta` or `final`.
        pass: &'static str,
        /// Bytes by kind.
        #[serde(flatten)]
        totals: Totals,
        /// Size of the disk in bytes.
        size: u64,
        /// Seconds since the start of this run.
        elapsed: f64,
        /// Whether every block was read back from the target and proven.
        proven: bool,
    },
    /// The run failed. Always the last event of a run that does not exit 0.
    Failed {
        /// The one-line message.
        message: String,
        /// Process exit code.
        code: u8,
    },
}

/// Something that shows or stores events.
pub trait Reporter: Send + Sync {
    /// Takes note of one event.
    fn event(&self, event: &Event);
}
