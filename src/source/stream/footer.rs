//! A raw disk that turns out to be a fixed VHD: only its last bytes say so.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::format::vhd::{SECTOR, is_fixed};
use async_trait::async_trait;

/// Bytes that are taken for a disk, until they end with the footer of one.
#[derive(Debug)]
pub(super) struct Unfooted {
    stream: Box<dyn ByteStream>,
    /// The last bytes that came, a sector of them at most.
    last: Vec<u8>,
    read: u64,
}

impl Unfooted {
    /// Looks at the end of `stream`.
    pub(super) fn new(stream: Box<dyn ByteStream>) -> Self {
        Self {
            stream,
            last: Vec::new(),
            read: 0,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let sector = usize::try_from(SECTOR).unwrap_or(usize::MAX);
        let new = bytes.get(bytes.len().saturating_sub(sector)..);
        self.last.extend(new.unwrap_or_default());
        let old = self.last.len().saturating_sub(sector);
        self.last.drain(..old);
        self.read = self
            .read
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
}

#[async_trait]
impl ByteStream for Unfooted {
    fn name(&self) -> &str {
        self.stream.name()
    }

    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>> {
        let bytes = self.stream.next(buffer).await?;
        match &bytes {
            Some(bytes) => self.keep(bytes),
            None if is_fixed(&self.last, self.read.saturating_sub(SECTOR)) => {
                let what = format!("{} is a fixed VHD, which only its end tells", self.name());
                let error = Error::new(Kind::Unsupported, what);
                return Err(error.hint("put it into a file first, or add -f raw"));
            }
            None => {}
        }
        Ok(bytes)
    }
}
