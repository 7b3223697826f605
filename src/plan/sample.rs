//! Which blocks of a pass are looked at although nothing says that they changed. Pure.

/// A share of all blocks, chosen anew by each seed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sample {
    /// The same seed chooses the same blocks.
    pub seed: u64,
    /// How many of a million.
    pub ppm: u32,
}

impl Sample {
    /// Whether a block is chosen.
    #[must_use]
    pub fn holds(self, block: u64) -> bool {
        mix(self.seed ^ mix(block)) % 1_000_000 < u64::from(self.ppm)
    }
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::Sample;

    fn chosen(seed: u64, ppm: u32) -> Vec<u64> {
        let sample = Sample { seed, ppm };
        (0..100_000).filter(|block| sample.holds(*block)).collect()
    }

    #[test]
    fn as_many_are_chosen_as_were_asked_for() {
        assert!(chosen(1, 0).is_empty());
        assert_eq!(chosen(1, 1_000_000).len(), 100_000);
        for ppm in [1000, 10_000, 500_000] {
            let (found, wanted) = (chosen(7, ppm).len(), usize::try_from(ppm / 10).unwrap());
            assert!(found.abs_diff(wanted) < wanted / 5 + 20, "{found} of {ppm}");
        }
    }

    #[test]
    fn the_same_seed_chooses_the_same_and_the_next_one_others() {
        let first = chosen(1, 10_000);
        assert_eq!(first, chosen(1, 10_000));
        let again = chosen(2, 10_000);
        let both = first.iter().filter(|block| again.contains(block)).count();
        assert!(both < 100, "{both} of {} again", first.len());
    }

    #[test]
    fn a_hundred_passes_at_five_percent_miss_hardly_a_block() {
        let missed = |block: &u64| !(0..100).any(|seed| Sample { seed, ppm: 50_000 }.holds(*block));
        assert!((0..10_000).filter(missed).count() < 200);
    }
}
