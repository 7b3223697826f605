//! A source whose bytes, all of them in order, must have a checksum.
//!
//! Bytes are added up as they are read. A copy reads mostly in order and many requests at a time,
//! so what comes a little early is kept for a moment; what was never read, or came far too early,
//! is read in the end.

use super::Source;
use crate::buffer::Buffer;
use crate::digest::checksum::{Checksum, Summer};
use crate::endpoint::{Identity, Limits, ServedBy};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use crate::sys::computing;
use async_trait::async_trait;
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that came early and are kept.
const EARLY_MAX: usize = 32 << 20;

/// Requests at a time for what is read in the end.
const IN_FLIGHT: usize = 8;

/// A source whose bytes are added up as they are read.
#[derive(Debug)]
pub struct Checked {
    source: Arc<dyn Source>,
    tally: Arc<Mutex<Tally>>,
}

/// What was added up so far.
#[derive(Debug)]
struct Tally {
    summer: Summer,
    /// All bytes before this one were.
    next: u64,
    early: BTreeMap<u64, Vec<u8>>,
    kept: usize,
}

impl Tally {
    /// Bytes at `offset` were read.
    fn take(&mut self, offset: u64, bytes: &[u8]) {
        let skip = usize::try_from(self.next.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(skip..).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if offset > self.next {
            let room = EARLY_MAX.saturating_sub(self.kept);
            let known = self.early.get(&offset).map_or(0, Vec::len);
            if bytes.len() <= room && known < bytes.len() {
                self.kept = self.kept.saturating_add(bytes.len()).saturating_sub(known);
                self.early.insert(offset, bytes.to_vec());
            }
            return;
        }
        self.add(bytes);
        while let Some(entry) = self.early.first_entry().filter(|it| *it.key() <= self.next) {
            let (offset, bytes) = entry.remove_entry();
            self.kept = self.kept.saturating_sub(bytes.len());
            let skip = usize::try_from(self.next.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.add(bytes.get(skip..).unwrap_or_default());
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.summer.add(bytes);
        self.next = self.next.saturating_add(bytes.len() as u64);
    }
}

impl Checked {
    /// Adds up what is read of `source`, which must come to `checksum`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, checksum: &Checksum) -> Self {
        let tally = Tally {
            summer: checksum.summer(),
            next: 0,
            early: BTreeMap::new(),
            kept: 0,
        };
        Self {
            source,
            tally: Arc::new(Mutex::new(tally)),
        }
    }

    /// Reads what was not read yet, and compares.
    ///
    /// # Errors
    /// `Mismatch`: the bytes are not what was published. Or they cannot be read.
    pub async fn finish(&self) -> Result<()> {
        let next = self.tally().next;
        let step = u64::from(self.source.limits().preferred);
        let rest = ByteRange::new(next, self.size()).align_out(step, self.size());
        let starts = (0..).map_while(|n: u64| {
            let start = rest.start.checked_add(n.checked_mul(step)?)?;
            (start < rest.end).then_some(start)
        });
        let reads = starts.map(|start| async move {
            let len = step.min(rest.end.saturating_sub(start));
            let buffer = Buffer::unbudgeted(usize::try_from(len).unwrap_or(0));
            self.read(start, buffer).await.map(drop)
        });
        let mut reads = pin!(iter(reads).buffered(IN_FLIGHT));
        while reads.try_next().await?.is_some() {}
        let tally = self.tally();
        if tally.next != self.size() {
            let what = format!("{}: its checksum was not reached", self.identity());
            return Err(Error::new(Kind::Io, what).at(tally.next));
        }
        tally.summer.check(&self.identity().name)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for Checked {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn limits(&self) -> Limits {
        self.source.limits()
    }

    fn identity(&self) -> Identity {
        self.source.identity()
    }

    fn ending(&self) {
        self.source.ending();
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let buffer = self.source.read(offset, buffer).await?;
        let tally = Arc::clone(&self.tally);
        computing(move || {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.take(offset, &buffer);
            buffer
        })
        .await
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        self.source.extents(range).await
    }

    fn served_by(&self) -> Option<ServedBy> {
        self.source.served_by()
    }
}

#[cfg(test)]
mod tests {
    use super::{Checked, EARLY_MAX, Tally};
    use crate::digest::checksum::Checksum;
    use crate::error::Kind;
    use crate::testkit::MemSource;
    use proptest::prelude::prop;
    use proptest::{prop_assert_eq, proptest};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn checksum() -> Checksum {
        // Of the bytes 0 to 63.
        "md5:b2d3f56bc197fd985d5965079b5e7148".parse().unwrap()
    }

    fn tally() -> Tally {
        Tally {
            summer: checksum().summer(),
            next: 0,
            early: BTreeMap::new(),
            kept: 0,
        }
    }

    proptest! {
        /// However it is cut up, repeated and shuffled, what was read is added up once, in order.
        #[test]
        fn every_byte_counts_once(mut pieces in prop::collection::vec((0u8..64, 1u8..16), 0..40)) {
            let bytes: Vec<u8> = (0..64).collect();
            pieces.extend([(0, 64), (32, 32)]);
            let mut tally = tally();
            for (start, len) in pieces {
                let start = usize::from(start);
                let end = (start + usize::from(len)).min(64);
                tally.take(start as u64, &bytes[start..end]);
            }
            prop_assert_eq!(tally.next, 64);
            prop_assert_eq!((tally.kept, tally.early.len()), (0, 0));
            tally.summer.check("bytes").unwrap();
        }
    }

    #[test]
    fn what_comes_early_is_kept_within_bounds() {
        let mut tally = tally();
        let piece = vec![1; EARLY_MAX / 2];
        for n in 1..9 {
            tally.take(n * (EARLY_MAX as u64), &piece);
        }
        assert_eq!(
            (tally.kept, tally.early.len(), tally.next),
            (EARLY_MAX, 2, 0)
        );
    }

    #[tokio::test]
    async fn what_was_not_read_is_read_in_the_end() {
        let bytes: Vec<u8> = (0..64).collect();
        let checked = Checked::new(Arc::new(MemSource::holding(&bytes)), &checksum());
        checked.finish().await.unwrap();
        let other = Checked::new(Arc::new(MemSource::new(64)), &checksum());
        let error = other.finish().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Mismatch);
    }
}
