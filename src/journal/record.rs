//! What is recorded.

use crate::digest::Algorithm;
use crate::endpoint::Identity;
use crate::plan::Done;
use serde::{Deserialize, Serialize};

/// The version of the format that this build writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// First record: what this journal is about. Never changes.
    Begin(Begin),
    /// The target holds an older copy that somebody else made; every block of it is unsure.
    Adopted {
        /// Seconds since 1970, for people.
        at: u64,
    },
    /// A pass starts.
    Pass(PassBegin),
    /// What the target was measured to do when asked to zero, kept because the probe destroys
    /// what it probes and must not run twice.
    Probe {
        /// As `target::probe` describes it.
        report: serde_json::Value,
    },
    /// `done` is on the target for good.
    Barrier {
        /// What this pass has dealt with.
        done: Done,
    },
    /// The tracker of this pass left out a change: all of the disk is compared, from the beginning.
    Distrust {
        /// Where it was found out.
        offset: u64,
    },
    /// Nobody goes on with this target as it is.
    Incomplete {
        /// Why, for people.
        why: String,
        /// Seconds since 1970, for people.
        at: u64,
    },
    /// Everything is to be read back and compared anew; what was proven before counts no more.
    Prove {
        /// Seconds since 1970, for people.
        at: u64,
    },
    /// Every block of the target was read back and compared since it was last written.
    Proven {
        /// Seconds since 1970, for people.
        at: u64,
    },
    /// The target was read back, and some of it is not what it must be. The proof has come to its
    /// end; what it found to be right may change as well.
    Disproven {
        /// Seconds since 1970, for people.
        at: u64,
    },
    /// The pass is complete and durable. The last record of a run that exits 0.
    PassDone {
        /// Number of the pass.
        number: u32,
        /// Whether the target was read back and compared with the manifest.
        proven: bool,
        /// Seconds since 1970, for people.
        at: u64,
    },
}

/// What a journal is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// [`VERSION`].
    pub version: u32,
    /// Binds the manifest to this journal.
    pub id: String,
    /// The disk that is written.
    pub target: Identity,
    /// Size of the source disk in bytes.
    pub size: u64,
    /// How blocks are digested.
    pub digest: Algorithm,
}

/// A pass as it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassBegin {
    /// From 1.
    pub number: u32,
    /// `full`, `delta` or `final`.
    pub pass: String,
    /// What the changes are since, as the user wrote it.
    pub since: Option<String>,
    /// The disk that is read.
    pub source: Identity,
    /// Seconds since 1970, for people.
    pub at: u64,
}
