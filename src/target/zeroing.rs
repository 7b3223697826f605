//! Ways to make a range read as zeroes, and how they are used: in steps, the next if one fails.
//!
//! Which ways may be used is decided by who calls; this module knows how. Every way but
//! [`Method::Discard`] is one that the kernel promises to give zeroes (commit 7985090aa020 of Linux
//! says why discard is not: a device may ignore it or any part of it). It is measured by the probe
//! and never used.

use super::Zeroing;
use crate::buffer::Buffer;
use crate::extent::ByteRange;
use crate::sys::blockdev;
use crate::sys::disk::Disk;
use crate::sys::queue::Queue;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A way to make a range read as zeroes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `fallocate(PUNCH_HOLE)`. On a device: write-zeroes that may unmap, never a fallback.
    PunchHole,
    /// `fallocate(ZERO_RANGE)`. On a device: write-zeroes that does not unmap, or zeroes written
    /// by the kernel.
    ZeroRange,
    /// `BLKZEROOUT`: as `ZeroRange`, for kernels before 4.9.
    Zeroout,
    /// `BLKDISCARD`: a hint.
    Discard,
    /// Zeroes written like data.
    Write,
}

impl Method {
    /// All of them, the cheapest first.
    pub const ALL: [Self; 5] = [
        Self::PunchHole,
        Self::ZeroRange,
        Self::Zeroout,
        Self::Discard,
        Self::Write,
    ];

    /// Those for a regular file, in the order in which to try them: a file system keeps its word
    /// about both ways of its own, and what is not known there is written.
    #[must_use]
    pub fn of_file(zeroing: Zeroing) -> [Self; 2] {
        match zeroing {
            Zeroing::Unmap => [Self::PunchHole, Self::Write],
            Zeroing::Allocate => [Self::ZeroRange, Self::Write],
        }
    }

    /// Applies it to `range`. Blocks.
    ///
    /// # Errors
    /// The disk cannot do it ([`is_refusal`] tells) or failed.
    pub fn apply(self, disk: &Disk, range: ByteRange) -> io::Result<()> {
        match self {
            Self::PunchHole => disk.allocate(
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                range,
            ),
            Self::ZeroRange => disk.allocate(
                FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                range,
            ),
            Self::Zeroout => blockdev::zero_out(disk.fd(), range),
            Self::Discard => blockdev::discard(disk.fd(), range),
            Self::Write => write_zeroes(disk, range),
        }
    }

    /// Its bit in a set of methods.
    fn bit(self) -> u8 {
        match self {
            Self::PunchHole => 1,
            Self::ZeroRange => 2,
            Self::Zeroout => 4,
            Self::Discard => 8,
            Self::Write => 16,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PunchHole => "punch-hole",
            Self::ZeroRange => "zero-range",
            Self::Zeroout => "zeroout",
            Self::Discard => "discard",
            Self::Write => "write",
        })
    }
}

/// Whether `error` says that the method is not known there, rather than that the disk is broken.
///
/// EREMOTEIO is what SCSI devices give that announce WRITE SAME and then reject it.
#[must_use]
pub fn is_refusal(error: &io::Error) -> bool {
    let refusals = [
        Errno::OPNOTSUPP,
        Errno::INVAL,
        Errno::NOTTY,
        Errno::NOSYS,
        Errno::REMOTEIO,
    ];
    refusals
        .iter()
        .any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

/// Bytes of zeroes that one write takes.
const PIECE: usize = 1 << 20;

fn write_zeroes(disk: &Disk, range: ByteRange) -> io::Result<()> {
    static ZEROES: OnceLock<Buffer> = OnceLock::new();
    let zeroes = ZEROES.get_or_init(|| Buffer::unbudgeted(PIECE));
    let mut rest = range;
    while !rest.is_empty() {
        let (piece, after) = rest.split(PIECE as u64);
        let len = usize::try_from(piece.len()).unwrap_or(PIECE);
        disk.write(piece.start, zeroes.get(..len).unwrap_or_default())?;
        rest = after;
    }
    Ok(())
}

/// Applies methods to ranges in steps, each short enough that a signal is soon answered.
#[derive(Debug)]
pub(super) struct Zeroer {
    /// Methods that were refused: they are not tried again.
    refused: AtomicU8,
    /// Bytes per step.
    step: AtomicU64,
}

/// Limits of a step, and the time that one should take.
const STEP_MIN: u64 = 4 << 20;
const STEP_MAX: u64 = 1 << 30;
const STEP_TIME: Duration = Duration::from_millis(200);

impl Zeroer {
    pub(super) fn new() -> Self {
        Self {
            refused: AtomicU8::new(0),
            step: AtomicU64::new(32 << 20),
        }
    }

    /// Makes `range` read as zeroes by the first of `methods` that is not refused.
    pub(super) async fn zero(
        &self,
        queue: &Queue,
        range: ByteRange,
        methods: &[Method],
    ) -> io::Result<()> {
        let mut rest = range;
        while !rest.is_empty() {
            let (step, after) = rest.split(self.step.load(Ordering::Relaxed));
            self.one_step(queue, step, methods).await?;
            rest = after;
        }
        Ok(())
    }

    async fn one_step(&self, queue: &Queue, step: ByteRange, methods: &[Method]) -> io::Result<()> {
        let mut last = io::Error::from(Errno::OPNOTSUPP);
        for &method in methods {
            if self.refused.load(Ordering::Relaxed) & method.bit() != 0 {
                continue;
            }
            let begun = Instant::now();
            match queue.run(move |disk| method.apply(disk, step)).await {
                Ok(()) => {
                    self.pace(step.len(), begun.elapsed());
                    return Ok(());
                }
                Err(error) if is_refusal(&error) && method != Method::Write => {
                    tracing::debug!(%method, %error, "refused; the next method from now on");
                    self.refused.fetch_or(method.bit(), Ordering::Relaxed);
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn pace(&self, bytes: u64, took: Duration) {
        let now = self.step.load(Ordering::Relaxed);
        self.step
            .store(next_step(now, bytes, took), Ordering::Relaxed);
    }
}

/// The length of the next step, `bytes` having taken `took`. Stays a multiple of 4 MiB.
fn next_step(now: u64, bytes: u64, took: Duration) -> u64 {
    if took > STEP_TIME.saturating_mul(2) {
        (now / 2).max(STEP_MIN)
    } else if took < STEP_TIME / 2 && bytes >= now {
        now.saturating_mul(2).min(STEP_MAX)
    } else {
        now
    }
}

#[cfg(test)]
mod tests {
    use super::{STEP_MAX, STEP_MIN, next_step};
    use std::time::Duration;

    #[test]
    fn steps_grow_on_a_fast_disk_and_shrink_on_a_slow_one() {
        let mut step = 32 << 20;
        for _ in 0..20 {
            step = next_step(step, step, Duration::from_millis(1));
        }
        assert_eq!(step, STEP_MAX);
        for _ in 0..20 {
            step = next_step(step, step, Duration::from_secs(2));
            assert!(step.is_multiple_of(4096));
        }
        assert_eq!(step, STEP_MIN);
    }

    #[test]
    fn a_small_range_that_was_quick_says_nothing_about_large_ones() {
        let step = 32 << 20;
        assert_eq!(next_step(step, 4096, Duration::ZERO), step);
    }
}
