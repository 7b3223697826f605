//! Reads the target back past its cache and compares each block with the manifest.

use super::context::Context;
use super::copy::{Outcome, open_manifest};
use super::open::{self, How};
use super::options::{JournalPlace, Tuning};
use super::place::journal_path;
use crate::address::Address;
use crate::buffer::Budget;
use crate::digest::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::{Begin, Journal, Manifest, PassState};
use crate::pipeline::Stop;
use crate::pipeline::counters::Counters;
use crate::plan::{Shape, windows};
use crate::report::{Event, Ticker};
use crate::target::Target;
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Instant;

/// What `verify` compares.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The disk that was copied to.
    pub target: Address,
    /// Where the record of the copy lives.
    pub journal: JournalPlace,
    /// Memory and requests.
    pub tuning: Tuning,
}

/// Compares a target with the manifest of the passes that wrote it.
///
/// # Errors
/// `Mismatch` if it differs; `Refused` if no complete pass is recorded.
pub async fn verify(options: &VerifyOptions, context: Context) -> Result<Outcome> {
    let began = Instant::now();
    let found = open::find_target(&options.target, 0)?;
    let path = journal_path(&options.journal, &found.identity, found.beside.as_deref())?
        .filter(|path| path.exists())
        .ok_or_else(|| {
            Error::new(
                Kind::Refused,
                format!("no journal of {} was found", options.target),
            )
            .hint("name it with --journal PATH")
        })?;
    let journal = Journal::open(&path)?;
    let manifest = open_manifest(&journal)?;
    let (begin, pass) = complete_pass(&journal, &found.identity.id)?;
    let how = How {
        size: Some(begin.size),
        resuming: true,
        whole: true,
        ..How::default()
    };
    let target = open::target(&options.target, &options.tuning, &how, &context.counters).await?;
    let memory = usize::try_from(options.tuning.memory).unwrap_or(usize::MAX);
    let proof = Proof {
        target: &target,
        manifest: &manifest,
        size: begin.size,
        budget: &Budget::new(memory, options.tuning.requests),
        counters: &context.counters,
        requests: options.tuning.requests.min(16),
    };
    context.tell(&Event::Verify { bytes: begin.size });
    let ticker = Ticker::start(&context.reporter, context.counters.clone(), begin.size);
    prove(&proof, context.stop.clone()).await?;
    drop(ticker);
    let (totals, size) = (context.counters.snapshot(), begin.size);
    let elapsed = began.elapsed().as_secs_f64();
    context.tell(&Event::Done {
        pass: pass_name(&pass),
        totals,
        size,
        elapsed,
        proven: true,
    });
    Ok(Outcome {
        totals,
        size,
        proven: true,
    })
}

/// What the journal is about, if its last pass is complete.
fn complete_pass(journal: &Journal, target: &str) -> Result<(Begin, PassState)> {
    let history = journal.history();
    match (&history.begin, &history.last) {
        (Some(begin), _) if begin.target.id != target => {
            let what = format!("the journal is about another target, {}", begin.target.name);
            Err(Error::new(Kind::Refused, what))
        }
        (Some(begin), Some(pass)) if pass.complete => Ok((begin.clone(), pass.clone())),
        _ => Err(Error::new(
            Kind::Refused,
            "the last pass is not complete, so nothing is promised",
        )
        .hint("run the copy again first")),
    }
}

fn pass_name(pass: &PassState) -> &'static str {
    ["delta", "final"]
        .into_iter()
        .find(|name| *name == pass.begin.pass)
        .unwrap_or("full")
}

/// Bytes of one read. Several blocks, so that the device streams.
const READ: u64 = 1 << 20;

/// What a proof needs.
pub(super) struct Proof<'a> {
    pub(super) target: &'a Arc<dyn Target>,
    pub(super) manifest: &'a Manifest,
    /// Bytes of the disk; what the target holds behind them is not looked at.
    pub(super) size: u64,
    pub(super) budget: &'a Budget,
    pub(super) counters: &'a Counters,
    pub(super) requests: usize,
}

/// Blocks that differ.
#[derive(Clone, Copy, Debug, Default)]
struct Differences {
    count: u64,
    first: Option<u64>,
}

/// Compares the whole disk.
///
/// # Errors
/// `Mismatch` with the first offset and the number of blocks that differ; or the target or the
/// manifest cannot be read; or an end was asked for.
pub(super) async fn prove(proof: &Proof<'_>, mut stop: Stop) -> Result<()> {
    if !proof.target.can_read_back() {
        return Err(Error::new(
            Kind::Usage,
            "this target cannot be read back, so nothing is proven",
        )
        .hint("leave out --verify"));
    }
    let shape = Shape {
        size: proof.size,
        grain: BLOCK,
        window: READ,
        coalesce: 0,
    };
    let mut checks = stream::iter(windows(shape))
        .map(|range| proof.check(range))
        .buffer_unordered(proof.requests.max(1));
    let mut differ = Differences::default();
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => {
                return Err(Error::new(Kind::Interrupted, "stopped while the target was verified")
                    .hint("run the same command again"));
            }
            checked = checks.next() => match checked {
                Some(found) => differ.add(found?),
                None => break,
            },
        }
    }
    match differ.first {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Kind::Mismatch,
            format!(
                "{} of {} blocks differ from what was copied, the first",
                differ.count,
                proof.size.div_ceil(BLOCK)
            ),
        )
        .at(first)
        .hint("the target was changed by somebody else, or its storage lost writes")),
    }
}

impl Proof<'_> {
    async fn check(&self, range: ByteRange) -> Result<Differences> {
        let wanted = self.manifest.digests(range)?;
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let buffer = self.budget.take(length).await;
        let data = self.target.read_back(range.start, buffer).await?;
        let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        let algorithm = self.manifest.algorithm();
        let mut differ = Differences::default();
        let offsets = (0..).map(|i: u64| range.start.saturating_add(i.saturating_mul(BLOCK)));
        for ((block, digest), offset) in data.chunks(block).zip(&wanted).zip(offsets) {
            if algorithm.digest(block) != *digest {
                differ.add(Differences {
                    count: 1,
                    first: Some(offset),
                });
            }
        }
        if data.len() != length || wanted.len() != data.chunks(block).len() {
            return Err(
                Error::new(Kind::Corrupt, "the target was not read back in full").at(range.start),
            );
        }
        Counters::add(&self.counters.verified, range.len());
        Ok(differ)
    }
}

impl Differences {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = [self.first, other.first].into_iter().flatten().min();
    }
}
