//! Records ↔ bytes, and what a crash can leave of the last one.
//!
//! A journal is a magic line, then frames: length and CRC32 of the payload as little-endian
//! `u32`, then the payload, one record as JSON. A crash can cut the last append short or leave
//! zeroes in its place: that tail is dropped, which only repeats work. A damaged frame with more
//! bytes behind it is no crash, and is refused.

use super::record::Record;
use crate::error::{Error, Kind, Result};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every journal.
pub(super) const MAGIC: &[u8; 16] = b"diskferry log 1\n";

/// A record longer than this was not written by us.
const MAX_PAYLOAD: usize = 16 << 20;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    length: U32,
    crc: U32,
}
const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 8);

/// What could be read of a journal.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Bytes that hold them; what follows is a torn tail, to be cut off.
    pub valid: usize,
}

/// The bytes of one record.
///
/// # Errors
/// The record cannot be expressed; it is far too long.
pub(super) fn encode(record: &Record) -> Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)
        .map_err(|error| Error::new(Kind::Io, "encode a journal record").because(error))?;
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD);
    let Some(length) = length else {
        return Err(Error::new(Kind::Io, "a journal record is too long"));
    };
    let header = Header {
        length: U32::new(length),
        crc: U32::new(crc32fast::hash(&payload)),
    };
    Ok([header.as_bytes(), &payload].concat())
}

/// Reads a journal back. Pure: any bytes give records or an error.
///
/// # Errors
/// The bytes are not a journal, or one that was damaged other than by a crash while appending.
pub fn recover(bytes: &[u8]) -> Result<Recovered> {
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        // Created, and cut off before the first sync: nothing was recorded yet.
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) || all_zero(bytes) {
            return Ok(Recovered::default());
        }
        return Err(match is_journal(bytes) {
            true => damaged("its first bytes are not those of one"),
            false => Error::new(Kind::Refused, "this is not a diskferry journal")
                .hint("name another place for it with --journal PATH"),
        });
    };
    let mut found = Recovered {
        records: Vec::new(),
        valid: MAGIC.len(),
    };
    while !rest.is_empty() {
        match next(rest) {
            Frame::Record(record, length) => {
                found.records.push(record);
                found.valid = found.valid.saturating_add(length);
                rest = rest.get(length..).unwrap_or(&[]);
            }
            Frame::Torn => break,
            Frame::Damaged(why) => {
                return Err(damaged(why).at(u64::try_from(found.valid).unwrap_or(u64::MAX)));
            }
        }
    }
    Ok(found)
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the journal is damaged: {why}"))
        .hint("copy again from the start with --restart")
}

/// Whether these bytes were a journal, whatever became of them: its magic or its first record is
/// there.
pub(super) fn is_journal(bytes: &[u8]) -> bool {
    let first = |rest: &[u8]| matches!(next(rest), Frame::Record(..));
    bytes.starts_with(MAGIC) || bytes.get(MAGIC.len()..).is_some_and(first)
}

enum Frame {
    Record(Record, usize),
    Torn,
    Damaged(&'static str),
}

fn next(bytes: &[u8]) -> Frame {
    let Ok((header, body)) = Header::read_from_prefix(bytes) else {
        return Frame::Torn;
    };
    let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
    if all_zero(bytes) {
        return Frame::Torn;
    }
    if length == 0 || length > MAX_PAYLOAD {
        return Frame::Damaged("a frame has an impossible length");
    }
    let Some((payload, behind)) = body.split_at_checked(length) else {
        return Frame::Torn;
    };
    if crc32fast::hash(payload) != header.crc.get() {
        return if all_zero(behind) {
            Frame::Torn
        } else {
            Frame::Damaged("a checksum is wrong")
        };
    }
    match serde_json::from_slice(payload) {
        Ok(record) => Frame::Record(record, HEADER.saturating_add(length)),
        // The checksum is right: these bytes were written so, by a build that knows more.
        Err(_) => Frame::Damaged("a record is of a kind that this build does not know"),
    }
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, Record, encode, recover};
    use crate::error::Kind;
    use crate::plan::Done;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn barrier(below: u64) -> Record {
        Record::Barrier {
            done: Done {
                below,
                above: vec![(below + 10, below + 20)],
            },
        }
    }

    fn journal(count: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = MAGIC.to_vec();
        let mut ends = vec![bytes.len()];
        for i in 0..count {
            bytes.extend(encode(&barrier(i * 100)).unwrap());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn whatever_was_written_is_read_back() {
        let (bytes, _) = journal(3);
        let found = recover(&bytes).unwrap();
        assert_eq!(found.records, [barrier(0), barrier(100), barrier(200)]);
        assert_eq!(found.valid, bytes.len());
    }

    #[test]
    fn a_cut_at_any_byte_loses_only_the_record_that_was_cut() {
        let (bytes, ends) = journal(3);
        for cut in 0..bytes.len() {
            let found = recover(&bytes[..cut]).unwrap();
            let whole = ends
                .iter()
                .filter(|&&end| end <= cut)
                .count()
                .saturating_sub(1);
            assert_eq!(found.records.len(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn zeroes_in_place_of_the_last_append_are_a_torn_tail() {
        let (mut bytes, ends) = journal(2);
        bytes[ends[1] + 3..].fill(0);
        bytes.extend([0; 4096]);
        assert_eq!(recover(&bytes).unwrap().records.len(), 1);
    }

    #[test]
    fn damage_in_the_middle_is_refused_not_skipped() {
        let (mut bytes, ends) = journal(3);
        bytes[ends[0] + 20] ^= 1;
        assert_eq!(recover(&bytes).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn another_file_is_not_a_journal() {
        assert_eq!(
            recover(b"#!/bin/sh\necho hello\n").unwrap_err().kind(),
            Kind::Refused
        );
    }

    proptest! {
        /// A flipped bit never brings a record to life that was not written.
        #[test]
        fn a_flipped_bit_never_invents_a_record(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (mut bytes, _) = journal(4);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(found) = recover(&bytes) {
                let written: Vec<_> = (0..4).map(|i| barrier(i * 100)).collect();
                prop_assert!(written.starts_with(&found.records));
                prop_assert!(found.valid <= bytes.len());
            }
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes: Vec<u8>) {
            let with_magic = [&MAGIC[..], &bytes].concat();
            let _ = recover(&bytes);
            if let Ok(found) = recover(&with_magic) {
                prop_assert_eq!(found.valid.min(with_magic.len()), found.valid);
            }
        }
    }

    use proptest::prelude::prop;
}
