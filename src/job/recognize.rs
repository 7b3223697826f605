//! Is this the disk that was copied before? NBD gives a disk no name, but its content does.
//!
//! Before a delta, some blocks that the tracker calls unchanged are read from the source and must
//! have the digest that the manifest remembers. That finds the wrong disk, the wrong snapshot and
//! a baseline that is not the one of the last pass, before anything is written.

use crate::buffer::{Budget, Buffer};
use crate::changes::Tracker;
use crate::digest::{BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::View;
use crate::source::Source;
use crate::target::Target;
use futures_util::future::ready;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Places that are looked at for a block with content.
const PLACES: u64 = 64;

/// Blocks that are compared at most.
const SAMPLES: usize = 16;

/// Compares some unchanged blocks of `source` with what is known of them.
///
/// Gives the first that differs if the tracker is `doubted` and others do not: then it is the same
/// disk, and the tracker left out a change.
///
/// # Errors
/// `Refused` if one differs; or the source, the tracker or the manifest cannot be read.
pub(super) async fn recognize(
    source: &Arc<dyn Source>,
    tracker: &Arc<dyn Tracker>,
    view: &View,
    budget: &Budget,
    doubted: bool,
) -> Result<Option<u64>> {
    let (compared, differing) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let compare = async |(place, digest): (ByteRange, Digest)| {
        if !unchanged(tracker, place).await? {
            return Ok(false);
        }
        let data = source
            .read(place.start, buffer_for(budget, place).await)
            .await?;
        compared.fetch_add(1, Ordering::Relaxed);
        if view.algorithm().digest(&data) != digest {
            let mut differing = differing.lock().unwrap_or_else(PoisonError::into_inner);
            differing.push(place.start);
        }
        Ok(true)
    };
    sample(remembered(view, source.size())?, compare).await?;
    let differing = differing
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let all = u64::try_from(differing.len()) == Ok(compared.into_inner());
    match differing.into_iter().min() {
        Some(at) if !doubted || all => Err(Error::new(
            Kind::Refused,
            "the source differs from what was copied where its tracker says unchanged",
        )
        .at(at)
        .hint("is this the same disk, and was its bitmap or other tracking begun before the last pass?")),
        first => Ok(first),
    }
}

/// Compares some blocks of the target with what is known of them.
///
/// # Errors
/// `Refused` if one differs; or the target or the manifest cannot be read.
pub(super) async fn recognize_target(
    target: &Arc<dyn Target>,
    view: &View,
    size: u64,
    budget: &Budget,
) -> Result<()> {
    if !target.can_read_back() {
        return Ok(());
    }
    let compare = async |(place, digest): (ByteRange, Digest)| {
        let data = target
            .read_back(place.start, buffer_for(budget, place).await)
            .await?;
        if view.algorithm().digest(&data) == digest {
            return Ok(true);
        }
        let what = "the target does not hold what was copied to it";
        Err(Error::new(Kind::Refused, what)
            .at(place.start)
            .hint("is this the same disk? to copy anew, add --restart"))
    };
    sample(remembered(view, size)?, compare).await
}

/// Compares places, many at once, until enough of them could be.
async fn sample<C, F>(places: Vec<(ByteRange, Digest)>, compare: C) -> Result<()>
where
    C: Fn((ByteRange, Digest)) -> F,
    F: Future<Output = Result<bool>>,
{
    let compared = stream::iter(places.into_iter().map(compare)).buffered(SAMPLES);
    let mut enough = pin!(compared.try_filter(|&was| ready(was)).take(SAMPLES));
    while enough.try_next().await?.is_some() {}
    Ok(())
}

/// Places whose content is known, and its digest.
fn remembered(view: &View, size: u64) -> Result<Vec<(ByteRange, Digest)>> {
    let mut found = Vec::new();
    for place in places(size) {
        if let Some(digest) = content(view, place)? {
            found.push((place, digest));
        }
    }
    Ok(found)
}

pub(super) async fn buffer_for(budget: &Budget, place: ByteRange) -> Buffer {
    budget.take(usize::try_from(place.len()).unwrap_or(0)).await
}

/// The digest of a block that is known, and not of zeroes, which every disk has.
fn content(view: &View, place: ByteRange) -> Result<Option<Digest>> {
    let known = view.digests(place)?.first().copied().flatten();
    Ok(known.filter(|digest| *digest != Digest::ZERO))
}

/// Whole blocks spread evenly over the disk.
fn places(size: u64) -> impl Iterator<Item = ByteRange> {
    let blocks = size.div_ceil(BLOCK);
    let count = PLACES.min(blocks);
    (0..count).map(move |i| {
        let block = u128::from(i) * u128::from(blocks) / u128::from(count.max(1));
        let start = u64::try_from(block).unwrap_or(0).saturating_mul(BLOCK);
        ByteRange::new(start, start.saturating_add(BLOCK).min(size))
    })
}

async fn unchanged(tracker: &Arc<dyn Tracker>, place: ByteRange) -> Result<bool> {
    let answer = tracker.changes(place).await?;
    Ok(answer.known.covers(place) && answer.changed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{PLACES, places};
    use crate::digest::BLOCK;

    #[test]
    fn places_are_distinct_blocks_of_the_disk() {
        for size in [1, BLOCK, BLOCK * 3 + 5, BLOCK * 100_000 + 1, u64::MAX / 2] {
            let found: Vec<_> = places(size).collect();
            assert!(found.len() <= usize::try_from(PLACES).unwrap());
            assert!(
                found.windows(2).all(|pair| pair[0].end <= pair[1].start),
                "{size}"
            );
            assert!(
                found
                    .iter()
                    .all(|p| p.start % BLOCK == 0 && p.end <= size && !p.is_empty())
            );
        }
    }
}
