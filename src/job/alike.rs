//! Is this the disk that the pass began with? An address may lead to another one by now.
//!
//! Before a pass goes on, some blocks that it has dealt with are read again and compared with what
//! the manifest remembers. A guest may have written to any of them since, so that one differs says
//! nothing; that all do says that this is another disk, and a target that goes on with it would
//! hold some of both. A tracker tells more: see [`recognize`](super::recognize).

use super::copy::Job;
use super::decide::Start;
use super::ledger::append;
use super::recognize::buffer_for;
use crate::digest::{BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::{Record, View};
use crate::plan::Done;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashSet;

/// Stretches in which blocks with content are looked for.
const STRETCHES: u64 = 64;

/// Blocks of one: the disk may be sparse, and their digests are one read.
const STRETCH: u64 = 64;

/// Blocks that are compared at most.
const SAMPLES: usize = 16;

/// Fewer than these prove nothing: a small disk may have changed in all of them.
const ENOUGH: usize = 4;

/// Blocks that were compared, and those of them that differ.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Compared {
    all: usize,
    differ: usize,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Likeness {
    /// Nothing speaks against it.
    Alike,
    /// All differs, of too little to be sure.
    Doubtful,
    /// All differs.
    Another,
}

impl Compared {
    fn judge(self) -> Likeness {
        match self.differ < self.all || self.all == 0 {
            true => Likeness::Alike,
            false if self.all < ENOUGH => Likeness::Doubtful,
            false => Likeness::Another,
        }
    }
}

impl Job<'_> {
    /// What an earlier run did of this pass and this one can rely on. Nothing is written before.
    ///
    /// # Errors
    /// `Refused` if the source is another disk; or it, the manifest or the journal cannot be used.
    pub(super) async fn still_done(&self) -> Result<Done> {
        let (begun, finished) = match &self.start {
            Start::Resume { done, .. } => (done.clone(), false),
            Start::Finished => (all_of(self.size()), true),
            _ => return Ok(Done::default()),
        };
        let tracked = self.opened.tracker.is_some() && !self.distrusted;
        if tracked || begun == Done::default() {
            return Ok(begun);
        }
        let look = self.compare_some(&begun);
        let found = self.context.stop.clone().interrupts(look).await?;
        match found.judge() {
            Likeness::Alike if finished => Ok(Done::default()),
            Likeness::Alike => Ok(begun),
            Likeness::Doubtful if !finished => self.begin_anew(found),
            Likeness::Doubtful | Likeness::Another => Err(self.another(found, finished)),
        }
    }

    /// So little is done that nothing is lost if it is done again. That it is not done is durable
    /// before anything is written over it.
    fn begin_anew(&self, found: Compared) -> Result<Done> {
        self.context.warn(format!(
            "{} differs from what this pass has copied in all of the {} blocks that could be \
             compared: it begins anew",
            self.opened.source.identity(),
            found.all
        ));
        let done = Done::default();
        if let Some(journal) = &self.journal {
            append(journal, &Record::Barrier { done: done.clone() })?;
        }
        Ok(done)
    }

    fn another(&self, found: Compared, finished: bool) -> Error {
        let source = self.opened.source.identity();
        let what = match finished {
            true => format!("{source} does not hold what was copied"),
            false => format!("{source} is not the disk that this pass began with"),
        };
        Error::new(Kind::Refused, what)
            .because(format!(
                "all {} blocks that were compared differ",
                found.all
            ))
            .hint("check the address; to copy what is there now, add --restart")
    }

    async fn compare_some(&self, done: &Done) -> Result<Compared> {
        let view = self.open_manifest()?.view();
        let view = &view;
        let compare = async |(place, digest): (ByteRange, Digest)| {
            let buffer = buffer_for(&self.budget, place).await;
            let data = self.opened.source.read(place.start, buffer).await?;
            Ok::<bool, Error>(view.algorithm().digest(&data) != digest)
        };
        let chosen = spread(with_content(view, done, self.size())?);
        let differ = stream::iter(chosen.into_iter().map(compare)).buffer_unordered(SAMPLES);
        let differ: Vec<bool> = differ.try_collect().await?;
        Ok(Compared {
            all: differ.len(),
            differ: differ.iter().filter(|differs| **differs).count(),
        })
    }
}

/// Blocks of what is done that are not zero, which every disk has, and none that is like another:
/// what a disk is filled with says little.
fn with_content(view: &View, done: &Done, size: u64) -> Result<Vec<(ByteRange, Digest)>> {
    let mut seen = HashSet::from([Digest::ZERO]);
    let mut found = Vec::new();
    for stretch in stretches(&whole_blocks(done, size)) {
        for (place, digest) in blocks(stretch).zip(view.digests(stretch)?) {
            let digest = digest.filter(|digest| seen.insert(*digest));
            found.extend(digest.map(|digest| (place, digest)));
        }
    }
    Ok(found)
}

/// As many of them as are compared, evenly.
fn spread<T>(mut found: Vec<T>) -> Vec<T> {
    let count = found.len();
    if count > SAMPLES {
        let wanted = |i: usize| i.saturating_mul(count) / SAMPLES;
        let wanted: HashSet<_> = (0..SAMPLES).map(wanted).collect();
        let mut at = 0..;
        found.retain(|_| at.next().is_some_and(|i| wanted.contains(&i)));
    }
    found
}

fn all_of(size: u64) -> Done {
    Done {
        below: size,
        above: Vec::new(),
    }
}

/// The blocks that are done as a whole; the last one of the disk may be short.
fn whole_blocks(done: &Done, size: u64) -> Vec<ByteRange> {
    let whole = |range: ByteRange| {
        let inner = range.align_in(BLOCK);
        let end = if range.end >= size { size } else { inner.end };
        ByteRange::new(inner.start, end)
    };
    let done = done.to_set();
    let ranges = done.iter().map(whole).filter(|range| !range.is_empty());
    ranges.collect()
}

/// Stretches of blocks, spread evenly over `ranges`, which begin at blocks; all of them if they are
/// few.
fn stretches(ranges: &[ByteRange]) -> Vec<ByteRange> {
    let length = |range: &ByteRange| range.len().div_ceil(BLOCK);
    let total = ranges.iter().map(length).fold(0, u64::saturating_add);
    let count = STRETCHES.min(total);
    let nth = |i: u64| {
        let block = u128::from(i) * u128::from(total) / u128::from(count.max(1));
        u64::try_from(block).unwrap_or(0)
    };
    let mut found = Vec::new();
    for i in 0..count {
        let (from, next) = (nth(i), nth(i.saturating_add(1)));
        let to = next.min(from.saturating_add(STRETCH));
        let mut before = 0u64;
        for range in ranges {
            let at = |block: u64| {
                let inside = block.saturating_sub(before).saturating_mul(BLOCK);
                range.start.saturating_add(inside).min(range.end)
            };
            found.push(ByteRange::new(at(from), at(to)));
            before = before.saturating_add(length(range));
        }
    }
    found.retain(|stretch| !stretch.is_empty());
    found
}

/// The blocks of a range that begins at one.
fn blocks(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
    (first..end)
        .map(move |block| ByteRange::at(block.saturating_mul(BLOCK), BLOCK).intersect(range))
}

#[cfg(test)]
mod tests {
    use super::{Compared, Likeness, SAMPLES, STRETCH, STRETCHES, spread, stretches, whole_blocks};
    use crate::digest::BLOCK;
    use crate::extent::{ByteRange, RangeSet};
    use crate::plan::Done;
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn only_if_all_differs_it_is_another_disk_and_only_if_there_was_enough() {
        use Likeness::{Alike, Another, Doubtful};
        for (all, differ, likeness) in [
            (0, 0, Alike),
            (1, 0, Alike),
            (3, 2, Alike),
            (16, 15, Alike),
            (1, 1, Doubtful),
            (3, 3, Doubtful),
            (4, 4, Another),
            (16, 16, Another),
        ] {
            let compared = Compared { all, differ };
            assert_eq!(compared.judge(), likeness, "{compared:?}");
        }
    }

    #[test]
    fn a_block_counts_only_if_all_of_it_is_done_and_the_last_one_may_be_short() {
        let size = 5 * BLOCK + 7;
        let of = |below, above: &[(u64, u64)]| {
            let above = above.to_vec();
            whole_blocks(&Done { below, above }, size)
        };
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(of(BLOCK - 1, &[]), []);
        assert_eq!(of(2 * BLOCK + 1, &[]), [range(0, 2 * BLOCK)]);
        assert_eq!(of(size, &[]), [range(0, size)]);
        let tail = [(3 * BLOCK + 1, size)];
        let found = [range(0, BLOCK), range(4 * BLOCK, size)];
        assert_eq!(of(BLOCK, &tail), found);
        assert_eq!(of(0, &[(5 * BLOCK + 1, size)]), []);
    }

    #[test]
    fn samples_are_spread_over_all_that_was_found() {
        let all: Vec<_> = (0..1600).collect();
        let expected: Vec<_> = (0..1600).step_by(100).collect();
        assert_eq!(spread(all), expected);
        let few: Vec<_> = (0..SAMPLES).collect();
        assert_eq!(spread(few.clone()), few);
    }

    proptest! {
        /// Stretches are blocks of what is done, none twice, all of them if they are few, and
        /// some of each half otherwise.
        #[test]
        fn stretches_are_of_what_is_done_and_from_all_over_it(
            pieces in vec((0u64..30_000, 1u64..3000), 0..6),
        ) {
            let ranges = pieces.iter().map(|&(start, count)| ByteRange::at(start * BLOCK, count * BLOCK));
            let done: RangeSet = ranges.collect();
            let ranges: Vec<_> = done.iter().collect();
            let found = stretches(&ranges);
            let taken: u64 = found.iter().map(|stretch| stretch.len()).sum();
            let distinct: RangeSet = found.iter().copied().collect();
            prop_assert_eq!(distinct.bytes(), taken);
            prop_assert!(found.iter().all(|stretch| done.covers(*stretch)));
            let total = done.bytes() / BLOCK;
            let enough = total.min(STRETCHES * STRETCH);
            prop_assert!(taken / BLOCK <= enough);
            if total <= STRETCHES * STRETCH {
                prop_assert_eq!(taken / BLOCK, total);
            }
            let last = found.last().map_or(0, |stretch| stretch.end);
            let behind: u64 = done.within(ByteRange::new(last, u64::MAX)).map(ByteRange::len).sum();
            prop_assert!(behind / BLOCK <= total / STRETCHES + 1);
        }
    }
}
