//! Is this the disk that was copied before? NBD gives a disk no name, but its content does.
//!
//! Before a delta, some blocks that the tracker calls unchanged are read from the source and must
//! have the digest that the manifest remembers. That finds the wrong disk, the wrong snapshot and
//! a baseline that is not the one of the last pass, before anything is written.

use crate::buffer::Budget;
use crate::changes::Tracker;
use crate::digest::{BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::Manifest;
use crate::source::Source;
use crate::target::Target;
use std::sync::Arc;

/// Places that are looked at for a block with content.
const PLACES: u64 = 64;

/// Blocks that are compared at most.
const SAMPLES: usize = 16;

/// Compares some unchanged blocks of `source` with `manifest`.
///
/// # Errors
/// `Refused` if one differs; or the source, the tracker or the manifest cannot be read.
pub(super) async fn recognize(
    source: &Arc<dyn Source>,
    tracker: &Arc<dyn Tracker>,
    manifest: &Manifest,
    budget: &Budget,
) -> Result<()> {
    let mut compared = 0;
    for place in places(source.size()) {
        let digest = manifest
            .digests(place)?
            .first()
            .copied()
            .unwrap_or(Digest::ZERO);
        if digest == Digest::ZERO || !unchanged(tracker, place).await? {
            continue;
        }
        let buffer = budget.take(usize::try_from(place.len()).unwrap_or(0)).await;
        let data = source.read(place.start, buffer).await?;
        if manifest.algorithm().digest(&data) != digest {
            return Err(Error::new(
                Kind::Refused,
                "the source differs from what was copied where its bitmap says unchanged",
            )
            .at(place.start)
            .hint("is this the same disk, and was the bitmap started before the last pass?"));
        }
        compared += 1;
        if compared >= SAMPLES {
            break;
        }
    }
    Ok(())
}

/// Compares some blocks of the target with what the manifest says it holds.
///
/// # Errors
/// `Refused` if one differs; or the target or the manifest cannot be read.
pub(super) async fn recognize_target(
    target: &Arc<dyn Target>,
    manifest: &Manifest,
    size: u64,
    budget: &Budget,
) -> Result<()> {
    if !target.can_read_back() {
        return Ok(());
    }
    let mut compared = 0;
    for place in places(size) {
        let digest = manifest
            .digests(place)?
            .first()
            .copied()
            .unwrap_or(Digest::ZERO);
        if digest == Digest::ZERO {
            continue;
        }
        let buffer = budget.take(usize::try_from(place.len()).unwrap_or(0)).await;
        let data = target.read_back(place.start, buffer).await?;
        if manifest.algorithm().digest(&data) != digest {
            let what = "the target does not hold what was copied to it";
            return Err(Error::new(Kind::Refused, what)
                .at(place.start)
                .hint("is this the same disk? to copy anew, add --restart"));
        }
        compared += 1;
        if compared >= SAMPLES {
            break;
        }
    }
    Ok(())
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
