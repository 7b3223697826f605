//! One request: read, digest, leave out what the target holds already, find zeroes, write.

use super::counters::Counters;
use super::depth::Depth;
use super::known::Known;
use super::pieces::{Piece, pieces};
use super::rate::RateLimit;
use crate::buffer::Budget;
use crate::digest::{Algorithm, BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::plan::{Step, runs};
use crate::source::Source;
use crate::target::{Target, Zeroing};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

const BLOCK_LEN: usize = 64 * 1024;
const _: () = assert!(BLOCK_LEN as u64 == BLOCK);

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
    /// What is copied waits for all of them.
    pub(super) rates: Vec<RateLimit>,
    /// Told how quickly the source answers.
    pub(super) depth: Depth,
    /// Write only what differs from this.
    pub(super) known: Option<Arc<dyn Known>>,
}

/// A request that is complete.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) step: Step,
    /// What it put on the target.
    pub(super) parts: Vec<Part>,
}

/// A part of the target that was written.
#[derive(Debug)]
pub(super) enum Part {
    Zero(ByteRange),
    /// The blocks from `offset`; no digests if nobody wants them.
    Data {
        offset: u64,
        digests: Vec<Digest>,
    },
}

/// How far a request has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// The source has answered. What is left: [`finish`].
    Read(Read),
    /// It is complete.
    Settled(Settled),
}

/// Begins a request: zeroes, or reads what is to be copied.
pub(super) async fn begin(shared: Arc<Shared>, step: Step) -> Result<Stage> {
    match step {
        Step::Zero(range) => {
            shared.claim(&[range]).await?;
            shared.zero(range).await?;
            let parts = vec![Part::Zero(range)];
            Ok(Stage::Settled(Settled { step, parts }))
        }
        Step::Copy(range) => {
            RateLimit::pass_all(&shared.rates, range.len(), &shared.counters).await;
            Ok(Stage::Read(shared.read(range).await?))
        }
    }
}

/// Puts on the target what was read.
pub(super) async fn finish(shared: Arc<Shared>, data: Read) -> Result<Stage> {
    let parts = shared.copy(&data).await?;
    let step = data.step();
    Ok(Stage::Settled(Settled { step, parts }))
}

impl Shared {
    async fn copy(&self, data: &Read) -> Result<Vec<Part>> {
        let range = data.range();
        let digests = self.digests(data).await;
        let Some(known) = &self.known else {
            self.put(data).await?;
            let offset = range.start;
            return Ok(vec![Part::Data { offset, digests }]);
        };
        let changed = differing(range, &digests, &known.digests(range)?)?;
        let written = changed
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(part.len()));
        Counters::add(&self.counters.skipped, range.len().saturating_sub(written));
        self.claim(&changed).await?;
        let mut parts = Vec::new();
        for part in changed {
            let within = |at: u64| usize::try_from(at.saturating_sub(range.start)).unwrap_or(0);
            let bytes = within(part.start)..within(part.end);
            self.put(&Read {
                start: part.start,
                bytes: data.bytes.slice(bytes),
            })
            .await?;
            let blocks = within(part.start) / BLOCK_LEN..within(part.end).div_ceil(BLOCK_LEN);
            parts.push(Part::Data {
                offset: part.start,
                digests: digests.get(blocks).unwrap_or(&[]).to_vec(),
            });
        }
        Ok(parts)
    }

    /// Says that `ranges` are about to be written, if somebody must know.
    async fn claim(&self, ranges: &[ByteRange]) -> Result<()> {
        match &self.known {
            Some(known) if !ranges.is_empty() => known.claim(ranges).await,
            _ => Ok(()),
        }
    }

    /// Writes data, and zeroes where it holds only such.
    async fn put(&self, data: &Read) -> Result<()> {
        let began = Instant::now();
        let parts = pieces(&data.bytes, self.sparse);
        Counters::spent(&self.counters.compute, began.elapsed());
        for piece in parts {
            match piece {
                Piece::Data(part) => self.write(data, part).await?,
                Piece::Zero(part) => {
                    let start = data.start.saturating_add(to_u64(part.start));
                    self.zero(ByteRange::at(start, to_u64(part.len()))).await?;
                }
            }
        }
        Ok(())
    }

    async fn read(&self, range: ByteRange) -> Result<Read> {
        let length = usize::try_from(range.len())
            .map_err(|_| Error::new(Kind::Io, "a request is too long").at(range.start))?;
        let buffer = self.budget.take(length).await;
        let began = Instant::now();
        let buffer = self.source.read(range.start, buffer).await?;
        let took = began.elapsed();
        self.depth.answered_in(took);
        Counters::spent(&self.counters.source_wait, took);
        if buffer.len() != length {
            return Err(Error::new(
                Kind::Corrupt,
                "the source answered a read with another length",
            )
            .at(range.start));
        }
        Counters::add(&self.counters.read, range.len());
        let (start, bytes) = (range.start, buffer.freeze());
        Ok(Read { start, bytes })
    }

    async fn digests(&self, data: &Read) -> Vec<Digest> {
        let Some(algorithm) = self.digest else {
            return Vec::new();
        };
        let mut digests = Vec::with_capacity(data.bytes.len().div_ceil(BLOCK_LEN));
        // In parts, so that the socket is emptied between them and the server need not wait: 1 MiB
        // takes as long to digest as a socket takes to fill.
        for part in data.bytes.chunks(BLOCK_LEN.saturating_mul(4)) {
            let began = Instant::now();
            digests.extend(part.chunks(BLOCK_LEN).map(|block| algorithm.digest(block)));
            Counters::spent(&self.counters.compute, began.elapsed());
            tokio::task::yield_now().await;
        }
        digests
    }

    async fn write(&self, data: &Read, part: Range<usize>) -> Result<()> {
        let offset = data.start.saturating_add(to_u64(part.start));
        let length = to_u64(part.len());
        let began = Instant::now();
        self.target.write(offset, data.bytes.slice(part)).await?;
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

/// What was read, and where.
#[derive(Debug)]
pub(super) struct Read {
    start: u64,
    bytes: Bytes,
}

impl Read {
    fn range(&self) -> ByteRange {
        ByteRange::at(self.start, to_u64(self.bytes.len()))
    }

    /// The step that it was read for.
    pub(super) fn step(&self) -> Step {
        Step::Copy(self.range())
    }
}

/// The parts of `range` that do not have the digests that are known of them.
///
/// # Errors
/// There is not one digest of each kind for every block: nothing may be left out.
fn differing(
    range: ByteRange,
    found: &[Digest],
    known: &[Option<Digest>],
) -> Result<Vec<ByteRange>> {
    let blocks = range
        .end
        .div_ceil(BLOCK)
        .saturating_sub(range.start / BLOCK);
    if to_u64(found.len()) != blocks || to_u64(known.len()) != blocks {
        let what = "there is not one digest for each block";
        return Err(Error::new(Kind::Corrupt, what).at(range.start));
    }
    let pairs = found.iter().zip(known);
    Ok(runs(
        range,
        BLOCK,
        pairs.map(|(found, known)| Some(*found) != *known),
    ))
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
