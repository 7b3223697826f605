//! Copies a stream: its size is not known, it can be read once, and nothing can be resumed.
//!
//! A new file grows with it; whatever has a size of its own is checked as it goes, and a stream that
//! does not fit is an error.

use super::context::Context;
use super::copy::Outcome;
use super::open::{self, How};
use super::options::{CopyOptions, Zeroes};
use crate::buffer::{Budget, Buffer};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::pipeline::counters::Counters;
use crate::pipeline::{Piece, pieces};
use crate::report::{Event, Ticker};
use crate::source::stream::ByteStream;
use crate::target::same::check_apart;
use crate::target::{Target, Untouched, Zeroing};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes of one read, unless the user says otherwise.
pub(super) const REQUEST: u32 = 1 << 20;

/// A stream was longer than its target, which shows only as it comes. Found in the chain of causes
/// of what a copy ended with.
#[derive(Debug)]
pub struct TooLong {
    /// Bytes of the target.
    pub capacity: u64,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capacity = self.capacity;
        write!(
            f,
            "the disk is longer than the target, which has {capacity} bytes"
        )
    }
}

impl StdError for TooLong {}

/// Copies a stream to a target.
pub(super) async fn run(
    mut source: Box<dyn ByteStream>,
    options: &CopyOptions,
    mut context: Context,
) -> Result<Outcome> {
    let began = Instant::now();
    only_full(options)?;
    let (target, ticker) = begin(options, &mut context, Size::AtLeast(source.left())).await?;
    let budget = context.budget(&options.tuning);
    let request = usize::try_from(options.tuning.request_size.unwrap_or(REQUEST)).unwrap_or(4096);
    let landing = Landing::new(target.clone(), &options.zeroes);
    let size = copy(source.as_mut(), &landing, &budget, request, &mut context).await?;
    check_some_came(size, source.name())?;
    conclude(&target, &mut context, size, began, ticker).await
}

/// Nothing at all comes of a program before the pipe that failed: that must not look like a disk that arrived.
fn check_some_came(size: u64, name: &str) -> Result<()> {
    if size > 0 {
        return Ok(());
    }
    let error =
        Error::new(Kind::Io, format!("read {name}")).because("it ended before its first byte");
    Err(error.hint("whatever was to send the disk has sent nothing: see why"))
}

/// Where a stream goes, and what is done about zeroes in it.
#[derive(Clone, Debug)]
pub struct Landing {
    target: Arc<dyn Target>,
    /// Bytes of a run of zeroes that is not written as data; 0 looks for none.
    sparse: usize,
    zeroing: Zeroing,
    /// Zeroes need not be written.
    skip: bool,
}

impl Landing {
    /// Onto `target`, by the user's wish.
    pub(super) fn new(target: Arc<dyn Target>, zeroes: &Zeroes) -> Self {
        let sparse = match zeroes.sparse {
            0 => 0,
            sparse => sparse.max(target.limits().align),
        };
        let zero = zeroes.target_is_zero || target.untouched() == Untouched::Zero;
        Self {
            sparse: usize::try_from(sparse).unwrap_or(0),
            zeroing: match zeroes.allocated {
                true => Zeroing::Allocate,
                false => Zeroing::Unmap,
            },
            // What grows must be told how far.
            skip: zero && !zeroes.allocated && target.capacity().is_some(),
            target,
        }
    }

    /// Onto `target`, every byte as it comes.
    #[must_use]
    pub fn plain(target: Arc<dyn Target>) -> Self {
        Self {
            target,
            sparse: 0,
            zeroing: Zeroing::Allocate,
            skip: false,
        }
    }

    /// Writes `data` at `offset`.
    pub(super) async fn put(&self, offset: u64, data: Bytes, counters: &Counters) -> Result<()> {
        for piece in pieces(&data, self.sparse) {
            let at = |start: usize| offset.saturating_add(length(start));
            match piece {
                Piece::Data(part) => {
                    let (at, len) = (at(part.start), length(part.len()));
                    self.target.write(at, data.slice(part)).await?;
                    Counters::add(&counters.written, len);
                }
                Piece::Zero(part) => {
                    let range = ByteRange::at(at(part.start), length(part.len()));
                    self.zero(range, counters).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes `range` zero, if it is not known to be.
    pub(super) async fn zero(&self, range: ByteRange, counters: &Counters) -> Result<()> {
        if self.skip {
            Counters::add(&counters.skipped, range.len());
        } else {
            self.target.zero(range, self.zeroing).await?;
            Counters::add(&counters.zeroed, range.len());
        }
        Ok(())
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Refuses what cannot be done with a stream.
///
/// # Errors
/// Only changes are wanted, or a proof.
pub(super) fn only_full(options: &CopyOptions) -> Result<()> {
    if options.pass.changes_since.is_some() || options.verify == Some(true) {
        let what = "a stream has no changes to ask for and nothing to verify against";
        return Err(Error::new(Kind::Usage, what).hint("copy from a file or an NBD export"));
    }
    Ok(())
}

/// What is known of the size of what comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    /// It is this.
    Exactly(u64),
    /// So many bytes are there by now, if anybody knows; the end tells.
    AtLeast(Option<u64>),
}

/// Opens the target of a stream, and tells that it is copied.
///
/// # Errors
/// The target cannot be had, or not for so many bytes.
pub(super) async fn begin(
    options: &CopyOptions,
    context: &mut Context,
    size: Size,
) -> Result<(Arc<dyn Target>, Ticker)> {
    let (size, least) = match size {
        Size::Exactly(size) => (Some(size), Some(size)),
        Size::AtLeast(least) => (None, least),
    };
    check_apart(&options.source, &[], &options.target)?;
    let how = How {
        overwrite: options.overwrite,
        size,
        making: options.making.clone(),
        ..How::default()
    };
    let target = open::target(&options.target, &options.tuning, &how, context).await?;
    if let Some((need, has)) = least
        .zip(target.capacity())
        .filter(|(need, has)| need > has)
    {
        let name = target.identity().name;
        let what = format!("{name} is too small: it has {has} bytes and the source has {need}");
        return Err(Error::new(Kind::Refused, what));
    }
    let size = size.unwrap_or(0);
    context.tell(&Event::Start {
        source: options.source.to_string(),
        target: target.identity().name,
        size,
        pass: "full",
        number: 1,
        resumed: 0,
    });
    let ticker = Ticker::start(&context.reporter, context.counters.clone(), size);
    Ok((target, ticker))
}

/// Makes what was copied durable, and tells so.
///
/// # Errors
/// The target cannot.
pub(super) async fn conclude(
    target: &Arc<dyn Target>,
    context: &mut Context,
    size: u64,
    began: Instant,
    ticker: Ticker,
) -> Result<Outcome> {
    target.flush().await?;
    target.finalize().await?;
    drop(ticker);
    let totals = context.counters.snapshot();
    let elapsed = began.elapsed().as_secs_f64();
    context.tell(&Event::Done {
        pass: "full",
        totals,
        size,
        elapsed,
        proven: false,
    });
    Ok(Outcome {
        totals,
        size,
        proven: false,
        distrusted: false,
    })
}

/// The error of a copy that was told to end.
pub(super) fn stopped() -> Error {
    let error = Error::new(Kind::Interrupted, "stopped by a signal");
    error.hint("a stream cannot be resumed; begin anew")
}

/// Reads the stream to its end and writes it from offset 0; returns its length.
///
/// Writes overlap each other and the next read, as far as the budget goes.
///
/// # Errors
/// The stream is longer than the target, either end fails, or an end was asked for.
pub async fn copy(
    source: &mut dyn ByteStream,
    landing: &Landing,
    budget: &Budget,
    request: usize,
    context: &mut Context,
) -> Result<u64> {
    let mut writes = FuturesUnordered::new();
    let mut offset = 0u64;
    loop {
        let buffer = budget_or_write(budget, request, &mut writes).await?;
        let read = tokio::select! {
            biased;
            () = context.stop.requested() => {
                return Err(stopped());
            }
            read = source.next(buffer) => read?,
        };
        let Some(data) = read else { break };
        let end = offset.saturating_add(length(data.len()));
        if let Some(capacity) = landing.target.capacity().filter(|capacity| end > *capacity) {
            let (from, to) = (source.name(), landing.target.identity().name);
            // Not `Refused`: it was written to by then.
            let error = Error::new(Kind::Io, format!("copy {from} to {to}")).at(offset);
            return Err(error.because(TooLong { capacity }));
        }
        Counters::add(&context.counters.read, length(data.len()));
        let (landing, counters) = (landing.clone(), context.counters.clone());
        writes.push(async move { landing.put(offset, data.freeze(), &counters).await });
        offset = end;
        context.counters.position.store(offset, Ordering::Relaxed);
    }
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(offset)
}

/// A buffer; while there is none, the writes go on that will free one.
pub(super) async fn budget_or_write<F>(
    budget: &Budget,
    length: usize,
    writes: &mut FuturesUnordered<F>,
) -> Result<Buffer>
where
    F: Future<Output = Result<()>>,
{
    let take = budget.take(length);
    tokio::pin!(take);
    loop {
        tokio::select! {
            biased;
            Some(written) = writes.next() => written?,
            buffer = &mut take => return Ok(buffer),
        }
    }
}
