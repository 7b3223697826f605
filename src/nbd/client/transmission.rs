//! Transmission as a pure state machine: requests in, bytes in, answers out. No I/O, no clock.
//!
//! The caller asks [`Transmission::space`] where the next bytes belong, reads into it, and tells
//! [`Transmission::received`] how many came. The data of a read is received where it stays, in the
//! request's own buffer, together with the next reply's header, so that a stream of reads costs
//! one system call for each readiness of the socket and no copy in user space.
//!
//! A server's bytes are believed only as far as they were asked for; anything else is a [`Lie`]
//! and the end of the connection. [`Transmission::feed`] is the entry point of the fuzz target.

use super::assembly::{self, ServerError, Status};
use super::pending::{Cookie, Pending};
use super::reply::{Body, Head, Parsed, data_header, parse};
use super::request::{Header, Work};
use crate::buffer::Buffer;
use crate::nbd::handshake::Style;
use crate::nbd::lie::Lie;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::mem;

/// Bytes that can be received before it is known what they are.
const CARRY: usize = 4096;

/// What a request gave.
#[derive(Debug)]
pub enum Answer {
    /// Done; there is nothing to give.
    Done,
    /// The buffer of a read, with its window filled.
    Read(Buffer),
    /// What is known of a prefix of the range.
    Status(Status),
}

/// How a request ended: an answer, or what the server said and the request to try again with.
pub type Finished = Result<Answer, Box<(ServerError, Work)>>;

/// Where in a reply the stream of bytes is.
#[derive(Debug)]
enum State {
    /// Before a header, of which at least so many bytes are needed.
    Head(usize),
    /// In the data of a read.
    Data {
        cookie: Cookie,
        /// Where in the buffer the next byte goes.
        next: usize,
        left: usize,
        done: bool,
    },
    /// In a payload that is looked at when it is complete.
    Aside {
        head: Head,
        bytes: Vec<u8>,
        filled: usize,
    },
}

/// All that one connection knows. `T` is what the caller wants back with each answer.
#[derive(Debug)]
pub struct Transmission<T> {
    style: Style,
    /// Numbers of the contexts that were negotiated.
    contexts: Vec<u32>,
    table: HashMap<u64, Pending<T>>,
    next_request: u64,
    /// Reads in the table.
    reads: usize,
    state: State,
    carry: Carry,
    finished: VecDeque<(T, Finished)>,
}

impl<T> Transmission<T> {
    /// A connection on which nothing was asked.
    #[must_use]
    pub fn new(style: Style, contexts: Vec<u32>) -> Self {
        Self {
            style,
            contexts,
            table: HashMap::new(),
            next_request: 1,
            reads: 0,
            state: State::Head(0),
            carry: Carry::default(),
            finished: VecDeque::new(),
        }
    }

    /// Takes a request; what it hands to `send` must be sent in order. `now` comes back in
    /// [`oldest`](Self::oldest).
    pub fn issue(
        &mut self,
        work: Work,
        tag: T,
        now: u32,
        mut send: impl FnMut(Header, Option<Bytes>),
    ) {
        let request = self.next_request;
        self.next_request = self.next_request.saturating_add(1);
        let payload = match &work {
            Work::Write { data, .. } => Some(data.clone()),
            _ => None,
        };
        if matches!(work, Work::Read { .. }) {
            self.reads = self.reads.saturating_add(1);
        }
        let pending = Pending::new(work, tag, now);
        for header in pending.headers(self.style, request) {
            send(header, payload.clone());
        }
        self.table.insert(request, pending);
    }

    /// Where the next bytes go: the first part is filled before the second.
    pub fn space(&mut self) -> (&mut [u8], &mut [u8]) {
        let header = data_header(self.style);
        // While a read is waiting, no more than its header is taken without knowing whose it is:
        // the data that follow must not have to be copied.
        let room = if self.reads > 0 { header } else { CARRY };
        match &self.state {
            State::Head(need) => (self.carry.space(room.max(*need)), &mut []),
            _ => (
                place(&mut self.state, &mut self.table),
                self.carry.space(room),
            ),
        }
    }

    /// Takes note that `count` bytes were put into [`space`](Self::space).
    ///
    /// # Errors
    /// The server lies; the connection is of no more use.
    pub fn received(&mut self, count: usize) -> Result<(), Lie> {
        let taken = self.state.fill(count);
        self.carry.filled(count.saturating_sub(taken));
        while self.advance()? {}
        Ok(())
    }

    /// Takes the bytes of a server as they come; copies them. For fuzzing and tests.
    ///
    /// # Errors
    /// The server lies.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Lie> {
        while !bytes.is_empty() {
            let (first, second) = self.space();
            let mut count = 0usize;
            for part in [first, second] {
                let n = part.len().min(bytes.len());
                let (now, later) = bytes.split_at(n);
                if let Some(room) = part.get_mut(..n) {
                    room.copy_from_slice(now);
                }
                bytes = later;
                count = count.saturating_add(n);
            }
            if count == 0 {
                break;
            }
            self.received(count)?;
        }
        Ok(())
    }

    /// The next request that has ended.
    pub fn finished(&mut self) -> Option<(T, Finished)> {
        self.finished.pop_front()
    }

    /// Whether no request is waiting for a reply.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether the stream is between two replies.
    #[must_use]
    pub fn is_between_replies(&self) -> bool {
        matches!(self.state, State::Head(_)) && self.carry.bytes().is_empty()
    }

    /// When the oldest request was issued, and whether all may take long.
    #[must_use]
    pub fn oldest(&self) -> Option<(u32, bool)> {
        let since = self.table.values().map(Pending::since).min()?;
        let long = self.table.values().all(|p| p.work().may_take_long());
        Some((since, long))
    }

    /// Gives up: all requests that wait for a reply.
    pub fn abandon(&mut self) -> impl Iterator<Item = (T, Work)> {
        self.state = State::Head(0);
        self.reads = 0;
        let pending = mem::take(&mut self.table).into_values();
        pending.map(Pending::into_work)
    }

    /// One step with the bytes at hand; false when more are needed.
    fn advance(&mut self) -> Result<bool, Lie> {
        match &mut self.state {
            State::Head(need) => match parse(self.style, self.carry.bytes())? {
                Parsed::More(bytes) => {
                    *need = bytes;
                    Ok(false)
                }
                Parsed::Head(head) => {
                    self.carry.consume(head.used);
                    self.begin(head)?;
                    Ok(true)
                }
            },
            State::Data {
                left: 0,
                cookie,
                done,
                ..
            } => {
                let (cookie, done) = (*cookie, *done);
                self.end_chunk(cookie, done)?;
                Ok(true)
            }
            State::Aside { bytes, filled, .. } if *filled == bytes.len() => {
                self.look_at_aside()?;
                Ok(true)
            }
            State::Data { .. } | State::Aside { .. } => Ok(self.unload_carry()),
        }
    }

    /// Moves the few bytes that came with a header to where they belong.
    fn unload_carry(&mut self) -> bool {
        let room = place(&mut self.state, &mut self.table);
        let count = room.len().min(self.carry.bytes().len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), self.carry.bytes().get(..count)) {
            to.copy_from_slice(from);
        }
        self.carry.consume(count);
        self.state.fill(count);
        count > 0
    }

    /// The request whose part waits for a reply.
    fn pending(&mut self, cookie: Cookie) -> Result<&mut Pending<T>, Lie> {
        let pending = self.table.get_mut(&cookie.request());
        pending
            .filter(|pending| pending.asked(cookie).is_some())
            .ok_or(Lie::Cookie(cookie.0))
    }

    /// Acts on a header.
    fn begin(&mut self, head: Head) -> Result<(), Lie> {
        let cookie = Cookie(head.cookie);
        self.state = State::Head(0);
        let style = self.style;
        let pending = self.pending(cookie)?;
        match head.body {
            Body::None => self.end_chunk(cookie, true),
            Body::Simple { error: 0 } => match (pending.work(), style) {
                (Work::Read { .. }, Style::Simple) => {
                    let part = pending.asked(cookie).unwrap_or_default();
                    self.begin_data(head, part.start, part.len())
                }
                (Work::Read { .. } | Work::Status { .. }, _) => {
                    Err(pending.wrong_kind("a simple reply"))
                }
                _ => self.end_chunk(cookie, true),
            },
            Body::Simple { error } => {
                pending.failed(ServerError {
                    code: error,
                    text: String::new(),
                    offset: None,
                });
                self.end_chunk(cookie, true)
            }
            Body::Data { offset, length } => self.begin_data(head, offset, length),
            Body::Hole { offset, length } => {
                pending.hole(cookie, offset, length)?;
                self.end_chunk(cookie, head.done)
            }
            Body::Status { length, .. } | Body::Error { length, .. } => {
                pending.aside(&head)?;
                self.state = State::Aside {
                    head,
                    bytes: vec![0; length],
                    filled: 0,
                };
                Ok(())
            }
        }
    }

    fn begin_data(&mut self, head: Head, offset: u64, length: u64) -> Result<(), Lie> {
        let cookie = Cookie(head.cookie);
        let place = self.pending(cookie)?.data(cookie, offset, length)?;
        self.state = State::Data {
            cookie,
            next: place.start,
            left: place.len(),
            done: head.done,
        };
        Ok(())
    }

    /// An error or a status is complete.
    fn look_at_aside(&mut self) -> Result<(), Lie> {
        let State::Aside { head, bytes, .. } = mem::replace(&mut self.state, State::Head(0)) else {
            return Ok(());
        };
        let cookie = Cookie(head.cookie);
        let pending = self.pending(cookie)?;
        match head.body {
            Body::Error { located, .. } => pending.failed(assembly::error(&bytes, located)?),
            Body::Status { extended, .. } => {
                let asked = pending.work().range();
                let (context, found) = assembly::status(&bytes, extended, asked)?;
                pending.told(context, found);
                if !self.contexts.contains(&context) {
                    return Err(Lie::Context(context));
                }
            }
            _ => {}
        }
        self.end_chunk(cookie, head.done)
    }

    /// A chunk is complete, and with `done` the reply to a part.
    fn end_chunk(&mut self, cookie: Cookie, done: bool) -> Result<(), Lie> {
        self.state = State::Head(0);
        if !done {
            return Ok(());
        }
        // A request whose reply is a lie stays in the table, so that whoever waits for it is told.
        let all = self.pending(cookie)?.end_part(cookie)?;
        if let Some(pending) = all.then(|| self.table.remove(&cookie.request())).flatten() {
            if matches!(pending.work(), Work::Read { .. }) {
                self.reads = self.reads.saturating_sub(1);
            }
            self.finished.push_back(pending.finish());
        }
        Ok(())
    }
}

/// Where the next bytes of data or of an aside belong; nowhere between two headers.
fn place<'a, T>(state: &'a mut State, table: &'a mut HashMap<u64, Pending<T>>) -> &'a mut [u8] {
    let found = match state {
        State::Head(_) => None,
        State::Data {
            cookie, next, left, ..
        } => table
            .get_mut(&cookie.request())
            .and_then(|pending| pending.memory(*next..next.saturating_add(*left))),
        State::Aside { bytes, filled, .. } => bytes.get_mut(*filled..),
    };
    found.unwrap_or(&mut [])
}

impl State {
    /// Takes note of up to `count` bytes; gives how many of them belonged here.
    fn fill(&mut self, count: usize) -> usize {
        match self {
            Self::Head(_) => 0,
            Self::Data { next, left, .. } => {
                let taken = count.min(*left);
                *next = next.saturating_add(taken);
                *left = left.saturating_sub(taken);
                taken
            }
            Self::Aside { bytes, filled, .. } => {
                let taken = count.min(bytes.len().saturating_sub(*filled));
                *filled = filled.saturating_add(taken);
                taken
            }
        }
    }
}

/// A few bytes that were received before it was known what they are.
#[derive(Debug, Default)]
struct Carry {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Carry {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or(&[])
    }

    /// Room for more, so that there are at most `limit` bytes then.
    fn space(&mut self, limit: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; CARRY];
        }
        let held = self.end.saturating_sub(self.start);
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        let end = limit.clamp(held, CARRY);
        self.bytes.get_mut(held..end).unwrap_or(&mut [])
    }

    fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.bytes.len());
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }
}

#[cfg(test)]
mod tests;
