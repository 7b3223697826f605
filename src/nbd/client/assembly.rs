//! A reply in the making: which of its bytes have come, and what else was said. Pure.
//!
//! A server may answer a read in many chunks, in any order. They must cover what was asked for,
//! once each, and nothing else.

use crate::extent::{ByteRange, RangeSet};
use crate::nbd::handshake::for_people;
use crate::nbd::lie::Lie;
use crate::nbd::wire::{BlockDescriptor, BlockDescriptorExt, chunk};
use std::ops::Range;
use zerocopy::FromBytes;

/// The most separate pieces of one reply that are kept track of.
const MAX_PIECES: usize = 16_384;

/// Status of consecutive ranges: bytes and flags.
pub type Status = Vec<(ByteRange, u64)>;

/// An error that the server reported for one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerError {
    /// Error number, not zero.
    pub code: u32,
    /// What the server says besides; often nothing.
    pub text: String,
    /// Where, if the server told.
    pub offset: Option<u64>,
}

/// Which bytes of a read have come.
///
/// Chunks nearly always come in order, so the bytes from the start are one number; the others
/// wait in a set.
#[derive(Debug)]
pub(super) struct Coverage {
    asked: ByteRange,
    /// Everything before this has come.
    next: u64,
    /// What has come out of order.
    apart: RangeSet,
    /// Bytes that have come.
    got: u64,
}

impl Coverage {
    /// Nothing of `asked` has come.
    #[must_use]
    pub(super) fn new(asked: ByteRange) -> Self {
        Self {
            asked,
            next: asked.start,
            apart: RangeSet::default(),
            got: 0,
        }
    }

    /// What was asked for.
    #[must_use]
    pub(super) fn asked(&self) -> ByteRange {
        self.asked
    }

    /// Notes a chunk and tells where its bytes go, counted from the start of what was asked for.
    ///
    /// # Errors
    /// Some of its bytes were not asked for, or have come before.
    pub(super) fn add(&mut self, offset: u64, length: u64) -> Result<Range<usize>, Lie> {
        let overrun = Lie::Overrun {
            offset,
            length,
            start: self.asked.start,
            end: self.asked.end,
        };
        let end = offset.checked_add(length).ok_or_else(|| overrun.clone())?;
        let chunk = ByteRange::new(offset, end);
        if !self.asked.covers(chunk) || offset < self.asked.start {
            return Err(overrun);
        }
        if offset < self.next || self.apart.within(chunk).next().is_some() {
            return Err(Lie::Overlap(offset));
        }
        let place = self.place(chunk).ok_or(overrun)?;
        if offset == self.next {
            self.next = end;
        } else {
            self.apart.insert(chunk);
            if self.apart.count() > MAX_PIECES {
                return Err(Lie::Pieces(MAX_PIECES));
            }
        }
        self.got = self.got.saturating_add(length);
        Ok(place)
    }

    fn place(&self, chunk: ByteRange) -> Option<Range<usize>> {
        let start = chunk.start.checked_sub(self.asked.start)?;
        let end = chunk.end.checked_sub(self.asked.start)?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// Checks that everything has come. As nothing comes twice, counting is enough.
    ///
    /// # Errors
    /// Some bytes are missing.
    pub(super) fn finish(&self) -> Result<(), Lie> {
        let asked = self.asked.len();
        if self.got != asked {
            return Err(Lie::Short {
                got: self.got,
                asked,
            });
        }
        Ok(())
    }
}

/// The payload of an error chunk.
///
/// # Errors
/// It is too short for what it says, or its error number is zero.
pub(super) fn error(payload: &[u8], located: bool) -> Result<ServerError, Lie> {
    let short = || Lie::ChunkLength {
        kind: chunk::ERROR,
        length: u64::try_from(payload.len()).unwrap_or(u64::MAX),
    };
    let (code, rest) = payload.split_first_chunk::<4>().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let (text, rest) = rest
        .split_at_checked(u16::from_be_bytes(*length).into())
        .ok_or_else(short)?;
    let offset = match (located, rest.first_chunk::<8>()) {
        (true, None) => return Err(short()),
        (true, Some(offset)) => Some(u64::from_be_bytes(*offset)),
        (false, _) => None,
    };
    let code = u32::from_be_bytes(*code);
    if code == 0 {
        return Err(Lie::ErrorZero);
    }
    Ok(ServerError {
        code,
        text: for_people(text),
        offset,
    })
}

/// The payload of a status chunk: the number of its context, and what it says of `asked`.
///
/// The last descriptor may end after `asked` and is cut; that is what the specification allows.
///
/// # Errors
/// No descriptor at all, an empty one, or one that starts after the end of `asked`.
pub(super) fn status(
    payload: &[u8],
    extended: bool,
    asked: ByteRange,
) -> Result<(u32, Status), Lie> {
    let malformed = || Lie::ChunkLength {
        kind: if extended { 6 } else { 5 },
        length: u64::try_from(payload.len()).unwrap_or(u64::MAX),
    };
    let (context, rest) = payload.split_first_chunk::<4>().ok_or_else(malformed)?;
    let context = u32::from_be_bytes(*context);
    let found = if extended {
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let wire = <[BlockDescriptorExt]>::ref_from_bytes(rest).map_err(|_| malformed())?;
        if usize::try_from(u32::from_be_bytes(*count)) != Ok(wire.len()) {
            return Err(malformed());
        }
        let pairs = wire.iter().map(|d| (d.length.get(), d.flags.get()));
        lay_out(pairs, asked)?
    } else {
        let wire = <[BlockDescriptor]>::ref_from_bytes(rest).map_err(|_| malformed())?;
        let pairs = wire
            .iter()
            .map(|d| (d.length.get().into(), d.flags.get().into()));
        lay_out(pairs, asked)?
    };
    if found.is_empty() {
        return Err(malformed());
    }
    Ok((context, found))
}

/// Lays descriptors end to end from the start of `asked`, merging neighbours with equal flags.
fn lay_out(pairs: impl Iterator<Item = (u64, u64)>, asked: ByteRange) -> Result<Status, Lie> {
    let mut found: Status = Vec::new();
    let mut at = asked.start;
    for (length, flags) in pairs {
        if length == 0 {
            return Err(Lie::EmptyDescriptor(at));
        }
        if at >= asked.end {
            return Err(Lie::DescriptorOverrun(at));
        }
        let range = ByteRange::at(at, length).intersect(asked);
        at = range.end;
        match found.last_mut() {
            Some((last, same)) if *same == flags => last.end = range.end,
            _ => found.push((range, flags)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Coverage, error, status};
    use crate::extent::ByteRange;
    use crate::nbd::lie::Lie;
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, proptest};

    const ASKED: ByteRange = ByteRange {
        start: 1000,
        end: 2000,
    };

    fn descriptors(context: u32, pairs: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = context.to_be_bytes().to_vec();
        for (length, flags) in pairs {
            bytes.extend(length.to_be_bytes());
            bytes.extend(flags.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn chunks_in_any_order_cover_a_read_and_tell_where_they_go() {
        let mut coverage = Coverage::new(ASKED);
        assert_eq!(coverage.add(1500, 500), Ok(500..1000));
        assert_eq!(coverage.add(1000, 100), Ok(0..100));
        assert_eq!(
            coverage.finish(),
            Err(Lie::Short {
                got: 600,
                asked: 1000
            })
        );
        assert_eq!(coverage.add(1100, 400), Ok(100..500));
        assert_eq!(coverage.finish(), Ok(()));
    }

    #[test]
    fn bytes_that_were_not_asked_for_or_come_twice_are_lies() {
        for (offset, length) in [(999, 2), (1999, 2), (2000, 1), (0, 1), (u64::MAX, 2)] {
            let found = Coverage::new(ASKED).add(offset, length);
            assert!(
                matches!(found, Err(Lie::Overrun { .. })),
                "{offset}: {found:?}"
            );
        }
        let mut coverage = Coverage::new(ASKED);
        coverage.add(1000, 10).unwrap();
        coverage.add(1500, 10).unwrap();
        for (offset, length) in [(1009, 1), (1005, 100), (1509, 1), (1400, 200)] {
            assert_eq!(coverage.add(offset, length), Err(Lie::Overlap(offset)));
        }
    }

    #[test]
    fn a_reply_in_thousands_of_scattered_pieces_is_cut_off() {
        let mut coverage = Coverage::new(ByteRange::new(0, 1 << 20));
        let cut = (1..1 << 19)
            .map(|i| coverage.add(i * 2, 1))
            .find(Result::is_err);
        assert!(matches!(cut, Some(Err(Lie::Pieces(_)))), "{cut:?}");
    }

    #[test]
    fn the_last_status_descriptor_may_reach_past_the_range_and_is_cut() {
        let bytes = descriptors(3, &[(300, 0), (200, 0), (9000, 3)]);
        let (context, found) = status(&bytes, false, ASKED).unwrap();
        assert_eq!(context, 3);
        assert_eq!(
            found,
            [
                (ByteRange::new(1000, 1500), 0),
                (ByteRange::new(1500, 2000), 3)
            ]
        );
    }

    #[test]
    fn status_descriptors_that_are_empty_or_go_on_for_ever_are_lies() {
        let lie = |pairs: &[(u32, u32)]| status(&descriptors(1, pairs), false, ASKED).unwrap_err();
        assert_eq!(lie(&[(10, 0), (0, 1)]), Lie::EmptyDescriptor(1010));
        assert_eq!(lie(&[(1000, 0), (1, 1)]), Lie::DescriptorOverrun(2000));
        assert!(matches!(lie(&[]), Lie::ChunkLength { .. }));
        let ragged = [&descriptors(1, &[(1, 1)])[..], &[0]].concat();
        assert!(status(&ragged, false, ASKED).is_err());
        assert!(status(&[0, 0], false, ASKED).is_err());
    }

    #[test]
    fn extended_descriptors_must_be_as_many_as_they_say() {
        let one = [
            &[0, 0, 0, 9][..],
            &[0, 0, 0, 1],
            &100u64.to_be_bytes(),
            &2u64.to_be_bytes(),
        ];
        let bytes = one.concat();
        let (context, found) = status(&bytes, true, ASKED).unwrap();
        assert_eq!((context, found), (9, vec![(ByteRange::new(1000, 1100), 2)]));
        let mut two = bytes;
        two[7] = 2;
        assert!(status(&two, true, ASKED).is_err());
    }

    #[test]
    fn an_error_chunk_is_read_with_its_text_and_offset() {
        let bytes = b"\0\0\0\x05\0\x04ba\nd\0\0\0\0\0\0\x10\0";
        let found = error(bytes, true).unwrap();
        assert_eq!((found.code, found.text.as_str()), (5, "ba d"));
        assert_eq!(found.offset, Some(4096));
        assert!(error(b"\0\0\0\x05\0\x04", false).is_err());
        assert_eq!(error(b"\0\0\0\0\0\0", false), Err(Lie::ErrorZero));
        assert!(error(b"\0\0\0\x05\0\0", true).is_err());
    }

    proptest! {
        /// However a read is cut and shuffled, its chunks cover it, and one chunk less does not.
        #[test]
        fn any_order_of_all_pieces_is_complete(
            pieces in (1u64..40).prop_flat_map(|n| Just((0..n).collect::<Vec<_>>()).prop_shuffle())
        ) {
            let total = u64::try_from(pieces.len()).unwrap() * 7;
            let mut coverage = Coverage::new(ByteRange::at(5, total));
            for (done, piece) in pieces.iter().enumerate() {
                prop_assert!(coverage.finish().is_err(), "complete after {} pieces", done);
                let place = coverage.add(5 + piece * 7, 7).unwrap();
                prop_assert_eq!(u64::try_from(place.start).unwrap(), piece * 7);
            }
            prop_assert_eq!(coverage.finish(), Ok(()));
        }
    }
}
