//! What a user can ask of a copy, checked and with defaults. No I/O.

use crate::address::Address;
pub use crate::changes::Baseline;
use crate::digest::Algorithm;
pub use crate::source::image::Reading;
pub use crate::target::qcow2::Compression;
use std::path::PathBuf;
use std::time::Duration;

/// A copy of one disk: one pass.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Where the disk is now.
    pub source: Address,
    /// How it is read, if it is an image.
    pub reading: Reading,
    /// Where it goes.
    pub target: Address,
    /// What the target will be like, if it is an image.
    pub making: Making,
    /// Which part of the disk, and what it proves.
    pub pass: Pass,
    /// Where the record of what is done lives.
    pub journal: JournalPlace,
    /// Forget an earlier run of this copy and begin again.
    pub restart: bool,
    /// Write over a target that holds something else.
    pub overwrite: bool,
    /// The target may hold an older copy of the disk that somebody else made: a delta without a
    /// pass before it builds on that, and what is not compared with the source is not proven.
    pub adopt: bool,
    /// The target's sectors may differ from those that the source's partition table counts in.
    pub allow_sector_mismatch: bool,
    /// Read the target back and compare at the end. A final pass always does, unless told not to.
    pub verify: Option<bool>,
    /// How many of a million blocks that a tracker calls unchanged are compared all the same.
    pub distrust_ppm: u32,
    /// How blocks are digested.
    pub digest: Algorithm,
    /// Speed and memory.
    pub tuning: Tuning,
    /// Zeroes: what is detected, what is assumed.
    pub zeroes: Zeroes,
}

/// What a target will be like.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Making {
    /// Its format.
    pub format: ImageFormat,
    /// How its clusters are compressed.
    pub compression: Option<Compression>,
    /// Bytes of a cluster, if not what is usual.
    pub cluster: Option<u64>,
    /// Give every cluster its place from the start.
    pub preallocate: bool,
    /// Write into the raw file that is there; make none.
    pub existing: bool,
}

/// Formats that are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ImageFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// A new qcow2 image.
    Qcow2,
    /// A new stream-optimized VMDK.
    Vmdk,
    /// A new dynamic VHDX.
    Vhdx,
    /// A new fixed VHD.
    Vhd,
}

/// Which pass over the disk this is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pass {
    /// Copy only what changed since this baseline.
    pub changes_since: Option<Baseline>,
    /// The source is quiet: this is the last pass.
    pub is_final: bool,
}

impl Pass {
    /// `full`, `delta` or `final`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (self.is_final, &self.changes_since) {
            (true, _) => "final",
            (false, Some(_)) => "delta",
            (false, None) => "full",
        }
    }

    /// The baseline, as a user writes it.
    #[must_use]
    pub fn since(&self) -> Option<String> {
        self.changes_since.as_ref().map(ToString::to_string)
    }
}

/// Where the journal lives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum JournalPlace {
    /// Beside a file target; for a device or an export under the user's state directory; none for a
    /// stream, or for a server that is started for this copy.
    #[default]
    Default,
    /// At this path.
    Path(PathBuf),
    /// In memory only: nothing can be resumed.
    None,
}

/// Speed and memory, with defaults for a pod of 2 cores and 600 MB.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Bytes of buffers.
    pub memory: u64,
    /// NBD connections; `None` is what suits the address: one to a unix socket, where more only
    /// make the server switch between threads, and four over TCP, where each is a stream.
    pub connections: Option<usize>,
    /// Never more than these, whatever suits.
    pub connections_at_most: Option<usize>,
    /// Use several connections although the server does not advertise it (a read-only snapshot).
    pub force_connections: bool,
    /// Requests in flight.
    pub requests: usize,
    /// Bytes of one request; `None` adapts it.
    pub request_size: Option<u32>,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// How long a source or target that fails for a moment is retried.
    pub retry: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            connections: None,
            connections_at_most: None,
            force_connections: false,
            requests: 64,
            request_size: None,
            rate: None,
            retry: Duration::from_mins(1),
        }
    }
}

/// What is done about zeroes.
#[derive(Clone, Debug)]
pub struct Zeroes {
    /// Runs of zeroes of this many bytes in data are not written as data; 0 detects none.
    pub sparse: u32,
    /// Keep zeroed space allocated on the target.
    pub allocated: bool,
    /// The user promises that the target reads as zero.
    pub target_is_zero: bool,
    /// Ask the source what is zero before reading.
    pub extents: bool,
}

impl Default for Zeroes {
    fn default() -> Self {
        Self {
            sparse: 4096,
            allocated: false,
            target_is_zero: false,
            extents: true,
        }
    }
}
