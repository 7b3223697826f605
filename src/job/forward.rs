//! Copies a VMDK stream that is read once: grains go to the target as they come, in any order, and
//! what no grain came for is zeroed in the end.

use super::context::Context;
use super::copy::Outcome;
use super::options::CopyOptions;
use super::stream::{self, Size};
use crate::buffer::{Budget, Buffer};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, RangeSet};
use crate::format::vmdk::{Forward, Grain, Piece};
use crate::pipeline::counters::Counters;
use crate::source::stream::ByteStream;
use crate::sys::computing;
use crate::target::{Target, Untouched, Zeroing};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes of one read of the stream.
const REQUEST: usize = 1 << 20;

/// Copies the stream to a target, which is opened once the stream has told the size of the disk.
pub(super) async fn run(
    source: Box<dyn ByteStream>,
    options: &CopyOptions,
    mut context: Context,
) -> Result<Outcome> {
    let began = Instant::now();
    stream::only_full(options)?;
    let memory = usize::try_from(options.tuning.memory).unwrap_or(usize::MAX);
    let mut pass = Incoming {
        source,
        forward: Forward::default(),
        reading: Budget::new(2 * REQUEST, 2),
    };
    let mut pieces = Vec::new();
    let size = loop {
        match pass.next(&mut context).await? {
            Some(found) => pieces.extend(found),
            None => {
                pass.forward.finish()?;
                return Err(Error::new(Kind::Corrupt, "the VMDK stream is empty"));
            }
        }
        if let Some(Piece::Disk(size)) = pieces.first() {
            break *size;
        }
    };
    let (target, ticker) = stream::begin(options, &mut context, Size::Exactly(size)).await?;
    let budget = Budget::new(memory, options.tuning.requests);
    let zeroing = match options.zeroes.allocated {
        true => Zeroing::Allocate,
        false => Zeroing::Unmap,
    };
    let written = pass.grains(pieces, &target, &budget, &mut context).await?;
    let zero = options.zeroes.target_is_zero || target.untouched() == Untouched::Zero;
    for gap in written.gaps(ByteRange::new(0, size)) {
        if zero && zeroing == Zeroing::Unmap {
            Counters::add(&context.counters.skipped, gap.len());
        } else {
            target.zero(gap, zeroing).await?;
            Counters::add(&context.counters.zeroed, gap.len());
        }
    }
    stream::conclude(&target, &mut context, size, began, ticker).await
}

/// A stream on its way.
struct Incoming {
    source: Box<dyn ByteStream>,
    forward: Forward,
    reading: Budget,
}

impl Incoming {
    /// What the next bytes complete; `None` where the stream ends.
    async fn next(&mut self, context: &mut Context) -> Result<Option<Vec<Piece>>> {
        let buffer = self.reading.take(REQUEST).await;
        let read = tokio::select! {
            biased;
            () = context.stop.requested() => return Err(stream::stopped()),
            read = self.source.next(buffer) => read?,
        };
        let Some(data) = read else { return Ok(None) };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        Counters::add(&context.counters.read, length);
        self.forward.push(&data).map(Some)
    }

    /// Writes every grain to the end of the stream; which parts of the disk they were.
    async fn grains(
        mut self,
        mut pieces: Vec<Piece>,
        target: &Arc<dyn Target>,
        budget: &Budget,
        context: &mut Context,
    ) -> Result<RangeSet> {
        let mut written = RangeSet::default();
        let mut writes = FuturesUnordered::new();
        loop {
            for piece in pieces.drain(..) {
                let Piece::Grain(grain) = piece else { continue };
                let range = ByteRange::at(grain.offset, grain.len.into());
                if written.within(range).next().is_some() {
                    let what = "the VMDK stream has the same grain twice";
                    return Err(Error::new(Kind::Corrupt, what).at(range.start));
                }
                written.insert(range);
                let length = usize::try_from(grain.unpacked).unwrap_or(usize::MAX);
                let buffer = stream::budget_or_write(budget, length, &mut writes).await?;
                let (target, counters) = (target.clone(), context.counters.clone());
                writes.push(async move {
                    let data = computing(move || unpack(&grain, buffer)).await??;
                    target.write(range.start, data).await?;
                    Counters::add(&counters.written, range.len());
                    Ok::<(), Error>(())
                });
                context
                    .counters
                    .position
                    .store(range.end, Ordering::Relaxed);
            }
            match self.next(context).await? {
                Some(found) => pieces = found,
                None => break,
            }
        }
        self.forward.finish()?;
        while let Some(done) = writes.next().await {
            done?;
        }
        Ok(written)
    }
}

/// The bytes of a grain that are on the disk.
fn unpack(grain: &Grain, mut buffer: Buffer) -> Result<Bytes> {
    let unpacked = grain.codec.unpack(&grain.packed, &mut buffer);
    unpacked.map_err(|error| error.context("read the VMDK stream").at(grain.offset))?;
    buffer.truncate(usize::try_from(grain.len).unwrap_or(usize::MAX));
    Ok(buffer.freeze())
}
