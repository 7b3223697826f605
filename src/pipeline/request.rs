//! One request: read, digest, find zeroes, write.

use super::counters::Counters;
use super::pieces::{Piece, pieces};
use crate::buffer::Budget;
use crate::digest::{Algorithm, BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::plan::Step;
use crate::source::Source;
use crate::target::{Target, Zeroing};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What every request of a pass needs. Shared by all of them.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Arc<dyn Source>,
    pub(super) target: Arc<dyn Target>,
    pub(super) budget: Budget,
    pub(super) counters: Arc<Counters>,
    pub(super) sparse: usize,
    pub(super) zeroing: Zeroing,
    /// Zeroes need not be written: nothing but zeroes is there.
    pub(super) reads_zero: bool,
    pub(super) digest: Option<Algorithm>,
}

/// What a request put on the target.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) range: ByteRange,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Zero,
    /// Digests of the blocks in the range; empty if nobody wants them.
    Data(Vec<Digest>),
}

/// Does one request, after waiting `delay` for the rate limit.
pub(super) async fn run(shared: Arc<Shared>, step: Step, delay: Duration) -> Result<Settled> {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
        Counters::spent(&shared.counters.limit_wait, delay);
    }
    let range = step.range();
    let content = match step {
        Step::Zero(_) => {
            shared.zero(range).await?;
            Content::Zero
        }
        Step::Copy(_) => Content::Data(shared.copy(range).await?),
    };
    Ok(Settled { range, content })
}

impl Shared {
    async fn copy(&self, range: ByteRange) -> Result<Vec<Digest>> {
        let data = self.read(range).await?;
        let digests = self.digests(&data).await;
        let began = Instant::now();
        let parts = pieces(&data, self.sparse);
        Counters::spent(&self.counters.compute, began.elapsed());
        for piece in parts {
            match piece {
                Piece::Data(part) => self.write(range.start, &data, part).await?,
                Piece::Zero(part) => {
                    let start = range.start.saturating_add(to_u64(part.start));
                    self.zero(ByteRange::at(start, to_u64(part.len()))).await?;
                }
            }
        }
        Ok(digests)
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        let length = usize::try_from(range.len())
            .map_err(|_| Error::new(Kind::Io, "a request is too long").at(range.start))?;
        let buffer = self.budget.take(length).await;
        let began = Instant::now();
        let buffer = self.source.read(range.start, buffer).await?;
        Counters::spent(&self.counters.source_wait, began.elapsed());
        if buffer.len() != length {
            return Err(Error::new(
                Kind::Corrupt,
                "the source answered a read with another length",
            )
            .at(range.start));
        }
        Counters::add(&self.counters.read, range.len());
        Ok(buffer.freeze())
    }

    async fn digests(&self, data: &[u8]) -> Vec<Digest> {
        let Some(algorithm) = self.digest else {
            return Vec::new();
        };
        let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        let mut digests = Vec::with_capacity(data.len().div_ceil(block));
        // In parts, so that the socket is emptied between them and the server need not wait: 1 MiB
        // takes as long to digest as a socket takes to fill.
        for part in data.chunks(block.saturating_mul(4)) {
            let began = Instant::now();
            digests.extend(part.chunks(block).map(|block| algorithm.digest(block)));
            Counters::spent(&self.counters.compute, began.elapsed());
            tokio::task::yield_now().await;
        }
        digests
    }

    async fn write(&self, start: u64, data: &Bytes, part: std::ops::Range<usize>) -> Result<()> {
        let offset = start.saturating_add(to_u64(part.start));
        let length = to_u64(part.len());
        let began = Instant::now();
        self.target.write(offset, data.slice(part)).await?;
        Counters::spent(&self.counters.target_wait, began.elapsed());
        Counters::add(&self.counters.written, length);
        Ok(())
    }

    async fn zero(&self, range: ByteRange) -> Result<()> {
        if self.reads_zero && self.zeroing == Zeroing::Unmap {
            Counters::add(&self.counters.skipped, range.len());
            return Ok(());
        }
        let began = Instant::now();
        self.target.zero(range, self.zeroing).await?;
        Counters::spent(&self.counters.target_wait, began.elapsed());
        Counters::add(&self.counters.zeroed, range.len());
        Ok(())
    }
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
