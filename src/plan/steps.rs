//! One window of the disk: what is known of it → the ordered work in it.

use super::Shape;
use crate::extent::{ByteRange, Extent, ExtentKind};

/// A piece of work. Longer than a request: it is cut when it is dispatched, to the size that is
/// best by then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Read from the source, write to the target.
    Copy(ByteRange),
    /// The source reads as zeroes here: make the target so, without reading.
    Zero(ByteRange),
}

impl Step {
    /// The bytes that it deals with.
    #[must_use]
    pub fn range(self) -> ByteRange {
        match self {
            Self::Copy(range) | Self::Zero(range) => range,
        }
    }
}

/// The steps of one window, in order, without overlap.
///
/// `todo` is what must be dealt with in the window, in order (everything in a full pass, what
/// changed in a delta, without what is done); it is grown to whole grains and joined where it
/// lies close. `extents` is what the source said of it, in order; what no extent covers is data.
#[must_use]
pub fn steps(shape: Shape, window: ByteRange, todo: &[ByteRange], extents: &[Extent]) -> Vec<Step> {
    let mut found = Vec::new();
    let mut extents = extents;
    for area in grow(shape, window, todo) {
        let mut at = area.start;
        while at < area.end {
            // Extents that end before this position are never needed again.
            while extents.first().is_some_and(|extent| extent.range.end <= at) {
                extents = extents.get(1..).unwrap_or(&[]);
            }
            let zero = zero_run(shape, ByteRange::new(at, area.end), extents);
            if !zero.is_empty() {
                found.push(Step::Zero(zero));
                at = zero.end;
                continue;
            }
            // Not a whole grain of zeroes: this grain is data, whatever else lies in it.
            let grain = ByteRange::at(at, 1).align_out(shape.grain, shape.size);
            let end = grain.end.min(area.end);
            push_copy(&mut found, ByteRange::new(at, end));
            at = end;
        }
    }
    found
}

/// The longest run of whole grains from the start of `area` that reads as zero.
fn zero_run(shape: Shape, area: ByteRange, extents: &[Extent]) -> ByteRange {
    let mut end = area.start;
    for extent in extents {
        if extent.kind != ExtentKind::Zero || extent.range.start > end {
            break;
        }
        end = end.max(extent.range.end);
        if end >= area.end {
            return area;
        }
    }
    let whole = end
        .checked_rem(shape.grain)
        .map_or(end, |rest| end.saturating_sub(rest));
    ByteRange::new(area.start, whole.max(area.start))
}

/// Appends data, joined with data just before it.
fn push_copy(steps: &mut Vec<Step>, range: ByteRange) {
    match steps.last_mut() {
        Some(Step::Copy(last)) if last.end == range.start => last.end = range.end,
        _ => steps.push(Step::Copy(range)),
    }
}

/// `todo` grown to whole grains within the window, joined where it touches or nearly does.
fn grow(shape: Shape, window: ByteRange, todo: &[ByteRange]) -> Vec<ByteRange> {
    let mut areas: Vec<ByteRange> = Vec::new();
    for range in todo {
        let changed = range.intersect(window);
        if changed.is_empty() {
            continue;
        }
        let area = changed.align_out(shape.grain, shape.size).intersect(window);
        match areas.last_mut() {
            Some(last) if area.start <= last.end.saturating_add(shape.coalesce) => {
                last.end = last.end.max(area.end);
            }
            _ => areas.push(area),
        }
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::{Step, steps};
    use crate::extent::{ByteRange, Extent, ExtentKind};
    use crate::plan::Shape;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    const GRAIN: u64 = 4;

    fn shape(size: u64, coalesce: u64) -> Shape {
        Shape {
            size,
            grain: GRAIN,
            window: size,
            coalesce,
        }
    }

    #[test]
    fn a_hole_is_zeroed_without_reading_and_its_ragged_edges_are_read() {
        let disk = ByteRange::new(0, 32);
        let extents = [
            Extent::data(ByteRange::new(0, 6)),
            Extent::zero(ByteRange::new(6, 21)),
            Extent::data(ByteRange::new(21, 32)),
        ];
        assert_eq!(
            steps(shape(32, 0), disk, &[disk], &extents),
            [
                Step::Copy(ByteRange::new(0, 8)),
                Step::Zero(ByteRange::new(8, 20)),
                Step::Copy(ByteRange::new(20, 32)),
            ]
        );
    }

    #[test]
    fn the_last_grain_may_be_short_and_still_be_zero() {
        let disk = ByteRange::new(0, 10);
        let zero = [Extent::zero(disk)];
        assert_eq!(
            steps(shape(10, 0), disk, &[disk], &zero),
            [Step::Zero(disk)]
        );
    }

    #[test]
    fn near_changes_are_joined_and_far_ones_are_not() {
        let disk = ByteRange::new(0, 64);
        let todo = [
            ByteRange::at(0, 4),
            ByteRange::at(8, 4),
            ByteRange::at(40, 4),
        ];
        assert_eq!(
            steps(shape(64, 4), disk, &todo, &[]),
            [
                Step::Copy(ByteRange::new(0, 12)),
                Step::Copy(ByteRange::new(40, 44))
            ]
        );
    }

    #[test]
    fn what_no_extent_covers_is_data() {
        let disk = ByteRange::new(0, 8);
        assert_eq!(steps(shape(8, 0), disk, &[disk], &[]), [Step::Copy(disk)]);
    }

    proptest! {
        /// Oracle: byte by byte. Every byte to do is in exactly one step; a byte that may be data
        /// is never in a zero step; nothing is copied that is not in a grain to do (when nothing
        /// is joined); steps are in order and on grains.
        #[test]
        fn steps_do_what_a_byte_by_byte_walk_would(
            size in 1u64..120,
            kinds in vec((1u64..20, any::<bool>()), 0..20),
            todo in vec((0u64..20, 0u64..20), 0..8),
        ) {
            let disk = ByteRange::new(0, size);
            let mut extents = Vec::new();
            let mut at = 0;
            for (len, zero) in kinds {
                let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
                let range = ByteRange::at(at, len).intersect(disk);
                if !range.is_empty() {
                    extents.push(Extent { range, kind });
                }
                at += len;
            }
            let mut ranges = Vec::new();
            let mut at = 0;
            for (gap, len) in todo {
                ranges.push(ByteRange::at(at + gap, len).intersect(disk));
                at += gap + len;
            }
            let found = steps(shape(size, 0), disk, &ranges, &extents);
            let zero = |i: u64| extents.iter().any(|e| e.kind == ExtentKind::Zero && e.range.covers(ByteRange::at(i, 1)));
            for i in 0..size {
                let one = ByteRange::at(i, 1);
                let grain = one.align_out(GRAIN, size);
                let wanted = ranges.iter().any(|r| r.overlaps(grain));
                let hits: Vec<_> = found.iter().filter(|s| s.range().covers(one)).collect();
                prop_assert_eq!(hits.len(), usize::from(wanted), "byte {} of {:?}", i, found);
                if let Some(Step::Zero(_)) = hits.first() {
                    prop_assert!(zero(i), "byte {} may be data", i);
                }
                let whole = (grain.start..grain.end).all(zero);
                if wanted && whole {
                    prop_assert!(matches!(hits[0], Step::Zero(_)), "byte {} need not be read", i);
                }
            }
            for pair in found.windows(2) {
                prop_assert!(pair[0].range().end <= pair[1].range().start);
            }
            for step in &found {
                prop_assert!(step.range().start % GRAIN == 0);
                prop_assert!(step.range().end % GRAIN == 0 || step.range().end == size);
            }
        }
    }
}
