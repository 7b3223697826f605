//! Ranges to requests that the server takes. Pure.

use crate::endpoint::Limits;
use crate::extent::ByteRange;
use crate::nbd::client::assembly::Status;
use crate::nbd::export::BlockSize;
use std::time::Duration;

/// The longest request without a payload: a server may do all of it before it answers.
pub(super) const MAX_BARE: u64 = 1 << 30;

/// The longest range of one status request: fits 32 bits, and any alignment.
const MAX_STATUS: u64 = (4 << 30) - (1 << 20);

/// The longest request with a payload that is worth while, whatever the server allows.
const MAX_PAYLOAD: u32 = 32 << 20;

/// The longest read that no server may refuse to answer in one piece (specification, `EOVERFLOW`).
/// A change is often just as long, and qemu looks for zeroes in each longer than it reads it.
pub(super) const MAX_WHOLE: u64 = 64 << 10;

/// Requests that a server works on at once for each connection: 16 for qemu and nbdkit.
const PER_CONNECTION: usize = 16;

/// Bytes of the parts of a long read. A server has a buffer for each request that it works on; up to
/// this length `nbdkit`'s mostly lie where a processor copies fast, and a reply fits into a unix
/// socket, so that the server need not wait (`docs/decisions/0005-in-flight.md`).
const PART: u64 = 128 << 10;

/// The most parts of one read.
pub(super) const MAX_PARTS: u64 = 256;

/// A server that has answered a read in this time is near: what it takes for each request does not
/// count. One that is far likes long requests.
const NEAR: Duration = Duration::from_micros(1500);

/// What requests should look like, for a server that told its block sizes.
pub(super) fn limits(block: BlockSize, connections: usize) -> Limits {
    let max = round_down(block.maximum.min(MAX_PAYLOAD), block.minimum);
    let preferred = block.preferred.max(Limits::NONE.preferred).min(max);
    Limits {
        align: block.minimum,
        preferred: round_down(preferred, block.minimum),
        max,
        in_flight: connections.max(1).saturating_mul(PER_CONNECTION),
    }
}

/// `unit` is a power of two.
fn round_down(bytes: u32, unit: u32) -> u32 {
    bytes & !unit.wrapping_sub(1)
}

/// Consecutive pieces of `range` of at most `max` bytes each.
pub(super) fn pieces(range: ByteRange, max: u64) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split(max.max(1));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Bytes of the parts in which a server is asked for a long read that has answered one in `quickest`
/// time, if that is known; `None` if it likes long requests.
pub(super) fn part(block: BlockSize, quickest: Option<Duration>) -> Option<u64> {
    // In doubt it is near: a buffer that was once long stays so, in a server that likes short ones.
    let near = quickest.is_none_or(|quickest| quickest <= NEAR);
    near.then(|| PART.max(block.preferred.into()))
}

/// What a request for `range` is asked for in: parts of `part` bytes, or one if there is none or
/// there would be too many.
pub(super) fn parts(range: ByteRange, part: Option<u64>) -> impl Iterator<Item = ByteRange> {
    let few = |part: &u64| *part > 0 && range.len().div_ceil(*part) <= MAX_PARTS;
    let max = part.filter(few).unwrap_or(u64::MAX);
    // Also what is empty is asked for.
    let (first, rest) = range.split(max);
    std::iter::once(first).chain(pieces(rest, max))
}

/// The whole blocks of `range`, and what lies before and after them. A last block that is cut by
/// the end of the export counts as whole.
pub(super) fn around_blocks(
    range: ByteRange,
    block: u64,
    size: u64,
) -> (ByteRange, ByteRange, ByteRange) {
    let mut middle = range.align_in(block);
    if range.end == size {
        let start = ByteRange::new(range.start, u64::MAX).align_in(block).start;
        middle = ByteRange::new(start.min(range.end), range.end);
    }
    if middle.is_empty() {
        return (range, ByteRange::default(), ByteRange::default());
    }
    (
        ByteRange::new(range.start, middle.start),
        middle,
        ByteRange::new(middle.end, range.end),
    )
}

/// What to ask for to learn of a prefix of `range`.
pub(super) fn status_window(range: ByteRange, block: u64, size: u64) -> ByteRange {
    let (prefix, _) = range.split(MAX_STATUS);
    prefix.align_out(block, size)
}

/// What is left of `found` within `range`, which it was asked for with more around it.
pub(super) fn clip(found: Status, range: ByteRange) -> Status {
    found
        .into_iter()
        .map(|(part, flags)| (part.intersect(range), flags))
        .filter(|(part, _)| !part.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{MAX_PARTS, around_blocks, clip, part, parts, pieces, status_window};
    use crate::extent::ByteRange;
    use crate::nbd::export::BlockSize;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use std::time::Duration;

    #[test]
    fn the_last_block_may_be_cut_by_the_end_of_the_export() {
        let range = ByteRange::new(100, 1000);
        let (head, middle, tail) = around_blocks(range, 512, 1000);
        assert_eq!(head, ByteRange::new(100, 512));
        assert_eq!(middle, ByteRange::new(512, 1000));
        assert!(tail.is_empty());
        let (head, middle, _) = around_blocks(ByteRange::new(700, 1000), 512, 1000);
        assert_eq!((head, middle.is_empty()), (ByteRange::new(700, 1000), true));
    }

    #[test]
    fn a_status_that_was_asked_for_wider_is_cut_to_the_range() {
        let range = ByteRange::new(700, 800);
        let window = status_window(range, 512, 4096);
        assert_eq!(window, ByteRange::new(512, 1024));
        let found = vec![
            (ByteRange::new(512, 750), 1),
            (ByteRange::new(750, 1024), 2),
        ];
        assert_eq!(
            clip(found, range),
            [(ByteRange::new(700, 750), 1), (ByteRange::new(750, 800), 2)]
        );
    }

    #[test]
    fn a_near_server_is_asked_for_short_parts_and_for_none_shorter_than_it_prefers() {
        let block = |preferred| BlockSize {
            minimum: 1,
            preferred,
            maximum: 32 << 20,
        };
        let micros = |count| Some(Duration::from_micros(count));
        assert_eq!(part(block(4096), None), Some(128 << 10));
        assert_eq!(part(block(4096), micros(300)), Some(128 << 10));
        assert_eq!(part(block(256 << 10), micros(300)), Some(256 << 10));
        assert_eq!(part(block(4096), micros(2100)), None);
    }

    #[test]
    fn a_read_is_in_one_part_if_it_is_short_empty_or_endless() {
        let count = |length, part| parts(ByteRange::at(512, length), part).count();
        assert_eq!(count(512 << 10, Some(128 << 10)), 4);
        assert_eq!(count(513, Some(128 << 10)), 1);
        assert_eq!(count(0, Some(128 << 10)), 1);
        assert_eq!(count(1 << 30, Some(128 << 10)), 1);
        assert_eq!(count(512 << 10, None), 1);
    }

    proptest! {
        /// The pieces follow each other, none is too long, together they are the range.
        #[test]
        fn pieces_are_the_range_cut(start in 0u64..1000, len in 0u64..1000, max in 1u64..300) {
            let range = ByteRange::at(start, len);
            let mut at = start;
            for piece in pieces(range, max) {
                prop_assert!(piece.start == at && piece.len() <= max && !piece.is_empty());
                at = piece.end;
            }
            prop_assert_eq!(at, range.end);
        }

        /// The parts of a read are what is read, and none is too long to be told from the others.
        #[test]
        fn parts_are_the_range_cut(start in 0u64..1000, len in 0u64..1000, part in proptest::option::of(0u64..300)) {
            let range = ByteRange::at(start, len);
            let mut at = start;
            let mut count = 0;
            for piece in parts(range, part) {
                prop_assert!(piece.start == at && (!piece.is_empty() || len == 0));
                at = piece.end;
                count += 1;
            }
            prop_assert!(at == range.end && (1..=MAX_PARTS).contains(&count));
        }

        /// Head, middle and tail are the range; the middle is whole blocks.
        #[test]
        fn head_middle_and_tail_are_the_range(a in 0u64..300, n in 0u64..300, shift in 0u32..7, size in 600u64..700) {
            let block = 1u64 << shift;
            let range = ByteRange::at(a, n);
            let (head, middle, tail) = around_blocks(range, block, size);
            prop_assert_eq!(head.len() + middle.len() + tail.len(), range.len());
            if !middle.is_empty() {
                prop_assert!(head.end == middle.start && tail.start == middle.end);
                prop_assert!(middle.start % block == 0);
                prop_assert!(middle.end % block == 0 || middle.end == size);
            }
        }
    }
}
