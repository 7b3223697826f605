//! What the target is known to hold, for a pass that writes only what differs.

use crate::digest::Digest;
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::fmt;

/// What the target is known to hold, and who must hear of it before that changes.
///
/// # Contract
///
/// * [`digests`](Self::digests) has one answer for each block that the range touches. `Some` is a
///   promise: the target holds this for good, and nothing was written there since that was so.
/// * Before anything is written to a block, [`claim`](Self::claim) for it has returned. From then
///   on, also after a crash, the block is not known until a barrier has recorded it.
#[async_trait]
pub trait Known: fmt::Debug + Send + Sync {
    /// The digest of each block that `range` touches; `None` where the target may hold anything.
    ///
    /// # Errors
    /// The record cannot be read.
    fn digests(&self, range: ByteRange) -> Result<Vec<Option<Digest>>>;

    /// What `ranges` hold is about to change. Durable when it returns.
    ///
    /// # Errors
    /// That could not be made durable: nothing may be written there.
    async fn claim(&self, ranges: &[ByteRange]) -> Result<()>;
}
