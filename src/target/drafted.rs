//! Images whose data go where they belong as they come: what a request must be and what its errors say
//! is the same for all of them, and so is the order in which one is completed.

use super::draft::{Draft, limits};
use super::{Target, Untouched, Zeroing};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::io;

/// An image that grows in a [`Draft`] and is a [`Target`] by that. Ranges that it is asked for are
/// checked: they lie on the disk and are aligned.
pub(super) trait Drafted: fmt::Debug + Send + Sync {
    /// Where it grows.
    fn draft(&self) -> &Draft;

    /// Requests begin and end with multiples of so many bytes, or with the disk.
    fn align(&self) -> u32 {
        self.draft().queue().disk().align()
    }

    /// Writes `data`, which fill `range`.
    fn store(&self, range: ByteRange, data: Bytes) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes `range` read as zeroes.
    fn clear(
        &self,
        range: ByteRange,
        zeroing: Zeroing,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Fills `buffer` with what is stored in `range`, past the page cache.
    fn load(&self, range: ByteRange, buffer: Buffer)
    -> impl Future<Output = Result<Buffer>> + Send;

    /// Writes what makes an image of the data, and makes all of it durable. Called once, last.
    fn complete(&self) -> impl Future<Output = Result<()>> + Send;
}

#[async_trait]
impl<I: Drafted> Target for I {
    fn capacity(&self) -> Option<u64> {
        Some(self.draft().size())
    }

    fn limits(&self) -> Limits {
        limits(self.align())
    }

    fn identity(&self) -> Identity {
        self.draft().identity()
    }

    fn untouched(&self) -> Untouched {
        Untouched::Zero
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        self.draft().cut("write", range, self.align())?;
        let stored = self.store(range, data).await;
        stored.map_err(|error| self.draft().failed("write", offset, error))
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        self.draft().cut("zero", range, self.align())?;
        let cleared = self.clear(range, zeroing).await;
        cleared.map_err(|error| self.draft().failed("zero", range.start, error))
    }

    /// Of the data; what leads to them is durable when the image is complete, and worth nothing before.
    async fn flush(&self) -> Result<()> {
        self.draft().flush().await
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        self.draft().bounds("read back", range)?;
        self.load(range, buffer).await
    }

    async fn finalize(&self) -> Result<()> {
        self.complete().await?;
        self.draft().give_name().await
    }
}
