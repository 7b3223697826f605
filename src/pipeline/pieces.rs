//! Data and zeroes within a buffer.

use crate::digest::is_zero;
use std::ops::Range;

/// A part of a buffer that is written or zeroed as one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    /// Bytes of which some are not zero.
    Data(Range<usize>),
    /// Zeroes.
    Zero(Range<usize>),
}

/// Splits a buffer that starts at an aligned offset into runs of data and of zeroes.
///
/// Zeroes count in whole units of `sparse` bytes, aligned to the start of the buffer; a short
/// tail is data. `sparse` zero finds no zeroes at all.
#[must_use]
pub fn pieces(bytes: &[u8], sparse: usize) -> Vec<Piece> {
    if sparse == 0 {
        return vec![Piece::Data(0..bytes.len())];
    }
    let mut found: Vec<Piece> = Vec::new();
    let mut at = 0usize;
    for unit in bytes.chunks(sparse) {
        let end = at.saturating_add(unit.len());
        let zero = unit.len() == sparse && is_zero(unit);
        match (found.last_mut(), zero) {
            (Some(Piece::Data(range)), false) | (Some(Piece::Zero(range)), true) => range.end = end,
            (_, true) => found.push(Piece::Zero(at..end)),
            (_, false) => found.push(Piece::Data(at..end)),
        }
        at = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Piece, pieces};
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_short_tail_of_zeroes_is_data() {
        assert_eq!(
            pieces(&[1, 1, 0, 0, 0], 2),
            [Piece::Data(0..2), Piece::Zero(2..4), Piece::Data(4..5)]
        );
    }

    #[test]
    fn without_detection_zeroes_are_data() {
        assert_eq!(pieces(&[0; 8], 0), [Piece::Data(0..8)]);
    }

    proptest! {
        /// The pieces cover the buffer in order; a zero piece holds only zeroes; a data piece
        /// holds no whole unit of zeroes; neighbours differ in kind.
        #[test]
        fn pieces_cover_the_buffer_and_tell_the_truth(bytes in vec(0u8..2, 0..60), sparse in 1usize..6) {
            let found = pieces(&bytes, sparse);
            let mut at = 0;
            let mut last = None;
            for piece in &found {
                let (range, zero) = match piece { Piece::Data(r) => (r, false), Piece::Zero(r) => (r, true) };
                prop_assert_eq!(range.start, at);
                prop_assert!(last != Some(zero), "not joined: {:?}", found);
                if zero {
                    prop_assert!(bytes[range.clone()].iter().all(|b| *b == 0));
                } else {
                    let unit_of_zeroes = bytes[range.clone()].chunks_exact(sparse).any(|u| u.iter().all(|b| *b == 0));
                    prop_assert!(!unit_of_zeroes);
                }
                at = range.end;
                last = Some(zero);
            }
            prop_assert_eq!(at, bytes.len());
        }
    }
}
