//! Disks that can be read.
//!
//! ```text
//!  file.rs    a regular file or block device     nbd.rs    an NBD export
//!  stdin.rs   a stream that is read once         export.rs a Source served over NBD
//!  image/     a disk image over any of these    vddk/     a virtual disk of vSphere
//!  http/      a disk image on a web server   checked.rs bytes that must have a checksum
//!  stream/    what comes once, in order, and what is in it
//!  scratch.rs what comes in order, unpacked so that it can be read anywhere
//!  registry/  a disk in a container image
//!  extents.rs all extents of a range, asked for on and on
//! ```

pub mod checked;
pub mod export;
mod extents;
pub mod file;
pub mod http;
pub mod image;
pub mod nbd;
pub mod registry;
pub mod scratch;
pub mod stdin;
pub mod stream;
pub mod vddk;

pub use extents::all_extents;

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, ServedBy};
use crate::error::Result;
use crate::extent::{ByteRange, Extent};
use crate::format::AtHand;
use async_trait::async_trait;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A disk that can be read.
///
/// All that the engine copies *from* is a `Source`: a local file, an NBD export, an image format
/// laid over either. Methods take `&self` and run many at a time.
///
/// # Contract
///
/// * [`read`](Self::read) fills the whole buffer or fails. There are no short reads, and a range
///   past the end is an error, never zeroes.
/// * [`extents`](Self::extents) answers at least the first byte of the range asked for and at most
///   all of it, in order, without gaps, empty extents or overlap.
/// * [`ExtentKind::Zero`](crate::extent::ExtentKind::Zero) promises that a read gives zeroes. When
///   in doubt, the answer is `Data`.
/// * An error is [`Kind::Transient`](crate::error::Kind::Transient) only if the same call may
///   succeed when repeated, after the source's own retries.
/// * Dropping a future abandons the request; the disk stays usable.
///
/// `testkit::check_source` tests each of these; a test of every implementation calls it, or
/// `tests/tidy.rs` complains.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Size in bytes. Constant for as long as the source is open.
    fn size(&self) -> u64;

    /// What requests may look like.
    fn limits(&self) -> Limits;

    /// Which disk this is, for the journal and for people.
    fn identity(&self) -> Identity;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The range is past the end, or the disk cannot be read there.
    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer>;

    /// What is known of a prefix of `range`, which is not empty and lies on the disk.
    ///
    /// The default says nothing is known, which is always correct and merely slow.
    ///
    /// # Errors
    /// The disk cannot tell now. That only costs speed: the caller may read instead.
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        Ok(vec![Extent::data(range)])
    }

    /// The same bytes for a thread that may block, if one must read them in any case. `None` is
    /// always correct.
    fn at_hand(&self) -> Option<&dyn AtHand> {
        None
    }

    /// As for [`Target::ending`](crate::target::Target::ending).
    fn ending(&self) {}

    /// What serves the disk, if that is worth telling. `None` is always correct.
    fn served_by(&self) -> Option<ServedBy> {
        None
    }
}

/// Opens the regular file or block device at `path`.
///
/// # Errors
/// As for [`FileSource::open`](file::FileSource::open).
pub async fn open_path(path: &Path) -> Result<Arc<dyn Source>> {
    let options = file::FileSourceOptions::default();
    Ok(Arc::new(file::FileSource::open(path, options).await?))
}
