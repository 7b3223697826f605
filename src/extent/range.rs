//! A half-open range of bytes.

use std::fmt;

/// Bytes `start..end` of a disk. `start <= end` always.
///
/// `Range<u64>` is neither `Copy` nor ordered, and lets `start > end` pass.
#[derive(Clone, Copy, Eq, PartialEq, Hash, Ord, PartialOrd, Default)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// `start..end`; empty at `start` if `end` is smaller.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// `len` bytes from `start`; ends at `u64::MAX` at most.
    #[must_use]
    pub fn at(start: u64, len: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len),
        }
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether all of `other` lies in this range. An empty range lies anywhere.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether at least one byte is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// The bytes that are in both; empty if there are none.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Grown outward to multiples of `unit`, but not past `limit`. `unit` zero counts as one.
    #[must_use]
    pub fn align_out(self, unit: u64, limit: u64) -> Self {
        let unit = unit.max(1);
        let end = self.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        Self::new(round_down(self.start, unit), end.min(limit.max(self.end)))
    }

    /// Shrunk inward to multiples of `unit`; empty if no whole unit lies inside.
    #[must_use]
    pub fn align_in(self, unit: u64) -> Self {
        let unit = unit.max(1);
        let start = self
            .start
            .checked_next_multiple_of(unit)
            .unwrap_or(u64::MAX);
        Self::new(start, round_down(self.end, unit))
    }

    /// The first `len` bytes and the rest.
    #[must_use]
    pub fn split(self, len: u64) -> (Self, Self) {
        let middle = self.start.saturating_add(len).min(self.end);
        (Self::new(self.start, middle), Self::new(middle, self.end))
    }
}

/// The largest multiple of `unit` that is not above `value`.
fn round_down(value: u64, unit: u64) -> u64 {
    value.saturating_sub(value.checked_rem(unit).unwrap_or(0))
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::ByteRange;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn an_inverted_range_is_empty_rather_than_negative() {
        assert_eq!(ByteRange::new(9, 3).len(), 0);
        assert!(ByteRange::new(9, 3).is_empty());
    }

    #[test]
    fn growing_outward_stops_at_the_limit() {
        assert_eq!(ByteRange::new(5, 6).align_out(4, 100), ByteRange::new(4, 8));
        assert_eq!(ByteRange::new(5, 6).align_out(4, 7), ByteRange::new(4, 7));
        assert_eq!(
            ByteRange::new(0, u64::MAX).align_out(4096, u64::MAX).end,
            u64::MAX
        );
    }

    proptest! {
        /// The oracle is membership, byte by byte.
        #[test]
        fn intersection_holds_the_bytes_that_are_in_both(a in 0u64..40, b in 0u64..40, c in 0u64..40, d in 0u64..40) {
            let (x, y) = (ByteRange::new(a, b), ByteRange::new(c, d));
            let both = x.intersect(y);
            for i in 0..48 {
                let inside = |r: ByteRange| r.start <= i && i < r.end;
                prop_assert_eq!(inside(both), inside(x) && inside(y), "byte {}", i);
            }
            prop_assert_eq!(x.overlaps(y), !both.is_empty());
        }

        /// Inward is inside, outward is outside, and both end on multiples.
        #[test]
        fn alignment_never_moves_the_wrong_way(a in 0u64..400, n in 0u64..400, unit in 1u64..50) {
            let range = ByteRange::at(a, n);
            let (inner, outer) = (range.align_in(unit), range.align_out(unit, u64::MAX));
            prop_assert!(range.covers(inner) && outer.covers(range));
            prop_assert!(outer.start % unit == 0 && outer.end % unit == 0);
            prop_assert!(inner.is_empty() || (inner.start % unit == 0 && inner.end % unit == 0));
        }
    }
}
