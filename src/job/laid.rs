//! Copies what comes once, in order, into a new image. An image says its size before anything else:
//! a VMDK tells it, and a file of raw bytes that is compressed is read twice, first only to its end.

use super::context::Context;
use super::copy::Outcome;
use super::incoming::{Incoming, is_stream};
use super::options::CopyOptions;
use super::prepare;
use super::stream::{self, Landing, REQUEST, Size};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::pipeline::counters::Counters;
use crate::source::stream::{Came, Laid};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Copies `incoming` into an image.
pub(super) async fn run(
    incoming: Incoming,
    options: &CopyOptions,
    mut context: Context,
) -> Result<Outcome> {
    let began = Instant::now();
    stream::only_full(options)?;
    let laid = incoming.laid().await?;
    let (laid, size) = match laid.size() {
        Some(size) => (laid, size),
        None => counted(laid, options, &mut context).await?,
    };
    let (target, ticker) = stream::begin(options, &mut context, Size::Exactly(size)).await?;
    let landing = Landing::new(target.clone(), &options.zeroes);
    let copied = copy(laid, &landing, options, &mut context).await?;
    if copied != size {
        let what = format!("{} had {size} bytes, and has {copied} now", options.source);
        return Err(Error::new(Kind::Io, what));
    }
    stream::conclude(&target, &mut context, size, began, ticker).await
}

/// How much comes; and the same from its start again.
async fn counted(
    mut laid: Laid,
    options: &CopyOptions,
    context: &mut Context,
) -> Result<(Laid, u64)> {
    if is_stream(&options.source) {
        let what = format!("{} has no size, and an image needs one", options.source);
        return Err(Error::new(Kind::Unsupported, what).hint("copy it into a raw file first"));
    }
    let mut size = 0u64;
    while let Some(came) = next(&mut laid, context).await? {
        size = size.saturating_add(came.len());
    }
    let again = prepare::coming(options, context).await?;
    let gone = || Error::new(Kind::Io, format!("{} is another file now", options.source));
    Ok((again.ok_or_else(gone)?.laid().await?, size))
}

async fn next(laid: &mut Laid, context: &mut Context) -> Result<Option<Came>> {
    let request = usize::try_from(REQUEST).unwrap_or(4096);
    tokio::select! {
        biased;
        () = context.stop.requested() => Err(stream::stopped()),
        came = laid.next(Buffer::unbudgeted(request)) => came,
    }
}

/// Writes all of it in order; how much it was.
async fn copy(
    mut laid: Laid,
    landing: &Landing,
    options: &CopyOptions,
    context: &mut Context,
) -> Result<u64> {
    let memory = options.tuning.memory / u64::from(REQUEST);
    let memory = usize::try_from(memory).unwrap_or(usize::MAX);
    // What waits holds its bytes.
    let most = options.tuning.requests.min(memory).max(1);
    let mut writes = FuturesUnordered::new();
    let mut offset = 0u64;
    while let Some(came) = next(&mut laid, context).await? {
        let range = ByteRange::at(offset, came.len());
        Counters::add(&context.counters.read, range.len());
        let (landing, counters) = (landing.clone(), context.counters.clone());
        writes.push(async move {
            match came {
                Came::Data(bytes) => landing.put(range.start, bytes, &counters).await,
                Came::Zeroes(_) => landing.zero(range, &counters).await,
            }
        });
        offset = range.end;
        context.counters.position.store(offset, Ordering::Relaxed);
        while writes.len() >= most {
            writes.next().await.transpose()?;
        }
    }
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(offset)
}
