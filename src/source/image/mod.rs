//! A disk image as source: the one place where mapped bytes are read, whatever the format.
//!
//! A read is mapped first. What turns out to be one raw run is read straight into the buffer.
//! Otherwise, if a thread must read in any case, one thread does the whole request. If not, parts
//! that lie close together are read at once, and copied or unpacked from there; unpacking is done
//! by all processors. A budget bounds the memory that this takes beside the buffers of the reader.
//!
//! ```text
//!  at_hand.rs   a request that one thread does
//!  runs.rs      which parts are read together              pure
//!  unpacked.rs  the last units that were wanted in part
//!  storage.rs   any source as the storage of an image; local files by name
//!  open.rs      which format it is, and what it may open
//! ```

mod at_hand;
mod open;
mod runs;
mod storage;
#[cfg(test)]
mod tests;
mod unpacked;

pub use open::{Opened, Reading, open};
pub use storage::{LocalFiles, SourceStorage};

use super::Source;
use crate::buffer::{Budget, Buffer};
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, push_merged};
use crate::format::{Image, Mapped, Packed, Storage, To};
use crate::sys::{blocking, computing};
use async_trait::async_trait;
use at_hand::Job;
use bytes::Bytes;
use runs::{Run, runs};
use std::sync::Arc;
use unpacked::Unpacked;

/// Bytes of memory for reads that do not go straight into the buffer of the reader.
const MEMORY: usize = 16 << 20;

/// The longest request, unless the unit of the image is longer.
const REQUEST_MAX: u64 = 4 << 20;

/// Raw runs of at least this length are worth asking the storage for holes in them: those of flat
/// and preallocated images. A sparse image has many short ones and no holes, and some file systems
/// look as far as the next hole, however far that is, each time.
const ASK_FOR_HOLES: u64 = 32 << 20;

/// A disk image that is read. See the [module](self).
#[derive(Debug)]
pub struct ImageSource {
    image: Arc<dyn Image>,
    identity: Identity,
    limits: Limits,
    budget: Budget,
    unpacked: Unpacked,
}

impl ImageSource {
    /// Reads `image`, which is on a storage of this identity.
    #[must_use]
    pub fn new(image: Arc<dyn Image>, storage: Identity) -> Self {
        let unit = image.unit().next_power_of_two().clamp(512, 32 << 20);
        let size = |bytes: u64| u32::try_from(bytes).unwrap_or(32 << 20);
        Self {
            identity: Identity {
                id: format!("{}:{}", image.facts().format, storage.id),
                size: image.size(),
                name: storage.name,
            },
            limits: Limits {
                align: 512,
                preferred: size(unit.max(1 << 20)),
                max: size(unit.max(REQUEST_MAX)),
                in_flight: 16,
            },
            budget: Budget::new(MEMORY, 64),
            unpacked: Unpacked::default(),
            image,
        }
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Arc<dyn Image> {
        &self.image
    }

    /// Where all of `range` is.
    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let mut parts = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let found = self.image.map(rest).await;
            let found = found.map_err(|error| self.failed("map", rest.start, error))?;
            let end = found.last().map_or(rest.start, |last| last.range.end);
            if end <= rest.start || end > rest.end {
                let what = format!("map {}: the image told nothing", self.identity);
                return Err(Error::new(Kind::Corrupt, what).at(rest.start));
            }
            parts.extend(found);
            rest.start = end;
        }
        Ok(parts)
    }

    fn failed(&self, doing: &str, offset: u64, error: Error) -> Error {
        error
            .context(format!("{doing} {}", self.identity))
            .at(offset)
    }

    /// Fills what `parts` of the request at `start` are, one run after the other.
    async fn gather(&self, parts: Vec<Mapped>, start: u64, mut buffer: Buffer) -> Result<Buffer> {
        let runs = match Job::of(runs(parts), start) {
            Ok(job) => return self.at_hand(job, buffer).await,
            Err(runs) => runs,
        };
        for run in runs {
            buffer = match run {
                Run::Zero(range) => {
                    slice(&mut buffer, range, start).fill(0);
                    buffer
                }
                Run::Unit { range, run, skip } => {
                    let bytes = self.unpacked.get(&run, self.unpack(&run)).await?;
                    let from = bytes.get(length(skip)..).unwrap_or_default();
                    copy(slice(&mut buffer, range, start), from)?;
                    buffer
                }
                Run::Together {
                    storage,
                    span,
                    parts,
                } => {
                    let bytes = self.read_span(storage.as_ref(), span).await?;
                    let packed = parts
                        .iter()
                        .any(|part| matches!(part.to, To::Packed { .. }));
                    let fill = move || {
                        let filled = fill(&parts, span, &bytes, start, &mut buffer);
                        filled.map(|()| buffer)
                    };
                    match packed {
                        true => computing(fill).await??,
                        false => fill()?,
                    }
                }
            };
        }
        Ok(buffer)
    }

    /// Has a thread do all of `job`.
    async fn at_hand(&self, job: Job, buffer: Buffer) -> Result<Buffer> {
        let scratch = match job.scratch() {
            0 => None,
            len => Some(self.budget.take(len).await),
        };
        let done = blocking(move || {
            let mut scratch = scratch;
            Ok(job.run(buffer, scratch.as_deref_mut().unwrap_or_default()))
        });
        done.await
            .map_err(|error| Error::io("read by a thread", error))?
    }

    /// The bytes of `span`, however they are aligned. Holds no other memory of the budget.
    async fn read_span(&self, storage: &dyn Storage, span: ByteRange) -> Result<Bytes> {
        let limits = storage.limits();
        let whole = span.align_out(limits.align.into(), storage.size());
        if whole.end > storage.size() {
            let what = format!("{storage} ends before {span}", storage = storage.identity());
            return Err(Error::new(Kind::Corrupt, what));
        }
        let mut buffer = self.budget.take(length(whole.len())).await;
        if whole.len() <= limits.max.into() {
            buffer = storage.read(whole.start, buffer).await?;
        } else {
            let mut rest = whole;
            while !rest.is_empty() {
                let (piece, after) = rest.split(limits.max.into());
                let part = Buffer::unbudgeted(length(piece.len()));
                let part = storage.read(piece.start, part).await?;
                copy(slice(&mut buffer, piece, whole.start), &part)?;
                rest = after;
            }
        }
        let skip = length(span.start.saturating_sub(whole.start));
        let bytes = buffer.freeze();
        let end = skip.saturating_add(length(span.len())).min(bytes.len());
        Ok(bytes.slice(skip.min(end)..end))
    }

    /// All that a run unpacks to.
    async fn unpack(&self, run: &Packed) -> Result<Bytes> {
        let span = ByteRange::at(run.offset, run.len.into());
        let packed = self.read_span(run.storage.as_ref(), span).await?;
        let (codec, offset) = (run.codec, run.offset);
        let mut out = vec![0; length(run.unpacked.into())];
        let unpacked = computing(move || codec.unpack(&packed, &mut out).map(|()| out)).await?;
        unpacked.map(Bytes::from).map_err(|error| error.at(offset))
    }
}

/// Puts `parts` of the request at `start`, which lie in `span`, into `buffer`; `bytes` are those of
/// the span.
fn fill(
    parts: &[Mapped],
    span: ByteRange,
    bytes: &[u8],
    start: u64,
    buffer: &mut Buffer,
) -> Result<()> {
    let inner = |offset: u64| length(offset.saturating_sub(span.start));
    for part in parts {
        let to = slice(buffer, part.range, start);
        match &part.to {
            To::Zero => to.fill(0),
            To::Raw { offset, .. } => copy(to, bytes.get(inner(*offset)..).unwrap_or_default())?,
            To::Packed { run, .. } => {
                let from = inner(run.offset);
                let end = from.saturating_add(length(run.len.into()));
                let packed = bytes.get(from..end.min(bytes.len()));
                let done = run.codec.unpack(packed.unwrap_or_default(), to);
                done.map_err(|error| error.at(run.offset))?;
            }
        }
    }
    Ok(())
}

/// The part of a buffer, which begins at `start`, that `range` is.
fn slice(buffer: &mut Buffer, range: ByteRange, start: u64) -> &mut [u8] {
    let from = length(range.start.saturating_sub(start));
    let to = from.saturating_add(length(range.len()));
    buffer.get_mut(from..to).unwrap_or_default()
}

/// Fills `to` from the start of `from`, which must be long enough.
fn copy(to: &mut [u8], from: &[u8]) -> Result<()> {
    let len = to.len();
    let short = || Error::new(Kind::Corrupt, "the image ends before its map does");
    to.copy_from_slice(from.get(..len).ok_or_else(short)?);
    Ok(())
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Whether the storage takes `len` bytes at `offset` as one request.
fn fits(storage: &dyn Storage, offset: u64, len: u64) -> bool {
    let limits = storage.limits();
    let range = ByteRange::at(offset, len);
    len <= limits.max.into() && range.align_out(limits.align.into(), storage.size()) == range
}

#[async_trait]
impl Source for ImageSource {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read", &self.identity.name, range, self.size())?;
        if range.is_empty() {
            return Ok(buffer);
        }
        let parts = self.map(range).await?;
        let read = match parts.as_slice() {
            [
                Mapped {
                    to: To::Raw { storage, offset },
                    ..
                },
            ] if fits(storage.as_ref(), *offset, range.len()) => {
                storage.read(*offset, buffer).await
            }
            _ => self.gather(parts, range.start, buffer).await,
        };
        read.map_err(|error| self.failed("read", offset, error))
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        check_bounds("map", &self.identity.name, range, self.size())?;
        let parts = self.image.map(range).await;
        let mut found = Vec::new();
        for part in parts.map_err(|error| self.failed("map", range.start, error))? {
            match part.to {
                To::Zero => push_merged(&mut found, Extent::zero(part.range)),
                To::Raw { storage, offset } if part.range.len() >= ASK_FOR_HOLES => {
                    let told = holes(storage.as_ref(), offset, part.range).await?;
                    let end = told.last().map_or(part.range.start, |last| last.range.end);
                    told.into_iter()
                        .for_each(|extent| push_merged(&mut found, extent));
                    if end < part.range.end {
                        break;
                    }
                }
                To::Raw { .. } | To::Packed { .. } => {
                    push_merged(&mut found, Extent::data(part.range));
                }
            }
        }
        Ok(found)
    }
}

/// What the storage knows of a prefix of the guest's `range`, which is raw at `offset`.
async fn holes(storage: &dyn Storage, offset: u64, range: ByteRange) -> Result<Vec<Extent>> {
    let there = ByteRange::at(offset, range.len());
    let told = storage.extents(there).await?;
    let guest = |at: u64| range.start.saturating_add(at.saturating_sub(offset));
    let moved = told.into_iter().map(|extent| Extent {
        range: ByteRange::new(guest(extent.range.start), guest(extent.range.end)),
        kind: extent.kind,
    });
    Ok(moved.collect())
}
