//! Replies as bytes, in each of the three shapes. Pure.

use super::export::Status;
use super::negotiate::Mode;
use super::request::{Asked, Fault};
use crate::nbd::wire::{
    BlockDescriptor, BlockDescriptorExt, EXTENDED_REPLY_MAGIC, ExtendedReply, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, SimpleReply, StructuredReply, chunk,
};
use bytes::Bytes;
use zerocopy::IntoBytes;

/// The longest text of an error that is sent, in bytes.
const MAX_TEXT: usize = 1024;

/// A header with what belongs to it, and data that is sent from where it lies.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) head: Bytes,
    pub(super) body: Bytes,
}

/// A part of what was read.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Data { offset: u64, bytes: Bytes },
    Hole { offset: u64, len: u32 },
}

/// What a request that went well gave.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing but that.
    Done,
    /// What was read, in order and without gaps: exactly one piece of data in simple mode.
    Data(Vec<Piece>),
    /// Context ids and what these contexts know.
    Status(Vec<(u32, Vec<Status>)>),
}

/// The reply to `asked`.
pub(super) fn encode(mode: Mode, asked: &Asked, answer: Answer) -> Vec<Frame> {
    match answer {
        Answer::Done => vec![done(mode, asked)],
        Answer::Data(pieces) => data(mode, asked, pieces),
        Answer::Status(contexts) => {
            let last = contexts.len().saturating_sub(1);
            let frame = |(place, (id, list)): (usize, (u32, Vec<Status>))| {
                status(mode, asked, id, &list, place == last)
            };
            contexts.into_iter().enumerate().map(frame).collect()
        }
    }
}

/// The reply that `asked` was not done.
pub(super) fn failed(mode: Mode, asked: &Asked, fault: &Fault) -> Vec<Frame> {
    if mode == Mode::Simple {
        return vec![simple(asked, fault.errno)];
    }
    let text = cut(&fault.text);
    let mut body = fault.errno.to_be_bytes().to_vec();
    body.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    body.extend(text.as_bytes());
    vec![last_frame(mode, asked, chunk::ERROR, &body)]
}

/// At most [`MAX_TEXT`] bytes of `text`, whole characters.
fn cut(text: &str) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(fits).unwrap_or(0);
    text.get(..end).unwrap_or("")
}

fn done(mode: Mode, asked: &Asked) -> Frame {
    match mode {
        Mode::Simple | Mode::Structured => simple(asked, 0),
        Mode::Extended => last_frame(mode, asked, chunk::NONE, &[]),
    }
}

fn simple(asked: &Asked, errno: u32) -> Frame {
    let header = SimpleReply {
        magic: SIMPLE_REPLY_MAGIC.into(),
        error: errno.into(),
        cookie: asked.cookie.into(),
    };
    Frame {
        head: Bytes::copy_from_slice(header.as_bytes()),
        body: Bytes::new(),
    }
}

fn data(mode: Mode, asked: &Asked, pieces: Vec<Piece>) -> Vec<Frame> {
    let last = pieces.len().saturating_sub(1);
    let frame = |(place, piece): (usize, Piece)| {
        let done = place == last;
        match piece {
            Piece::Data { bytes, .. } if mode == Mode::Simple => Frame {
                body: bytes,
                ..simple(asked, 0)
            },
            Piece::Data { offset, bytes } => {
                let length = bytes.len().saturating_add(size_of::<u64>());
                let mut head = header(mode, asked, chunk::OFFSET_DATA, length, done);
                head.extend(offset.to_be_bytes());
                Frame {
                    head: head.into(),
                    body: bytes,
                }
            }
            Piece::Hole { offset, len } => {
                let length = size_of::<u64>().saturating_add(size_of::<u32>());
                let mut head = header(mode, asked, chunk::OFFSET_HOLE, length, done);
                head.extend(offset.to_be_bytes());
                head.extend(len.to_be_bytes());
                Frame {
                    head: head.into(),
                    body: Bytes::new(),
                }
            }
        }
    };
    pieces.into_iter().enumerate().map(frame).collect()
}

fn status(mode: Mode, asked: &Asked, id: u32, list: &[Status], done: bool) -> Frame {
    let mut body = id.to_be_bytes().to_vec();
    let kind = if mode == Mode::Extended {
        body.extend(u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes());
        for status in list {
            let descriptor = BlockDescriptorExt {
                length: status.len.into(),
                flags: status.flags.into(),
            };
            body.extend(descriptor.as_bytes());
        }
        chunk::BLOCK_STATUS_EXT
    } else {
        for status in list {
            let descriptor = BlockDescriptor {
                length: narrow(status.len).into(),
                flags: narrow(status.flags).into(),
            };
            body.extend(descriptor.as_bytes());
        }
        chunk::BLOCK_STATUS
    };
    let head = header(mode, asked, kind, body.len(), done);
    Frame {
        head: head.into(),
        body: body.into(),
    }
}

/// Requests in this mode are shorter than 4 GiB, and so is what is known of them; the contexts
/// that exist have no flag above bit 31.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A whole reply in one small chunk.
fn last_frame(mode: Mode, asked: &Asked, kind: u16, body: &[u8]) -> Frame {
    let mut head = header(mode, asked, kind, body.len(), true);
    head.extend(body);
    Frame {
        head: head.into(),
        body: Bytes::new(),
    }
}

/// The header of a chunk with `length` bytes.
fn header(mode: Mode, asked: &Asked, kind: u16, length: usize, done: bool) -> Vec<u8> {
    let flags = if done { chunk::FLAG_DONE } else { 0 };
    if mode == Mode::Extended {
        let header = ExtendedReply {
            magic: EXTENDED_REPLY_MAGIC.into(),
            flags: flags.into(),
            kind: kind.into(),
            cookie: asked.cookie.into(),
            offset: asked.offset.into(),
            length: u64::try_from(length).unwrap_or(u64::MAX).into(),
        };
        return header.as_bytes().to_vec();
    }
    let header = StructuredReply {
        magic: STRUCTURED_REPLY_MAGIC.into(),
        flags: flags.into(),
        kind: kind.into(),
        cookie: asked.cookie.into(),
        length: u32::try_from(length).unwrap_or(u32::MAX).into(),
    };
    header.as_bytes().to_vec()
}
