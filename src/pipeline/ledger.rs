//! Who records what is done.

use crate::digest::{Algorithm, Digest};
use crate::error::Result;
use crate::extent::ByteRange;
use crate::plan::Done;

/// Finishes a barrier: blocks until what was handed over is durable and recorded.
pub type Commit = Box<dyn FnOnce() -> Result<()> + Send>;

/// Records what a pass puts on the target.
///
/// # Contract
///
/// * [`copied`](Self::copied) and [`zeroed`](Self::zeroed) are called once for each range, after
///   the target took it.
/// * [`checkpoint`](Self::checkpoint) is called before the target is flushed, and what it returns
///   is run after that flush succeeded, or dropped if it failed. Only then may the record say so.
pub trait Ledger: Send {
    /// How blocks are to be digested.
    fn algorithm(&self) -> Algorithm;

    /// The target took the blocks from `offset` with these digests.
    ///
    /// # Errors
    /// It cannot be noted; the pass must stop.
    fn copied(&mut self, offset: u64, digests: &[Digest]) -> Result<()>;

    /// The target reads as zero in `range`.
    ///
    /// # Errors
    /// It cannot be noted; the pass must stop.
    fn zeroed(&mut self, range: ByteRange) -> Result<()>;

    /// Whether so much waits for the next checkpoint that it should come early.
    fn is_full(&self) -> bool;

    /// Takes everything noted so far out, to be recorded together with `done`.
    fn checkpoint(&mut self, done: Done) -> Commit;
}
