//! What happens in a job, as values: rendered for people or as one JSON object per line.

use crate::endpoint::ServedBy;
use crate::pipeline::counters::Totals;
use serde::Serialize;

/// Something that happened. Documented field by field in `docs/events.md`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The source must be read here and there and comes only in order: it is unpacked first. Until the
    /// pass starts, progress is that of unpacking.
    Unpack {
        /// The source, as people know it.
        source: String,
        /// The directory that it is unpacked into, without a name.
        scratch: String,
    },
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
    /// What serves the source, if it is software on another machine that tells.
    ServedBy(ServedBy),
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
        /// Seconds until all that this run has to do is done; null while there is nothing to go by.
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
    /// A migration came to another phase.
    Phase {
        /// The VM.
        vm: String,
        /// As in `status`: `full`, `wait`, `delta`, `armed`, `quiesce`, `final`, `verify` and so on.
        phase: String,
        /// The point in time that is worked on.
        point: u32,
        /// Why, where that is not the usual course.
        why: Option<String>,
    },
    /// A pass over all disks of a VM is durable.
    Pass {
        /// The point in time that it copied.
        point: u32,
        /// `full`, `delta` or `final`.
        pass: String,
        /// Bytes that had changed; null if nothing can tell.
        changed: Option<u64>,
        /// Bytes read from the source.
        read: u64,
        /// Seconds that copying took.
        copying: f64,
        /// Bytes that were forecast to have changed.
        expected_bytes: Option<u64>,
        /// Seconds that copying was forecast to take.
        expected_copying: Option<f64>,
    },
    /// What the next pass and an outage would take, told after each pass.
    Forecast {
        /// Bytes of the VM that change per second.
        dirty_rate: Option<u64>,
        /// Bytes per second that passes get through.
        throughput: Option<u64>,
        /// Seconds that the VM would be down if it were cut over now.
        outage: Option<f64>,
        /// Per cent by which that may be wrong.
        margin: Option<u64>,
        /// What would help, if the outage cannot be as short as wanted.
        advice: Option<String>,
    },
    /// What tells a disk's changes cannot be relied on: all of the disk is read and compared instead.
    TrackingLost {
        /// The disk.
        disk: String,
        /// The point in time up to which changes were wanted.
        point: u32,
        /// Why.
        why: String,
        /// For this pass and all later ones; else until a pass of this disk is complete.
        for_good: bool,
    },
    /// A command of the user was run.
    Hook {
        /// Which one: `before-snapshot` and so on.
        hook: String,
        /// Its exit code; null if a signal ended it.
        code: Option<i32>,
        /// How long it took, in seconds.
        elapsed: f64,
        /// The beginning of what it said.
        output: String,
    },
    /// A migration is complete: the source was quiet, and the targets hold it and are durable.
    Migrated {
        /// The VM.
        vm: String,
        /// Where the certificate is.
        certificate: String,
        /// Seconds from a quiet source to the certificate.
        outage: Option<f64>,
        /// Seconds that this was forecast to take.
        expected_outage: Option<f64>,
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

    /// Takes note of an event of one disk among several. Where nobody needs to know of which, it is
    /// an event like any other.
    fn disk_event(&self, _disk: &str, event: &Event) {
        self.event(event);
    }
}
