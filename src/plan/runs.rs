//! Runs of blocks that something is true of.

use crate::extent::ByteRange;

/// The parts of `range` whose blocks are `wanted`, in order and joined where they touch.
///
/// Blocks are of `grain` bytes and aligned to it; `wanted` has one answer for each that `range`
/// touches, the first and the last of which may be cut by it.
pub fn runs(
    range: ByteRange,
    grain: u64,
    wanted: impl IntoIterator<Item = bool>,
) -> Vec<ByteRange> {
    let mut found: Vec<ByteRange> = Vec::new();
    let mut rest = range;
    for wanted in wanted {
        let misaligned = rest.start.checked_rem(grain.max(1)).unwrap_or(0);
        let (block, after) = rest.split(grain.max(1).saturating_sub(misaligned));
        rest = after;
        match found.last_mut() {
            _ if !wanted || block.is_empty() => {}
            Some(last) if last.end == block.start => last.end = block.end,
            _ => found.push(block),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::runs;
    use crate::extent::ByteRange;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn blocks_that_touch_are_one_run_and_the_last_one_may_be_short() {
        let found = runs(ByteRange::new(4, 19), 4, [true, true, false, true]);
        assert_eq!(found, [ByteRange::new(4, 12), ByteRange::new(16, 19)]);
    }

    proptest! {
        /// Oracle: the answer of the block that a byte lies in.
        #[test]
        fn a_byte_is_in_a_run_if_its_block_is_wanted(
            start in 0u64..40,
            len in 0u64..60,
            grain in 1u64..9,
            wanted in vec(any::<bool>(), 120),
        ) {
            let range = ByteRange::at(start, len);
            let count = if range.is_empty() { 0 } else { range.end.div_ceil(grain) - start / grain };
            let answers = &wanted[..usize::try_from(count).unwrap()];
            let found = runs(range, grain, answers.iter().copied());
            for at in 0..120 {
                let block = usize::try_from(at / grain).unwrap() - usize::try_from(start / grain).unwrap().min(usize::try_from(at / grain).unwrap());
                let inside = range.covers(ByteRange::at(at, 1)) && answers[block];
                prop_assert_eq!(found.iter().any(|run| run.covers(ByteRange::at(at, 1))), inside, "byte {}", at);
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "not joined");
        }
    }
}
