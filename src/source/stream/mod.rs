//! Disks that come once, in order: from a pipe, out of a compressed file, out of an archive.
//!
//! Not [`Source`](super::Source)s: there is no offset to ask for.
//!
//! ```text
//!  unwrap.rs  what is compressed as a whole, unpacked as it comes
//!  footer.rs  a raw disk that turns out to be a fixed VHD
//!  ova.rs     the disk of an OVA that comes as a stream
//!  layer.rs   the disk in a layer of a container image
//!  tar.rs     a tar file as it comes
//!  ahead.rs   a disk that could be read anywhere, read in order
//!  summed.rs  a stream whose bytes must have a checksum
//!  counted.rs a stream whose bytes are counted as they are sent
//!  inside.rs  what a stream turns out to be
//!  laid.rs    the disk in it, in the order of its bytes
//! ```

mod ahead;
mod counted;
mod footer;
mod inside;
mod laid;
mod layer;
mod ova;
mod summed;
mod tar;
mod unwrap;

pub use ahead::Ahead;
pub(crate) use ahead::take;
pub use counted::{Counted, Tally};
pub use inside::{Belief, Inside, Look, inside, is_wrapped, unpacked};
pub use laid::{Came, Grains, Laid};
pub use layer::LayerFile;
pub use summed::Summed;
pub use unwrap::Unwrap;

use crate::buffer::Buffer;
use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;

/// Bytes that come once, in order, until they end.
///
/// # Contract
///
/// * [`next`](Self::next) fills the buffer, and gives fewer bytes only where the stream ends.
/// * It says that the stream ended only if it ended well: what is cut off is an error.
/// * An error is for good: a stream cannot go back.
#[async_trait]
pub trait ByteStream: fmt::Debug + Send {
    /// How people know it.
    fn name(&self) -> &str;

    /// How many bytes are still to come, if that is known and this is asked before the first ones
    /// are taken.
    fn left(&self) -> Option<u64> {
        None
    }

    /// The next bytes: as many as `buffer` holds, fewer only where the stream ends, `None` after.
    ///
    /// # Errors
    /// The stream cannot be read, or is not what it should be.
    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>>;
}

/// A stream whose first bytes were looked at.
#[derive(Debug)]
struct Peeked {
    /// What was read and not given yet.
    head: Bytes,
    rest: Box<dyn ByteStream>,
}

impl Peeked {
    /// Looks at up to `len` bytes of `stream`.
    async fn new(mut stream: Box<dyn ByteStream>, len: usize) -> Result<Self> {
        let head = stream.next(Buffer::unbudgeted(len)).await?;
        Ok(Self {
            head: head.map(Buffer::freeze).unwrap_or_default(),
            rest: stream,
        })
    }
}

#[async_trait]
impl ByteStream for Peeked {
    fn name(&self) -> &str {
        self.rest.name()
    }

    fn left(&self) -> Option<u64> {
        let head = u64::try_from(self.head.len()).ok()?;
        self.rest.left()?.checked_add(head)
    }

    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        if self.head.is_empty() {
            return self.rest.next(buffer).await;
        }
        let mut filled = take(&mut self.head, &mut buffer, 0);
        let left = buffer.len().saturating_sub(filled);
        let more = match left {
            0 => None,
            left => self.rest.next(Buffer::unbudgeted(left)).await?,
        };
        if let Some(more) = more {
            filled = filled.saturating_add(take(&mut more.freeze(), &mut buffer, filled));
        }
        buffer.truncate(filled);
        Ok(Some(buffer))
    }
}
