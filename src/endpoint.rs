//! What sources and targets have in common: request limits, identity, how soon they answer.

use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one request to an endpoint may look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Offset and length of a request are multiples of this, in bytes. A power of two.
    pub align: u32,
    /// The length that the endpoint likes best, in bytes. A multiple of `align`.
    pub preferred: u32,
    /// The longest request with data, in bytes. A multiple of `align`.
    pub max: u32,
    /// Requests that can usefully be under way at once.
    pub in_flight: usize,
}

impl Limits {
    /// Anything goes.
    pub const NONE: Self = Self {
        align: 1,
        preferred: 256 << 10,
        max: 32 << 20,
        in_flight: 64,
    };
}

/// Which disk an endpoint is. Two endpoints of one disk have equal `id` and `size`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Survives a reboot and a new process: a WWID, an export's address, a path with its inode.
    pub id: String,
    /// Size in bytes; zero if there is none.
    pub size: u64,
    /// How people know it.
    pub name: String,
}

/// What serves a disk, where somebody wants to know: software on another machine.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ServedBy {
    /// Version of the software; empty if it did not say.
    pub version: String,
    /// Host that has the disk open; empty if it did not say.
    pub host: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// How soon an endpoint answers: the quickest of its answers, since a line before it only adds to that.
/// Told and asked by many at once.
#[derive(Debug)]
pub struct Quickest {
    /// Answers before anything is said: the first ones tell of caches that are cold.
    first: u64,
    answers: AtomicU64,
    micros: AtomicU64,
}

impl Quickest {
    /// Of nothing yet; known after `first` answers.
    #[must_use]
    pub fn after(first: u64) -> Self {
        Self {
            first,
            answers: AtomicU64::new(0),
            micros: AtomicU64::new(u64::MAX),
        }
    }

    /// It answered after `time`.
    pub fn answered_in(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_min(micros, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The time of the quickest answer, once there were enough of them.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        let known = self.answers.load(Ordering::Relaxed) >= self.first;
        known.then(|| Duration::from_micros(self.micros.load(Ordering::Relaxed)))
    }
}

/// Checks that `range` lies on a disk of `size` bytes; `doing` and `name` are for the message.
///
/// # Errors
/// It does not. Neither a source nor a target makes up bytes past its end.
pub fn check_bounds(doing: &str, name: &str, range: ByteRange, size: u64) -> Result<()> {
    if range.end <= size {
        return Ok(());
    }
    let why = format!("{doing} {name}: {range} is past its end, {size:#x}");
    Err(Error::new(Kind::Io, why).at(range.start))
}
