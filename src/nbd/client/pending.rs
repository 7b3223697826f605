//! A request that waits for replies: what of each has come, and how it ends. Pure.
//!
//! A long read is asked for in several parts, each with a reply of its own, that fill one buffer
//! (`plan::parts`). All else is one part.

use super::assembly::{Coverage, ServerError, Status};
use super::plan;
use super::reply::{Body, Head};
use super::request::{Header, Work};
use super::transmission::{Answer, Finished};
use crate::extent::ByteRange;
use crate::nbd::handshake::Style;
use crate::nbd::lie::Lie;
use std::ops::Range;

/// The most error and status chunks that belong to one request.
const MAX_ASIDES: usize = 1024;

/// The bits of a cookie from this one on say which part of a request it is, the others which request.
const PART_SHIFT: u32 = 56;

const _: () = assert!(plan::MAX_PARTS <= 1 << (u64::BITS - PART_SHIFT));

/// Names one part of one request on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Cookie(pub(super) u64);

impl Cookie {
    fn new(request: u64, part: u64) -> Self {
        Self(request | part << PART_SHIFT)
    }

    /// Which request.
    pub(super) fn request(self) -> u64 {
        self.0 & ((1 << PART_SHIFT) - 1)
    }

    /// Which part of it.
    fn part(self) -> usize {
        usize::try_from(self.0 >> PART_SHIFT).unwrap_or(usize::MAX)
    }
}

/// A request that waits for replies.
#[derive(Debug)]
pub(super) struct Pending<T> {
    work: Work,
    /// What of each part has come; nothing any more once its reply has ended.
    parts: Vec<Option<Coverage>>,
    status: Option<Status>,
    error: Option<ServerError>,
    asides: usize,
    tag: T,
    since: u32,
}

impl<T> Pending<T> {
    /// None of it has a reply yet.
    pub(super) fn new(work: Work, tag: T, since: u32) -> Self {
        let part = match &work {
            Work::Read { part, .. } => *part,
            _ => None,
        };
        let parts = plan::parts(work.range(), part);
        Self {
            parts: parts.map(|part| Some(Coverage::new(part))).collect(),
            work,
            status: None,
            error: None,
            asides: 0,
            tag,
            since,
        }
    }

    /// What asks for its parts, in order; of a request that waits for all of them.
    pub(super) fn headers(&self, style: Style, request: u64) -> impl Iterator<Item = Header> {
        let asked = self.parts.iter().flatten().map(Coverage::asked);
        asked.zip(0u64..).map(move |(range, part)| {
            let cookie = Cookie::new(request, part);
            self.work.header(style, cookie.0, range)
        })
    }

    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    /// When it was issued.
    pub(super) fn since(&self) -> u32 {
        self.since
    }

    /// What the request was, and who waits for it.
    pub(super) fn into_work(self) -> (T, Work) {
        (self.tag, self.work)
    }

    /// Which bytes a part asks for; `None` if it waits for nothing.
    pub(super) fn asked(&self, cookie: Cookie) -> Option<ByteRange> {
        let part = self.parts.get(cookie.part())?;
        part.as_ref().map(Coverage::asked)
    }

    /// The memory of a read at `place`, as [`data`](Self::data) told it.
    pub(super) fn memory(&mut self, place: Range<usize>) -> Option<&mut [u8]> {
        match &mut self.work {
            Work::Read { buffer, .. } => buffer.get_mut(place),
            _ => None,
        }
    }

    /// Data follow: tells where in the buffer they go.
    ///
    /// # Errors
    /// It is no read, or these bytes of it were not asked for or have come.
    pub(super) fn data(
        &mut self,
        cookie: Cookie,
        offset: u64,
        length: u64,
    ) -> Result<Range<usize>, Lie> {
        let Work::Read { window, .. } = &self.work else {
            return Err(self.wrong_kind("data"));
        };
        let range = self.work.range();
        let part = self.parts.get_mut(cookie.part()).and_then(Option::as_mut);
        let part = part.ok_or(Lie::Cookie(cookie.0))?;
        let before = part.asked().start.saturating_sub(range.start);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let start = window.start.saturating_add(before);
        let place = part.add(offset, length)?;
        Ok(start.saturating_add(place.start)..start.saturating_add(place.end))
    }

    /// Zeroes that are not sent.
    ///
    /// # Errors
    /// As for [`data`](Self::data).
    pub(super) fn hole(&mut self, cookie: Cookie, offset: u64, length: u64) -> Result<(), Lie> {
        if !matches!(self.work, Work::Read { .. }) {
            return Err(self.wrong_kind("a hole"));
        }
        let place = self.data(cookie, offset, length)?;
        if let Some(bytes) = self.memory(place) {
            bytes.fill(0);
        }
        Ok(())
    }

    /// The server says that it failed. The first such word counts.
    pub(super) fn failed(&mut self, error: ServerError) {
        self.error.get_or_insert(error);
    }

    /// What the server says of one context.
    pub(super) fn told(&mut self, context: u32, found: Status) {
        if matches!(self.work, Work::Status { context: asked, .. } if asked == context) {
            self.status = Some(found);
        }
    }

    /// Checks that an error or a status belongs here, and that they come to an end.
    pub(super) fn aside(&mut self, head: &Head) -> Result<(), Lie> {
        let status = matches!(head.body, Body::Status { .. });
        if status && !matches!(self.work, Work::Status { .. }) {
            return Err(self.wrong_kind("a block status"));
        }
        self.asides = self.asides.saturating_add(1);
        if self.asides > MAX_ASIDES {
            return Err(Lie::Pieces(MAX_ASIDES));
        }
        Ok(())
    }

    pub(super) fn wrong_kind(&self, what: &'static str) -> Lie {
        Lie::WrongKind {
            command: self.work.name(),
            what,
        }
    }

    /// The reply to a part has ended; says whether all have.
    ///
    /// # Errors
    /// It is not complete.
    pub(super) fn end_part(&mut self, cookie: Cookie) -> Result<bool, Lie> {
        let ended = self.parts.get_mut(cookie.part()).and_then(Option::take);
        let ended = ended.ok_or(Lie::Cookie(cookie.0))?;
        match &self.work {
            _ if self.error.is_some() => {}
            Work::Read { .. } => ended.finish()?,
            Work::Status { .. } if self.status.is_none() => return Err(Lie::NoStatus),
            _ => {}
        }
        Ok(self.parts.iter().all(Option::is_none))
    }

    /// What it gave.
    pub(super) fn finish(self) -> (T, Finished) {
        let finished = match (self.error, self.work, self.status) {
            (Some(error), work, _) => Err(Box::new((error, work))),
            (None, Work::Read { buffer, .. }, _) => Ok(Answer::Read(buffer)),
            (None, Work::Status { .. }, Some(status)) => Ok(Answer::Status(status)),
            (None, _, _) => Ok(Answer::Done),
        };
        (self.tag, finished)
    }
}
