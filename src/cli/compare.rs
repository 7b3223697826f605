//! `diskferry compare`: whether two disks hold the same, and where they first differ.

use super::open::{ScratchOptions, WebOptions};
use super::output::{self, Output};
use super::scan::{self, Reader};
use super::sequence::{Sequence, Sides};
use super::speed::Speed;
use super::{Command, words};
use crate::address::Address;
use crate::digest::is_zero;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::job::options::{Reading, Tuning};
use crate::pipeline::counters::Counters;
use crate::plan::Step;
use crate::report;
use crate::source::Source;
use bytes::Bytes;
use clap::Args;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Compare the content of two disks: equal, or the first difference
///
/// Exit code 0 if they are equal, 3 if they differ. Where one disk is longer, the rest of it must
/// be zeroes.
#[derive(Args, Clone, Debug)]
pub(super) struct Compare {
    /// One disk: a path, an NBD URI or [ CMD ARGS ]
    #[arg(value_name = "A", value_parser = words::address)]
    first: Address,

    /// The other disk
    #[arg(value_name = "B", value_parser = words::address)]
    second: Address,

    /// Disks of different size differ, whatever the longer one holds
    #[arg(short, long)]
    strict: bool,

    /// Do not ask the disks what is zero: read everything
    #[arg(long)]
    no_extents: bool,

    /// Format of A; a file is probed, all else is raw, unless this says what it is
    #[arg(short = 'f', long, value_name = "FORMAT")]
    source_format: Option<String>,

    /// Format of B; likewise
    #[arg(short = 'F', long, value_name = "FORMAT")]
    target_format: Option<String>,

    /// Read A as it was at this snapshot inside the image, by ID or name
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// Read B as it was at this snapshot inside the image
    #[arg(long, value_name = "SNAPSHOT")]
    target_snapshot: Option<String>,

    /// Read this disk of A, an OVA, by the name of its file or its ID
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,

    /// Read this disk of B, an OVA
    #[arg(long, value_name = "DISK")]
    target_disk: Option<String>,

    /// A directory, besides its own, out of which an image may open its parents and parts
    #[arg(long, value_name = "DIR")]
    allow_backing: Vec<PathBuf>,

    #[command(flatten)]
    scratch: ScratchOptions,

    #[command(flatten)]
    web: WebOptions,

    #[command(flatten)]
    speed: Speed,
}

impl Command for Compare {
    const NAME: &'static str = "compare";

    async fn run(self, output: Output) -> Result<()> {
        let (tuning, throttle) = (self.speed.tuning(), self.speed.throttle());
        let reading =
            |format: &Option<String>, snapshot: &Option<String>, disk: &Option<String>| Reading {
                format: format.clone(),
                allow: self.allow_backing.clone(),
                access: self.web.access(),
                snapshot: snapshot.clone(),
                disk: disk.clone(),
                scratch: self.scratch.room(),
                ..Reading::default()
            };
        let first = reading(&self.source_format, &self.snapshot, &self.disk);
        let first = Sequence::open(&self.first, &first, &tuning, &throttle).await?;
        let second = reading(
            &self.target_format,
            &self.target_snapshot,
            &self.target_disk,
        );
        let second = Sequence::open(&self.second, &second, &tuning, &throttle).await?;
        let Found { sizes, difference } = match (first, second) {
            (Sequence::Any(first), Sequence::Any(second)) => {
                self.anywhere(first, second, &tuning, &output).await?
            }
            (first, second) => self.in_order(first, second, &tuning, &output).await?,
        };
        if output.json() {
            let at = difference.map(|(at, _)| at);
            let result = json!({ "equal": difference.is_none(), "first_difference": at });
            output::print(&format!("{result}\n"))?;
        } else if difference.is_none() {
            output::print(&format!("equal: {}\n", report::bytes(sizes.0.max(sizes.1))))?;
        }
        match difference {
            None => Ok(()),
            Some((at, Unlike::Byte)) => {
                let doing = format!("{} and {} differ", self.first, self.second);
                Err(Error::new(Kind::Mismatch, doing).at(at))
            }
            Some((end, Unlike::Size)) => {
                let (shorter, longer) = if sizes.0 == end {
                    (&self.first, &self.second)
                } else {
                    (&self.second, &self.first)
                };
                let what = format!("{shorter} has {end} bytes and {longer} has more");
                Err(Error::new(Kind::Mismatch, what))
            }
        }
    }
}

/// What a comparison found.
#[derive(Debug, Eq, PartialEq)]
struct Found {
    /// Bytes of both disks; of one that comes in order, as many as came.
    sizes: (u64, u64),
    /// Where the first difference is, and what it is.
    difference: Option<(u64, Unlike)>,
}

/// In what two disks differ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unlike {
    /// A byte.
    Byte,
    /// One disk ends here and the other does not.
    Size,
}

impl Found {
    fn new(sizes: (u64, u64), byte: Option<u64>) -> Self {
        let difference = byte.map(|at| (at, Unlike::Byte));
        Self { sizes, difference }
    }

    /// Where sizes count, the end of the shorter disk is a difference if there is none before it.
    fn strict(mut self) -> Self {
        let end = self.sizes.0.min(self.sizes.1);
        let earlier = self.difference.is_some_and(|(at, _)| at < end);
        if self.sizes.0 != self.sizes.1 && !earlier {
            self.difference = Some((end, Unlike::Size));
        }
        self
    }
}

impl Compare {
    /// Compares two disks that can be read anywhere.
    async fn anywhere(
        &self,
        first: Arc<dyn Source>,
        second: Arc<dyn Source>,
        tuning: &Tuning,
        output: &Output,
    ) -> Result<Found> {
        let sizes = (first.size(), second.size());
        let size = sizes.0.max(sizes.1);
        if self.strict && sizes.0 != sizes.1 {
            return Ok(Found::new(sizes, None).strict());
        }
        let counters = Arc::new(Counters::default());
        let _progress = output.progress(&counters, size);
        let pair = Pair {
            first: Reader::new(first, tuning, 2),
            second: Reader::new(second, tuning, 2),
            extents: !self.no_extents,
            counters,
        };
        Ok(Found::new(sizes, pair.first_difference().await?))
    }

    /// The same where one of them comes in order, and perhaps does not tell its size before.
    async fn in_order(
        &self,
        first: Sequence,
        second: Sequence,
        tuning: &Tuning,
        output: &Output,
    ) -> Result<Found> {
        let known = first.size().max(second.size()).unwrap_or(0);
        let counters = Arc::new(Counters::default());
        let _progress = output.progress(&counters, known);
        let extents = !self.no_extents;
        let mut sides = Sides::new(
            first.pieces(tuning, 2, extents),
            second.pieces(tuning, 2, extents),
        );
        let seen = |at| counters.position.store(at, Ordering::Relaxed);
        let difference = sides.first_difference(seen).await?;
        let found = Found::new(sides.sizes(), difference);
        Ok(if self.strict { found.strict() } else { found })
    }
}

/// Two disks that are read side by side.
struct Pair {
    first: Reader,
    second: Reader,
    extents: bool,
    counters: Arc<Counters>,
}

/// A part of both disks, and which of them is known to read as zero there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Part {
    range: ByteRange,
    zero: (bool, bool),
}

impl Pair {
    /// The offset of the first byte that differs; past its end a disk counts as zero.
    async fn first_difference(&self) -> Result<Option<u64>> {
        let size = self.first.source.size().max(self.second.source.size());
        let parts = stream::iter(scan::windows(size))
            .map(|window| self.plan(window))
            .buffered(2)
            .flat_map(|planned| {
                stream::iter(match planned {
                    Ok(parts) => parts.into_iter().map(Ok).collect::<Vec<_>>(),
                    Err(error) => vec![Err(error)],
                })
            });
        let width = self.first.width.min(self.second.width);
        let mut compared = std::pin::pin!(
            parts
                .map(|part| async { self.compare(part?).await })
                .buffered(width)
        );
        while let Some(found) = compared.next().await {
            let (range, difference) = found?;
            if difference.is_some() {
                return Ok(difference);
            }
            self.counters.position.store(range.end, Ordering::Relaxed);
        }
        Ok(None)
    }

    async fn plan(&self, window: ByteRange) -> Result<Vec<Part>> {
        let first = self.first.plan(window, self.extents).await?;
        let second = self.second.plan(window, self.extents).await?;
        Ok(parts(window, &first, &second))
    }

    async fn compare(&self, part: Part) -> Result<(ByteRange, Option<u64>)> {
        let range = part.range;
        let at = match part.zero {
            (true, true) => {
                Counters::add(&self.counters.skipped, range.len());
                None
            }
            (false, true) => not_zero(&self.read(&self.first, range).await?),
            (true, false) => not_zero(&self.read(&self.second, range).await?),
            (false, false) => {
                let first = self.read(&self.first, range);
                let second = self.read(&self.second, range);
                let (first, second) = futures_util::future::try_join(first, second).await?;
                differ(&first, &second)
            }
        };
        let at = at.and_then(|at| u64::try_from(at).ok());
        Ok((range, at.map(|at| range.start.saturating_add(at))))
    }

    /// The bytes of `range`, and no more.
    async fn read(&self, reader: &Reader, range: ByteRange) -> Result<Bytes> {
        let bytes = reader.exactly(range).await?;
        Counters::add(&self.counters.read, range.len());
        Ok(bytes)
    }
}

/// Cuts `window` where the steps of either disk end. Past its last step a disk is zero.
fn parts(window: ByteRange, first: &[Step], second: &[Step]) -> Vec<Part> {
    let mut found = Vec::new();
    let mut walks = (Walk::new(first), Walk::new(second));
    let mut at = window.start;
    while at < window.end {
        let (first_zero, first_end) = walks.0.at(at);
        let (second_zero, second_end) = walks.1.at(at);
        let end = first_end.min(second_end).min(window.end);
        found.push(Part {
            range: ByteRange::new(at, end),
            zero: (first_zero, second_zero),
        });
        at = end;
    }
    found
}

/// Goes over the steps of one disk with offsets that only grow.
struct Walk<'a> {
    rest: &'a [Step],
}

impl<'a> Walk<'a> {
    fn new(steps: &'a [Step]) -> Self {
        Self { rest: steps }
    }

    /// Whether `offset` is known to be zero, and up to where that answer holds: past `offset`.
    fn at(&mut self, offset: u64) -> (bool, u64) {
        while let Some((step, after)) = self.rest.split_first() {
            let range = step.range();
            if offset < range.end {
                return match step {
                    _ if offset < range.start => (true, range.start),
                    Step::Zero(_) => (true, range.end),
                    Step::Copy(_) => (false, range.end),
                };
            }
            self.rest = after;
        }
        (true, u64::MAX)
    }
}

/// Where `bytes` are first not zero.
pub(super) fn not_zero(bytes: &[u8]) -> Option<usize> {
    if is_zero(bytes) {
        return None;
    }
    bytes.iter().position(|byte| *byte != 0)
}

/// Where two pieces of one length first differ.
pub(super) fn differ(first: &[u8], second: &[u8]) -> Option<usize> {
    if first == second {
        return None;
    }
    let same = first.iter().zip(second).take_while(|(a, b)| a == b);
    Some(same.count())
}

#[cfg(test)]
mod tests {
    use super::{Found, Pair, Part, Reader, Unlike, differ, not_zero, parts};
    use crate::extent::ByteRange;
    use crate::job::options::Tuning;
    use crate::plan::Step;
    use crate::testkit::MemSource;
    use futures_util::FutureExt;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use std::sync::Arc;

    fn steps(lengths: &[(u64, bool)]) -> Vec<Step> {
        let mut at = 0;
        let mut found = Vec::new();
        for (length, zero) in lengths {
            let range = ByteRange::at(at, *length);
            at = range.end;
            found.push(if *zero {
                Step::Zero(range)
            } else {
                Step::Copy(range)
            });
        }
        found
    }

    #[test]
    fn where_a_disk_ends_it_is_zero() {
        let window = ByteRange::new(0, 10);
        let found = parts(window, &steps(&[(4, false)]), &steps(&[(10, false)]));
        let part = |start, end, zero| Part {
            range: ByteRange::new(start, end),
            zero,
        };
        assert_eq!(
            found,
            [part(0, 4, (false, false)), part(4, 10, (true, false))]
        );
    }

    proptest! {
        /// Parts cover the window in order, and say of each byte what the steps say.
        #[test]
        fn parts_say_what_the_steps_say(
            first in vec((1u64..9, any::<bool>()), 0..9),
            second in vec((1u64..9, any::<bool>()), 0..9),
        ) {
            let window = ByteRange::new(0, 64);
            let (first, second) = (steps(&first), steps(&second));
            let zero = |steps: &[Step], at: u64| !steps.iter().any(|step| {
                matches!(step, Step::Copy(range) if range.covers(ByteRange::at(at, 1)))
            });
            let mut at = 0;
            for part in parts(window, &first, &second) {
                prop_assert_eq!(part.range.start, at);
                for byte in part.range.start..part.range.end {
                    prop_assert_eq!(part.zero, (zero(&first, byte), zero(&second, byte)));
                }
                at = part.range.end;
            }
            prop_assert_eq!(at, 64);
        }
    }

    #[test]
    fn where_sizes_count_the_end_of_the_shorter_disk_is_a_difference_like_any_other() {
        let found = |sizes, byte| Found::new(sizes, byte).strict().difference;
        assert_eq!(found((9, 9), None), None);
        assert_eq!(found((9, 9), Some(8)), Some((8, Unlike::Byte)));
        for sizes in [(9, 20), (20, 9)] {
            assert_eq!(found(sizes, None), Some((9, Unlike::Size)));
            assert_eq!(found(sizes, Some(8)), Some((8, Unlike::Byte)));
            assert_eq!(found(sizes, Some(9)), Some((9, Unlike::Size)));
            assert_eq!(found(sizes, Some(15)), Some((9, Unlike::Size)));
        }
    }

    #[test]
    fn the_first_difference_is_found_wherever_it_is() {
        for at in [0, 1, 63, 64, 4095] {
            let mut other = [0; 4096];
            other[at] = 1;
            assert_eq!(differ(&[0; 4096], &other), Some(at));
            assert_eq!(not_zero(&other), Some(at));
        }
        assert_eq!(differ(&[7; 9], &[7; 9]), None);
        assert_eq!(not_zero(&[0; 9]), None);
    }

    fn first_difference(first: &MemSource, second: &MemSource, extents: bool) -> Option<u64> {
        let reader =
            |source: &MemSource| Reader::new(Arc::new(source.clone()), &Tuning::default(), 2);
        let pair = Pair {
            first: reader(first),
            second: reader(second),
            extents,
            counters: Arc::default(),
        };
        pair.first_difference().now_or_never().unwrap().unwrap()
    }

    #[test]
    fn holes_equal_zeroes_and_the_longer_disk_may_go_on_with_zeroes() {
        let mut bytes = vec![0; 5 << 20];
        bytes[(4 << 20) + 5] = 1;
        let first = MemSource::holding(&bytes);
        let longer = MemSource::new(1 << 30);
        longer.put((4 << 20) + 5, &[1]);
        for extents in [true, false] {
            let short = MemSource::holding(&bytes[..(4 << 20) + 6]);
            assert_eq!(first_difference(&first, &short, extents), None);
        }
        assert_eq!(first_difference(&first, &longer, true), None);
        longer.put(1 << 29, &[1]);
        assert_eq!(first_difference(&longer, &first, true), Some(1 << 29));
    }

    #[test]
    fn of_several_differences_the_first_is_told() {
        for at in [0, 65_535, 1 << 20, (3 << 20) + 7] {
            let first = MemSource::new(4 << 20);
            let second = MemSource::new(4 << 20);
            first.put((4 << 20) - 1, &[3]);
            second.put(at, &[2]);
            assert_eq!(first_difference(&first, &second, true), Some(at));
            assert_eq!(first_difference(&second, &first, false), Some(at));
        }
    }
}
