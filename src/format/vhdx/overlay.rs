//! A file as its log leaves it: the file itself is not written.

use super::log::Replay;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::Result;
use crate::extent::ByteRange;
use crate::format::Storage;
use async_trait::async_trait;
use std::sync::Arc;

/// A storage, and what its log changes.
#[derive(Debug)]
pub(super) struct Overlay {
    below: Arc<dyn Storage>,
    replay: Replay,
    size: u64,
}

impl Overlay {
    pub(super) fn new(below: Arc<dyn Storage>, replay: Replay) -> Self {
        let size = below.size().max(replay.file_size);
        Self {
            below,
            replay,
            size,
        }
    }
}

#[async_trait]
impl Storage for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn identity(&self) -> Identity {
        self.below.identity()
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        let there = range.intersect(ByteRange::new(0, self.below.size()));
        if there == range {
            buffer = self.below.read(offset, buffer).await?;
        } else {
            // What the log says of the end of a file that had not grown yet.
            buffer.fill(0);
            if !there.is_empty() {
                let part = Buffer::unbudgeted(length(there.len()));
                let part = self.below.read(there.start, part).await?;
                put(&mut buffer, range, there, &part);
            }
        }
        for zeroes in self.replay.zeroes.within(range) {
            slice(&mut buffer, range, zeroes).fill(0);
        }
        let first = range.start.saturating_sub(SECTOR.saturating_sub(1));
        for (at, bytes) in self.replay.sectors.range(first..range.end) {
            put(&mut buffer, range, ByteRange::at(*at, SECTOR), bytes);
        }
        Ok(buffer)
    }
}

/// Bytes of a sector that a log changes.
const SECTOR: u64 = 4096;

/// Puts `bytes`, which are at `place`, into a buffer of `range`.
fn put(buffer: &mut [u8], range: ByteRange, place: ByteRange, bytes: &[u8]) {
    let both = place.intersect(range);
    let skip = length(both.start.saturating_sub(place.start));
    let from = bytes.get(skip..).unwrap_or_default();
    let to = slice(buffer, range, both).iter_mut();
    to.zip(from).for_each(|(to, from)| *to = *from);
}

/// The part of a buffer of `range` that `part` is.
fn slice(buffer: &mut [u8], range: ByteRange, part: ByteRange) -> &mut [u8] {
    let start = length(part.start.saturating_sub(range.start));
    let end = start.saturating_add(length(part.len()));
    buffer.get_mut(start..end).unwrap_or_default()
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
