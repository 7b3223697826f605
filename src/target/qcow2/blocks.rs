//! Tables of one cluster each, of which some are in memory and the rest in the file.
//!
//! However large the image, no more than a few MiB of tables are kept: the one that was used
//! longest ago is written to its place and read again when it is wanted.

use crate::buffer::Buffer;
use crate::sys::queue::Queue;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;

/// Bytes of tables that are kept, though never less than four tables.
const KEPT: u64 = 8 << 20;

/// The tables of an image that is being written.
#[derive(Debug)]
pub(super) struct Blocks {
    queue: Queue,
    cluster: usize,
    most: usize,
    clock: u64,
    /// Offset in the file → table.
    kept: HashMap<u64, Block>,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    used: u64,
    /// It differs from what the file holds.
    dirty: bool,
}

impl Blocks {
    pub(super) fn new(queue: Queue, cluster: u64) -> Self {
        let most = KEPT.checked_div(cluster).unwrap_or(0).max(4);
        Self {
            queue,
            cluster: usize::try_from(cluster).unwrap_or(usize::MAX),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            clock: 0,
            kept: HashMap::new(),
        }
    }

    /// A new table of zeroes at `at`.
    pub(super) async fn fresh(&mut self, at: u64) -> io::Result<()> {
        let bytes = vec![0; self.cluster];
        self.keep(at, bytes, true).await
    }

    /// `N` bytes at `offset` in the table at `at`.
    pub(super) async fn get<const N: usize>(
        &mut self,
        at: u64,
        offset: u64,
    ) -> io::Result<[u8; N]> {
        let block = self.block(at).await?;
        let found = usize::try_from(offset).ok();
        let found = found.and_then(|start| block.bytes.get(start..)?.first_chunk());
        found.copied().ok_or_else(outside)
    }

    /// Puts `bytes` at `offset` in the table at `at`.
    pub(super) async fn set(&mut self, at: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let block = self.block(at).await?;
        block.dirty = true;
        let place = usize::try_from(offset).ok();
        let place = place.and_then(|start| block.bytes.get_mut(start..)?.get_mut(..bytes.len()));
        place.ok_or_else(outside)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes every table that the file does not hold.
    pub(super) async fn write_all(&mut self) -> io::Result<()> {
        for (at, block) in &mut self.kept {
            if block.dirty {
                let bytes = Bytes::copy_from_slice(&block.bytes);
                self.queue.write(*at, bytes).await?;
                block.dirty = false;
            }
        }
        Ok(())
    }

    async fn block(&mut self, at: u64) -> io::Result<&mut Block> {
        if !self.kept.contains_key(&at) {
            let buffer = Buffer::unbudgeted(self.cluster);
            let (buffer, count) = self.queue.read(at, buffer).await?;
            if count < buffer.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.keep(at, buffer.to_vec(), false).await?;
        }
        self.clock = self.clock.saturating_add(1);
        let block = self.kept.get_mut(&at).ok_or_else(outside)?;
        block.used = self.clock;
        Ok(block)
    }

    async fn keep(&mut self, at: u64, bytes: Vec<u8>, dirty: bool) -> io::Result<()> {
        while self.kept.len() >= self.most {
            let oldest = self.kept.iter().min_by_key(|(_, block)| block.used);
            let Some(oldest) = oldest.map(|(at, _)| *at) else {
                break;
            };
            if let Some(block) = self.kept.remove(&oldest).filter(|block| block.dirty) {
                self.queue.write(oldest, Bytes::from(block.bytes)).await?;
            }
        }
        self.clock = self.clock.saturating_add(1);
        let used = self.clock;
        self.kept.insert(at, Block { bytes, used, dirty });
        Ok(())
    }
}

fn outside() -> io::Error {
    io::Error::other("an entry outside of its table")
}
