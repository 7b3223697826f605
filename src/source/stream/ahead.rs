//! A disk that could be read anywhere, read in order: several requests ahead of who reads.
//!
//! So what is compressed as a whole has the parallel reads, retries and checks of its source, too.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::source::Source;
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Requests ahead, at most.
const AHEAD: usize = 8;

/// A source, read in order.
#[derive(Debug)]
pub struct Ahead {
    source: Arc<dyn Source>,
    name: String,
    /// Where the next request begins.
    asked: u64,
    /// The first one is what comes next.
    coming: VecDeque<JoinHandle<Result<Buffer>>>,
    rest: Bytes,
}

impl Ahead {
    /// Reads `source` from its start.
    #[must_use]
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self {
            name: source.identity().name,
            source,
            asked: 0,
            coming: VecDeque::new(),
            rest: Bytes::new(),
        }
    }

    /// Asks for what comes next, as far ahead as is useful.
    fn ask(&mut self) {
        let limits = self.source.limits();
        while self.coming.len() < limits.in_flight.min(AHEAD) && self.asked < self.source.size() {
            let left = self.source.size().saturating_sub(self.asked);
            let len = u64::from(limits.preferred).min(left);
            let (source, offset) = (Arc::clone(&self.source), self.asked);
            let buffer = Buffer::unbudgeted(usize::try_from(len).unwrap_or(0));
            let read = async move { source.read(offset, buffer).await };
            self.coming.push_back(tokio::spawn(read));
            self.asked = self.asked.saturating_add(len);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.coming.iter().for_each(JoinHandle::abort);
    }
}

#[async_trait]
impl ByteStream for Ahead {
    fn name(&self) -> &str {
        &self.name
    }

    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        let mut filled = 0usize;
        while filled < buffer.len() {
            self.ask();
            if self.rest.is_empty() {
                let Some(coming) = self.coming.pop_front() else {
                    break;
                };
                let read = coming.await.map_err(|error| {
                    Error::new(Kind::Io, format!("read {}", self.name)).because(error)
                })?;
                self.rest = read?.freeze();
            }
            filled = filled.saturating_add(take(&mut self.rest, &mut buffer, filled));
        }
        buffer.truncate(filled);
        Ok((filled > 0).then_some(buffer))
    }
}

/// Moves bytes from the start of `from` to `to`, from byte `at` on; how many.
pub(crate) fn take(from: &mut Bytes, to: &mut [u8], at: usize) -> usize {
    let room = to.get_mut(at..).unwrap_or_default();
    let count = room.len().min(from.len());
    if let (Some(room), Some(bytes)) = (room.get_mut(..count), from.get(..count)) {
        room.copy_from_slice(bytes);
    }
    from.advance(count);
    count
}

#[cfg(test)]
mod tests {
    use super::{Ahead, ByteStream};
    use crate::buffer::Buffer;
    use crate::endpoint::Limits;
    use crate::testkit::MemSource;
    use std::sync::Arc;

    #[tokio::test]
    async fn every_byte_comes_once_in_order_whatever_is_asked_for() {
        let bytes: Vec<u8> = (0..10_007u32)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect();
        for (preferred, wanted) in [(64, 1000), (4096, 100), (1 << 20, 1 << 20)] {
            let limits = Limits {
                preferred,
                ..Limits::NONE
            };
            let source = MemSource::holding(&bytes).with_limits(limits);
            let mut ahead = Ahead::new(Arc::new(source));
            let mut all = Vec::new();
            while let Some(some) = ahead.next(Buffer::unbudgeted(wanted)).await.unwrap() {
                all.extend_from_slice(&some);
            }
            assert_eq!(all, bytes, "{preferred} {wanted}");
            assert!(ahead.next(Buffer::unbudgeted(1)).await.unwrap().is_none());
        }
    }
}
