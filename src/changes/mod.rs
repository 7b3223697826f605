//! What changed since a baseline.
//!
//! ```text
//!  baseline.rs     since when, as a user writes it
//!  nbd_bitmap.rs   someone else prepared a point-in-time export and a bitmap
//!  guest.rs        a running VM: points in time, changes between them, quiet at the end
//!  qmp/            a VM in QEMU: dirty bitmaps and views, over its QMP socket
//!  vsphere/        a VM in vSphere: its changed block tracking, and its snapshots as points
//! ```

mod baseline;
pub mod guest;
pub mod nbd_bitmap;
pub mod qmp;
pub mod vsphere;

pub use baseline::Baseline;

use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::fmt;

/// Something that can answer "what changed since that baseline".
///
/// # Contract
///
/// * [`changes`](Self::changes) tells of at least the first byte of the window and of at most all
///   of it: the ranges it returns lie in [`Changes::known`], in order, without overlap.
/// * A range that changed is never left out. One that did not change may be named.
/// * The answer is about one point in time, for as long as the tracker is open.
#[async_trait]
pub trait Tracker: fmt::Debug + Send + Sync {
    /// What changed in a prefix of `window`, which is not empty.
    ///
    /// # Errors
    /// The tracker cannot tell. The pass must fail: a change that is missed is data that is lost.
    async fn changes(&self, window: ByteRange) -> Result<Changes>;
}

/// An answer of a tracker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// The answer is about this range and says nothing of what follows it.
    pub known: ByteRange,
    /// What changed in it.
    pub changed: Vec<ByteRange>,
}
