//! A stream whose bytes are counted as they are sent, for whoever shows how far it is.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::error::Result;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much came of what comes in order, packed as it is, and how much there is of it. Clones count
/// together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    came: Arc<AtomicU64>,
    coming: Arc<AtomicU64>,
}

impl Tally {
    /// Bytes that came, of the attempt that came furthest: it never falls.
    #[must_use]
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Bytes that there are; 0 while nobody says.
    #[must_use]
    pub fn coming(&self) -> u64 {
        self.coming.load(Ordering::Relaxed)
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub struct Counted {
    stream: Box<dyn ByteStream>,
    tally: Tally,
    came: u64,
}

impl Counted {
    /// Counts `stream`, which has `size` bytes if anybody says, after `before` bytes of others.
    #[must_use]
    pub fn new(stream: Box<dyn ByteStream>, size: Option<u64>, tally: &Tally, before: u64) -> Self {
        let coming = size.map_or(0, |size| before.saturating_add(size));
        tally.coming.store(coming, Ordering::Relaxed);
        Self {
            stream,
            tally: tally.clone(),
            came: before,
        }
    }
}

#[async_trait]
impl ByteStream for Counted {
    fn name(&self) -> &str {
        self.stream.name()
    }

    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>> {
        let next = self.stream.next(buffer).await?;
        let len = next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.came = self.came.saturating_add(len);
        self.tally.came.fetch_max(self.came, Ordering::Relaxed);
        Ok(next)
    }
}
