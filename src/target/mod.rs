//! Disks that can be written.
//!
//! ```text
//!  block.rs   a block device, past the page cache   probe.rs   what really zeroes it
//!  file.rs    a regular file, whole or not there    nbd.rs     an NBD export
//!  qcow2/     a qcow2 image, whole or not there     vmdk/     a stream-optimized VMDK
//!  vhdx/      a dynamic VHDX                        vhd.rs     a fixed VHD
//!  stdout.rs  a stream, written in order            null.rs    nowhere
//!
//!  draft.rs       an image while it is written      drafted.rs    the frame around most of them
//!  partial.rs     files that get their name when they are whole
//!  turn.rs        writes in the order of the disk
//!  zeroing.rs     ways to zero a range              preflight.rs  may it be written? (pure)
//!  signature.rs   what is on a disk already (pure)    export.rs     a Target served over NBD
//!  partitions.rs  its partition table (pure)        same.rs      is it what is read?
//! ```

pub mod block;
mod draft;
mod drafted;
pub mod export;
pub mod file;
pub mod nbd;
pub mod null;
pub mod preflight;
mod partial;
pub mod partitions;
pub mod probe;
pub mod qcow2;
pub mod same;
pub mod signature;
pub mod stdout;
mod turn;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod zeroing;

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::Result;
use crate::extent::ByteRange;
use crate::sys::disk::Disk;
use crate::sys::queue::Queue;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::io;

/// What becomes of the space under a range that is zeroed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Default)]
pub enum Zeroing {
    /// May be given back: thin stays thin where the target proved that this reads as zero.
    #[default]
    Unmap,
    /// Stays allocated.
    Allocate,
}

/// What a read of bytes that this job has not written gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Untouched {
    /// Zeroes, and this was proven: we created the file, or the whole of it was scanned.
    Zero,
    /// Anything.
    Unknown,
}

/// A disk that can be written.
///
/// # Contract
///
/// * [`write`](Self::write) and [`zero`](Self::zero) do all of what they were asked or fail;
///   nothing outside the range changes. After `zero` succeeds, a read gives zeroes.
/// * Requests are aligned to [`Limits::align`], save for a tail that ends at the end of the disk
///   that is written to it; the target takes care of that tail.
/// * [`flush`](Self::flush) returns only when everything whose write completed *before flush was
///   called* is durable. A failed flush stays failed: later flushes of the same open target fail.
/// * [`read_back`](Self::read_back) reads what the device holds, past any cache that a crash
///   would lose.
/// * A target that cannot be read back may ask for each byte once, and do nothing of a request until
///   all that is before it on the disk is done or under way.
/// * An error is `Transient` only if the same call may succeed when repeated.
///
/// `testkit::check_target` tests each of these, `testkit::check_forward` where nothing can be read
/// back; a test of every implementation calls one of them, or `tests/tidy.rs` complains.
#[async_trait]
pub trait Target: fmt::Debug + Send + Sync {
    /// Bytes that can be written. `None` if there is no limit that is known.
    fn capacity(&self) -> Option<u64>;

    /// What requests may look like.
    fn limits(&self) -> Limits;

    /// Which disk this is, for the journal and for people.
    fn identity(&self) -> Identity;

    /// Bytes of a sector as a guest will see it, where the target has such a thing of its own.
    fn sector(&self) -> Option<u32> {
        None
    }

    /// What a read of bytes that were never written through this target gives.
    fn untouched(&self) -> Untouched {
        Untouched::Unknown
    }

    /// Measures, before anything is written, what the target really does when asked to zero, and
    /// chooses by it (guarantee 3). The result is for the journal and for people.
    ///
    /// The content of `lost` may be destroyed: only a pass that writes all of it calls this.
    ///
    /// # Errors
    /// The target cannot be written or read there.
    async fn probe(&self, lost: ByteRange) -> Result<Option<serde_json::Value>> {
        let _ = lost;
        Ok(None)
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The range is past the end, or the disk cannot be written there.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Makes `range` read as zeroes.
    ///
    /// # Errors
    /// As for `write`; there is no "not supported", the target falls back to writing zeroes.
    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()>;

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// Some write may be lost. Nothing since the last good flush may be relied on.
    async fn flush(&self) -> Result<()>;

    /// Whether [`read_back`](Self::read_back) works. A stream cannot be read back.
    fn can_read_back(&self) -> bool {
        true
    }

    /// Fills `buffer` with what the disk holds at `offset`.
    ///
    /// # Errors
    /// The range is past the end, or the target cannot be read.
    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer>;

    /// Whether `range` is known to take no space and so to read as zeroes, after a flush.
    ///
    /// # Errors
    /// It cannot tell now.
    async fn is_hole(&self, range: ByteRange) -> Result<bool> {
        let _ = range;
        Ok(false)
    }

    /// Little is left to do and nothing comes after it: what is slow to take down may begin to be.
    /// Requests are still served.
    fn ending(&self) {}

    /// Makes the target whole under its final name, after the last flush. Called once, last.
    ///
    /// # Errors
    /// The target is not complete, and must not be taken for it.
    async fn finalize(&self) -> Result<()> {
        Ok(())
    }
}

/// Fills `buffer` with what a local disk holds in `range`, not what the page cache does.
async fn read_back(queue: &Queue, range: ByteRange, buffer: Buffer) -> io::Result<Buffer> {
    let align = u64::from(queue.disk().align());
    let past_the_cache = queue.disk().is_direct() && range.len().is_multiple_of(align);
    if !past_the_cache {
        queue.run(Disk::evict).await?;
    }
    let (buffer, count) = queue.read(range.start, buffer).await?;
    if count < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(buffer)
}
