//! Reply headers: bytes to a checked value. No state, no I/O.
//!
//! Three framings ([`Style`]) become one [`Head`]. Data at an offset counts its offset as header,
//! so that what follows a [`Body::Data`] is data and nothing else, and can be received in place.

use crate::nbd::handshake::Style;
use crate::nbd::lie::Lie;
use crate::nbd::wire::{
    EXTENDED_REPLY_MAGIC, ExtendedReply, MAX_STRING, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
    SimpleReply, StructuredReply, chunk,
};
use zerocopy::FromBytes;

/// The longest status payload that is believed: a million extents of 16 bytes.
pub(super) const MAX_STATUS: u64 = 16 << 20;

/// The longest error payload: number, length of the text, text, offset.
const MAX_ERROR: u64 = 4 + 2 + MAX_STRING as u64 + 8;

/// What bytes at the start of a reply are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Parsed {
    /// Not yet a header: this many bytes are needed from its start.
    More(usize),
    /// A header.
    Head(Head),
}

/// A reply header, or that of one chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// Bytes that it took.
    pub(super) used: usize,
    /// Whose reply it is.
    pub(super) cookie: u64,
    /// Whether this is the end of the reply.
    pub(super) done: bool,
    /// What it says, or what follows.
    pub(super) body: Body,
}

/// What a header says, or what follows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// A simple reply. After success of a read, all of its data follow.
    Simple {
        /// Zero or an error number.
        error: u32,
    },
    /// Nothing.
    None,
    /// Data follow.
    Data {
        /// Where they belong on the export.
        offset: u64,
        /// Bytes that follow; not zero.
        length: u64,
    },
    /// Zeroes that are not sent.
    Hole {
        /// Where they belong on the export.
        offset: u64,
        /// How many; not zero.
        length: u64,
    },
    /// Status descriptors follow.
    Status {
        /// Of the 64-bit kind.
        extended: bool,
        /// Bytes that follow.
        length: usize,
    },
    /// An error follows.
    Error {
        /// With an offset at its end.
        located: bool,
        /// Bytes that follow.
        length: usize,
    },
}

/// Bytes of the header of a chunk of data, which is what a read waits for.
#[must_use]
pub(super) fn data_header(style: Style) -> usize {
    match style {
        Style::Simple => size_of::<SimpleReply>(),
        Style::Structured => size_of::<StructuredReply>().saturating_add(8),
        Style::Extended => size_of::<ExtendedReply>().saturating_add(8),
    }
}

/// Looks at the bytes at the start of a reply.
///
/// # Errors
/// They do not start any reply of this framing.
pub(super) fn parse(style: Style, bytes: &[u8]) -> Result<Parsed, Lie> {
    let Some(magic) = bytes.first_chunk::<4>() else {
        return Ok(Parsed::More(size_of::<SimpleReply>()));
    };
    match (u32::from_be_bytes(*magic), style) {
        (SIMPLE_REPLY_MAGIC, Style::Simple | Style::Structured) => Ok(simple(bytes)),
        (STRUCTURED_REPLY_MAGIC, Style::Structured) => {
            let Ok((wire, rest)) = StructuredReply::read_from_prefix(bytes) else {
                return Ok(Parsed::More(size_of::<StructuredReply>()));
            };
            let header = ChunkHeader {
                size: size_of::<StructuredReply>(),
                cookie: wire.cookie.get(),
                done: wire.flags.get() & chunk::FLAG_DONE != 0,
                kind: wire.kind.get(),
                length: wire.length.get().into(),
            };
            header.parse(rest)
        }
        (EXTENDED_REPLY_MAGIC, Style::Extended) => {
            let Ok((wire, rest)) = ExtendedReply::read_from_prefix(bytes) else {
                return Ok(Parsed::More(size_of::<ExtendedReply>()));
            };
            let header = ChunkHeader {
                size: size_of::<ExtendedReply>(),
                cookie: wire.cookie.get(),
                done: wire.flags.get() & chunk::FLAG_DONE != 0,
                kind: wire.kind.get(),
                length: wire.length.get(),
            };
            header.parse(rest)
        }
        (magic, _) => Err(Lie::ReplyMagic(magic)),
    }
}

fn simple(bytes: &[u8]) -> Parsed {
    match SimpleReply::read_from_prefix(bytes) {
        Ok((wire, _)) => Parsed::Head(Head {
            used: size_of::<SimpleReply>(),
            cookie: wire.cookie.get(),
            done: true,
            body: Body::Simple {
                error: wire.error.get(),
            },
        }),
        Err(_) => Parsed::More(size_of::<SimpleReply>()),
    }
}

/// What structured and extended chunks have in common.
struct ChunkHeader {
    size: usize,
    cookie: u64,
    done: bool,
    kind: u16,
    length: u64,
}

impl ChunkHeader {
    /// `rest` is what follows the header.
    fn parse(&self, rest: &[u8]) -> Result<Parsed, Lie> {
        match self.kind {
            chunk::NONE if self.length == 0 && self.done => self.head(0, Body::None),
            chunk::OFFSET_DATA => {
                let length = self.length.checked_sub(8).filter(|&length| length > 0);
                let length = length.ok_or_else(|| self.wrong_length())?;
                match rest.first_chunk::<8>() {
                    Some(offset) => {
                        let offset = u64::from_be_bytes(*offset);
                        self.head(8, Body::Data { offset, length })
                    }
                    None => Ok(self.more(8)),
                }
            }
            chunk::OFFSET_HOLE if self.length == 12 => self.hole(rest),
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let extended = self.kind == chunk::BLOCK_STATUS_EXT;
                let length = self.bounded(MAX_STATUS)?;
                self.head(0, Body::Status { extended, length })
            }
            kind if kind & chunk::ERROR_BIT != 0 => {
                let located = kind == chunk::ERROR_OFFSET;
                let length = self.bounded(MAX_ERROR)?;
                self.head(0, Body::Error { located, length })
            }
            chunk::NONE | chunk::OFFSET_HOLE => Err(self.wrong_length()),
            kind => Err(Lie::ChunkType(kind)),
        }
    }

    fn hole(&self, rest: &[u8]) -> Result<Parsed, Lie> {
        let Some((offset, after)) = rest.split_first_chunk::<8>() else {
            return Ok(self.more(12));
        };
        let Some(length) = after.first_chunk::<4>() else {
            return Ok(self.more(12));
        };
        let offset = u64::from_be_bytes(*offset);
        let length = u64::from(u32::from_be_bytes(*length));
        if length == 0 {
            return Err(self.wrong_length());
        }
        self.head(12, Body::Hole { offset, length })
    }

    fn head(&self, extra: usize, body: Body) -> Result<Parsed, Lie> {
        Ok(Parsed::Head(Head {
            used: self.size.saturating_add(extra),
            cookie: self.cookie,
            done: self.done,
            body,
        }))
    }

    fn more(&self, extra: usize) -> Parsed {
        Parsed::More(self.size.saturating_add(extra))
    }

    fn bounded(&self, max: u64) -> Result<usize, Lie> {
        usize::try_from(self.length)
            .ok()
            .filter(|_| self.length <= max)
            .ok_or_else(|| self.wrong_length())
    }

    fn wrong_length(&self) -> Lie {
        Lie::ChunkLength {
            kind: self.kind,
            length: self.length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Body, Head, Parsed, parse};
    use crate::nbd::handshake::Style;
    use crate::nbd::lie::Lie;
    use crate::nbd::wire::chunk;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, proptest};

    fn structured(flags: u16, kind: u16, length: u32, rest: &[u8]) -> Vec<u8> {
        [
            &0x668e_33ef_u32.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &kind.to_be_bytes(),
            &9u64.to_be_bytes(),
            &length.to_be_bytes(),
            rest,
        ]
        .concat()
    }

    fn body(bytes: &[u8]) -> Result<Body, Lie> {
        match parse(Style::Structured, bytes)? {
            Parsed::Head(Head {
                cookie: 9,
                used,
                body,
                ..
            }) if used == bytes.len() => Ok(body),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_offset_of_data_counts_as_header() {
        let bytes = structured(0, chunk::OFFSET_DATA, 4104, &0x1000u64.to_be_bytes());
        assert_eq!(
            body(&bytes),
            Ok(Body::Data {
                offset: 0x1000,
                length: 4096
            })
        );
    }

    #[test]
    fn chunks_of_impossible_length_or_type_are_lies() {
        let chunk = |kind, length| body(&structured(1, kind, length, &[]));
        assert!(matches!(
            chunk(chunk::NONE, 4),
            Err(Lie::ChunkLength { .. })
        ));
        assert!(matches!(
            chunk(chunk::OFFSET_DATA, 8),
            Err(Lie::ChunkLength { .. })
        ));
        assert!(matches!(
            chunk(chunk::OFFSET_HOLE, 8),
            Err(Lie::ChunkLength { .. })
        ));
        assert!(matches!(
            chunk(chunk::BLOCK_STATUS, u32::MAX),
            Err(Lie::ChunkLength { .. })
        ));
        assert!(matches!(
            chunk(chunk::ERROR, 1 << 20),
            Err(Lie::ChunkLength { .. })
        ));
        assert!(matches!(chunk(77, 0), Err(Lie::ChunkType(77))));
        let endless = body(&structured(0, chunk::NONE, 0, &[]));
        assert!(
            matches!(endless, Err(Lie::ChunkLength { .. })),
            "NONE that is not the end"
        );
        let hole = structured(1, chunk::OFFSET_HOLE, 12, &[0; 12]);
        assert!(
            matches!(body(&hole), Err(Lie::ChunkLength { .. })),
            "empty hole"
        );
    }

    #[test]
    fn an_unknown_error_type_is_still_an_error() {
        let bytes = structured(1, chunk::ERROR_BIT | 99, 6, &[]);
        assert_eq!(
            body(&bytes),
            Ok(Body::Error {
                located: false,
                length: 6
            })
        );
    }

    #[test]
    fn a_framing_that_was_not_negotiated_is_a_lie() {
        let bytes = structured(1, chunk::NONE, 0, &[]);
        for style in [Style::Simple, Style::Extended] {
            assert_eq!(parse(style, &bytes), Err(Lie::ReplyMagic(0x668e_33ef)));
        }
    }

    /// The longest header, with the parts of a chunk that count as header.
    const MAX_HEADER: usize = 32 + 12;

    proptest! {
        /// The parser asks for more only when there is less than the longest header.
        #[test]
        fn arbitrary_bytes_are_a_header_or_a_lie_or_too_few(
            magic in 0usize..4,
            style in 0usize..3,
            mut bytes in vec(any::<u8>(), 0..80),
        ) {
            let magics = [0x6744_6698u32, 0x668e_33ef, 0x6e8a_278c, 1];
            for (byte, &value) in bytes.iter_mut().zip(&magics[magic].to_be_bytes()) {
                *byte = value;
            }
            let style = [Style::Simple, Style::Structured, Style::Extended][style];
            match parse(style, &bytes) {
                Ok(Parsed::More(n)) => prop_assert!(n > bytes.len() && n <= MAX_HEADER),
                Ok(Parsed::Head(head)) => prop_assert!(head.used <= bytes.len()),
                Err(_) => {}
            }
        }
    }
}
