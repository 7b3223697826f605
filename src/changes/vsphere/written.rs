//! A disk of a snapshot whose holes are told by changed block tracking.
//!
//! Asked for `*`, a server lists all that was ever written to a disk, page by page and out of its
//! own tables; what the list leaves out reads as zeroes. VDDK's own answer costs a round trip for
//! each chunk. The list is believed only as far as the reads bear it out: some blocks that it leaves
//! out are read first, since hosts have told wrong areas of disks that had grown. A server that does
//! not tell is not asked again, and VDDK answers.

use super::tracker::Cbt;
use crate::buffer::Buffer;
use crate::changes::Tracker;
use crate::endpoint::{Identity, Limits, ServedBy};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use crate::source::Source;
use crate::source::vddk::VddkAddress;
use crate::vsphere::changes::ChangeId;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks that are read although the list leaves them out.
const SAMPLES: u64 = 16;

/// Bytes of each: what is tracked as one.
const SAMPLE: u64 = 64 << 10;

/// A disk of a snapshot, and what was ever written to it.
#[derive(Debug)]
pub struct Written {
    disk: Arc<dyn Source>,
    areas: Cbt,
    /// The server stopped telling.
    silent: AtomicBool,
}

impl Written {
    /// `disk`, which is at `address`, with its holes told by the server; or `disk` as it is where
    /// the server does not tell, or tells what is not so.
    pub async fn over(disk: Arc<dyn Source>, address: &VddkAddress) -> Arc<dyn Source> {
        if address.snapshot.is_none() {
            return disk;
        }
        match Self::open(disk.clone(), address).await {
            Ok(written) => Arc::new(written),
            Err(error) => {
                let line = error.line();
                tracing::info!("what was ever written is not asked of the server: {line}");
                disk
            }
        }
    }

    async fn open(disk: Arc<dyn Source>, address: &VddkAddress) -> Result<Self> {
        let written = Self {
            areas: Cbt::open(address, ChangeId::everything()).await?,
            disk,
            silent: AtomicBool::new(false),
        };
        for place in places(written.disk.size()) {
            written.check(place).await?;
        }
        Ok(written)
    }

    /// Reads a block that the list leaves out.
    async fn check(&self, place: ByteRange) -> Result<()> {
        let told = self.areas.changes(place).await?;
        if told.known != place || !told.changed.is_empty() {
            return Ok(());
        }
        let length = usize::try_from(place.len()).unwrap_or(0);
        let data = self
            .disk
            .read(place.start, Buffer::unbudgeted(length))
            .await?;
        match data.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => {
                let what = "the list of what was ever written leaves out what is there";
                Err(Error::new(Kind::Corrupt, what).at(place.start))
            }
        }
    }
}

/// Blocks spread evenly over a disk, the first and the last among them.
fn places(size: u64) -> impl Iterator<Item = ByteRange> {
    let blocks = size.div_ceil(SAMPLE);
    let count = SAMPLES.min(blocks);
    (0..count).map(move |i| {
        let steps = count.saturating_sub(1).max(1);
        let block = u128::from(i) * u128::from(blocks.saturating_sub(1)) / u128::from(steps);
        let start = u64::try_from(block).unwrap_or(0).saturating_mul(SAMPLE);
        ByteRange::new(start, start.saturating_add(SAMPLE).min(size))
    })
}

#[async_trait]
impl Source for Written {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn limits(&self) -> Limits {
        self.disk.limits()
    }

    fn identity(&self) -> Identity {
        self.disk.identity()
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.disk.read(offset, buffer).await
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        if self.silent.load(Ordering::Relaxed) {
            return self.disk.extents(range).await;
        }
        match self.areas.changes(range).await {
            Ok(told) => Ok(extents(told.known, &told.changed)),
            Err(error) => {
                let line = error.line();
                tracing::warn!("what was ever written is not told any more: {line}");
                self.silent.store(true, Ordering::Relaxed);
                self.disk.extents(range).await
            }
        }
    }

    fn served_by(&self) -> Option<ServedBy> {
        self.disk.served_by()
    }
}

/// What was written as data, and zeroes between.
fn extents(known: ByteRange, written: &[ByteRange]) -> Vec<Extent> {
    let mut found = Vec::new();
    let mut at = known.start;
    for area in written {
        if area.start > at {
            found.push(Extent::zero(ByteRange::new(at, area.start)));
        }
        found.push(Extent::data(*area));
        at = area.end;
    }
    if at < known.end {
        found.push(Extent::zero(ByteRange::new(at, known.end)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{SAMPLE, SAMPLES, extents, places};
    use crate::extent::{ByteRange, Extent};

    #[test]
    fn what_is_left_out_between_before_and_behind_is_zero() {
        let range = ByteRange::new;
        assert_eq!(
            extents(range(10, 60), &[range(20, 30), range(30, 40)]),
            [
                Extent::zero(range(10, 20)),
                Extent::data(range(20, 30)),
                Extent::data(range(30, 40)),
                Extent::zero(range(40, 60)),
            ]
        );
        assert_eq!(extents(range(0, 9), &[]), [Extent::zero(range(0, 9))]);
        assert_eq!(
            extents(range(0, 9), &[range(0, 9)]),
            [Extent::data(range(0, 9))]
        );
    }

    #[test]
    fn places_begin_at_the_first_block_and_end_at_the_last() {
        for size in [1, SAMPLE, 3 * SAMPLE + 7, 1000 * SAMPLE, u64::MAX / 4] {
            let found: Vec<_> = places(size).collect();
            assert!(found.len() <= usize::try_from(SAMPLES).unwrap());
            assert_eq!(found[0].start, 0);
            assert_eq!(found.last().unwrap().end, size);
            assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
