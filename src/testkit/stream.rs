//! Bytes in memory that come once, in order.

use crate::buffer::Buffer;
use crate::error::Result;
use crate::source::stream::ByteStream;
use async_trait::async_trait;
use bytes::Bytes;

/// A stream of bytes in memory.
#[derive(Debug)]
pub struct MemStream(Bytes);

impl MemStream {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

#[async_trait]
impl ByteStream for MemStream {
    fn name(&self) -> &str {
        "memory"
    }

    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        let bytes = self.0.split_to(self.0.len().min(buffer.len()));
        buffer.truncate(bytes.len());
        buffer.copy_from_slice(&bytes);
        Ok((!buffer.is_empty()).then_some(buffer))
    }
}
