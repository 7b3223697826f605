//! An L2 table to runs of guest bytes that are in one place. Pure.
//!
//! What is mapped is clipped to the disk, so a last cluster that the disk does not fill may be cut
//! off in the file as well, as qemu leaves it. Any other byte of the disk that the file does not
//! have is an error: qemu reads it as zero, and says nothing.

use super::entry::{Cluster, Packed, Rules, Subclusters};
use super::flaw::Flaw;
use super::geometry::SUBCLUSTERS;
use crate::extent::ByteRange;

/// Where the bytes of a guest range are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// In the backing file, or nowhere: zeroes then.
    Below,
    /// Nowhere: they are zeroes.
    Zero,
    /// As they are, from this offset on.
    Raw(u64),
    /// In one compressed cluster, which begins `skip` bytes before the range.
    Packed {
        /// The compressed bytes, clipped to the file.
        at: Packed,
        /// Bytes of the cluster before the range.
        skip: u64,
    },
}

/// A guest range in one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    /// The guest range.
    pub range: ByteRange,
    /// Where it is.
    pub place: Place,
}

/// What the mapping of an image follows from.
#[derive(Clone, Copy, Debug)]
pub struct Mapper {
    /// What entries may say.
    pub rules: Rules,
    /// Bytes of the image file, in which compressed data are.
    pub file: u64,
    /// Bytes of the file that holds standard clusters.
    pub data: u64,
}

/// Runs in order; neighbours that continue each other are one.
#[derive(Debug, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// All of them.
    #[must_use]
    pub fn into_vec(self) -> Vec<Run> {
        self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends `run`, which begins where the last one ends.
    pub fn push(&mut self, run: Run) {
        if run.range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if continues(last, &run) => last.range.end = run.range.end,
            _ => self.0.push(run),
        }
    }
}

fn continues(last: &Run, next: &Run) -> bool {
    let touching = last.range.end == next.range.start;
    let same = match (last.place, next.place) {
        (Place::Below, Place::Below) | (Place::Zero, Place::Zero) => true,
        (Place::Raw(a), Place::Raw(b)) => a.checked_add(last.range.len()) == Some(b),
        _ => false,
    };
    touching && same
}

impl Mapper {
    /// Maps a prefix of `range` into `runs`, until there are `most` of them. Gives where it
    /// stopped. `table` is a part of an L2 table that maps all of `range`; its first entry is that
    /// of the cluster at `first`.
    ///
    /// # Errors
    /// An entry makes no sense, or points outside its file.
    pub fn table(
        &self,
        table: &[u8],
        first: u64,
        range: ByteRange,
        most: usize,
        runs: &mut Runs,
    ) -> Result<u64, Flaw> {
        let cluster = self.rules.geometry.cluster();
        let mask = cluster.saturating_sub(1);
        let mut at = range.start;
        while at < range.end && runs.len() < most {
            let start = at & !mask;
            let part = ByteRange::new(at, start.saturating_add(cluster).min(range.end));
            let (raw, bitmap) = self.entry(table, start.saturating_sub(first))?;
            let found = self.rules.l2(raw, bitmap, start)?;
            self.cluster(found, start, part, runs)?;
            at = part.end;
        }
        Ok(at)
    }

    /// The entry for the cluster `within` bytes after the first one.
    fn entry(&self, table: &[u8], within: u64) -> Result<(u64, u64), Flaw> {
        let geometry = self.rules.geometry;
        let index = within >> geometry.cluster_bits();
        let at = usize::try_from(index.saturating_mul(geometry.l2_entry())).ok();
        let entry = at.and_then(|at| table.get(at..));
        let half = |n: usize| {
            let bytes = entry?.get(n..n.checked_add(8)?)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        let bitmap = if geometry.is_extended() {
            half(8)
        } else {
            Some(0)
        };
        half(0).zip(bitmap).ok_or(Flaw::Truncated {
            what: "an L2 table",
            size: self.file,
        })
    }

    /// Maps `part` of the cluster at `start`.
    fn cluster(
        &self,
        found: Cluster,
        start: u64,
        part: ByteRange,
        runs: &mut Runs,
    ) -> Result<(), Flaw> {
        let skip = part.start.saturating_sub(start);
        let place = match found {
            Cluster::Unallocated => Place::Below,
            Cluster::Zero => Place::Zero,
            Cluster::Standard(host) => self.raw(host, skip, part.len())?,
            Cluster::Compressed(at) => Place::Packed {
                at: self.packed(at)?,
                skip,
            },
            Cluster::Mixed(parts) => return self.mixed(parts, start, part, runs),
        };
        runs.push(Run { range: part, place });
        Ok(())
    }

    /// Maps `part` of a cluster whose subclusters differ.
    fn mixed(
        &self,
        parts: Subclusters,
        start: u64,
        part: ByteRange,
        runs: &mut Runs,
    ) -> Result<(), Flaw> {
        let unit = self.rules.geometry.subcluster();
        for index in 0..SUBCLUSTERS {
            let before = unit.saturating_mul(index.into());
            let range = ByteRange::at(start.saturating_add(before), unit).intersect(part);
            if range.is_empty() {
                continue;
            }
            let has = |bits: u32| bits.checked_shr(index).unwrap_or(0) & 1 != 0;
            let place = match (has(parts.allocated), has(parts.zero)) {
                (true, _) => {
                    self.raw(parts.host, range.start.saturating_sub(start), range.len())?
                }
                (false, true) => Place::Zero,
                (false, false) => Place::Below,
            };
            runs.push(Run { range, place });
        }
        Ok(())
    }

    /// `len` bytes of the cluster at `host`, after the first `skip`.
    fn raw(&self, host: u64, skip: u64, len: u64) -> Result<Place, Flaw> {
        let offset = host.saturating_add(skip);
        if offset.saturating_add(len) > self.data {
            return Err(Flaw::Truncated {
                what: "a cluster",
                size: self.data,
            });
        }
        Ok(Place::Raw(offset))
    }

    /// The last sector of compressed data may be cut off: they end somewhere within it.
    fn packed(&self, packed: Packed) -> Result<Packed, Flaw> {
        let len = packed.len.min(self.file.saturating_sub(packed.offset));
        let short = packed.len.saturating_sub(len);
        if len == 0 || short >= 512 {
            return Err(Flaw::Truncated {
                what: "a compressed cluster",
                size: self.file,
            });
        }
        Ok(Packed { len, ..packed })
    }
}

#[cfg(test)]
mod tests {
    use super::{Mapper, Place, Run, Runs};
    use crate::extent::ByteRange;
    use crate::format::qcow2::entry::Rules;
    use crate::format::qcow2::flaw::Flaw;
    use crate::format::qcow2::geometry::Geometry;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    const FILE: u64 = 1 << 40;

    fn mapper(bits: u32, extended: bool) -> Mapper {
        Mapper {
            rules: Rules {
                geometry: Geometry::new(bits, extended).unwrap(),
                version: 3,
                data_file: false,
            },
            file: FILE,
            data: FILE,
        }
    }

    fn map(mapper: &Mapper, entries: &[u64], range: ByteRange) -> Result<Vec<Run>, Flaw> {
        let table: Vec<u8> = entries.iter().flat_map(|raw| raw.to_be_bytes()).collect();
        let mut runs = Runs::default();
        let end = mapper.table(&table, 0, range, usize::MAX, &mut runs)?;
        assert_eq!(end, range.end);
        Ok(runs.into_vec())
    }

    #[test]
    fn clusters_that_continue_each_other_are_one_run() {
        let entries = [0x50000, 0x60000, 0x80000, 0, 0, 1];
        let range = ByteRange::new(0x8000, 0x58000);
        let runs = map(&mapper(16, false), &entries, range).unwrap();
        let places: Vec<_> = runs
            .iter()
            .map(|run| (run.range.start, run.place))
            .collect();
        let expected = [
            (0x8000, Place::Raw(0x58000)),
            (0x20000, Place::Raw(0x80000)),
            (0x30000, Place::Below),
            (0x50000, Place::Zero),
        ];
        assert_eq!(places, expected);
        assert_eq!(runs.last().unwrap().range.end, 0x58000);
    }

    #[test]
    fn a_cluster_past_the_end_of_the_file_is_an_error_unless_the_disk_ends_before() {
        let short = Mapper {
            data: 0x51000,
            ..mapper(16, false)
        };
        let whole = map(&short, &[0x50000], ByteRange::new(0, 0x10000));
        assert!(matches!(whole, Err(Flaw::Truncated { .. })));
        assert!(map(&short, &[0x50000], ByteRange::new(0, 0x1000)).is_ok());
    }

    #[test]
    fn compressed_data_may_lack_the_end_of_their_last_sector_only() {
        let entry = 1 << 62 | 1 << 54 | 0x50100;
        let cut_at = |file| {
            let short = Mapper {
                file,
                ..mapper(16, false)
            };
            map(&short, &[entry], ByteRange::new(0, 0x10000))
        };
        assert!(cut_at(0x50400).is_ok() && cut_at(0x50201).is_ok());
        assert!(matches!(cut_at(0x50200), Err(Flaw::Truncated { .. })));
        assert!(matches!(cut_at(0x50000), Err(Flaw::Truncated { .. })));
    }

    /// One subcluster, as the oracle knows it.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Unit {
        Below,
        Zero,
        Raw(u64),
    }

    fn unit_at(runs: &[Run], at: u64) -> Unit {
        let run = runs
            .iter()
            .find(|run| run.range.start <= at && at < run.range.end);
        let run = run.unwrap_or_else(|| panic!("{at:#x} is in no run"));
        match run.place {
            Place::Below => Unit::Below,
            Place::Zero => Unit::Zero,
            Place::Raw(offset) => Unit::Raw(offset + (at - run.range.start)),
            Place::Packed { .. } => panic!("nothing is packed"),
        }
    }

    proptest! {
        /// The oracle looks at one subcluster at a time, by the two bits that it has.
        #[test]
        fn each_subcluster_is_where_its_bits_say(
            clusters in vec((0_u64..8, any::<u32>(), any::<u32>()), 1..6), a in any::<u64>(), b in any::<u64>(),
        ) {
            let mapper = mapper(14, true);
            let mut entries = Vec::new();
            for (host, allocated, zero) in &clusters {
                let allocated = if *host == 0 { 0 } else { allocated & !zero };
                entries.push(host << 14);
                entries.push(u64::from(allocated) | u64::from(*zero) << 32);
            }
            let size = u64::try_from(clusters.len()).unwrap() << 14;
            let range = ByteRange::new((a % size).min(b % size), (a % size).max(b % size));
            let runs = map(&mapper, &entries, range).unwrap();
            let mut end = range.start;
            for run in &runs {
                prop_assert!(run.range.start == end && !run.range.is_empty());
                end = run.range.end;
            }
            prop_assert_eq!(end, range.end);
            for at in (range.start..range.end).step_by(512) {
                let (host, allocated, zero) = clusters[usize::try_from(at >> 14).unwrap()];
                let bit = 1_u32 << ((at >> 9) % 32);
                let expected = match () {
                    () if zero & bit != 0 => Unit::Zero,
                    () if host != 0 && allocated & bit != 0 => Unit::Raw((host << 14) + at % (1 << 14)),
                    () => Unit::Below,
                };
                prop_assert_eq!(unit_at(&runs, at), expected, "at {:#x}", at);
            }
        }

        /// Any bytes as a table are an answer or an error, and what is found lies in the file.
        #[test]
        fn any_table_is_an_answer_or_an_error(entries in vec(any::<u64>(), 8..=8), bits in 9_u32..=21) {
            let mapper = mapper(bits, false);
            if let Ok(runs) = map(&mapper, &entries, ByteRange::new(0, 8 << bits)) {
                for run in runs {
                    match run.place {
                        Place::Raw(offset) => prop_assert!(offset + run.range.len() <= FILE),
                        Place::Packed { at, .. } => prop_assert!(at.offset + at.len <= FILE),
                        Place::Below | Place::Zero => {}
                    }
                }
            }
        }
    }
}
