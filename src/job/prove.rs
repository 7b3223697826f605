//! Reads the target back past its cache and compares blocks with their digests.
//!
//! What was compared is marked as proven, block by block, so that a proof that is cut short goes on
//! where it was, and a later one reads only what was written since: a block loses its mark before
//! it is written. A block that differs is marked as unsure: the next pass by digests writes it.

use super::context::Context;
use super::copy::now;
use crate::buffer::{Budget, Buffer};
use crate::digest::{Algorithm, BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::{Manifest, Mark, Marks, Record};
use crate::pipeline::counters::Counters;
use crate::pipeline::{RateLimit, Share, Stop, Team, ends_soon};
use crate::plan::{Shape, runs, windows};
use crate::target::Target;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of one read. Several blocks, so that the device streams.
const READ: u64 = 1 << 20;

/// Marks are looked at for so many bytes of the disk at a time.
const WINDOW: u64 = 1 << 30;

/// Which blocks are read back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// What no proof has covered since it was written.
    Unproven,
    /// Everything. A proof of everything that was cut short goes on where it was.
    All,
    /// What we wrote and no proof has covered since. Blocks that somebody else copied are left out:
    /// what they must hold is nowhere.
    Ours,
}

impl Scope {
    /// Whether blocks with this mark are read back.
    fn covers(self, mark: Mark) -> bool {
        match self {
            Self::Unproven | Self::All => mark != Mark::Proven,
            Self::Ours => mark == Mark::Known,
        }
    }
}

/// What a proof needs.
pub(super) struct Proof<'a> {
    pub(super) target: &'a Arc<dyn Target>,
    pub(super) manifest: &'a Manifest,
    pub(super) scope: Scope,
    /// Bytes of the disk; what the target holds behind them is not looked at.
    pub(super) size: u64,
    pub(super) budget: &'a Budget,
    pub(super) counters: &'a Counters,
    pub(super) requests: usize,
    /// What is read back waits for all of them.
    pub(super) rates: Vec<RateLimit>,
    /// Other proofs that should end when this one does.
    pub(super) team: Option<Team>,
}

/// The journal's last word on a proof that came to its end and found a difference: else the next one
/// would go on with it, and read only what it left.
///
/// # Errors
/// That of the proof; that it is not recorded is told besides.
pub(super) fn recorded(
    proof: Result<()>,
    context: &Context,
    append: impl FnOnce(&Record) -> Result<()>,
) -> Result<()> {
    let differs = |error: &Error| error.kind() == Kind::Mismatch;
    if proof.as_ref().is_err_and(differs)
        && let Err(error) = append(&Record::Disproven { at: now() })
    {
        context.warn(error.line());
    }
    proof
}

/// Blocks that differ.
#[derive(Clone, Copy, Debug, Default)]
struct Differences {
    count: u64,
    first: Option<u64>,
}

impl Proof<'_> {
    /// Forgets every proof: all is to be proven anew.
    ///
    /// # Errors
    /// The marks cannot be changed.
    pub(super) fn forget(&self) -> Result<()> {
        let marks = self.manifest.marks();
        for window in windows(self.shape()) {
            let proven = marks.of(window)?.into_iter();
            for range in runs(window, BLOCK, proven.map(|mark| mark == Mark::Proven)) {
                marks.put(range, Mark::Known)?;
            }
        }
        marks.sync()
    }

    /// Bytes that are to be read back.
    ///
    /// # Errors
    /// The marks cannot be read.
    pub(super) fn left(&self) -> Result<u64> {
        let mut left = 0u64;
        for window in windows(self.shape()) {
            let marks = self.manifest.marks().of(window)?.into_iter();
            for range in runs(window, BLOCK, marks.map(|mark| self.scope.covers(mark))) {
                left = left.saturating_add(range.len());
            }
        }
        Ok(left)
    }

    /// Compares every block that the scope covers, and marks it.
    ///
    /// # Errors
    /// `Mismatch` with the first offset and the number of blocks that differ; or the target or the
    /// manifest cannot be read; or an end was asked for.
    pub(super) async fn run(&self, mut stop: Stop) -> Result<()> {
        self.check_possible()?;
        let mut pieces = windows(self.shape()).flat_map(|window| self.pieces(window));
        let (all, began) = (self.left()?, Instant::now());
        let mut left = all;
        let share = self.team.as_ref().map(|team| team.join(left));
        let mut checks = FuturesUnordered::new();
        let mut differ = Differences::default();
        loop {
            while checks.len() < self.room(share.as_ref(), left) {
                let Some(piece) = pieces.next().transpose()? else {
                    break;
                };
                checks.push(async move { (piece.len(), self.check(piece).await) });
            }
            tokio::select! {
                biased;
                () = stop.requested() => {
                    return Err(Error::new(Kind::Interrupted, "stopped while the target was verified")
                        .hint("run the same command again"));
                }
                checked = checks.next() => match checked {
                    Some((length, found)) => {
                        differ.add(found?);
                        left = left.saturating_sub(length);
                        if ends_soon(all.saturating_sub(left), left, began.elapsed()) {
                            self.target.ending();
                        }
                    }
                    None => break,
                },
            }
        }
        self.manifest.marks().sync()?;
        differ.judge(self.size)
    }

    /// Reads that may be under way with so many bytes left. Among others, whoever has the most left
    /// has the most.
    fn room(&self, share: Option<&Share>, left: u64) -> usize {
        let alone = self.requests.max(1);
        let Some(share) = share else { return alone };
        let enough = u64::try_from(alone)
            .unwrap_or(u64::MAX)
            .saturating_mul(READ);
        let reads = share.allowance(left, enough).bytes / READ;
        usize::try_from(reads).unwrap_or(usize::MAX).max(1)
    }

    fn check_possible(&self) -> Result<()> {
        if self.target.can_read_back() {
            return Ok(());
        }
        let what = "this target cannot be read back, so nothing is proven";
        Err(Error::new(Kind::Usage, what).hint("leave out --verify"))
    }

    fn shape(&self) -> Shape {
        Shape {
            size: self.size,
            grain: BLOCK,
            window: WINDOW,
            coalesce: 0,
        }
    }

    /// What is read of a window, request by request.
    fn pieces(&self, window: ByteRange) -> Vec<Result<ByteRange>> {
        marked(&self.manifest.marks(), window, |mark| {
            self.scope.covers(mark)
        })
    }

    async fn check(&self, range: ByteRange) -> Result<Differences> {
        let wanted = self.manifest.digests(range)?;
        let zeroes = wanted.iter().all(|digest| *digest == Digest::ZERO);
        if zeroes && self.target.is_hole(range).await? {
            Counters::add(&self.counters.verified, range.len());
            return self.note(range, &vec![true; wanted.len()]);
        }
        RateLimit::pass_all(&self.rates, range.len(), self.counters).await;
        let began = Instant::now();
        let data = held(self.target, self.budget, range).await?;
        Counters::spent(&self.counters.target_wait, began.elapsed());
        let found = digests(self.manifest.algorithm(), &data);
        drop(data);
        if found.len() != wanted.len() {
            let what = "there is not one digest for each block";
            return Err(Error::new(Kind::Corrupt, what).at(range.start));
        }
        let pairs = found.iter().zip(&wanted);
        let right: Vec<bool> = pairs.map(|(found, wanted)| found == wanted).collect();
        Counters::add(&self.counters.verified, range.len());
        self.note(range, &right)
    }

    /// Marks what was compared, block by block.
    fn note(&self, range: ByteRange, right: &[bool]) -> Result<Differences> {
        let marks = self.manifest.marks();
        for proven in runs(range, BLOCK, right.iter().copied()) {
            marks.put(proven, Mark::Proven)?;
        }
        let mut differ = Differences::default();
        for wrong in runs(range, BLOCK, right.iter().map(|right| !right)) {
            marks.put(wrong, Mark::Unsure)?;
            differ.add(Differences {
                count: wrong.len().div_ceil(BLOCK),
                first: Some(wrong.start),
            });
        }
        Ok(differ)
    }
}

/// The blocks of a window with such a mark, request by request.
pub(super) fn marked(
    marks: &Marks,
    window: ByteRange,
    wanted: impl Fn(Mark) -> bool,
) -> Vec<Result<ByteRange>> {
    let ranges = match marks.of(window) {
        Ok(marks) => runs(window, BLOCK, marks.into_iter().map(wanted)),
        Err(error) => return vec![Err(error)],
    };
    let mut pieces = Vec::new();
    for mut rest in ranges {
        while !rest.is_empty() {
            // Cut where a multiple lies, so that reads stay aligned after a ragged start.
            let (piece, after) = rest.split(READ.saturating_sub(rest.start % READ));
            pieces.push(Ok(piece));
            rest = after;
        }
    }
    pieces
}

/// What the target holds, read past its cache.
pub(super) async fn held(
    target: &Arc<dyn Target>,
    budget: &Budget,
    range: ByteRange,
) -> Result<Buffer> {
    let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
    let buffer = budget.take(length).await;
    let data = target.read_back(range.start, buffer).await?;
    match data.len() == length {
        true => Ok(data),
        false => {
            let what = "the target was not read back in full";
            Err(Error::new(Kind::Corrupt, what).at(range.start))
        }
    }
}

/// The digests of whole blocks, of which the last may be short.
pub(super) fn digests(algorithm: Algorithm, data: &[u8]) -> Vec<Digest> {
    let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
    data.chunks(block)
        .map(|block| algorithm.digest(block))
        .collect()
}

impl Differences {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = [self.first, other.first].into_iter().flatten().min();
    }

    fn judge(&self, size: u64) -> Result<()> {
        let Some(first) = self.first else {
            return Ok(());
        };
        let of = size.div_ceil(BLOCK);
        let what = format!(
            "{} of {of} blocks differ from what was copied, the first",
            self.count
        );
        Err(Error::new(Kind::Mismatch, what).at(first).hint(
            "the target was changed by somebody else, or its storage lost writes; a pass with \
             --changes-since digest writes those blocks again",
        ))
    }
}
