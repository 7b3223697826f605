//! What really zeroes a block device: pattern written, method applied, read back, measured.
//!
//! Guarantee 3, "zero is proven, never assumed", rests on this. The probe destroys what it is
//! pointed at, so it is pointed only at a range that is about to be zeroed or overwritten anyway.

use super::zeroing::{Method, is_refusal};
use crate::buffer::Buffer;
use crate::digest::is_zero;
use crate::extent::ByteRange;
use crate::sys::disk::Disk;
use crate::sys::{blockdev, sysfs};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Instant;

/// Bytes that a probe needs, and the alignment that it wants: common thin-provisioning grains.
pub const SCRATCH: u64 = 1 << 20;

/// What was found out about one method.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MethodReport {
    /// Which.
    pub method: Method,
    /// The device took it.
    pub supported: bool,
    /// What held a pattern before reads as zeroes after.
    pub reads_back_zero: bool,
    /// Time that it took for [`SCRATCH`] bytes, in microseconds.
    pub microseconds: u64,
}

/// What was found out about a device. Kept in the journal: a resumed job does not probe again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Smallest request, in bytes.
    pub logical_block: u32,
    /// Smallest request without a read, in bytes.
    pub physical_block: u32,
    /// Longest discard that the kernel sends, in bytes; zero if none.
    pub discard_max_bytes: Option<u64>,
    /// Longest write-zeroes that the kernel sends, in bytes; zero if none.
    pub write_zeroes_max_bytes: Option<u64>,
    /// Each method that was tried.
    pub methods: Vec<MethodReport>,
}

impl ProbeReport {
    /// Whether `method` was tried and gave no zeroes.
    #[must_use]
    pub fn disproves(&self, method: Method) -> bool {
        self.methods
            .iter()
            .any(|found| found.method == method && !found.reads_back_zero)
    }

    /// Whether `method` was seen to give zeroes.
    #[must_use]
    pub fn proves(&self, method: Method) -> bool {
        self.methods
            .iter()
            .any(|found| found.method == method && found.supported && found.reads_back_zero)
    }
}

/// The part of `range` that a probe may use: aligned, [`SCRATCH`] long; `None` if none fits.
#[must_use]
pub fn scratch_in(range: ByteRange) -> Option<ByteRange> {
    let (scratch, _) = range.align_in(SCRATCH).split(SCRATCH);
    (scratch.len() == SCRATCH).then_some(scratch)
}

/// Whether `method` is worth a try after what was `found`.
///
/// A request that a device refuses can make the kernel give up on that kind of request for good,
/// also where it worked before: a loop device over tmpfs that is asked for `ZERO_RANGE` loses
/// `PUNCH_HOLE`. So where a hole is proven, nothing that is like it is tried.
fn is_needed(method: Method, found: &[MethodReport]) -> bool {
    let hole = found
        .iter()
        .any(|tried| tried.method == Method::PunchHole && tried.reads_back_zero);
    !hole || method == Method::Discard
}

/// Tries the methods on `scratch`. Blocks. What `scratch` holds afterwards is unspecified.
///
/// # Errors
/// The pattern cannot be written or read back. A method that fails is a finding, not an error.
pub fn probe(disk: &Disk, scratch: ByteRange) -> io::Result<ProbeReport> {
    let device = sysfs::Device::of(disk.stat().st_rdev);
    let mut methods = Vec::new();
    for method in Method::ALL {
        if is_needed(method, &methods) {
            methods.push(try_method(disk, scratch, method)?);
        }
    }
    Ok(ProbeReport {
        logical_block: blockdev::logical_block(disk.fd())?,
        physical_block: blockdev::physical_block(disk.fd())?,
        discard_max_bytes: device.queue_limit("discard_max_bytes"),
        write_zeroes_max_bytes: device.queue_limit("write_zeroes_max_bytes"),
        methods,
    })
}

fn try_method(disk: &Disk, scratch: ByteRange, method: Method) -> io::Result<MethodReport> {
    let len = usize::try_from(scratch.len()).unwrap_or(0);
    let mut bytes = Buffer::unbudgeted(len);
    bytes.fill(0xa5);
    disk.write(scratch.start, &bytes)?;
    let begun = Instant::now();
    let applied = method.apply(disk, scratch);
    let took = begun.elapsed();
    if let Err(error) = &applied {
        tracing::debug!(%method, %error, refused = is_refusal(error), "the probe found no support");
    }
    disk.evict()?;
    let count = disk.read(scratch.start, &mut bytes)?;
    Ok(MethodReport {
        method,
        supported: applied.is_ok(),
        reads_back_zero: applied.is_ok() && count == len && is_zero(&bytes),
        microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::{SCRATCH, scratch_in};
    use crate::extent::ByteRange;

    #[test]
    fn the_scratch_lies_inside_what_may_be_destroyed() {
        assert_eq!(scratch_in(ByteRange::at(1, SCRATCH)), None);
        assert_eq!(scratch_in(ByteRange::new(0, SCRATCH - 1)), None);
        let range = ByteRange::new(5, 3 * SCRATCH);
        let scratch = scratch_in(range).unwrap();
        assert!(range.covers(scratch) && scratch.start.is_multiple_of(SCRATCH));
    }
}
