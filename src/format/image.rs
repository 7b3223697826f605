//! What an image answers: where the bytes of a guest range are.

use super::{Facts, Packed, Storage};
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

/// Parts that one answer of [`Image::map`] holds at most, so that no answer grows with the disk.
pub const PARTS_MAX: usize = 1024;

/// A disk image that is open: a map from guest bytes to where they are.
///
/// # Contract
///
/// * [`map`](Self::map) answers at least the first byte of the range asked for and at most all of
///   it, in order, without gaps or empty parts, in about [`PARTS_MAX`] parts at most.
/// * It looks tables up window by window; what it costs depends on the range, not on the disk.
/// * Raw bytes and packed runs lie inside their storage, as its size was when it was opened.
/// * Bytes that no layer of a chain holds are zero: nothing is left unsaid.
///
/// `testkit::check_image` tests each of these.
#[async_trait]
pub trait Image: fmt::Debug + Send + Sync {
    /// Size of the guest's disk in bytes.
    fn size(&self) -> u64;

    /// Unit in which the image is laid out, in bytes: requests of whole units are fastest.
    fn unit(&self) -> u64;

    /// What the image says of itself, for people.
    fn facts(&self) -> Facts;

    /// Where a prefix of `range` is. The range is not empty and lies on the disk.
    ///
    /// # Errors
    /// The tables cannot be read, or break the rules of the format.
    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>>;
}

/// A guest range, and where its bytes are.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// Guest bytes.
    pub range: ByteRange,
    /// Where they are.
    pub to: To,
}

/// Where bytes are.
#[derive(Clone, Debug)]
pub enum To {
    /// Nowhere: they are zero.
    Zero,
    /// In a storage, as they are, beginning at `offset`.
    Raw {
        /// What holds them.
        storage: Arc<dyn Storage>,
        /// Offset of the first one.
        offset: u64,
    },
    /// In a compressed run; the first one lies `skip` bytes into what is unpacked.
    Packed {
        /// The run.
        run: Packed,
        /// Unpacked bytes before the range.
        skip: u64,
    },
}

impl To {
    /// What is `bytes` further on.
    #[must_use]
    pub fn after(&self, bytes: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Raw { storage, offset } => Self::Raw {
                storage: Arc::clone(storage),
                offset: offset.saturating_add(bytes),
            },
            Self::Packed { run, skip } => Self::Packed {
                run: run.clone(),
                skip: skip.saturating_add(bytes),
            },
        }
    }

    /// Whether `next`, `bytes` after the start of this, only continues it.
    pub(super) fn continues(&self, bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Zero, Self::Zero) => true,
            (
                Self::Raw { storage, offset },
                Self::Raw {
                    storage: other,
                    offset: then,
                },
            ) => Arc::ptr_eq(storage, other) && offset.checked_add(bytes) == Some(*then),
            _ => false,
        }
    }
}

impl Mapped {
    /// The part of this that lies in `window`.
    #[must_use]
    pub fn within(&self, window: ByteRange) -> Self {
        let range = self.range.intersect(window);
        let skipped = range.start.saturating_sub(self.range.start);
        Self {
            range,
            to: self.to.after(skipped),
        }
    }
}

/// Appends `next` to `list`, merging it with the last part if it only continues that.
pub fn push_mapped(list: &mut Vec<Mapped>, next: Mapped) {
    if next.range.is_empty() {
        return;
    }
    if let Some(last) = list.last_mut()
        && last.range.end == next.range.start
        && last.to.continues(last.range.len(), &next.to)
    {
        last.range.end = next.range.end;
        return;
    }
    list.push(next);
}
