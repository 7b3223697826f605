//! A request whose bytes are all at hand: one thread reads and unpacks it, from its beginning to its
//! end, while what it read is still in its cache. Blocks.
//!
//! What is raw is read straight into the buffer. What is compressed is read into a scratch of the
//! caller's, piece by piece, or together with its neighbours where pieces are so short that the
//! calls would cost more than they bring.

use super::runs::Run;
use super::{fill, length, slice};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::{AtHand, Mapped, To};

/// Bytes, on average, from which on parts are worth a call each.
const APART: u64 = 8 << 10;

/// A request that one thread can do.
#[derive(Debug)]
pub(super) struct Job {
    runs: Vec<Run>,
    /// Where the request begins.
    start: u64,
}

impl Job {
    /// The request at `start`, which consists of `runs`; those again if a part of it is not at
    /// hand, or is a piece of a unit that is unpacked for others, too.
    pub(super) fn of(runs: Vec<Run>, start: u64) -> std::result::Result<Self, Vec<Run>> {
        let one = |run: &Run| match run {
            Run::Zero(_) => true,
            Run::Unit { .. } => false,
            Run::Together { storage, .. } => storage.at_hand().is_some(),
        };
        match runs.iter().all(one) {
            true => Ok(Self { runs, start }),
            false => Err(runs),
        }
    }

    /// Bytes of scratch that [`run`](Self::run) needs; 0 if it reads straight into the buffer.
    pub(super) fn scratch(&self) -> usize {
        let needed = self.runs.iter().map(|run| match run {
            Run::Together { span, parts, .. } if are_apart(*span, parts) => {
                let packed = parts.iter().map(|part| match &part.to {
                    To::Packed { run, .. } => run.len,
                    To::Zero | To::Raw { .. } => 0,
                });
                packed.max().unwrap_or(0).into()
            }
            Run::Together { span, .. } => span.len(),
            Run::Zero(_) | Run::Unit { .. } => 0,
        });
        length(needed.max().unwrap_or(0))
    }

    /// Fills `buffer`. Blocks.
    ///
    /// # Errors
    /// A storage cannot be read, or what is compressed is damaged.
    pub(super) fn run(self, mut buffer: Buffer, scratch: &mut [u8]) -> Result<Buffer> {
        let start = self.start;
        for run in self.runs {
            match run {
                Run::Zero(range) => slice(&mut buffer, range, start).fill(0),
                Run::Together {
                    storage,
                    span,
                    parts,
                } => {
                    let storage = storage.at_hand().ok_or_else(gone)?;
                    if are_apart(span, &parts) {
                        for part in &parts {
                            let to = slice(&mut buffer, part.range, start);
                            one(storage, &part.to, to, scratch)?;
                        }
                    } else {
                        let bytes = scratch.get_mut(..length(span.len())).ok_or_else(gone)?;
                        storage.read_now(span.start, bytes)?;
                        fill(&parts, span, bytes, start, &mut buffer)?;
                    }
                }
                Run::Unit { .. } => return Err(gone()),
            }
        }
        Ok(buffer)
    }
}

/// What [`Job::of`] found is not so any more. Cannot be; were it passed over, the buffer would keep
/// what another request left in it.
fn gone() -> Error {
    Error::new(Kind::Io, "read by a thread").because("a part of the request is not at hand")
}

/// Whether each of `parts`, which lie in `span`, is worth a call of its own.
fn are_apart(span: ByteRange, parts: &[Mapped]) -> bool {
    let count = u64::try_from(parts.len()).unwrap_or(u64::MAX);
    span.len() >= count.saturating_mul(APART)
}

/// Fills `to` with what `from` says.
fn one(storage: &dyn AtHand, from: &To, to: &mut [u8], scratch: &mut [u8]) -> Result<()> {
    match from {
        To::Zero => to.fill(0),
        To::Raw { offset, .. } => storage.read_now(*offset, to)?,
        To::Packed { run, .. } => {
            let packed = scratch.get_mut(..length(run.len.into())).ok_or_else(gone)?;
            storage.read_now(run.offset, packed)?;
            let done = run.codec.unpack(packed, to);
            done.map_err(|error| error.at(run.offset))?;
        }
    }
    Ok(())
}
