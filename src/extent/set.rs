//! A set of bytes, kept as merged ranges.

use super::ByteRange;
use std::collections::BTreeMap;

/// A set of bytes: disjoint ranges that do not touch, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RangeSet {
    /// Start of each range → its end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds all bytes of `range`.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let mut merged = range;
        // Anything that starts at or before our end and ends at or after our start joins; the
        // last such range is looked for first, so each one is visited once.
        while let Some((&start, &end)) = self.ranges.range(..=merged.end).next_back() {
            if end < merged.start {
                break;
            }
            self.ranges.remove(&start);
            merged = ByteRange::new(merged.start.min(start), merged.end.max(end));
        }
        self.ranges.insert(merged.start, merged.end);
    }

    /// Removes all bytes of `range`.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.ranges.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
            if start < range.start {
                self.ranges.insert(start, range.start);
                break;
            }
        }
    }

    /// Whether every byte of `range` is in the set.
    #[must_use]
    pub fn covers(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &end)| range.end <= end)
    }

    /// The ranges of the set that touch `window`, clipped to it, in order.
    pub fn within(&self, window: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self
            .ranges
            .range(..=window.start)
            .next_back()
            .map_or(window.start, |(&start, _)| start);
        self.ranges
            .range(first..window.end.max(first))
            .map(move |(&start, &end)| ByteRange::new(start, end).intersect(window))
            .filter(|range| !range.is_empty())
    }

    /// The parts of `window` that are not in the set, in order.
    #[must_use]
    pub fn gaps(&self, window: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = window.start;
        for range in self.within(window) {
            if at < range.start {
                gaps.push(ByteRange::new(at, range.start));
            }
            at = range.end;
        }
        if at < window.end {
            gaps.push(ByteRange::new(at, window.end));
        }
        gaps
    }

    /// All ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges
            .iter()
            .map(|(&start, &end)| ByteRange::new(start, end))
    }

    /// Bytes in the set.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(ByteRange::len).sum()
    }

    /// Number of separate ranges: what the set costs in memory.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteRange, RangeSet};
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        /// Whatever is inserted and removed, in whatever order, the set holds those bytes.
        ///
        /// The oracle is one flag per byte: too slow to ship, too simple to be wrong.
        #[test]
        fn holds_exactly_what_was_inserted_and_not_removed(
            steps in vec((any::<bool>(), 0u64..64, 0u64..16), 0..24),
            window in (0u64..90, 0u64..90),
        ) {
            let mut set = RangeSet::default();
            let mut oracle = [false; 96];
            for (add, start, len) in steps {
                let range = ByteRange::at(start, len);
                if add { set.insert(range) } else { set.remove(range) }
                (range.start..range.end).for_each(|i| oracle[usize::try_from(i).unwrap()] = add);
            }
            let window = ByteRange::new(window.0, window.1);
            let gaps = set.gaps(window);
            for (i, &inside) in (0u64..).zip(&oracle) {
                let one = ByteRange::at(i, 1);
                prop_assert_eq!(set.covers(one), inside, "byte {} of {:?}", i, set);
                let in_window = window.covers(one);
                prop_assert_eq!(set.within(window).any(|r| r.covers(one)), inside && in_window);
                prop_assert_eq!(gaps.iter().any(|r| r.covers(one)), !inside && in_window);
            }
            let touching = set.iter().zip(set.iter().skip(1)).any(|(a, b)| a.end >= b.start);
            prop_assert!(!touching, "not merged: {:?}", set);
            prop_assert_eq!(set.bytes(), oracle.iter().filter(|&&b| b).count() as u64);
        }
    }
}
