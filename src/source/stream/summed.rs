//! A stream whose bytes must have a checksum: it says that it ended only if they do.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::digest::checksum::{Checksum, Summer};
use crate::error::Result;
use async_trait::async_trait;

/// A stream whose bytes are added up as they come.
#[derive(Debug)]
pub struct Summed {
    stream: Box<dyn ByteStream>,
    summer: Summer,
}

impl Summed {
    /// Adds up `stream`, which must come to `checksum`.
    #[must_use]
    pub fn new(stream: Box<dyn ByteStream>, checksum: &Checksum) -> Self {
        Self {
            stream,
            summer: checksum.summer(),
        }
    }
}

#[async_trait]
impl ByteStream for Summed {
    fn name(&self) -> &str {
        self.stream.name()
    }

    fn left(&self) -> Option<u64> {
        self.stream.left()
    }

    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>> {
        let next = self.stream.next(buffer).await?;
        match &next {
            Some(bytes) => self.summer.add(bytes),
            None => self.summer.check(self.stream.name())?,
        }
        Ok(next)
    }
}
