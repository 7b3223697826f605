//! Copies a stream: its size is not known, it can be read once, and nothing can be resumed.

use super::context::Context;
use super::copy::Outcome;
use super::open::{self, How};
use super::options::CopyOptions;
use crate::buffer::{Budget, Buffer};
use crate::error::{Error, Kind, Result};
use crate::pipeline::counters::Counters;
use crate::report::{Event, Ticker};
use crate::source::stdin::StreamSource;
use crate::target::Target;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes of one read, unless the user says otherwise.
const REQUEST: u32 = 1 << 20;

/// Copies a stream to a target that must have a size of its own.
pub(super) async fn run(
    source: StreamSource,
    options: &CopyOptions,
    mut context: Context,
) -> Result<Outcome> {
    let began = Instant::now();
    only_full(options)?;
    let how = How {
        overwrite: options.overwrite,
        ..How::default()
    };
    let target = open::target(&options.target, &options.tuning, &how, &context.counters).await?;
    begin(&target, options, &mut context, 0);
    let budget = context.budget(&options.tuning);
    let request = usize::try_from(options.tuning.request_size.unwrap_or(REQUEST)).unwrap_or(4096);
    let ticker = Ticker::start(&context.reporter, context.counters.clone(), 0);
    let size = copy(source, &target, &budget, request, &mut context).await?;
    conclude(&target, &mut context, size, began, ticker).await
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

/// Tells that a stream is copied, whose size is 0 as long as nobody knows it.
pub(super) fn begin(
    target: &Arc<dyn Target>,
    options: &CopyOptions,
    context: &mut Context,
    size: u64,
) {
    context.tell(&Event::Start {
        source: options.source.to_string(),
        target: target.identity().name,
        size,
        pass: "full",
        number: 1,
        resumed: 0,
    });
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
    mut source: StreamSource,
    target: &Arc<dyn Target>,
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
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let end = offset.saturating_add(length);
        if target.capacity().is_some_and(|capacity| end > capacity) {
            return Err(
                Error::new(Kind::Refused, "the stream is longer than the target").at(offset),
            );
        }
        Counters::add(&context.counters.read, length);
        let (target, counters) = (target.clone(), context.counters.clone());
        writes.push(async move {
            target.write(offset, data.freeze()).await?;
            Counters::add(&counters.written, length);
            Ok::<(), Error>(())
        });
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
