//! What can be asked of an export, and how that looks on the wire. Pure.

use crate::buffer::Buffer;
use crate::extent::ByteRange;
use crate::nbd::handshake::Style;
use crate::nbd::wire::{
    EXTENDED_REQUEST_MAGIC, ExtendedRequest, REQUEST_MAGIC, Request, command, command_flag,
};
use bytes::Bytes;
use std::ops::Range;
use zerocopy::IntoBytes;

/// One request, with the memory that it needs. Owned by whoever works on it.
#[derive(Debug)]
pub enum Work {
    /// Fill `window` of the buffer from `offset` of the export.
    Read {
        /// First byte.
        offset: u64,
        /// Where the bytes go.
        buffer: Buffer,
        /// Which part of the buffer; within its length.
        window: Range<usize>,
        /// In one piece (DF): the server does not look for zeroes that it could leave out. Not
        /// asked of a server whose replies have no structure.
        whole: bool,
        /// Ask for it in parts of so many bytes, each with a reply of its own.
        part: Option<u64>,
    },
    /// Write `data` at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// What to write.
        data: Bytes,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make a range read as zeroes.
    Zero {
        /// Which bytes.
        range: ByteRange,
        /// Keep the space allocated.
        no_hole: bool,
        /// Fail rather than be slow.
        fast: bool,
    },
    /// The content of a range does not matter any more.
    Trim {
        /// Which bytes.
        range: ByteRange,
    },
    /// Make completed writes durable.
    Flush,
    /// What is known of a range in one context.
    Status {
        /// Which bytes.
        range: ByteRange,
        /// Number of the context on this connection.
        context: u32,
    },
}

/// The bytes of one request header, of either size.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; size_of::<ExtendedRequest>()],
    len: usize,
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

impl Work {
    /// Which bytes of the export it is about; empty for a flush.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        match self {
            Self::Read { offset, window, .. } => ByteRange::at(*offset, length(window.len())),
            Self::Write { offset, data, .. } => ByteRange::at(*offset, length(data.len())),
            Self::Zero { range, .. } | Self::Trim { range } | Self::Status { range, .. } => *range,
            Self::Flush => ByteRange::default(),
        }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Zero { .. } => "write zeroes",
            Self::Trim { .. } => "trim",
            Self::Flush => "flush",
            Self::Status { .. } => "block status",
        }
    }

    /// Whether its success means that something on the export has changed.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Zero { .. } | Self::Trim { .. }
        )
    }

    /// Whether a server may take minutes over it without being dead.
    #[must_use]
    pub fn may_take_long(&self) -> bool {
        matches!(self, Self::Zero { .. } | Self::Trim { .. } | Self::Flush)
    }

    /// The header that asks for `part` of it.
    #[must_use]
    pub fn header(&self, style: Style, cookie: u64, part: ByteRange) -> Header {
        let (code, mut flags) = match self {
            Self::Read { whole, .. } => {
                let whole = *whole && style != Style::Simple;
                (command::READ, flag(whole, command_flag::DF))
            }
            Self::Write { fua, .. } => (command::WRITE, flag(*fua, command_flag::FUA)),
            Self::Zero { no_hole, fast, .. } => (
                command::WRITE_ZEROES,
                flag(*no_hole, command_flag::NO_HOLE) | flag(*fast, command_flag::FAST_ZERO),
            ),
            Self::Trim { .. } => (command::TRIM, 0),
            Self::Flush => (command::FLUSH, 0),
            Self::Status { .. } => (command::BLOCK_STATUS, 0),
        };
        if style == Style::Extended && matches!(self, Self::Write { .. }) {
            flags |= command_flag::PAYLOAD_LEN;
        }
        encode(style, (code, flags), cookie, part)
    }
}

/// The header of the goodbye, which has no reply.
#[must_use]
pub(super) fn goodbye(style: Style) -> Header {
    encode(style, (command::DISCONNECT, 0), 0, ByteRange::default())
}

fn encode(style: Style, (code, flags): (u16, u16), cookie: u64, range: ByteRange) -> Header {
    let mut header = Header {
        bytes: [0; size_of::<ExtendedRequest>()],
        len: 0,
    };
    if style == Style::Extended {
        header.put(&ExtendedRequest {
            magic: EXTENDED_REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: code.into(),
            cookie: cookie.into(),
            offset: range.start.into(),
            length: range.len().into(),
        });
    } else {
        header.put(&Request {
            magic: REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: code.into(),
            cookie: cookie.into(),
            offset: range.start.into(),
            // The client splits what is longer; see `plan`.
            length: u32::try_from(range.len()).unwrap_or(u32::MAX).into(),
        });
    }
    header
}

impl Header {
    fn put(&mut self, wire: &(impl IntoBytes + zerocopy::Immutable)) {
        let bytes = wire.as_bytes();
        if let Some(room) = self.bytes.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.len = bytes.len();
        }
    }
}

fn flag(set: bool, bit: u16) -> u16 {
    if set { bit } else { 0 }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Work, goodbye};
    use crate::buffer::Buffer;
    use crate::extent::ByteRange;
    use crate::nbd::handshake::Style;
    use bytes::Bytes;

    #[test]
    fn requests_look_as_the_specification_draws_them() {
        let zero = Work::Zero {
            range: ByteRange::at(0x1_0000, 0x200),
            no_hole: true,
            fast: true,
        };
        assert_eq!(
            zero.header(Style::Structured, 5, zero.range()).as_ref(),
            b"\x25\x60\x95\x13\0\x12\0\x06\0\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\x02\0"
        );
        let write = Work::Write {
            offset: 2,
            data: Bytes::from_static(b"abc"),
            fua: true,
        };
        assert_eq!(
            write.header(Style::Extended, 1, write.range()).as_ref(),
            b"\x21\xe4\x1c\x71\0\x21\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"
        );
        let read = Work::Read {
            offset: 0x200,
            buffer: Buffer::unbudgeted(4),
            window: 0..4,
            whole: true,
            part: None,
        };
        for (style, flags) in [(Style::Structured, 4), (Style::Simple, 0)] {
            assert_eq!(
                read.header(style, 7, read.range()).as_ref(),
                [
                    b"\x25\x60\x95\x13\0",
                    &[flags][..],
                    b"\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x02\0\0\0\0\x04"
                ]
                .concat()
            );
        }
        assert_eq!(&goodbye(Style::Simple).as_ref()[6..8], b"\0\x02");
    }
}
