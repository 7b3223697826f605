//! The transmission phase of one connection: many requests at once, replies as they get ready.
//!
//! Every request takes a slot before anything is kept of it, and its data takes bytes from the
//! connection's own budget; both are given back when the reply was sent. So a client that asks for
//! much, or does not take its replies, stops being read from, and harms nobody but itself.

use super::export::{BASE_ALLOCATION, Export, Status, ZeroHow};
use super::menu::Offer;
use super::negotiate::{Mode, Terms};
use super::reply::{self, Answer, Frame, Piece};
use super::request::{self, Asked, Fault, Job};
use super::{MAX_EXTENTS, MAX_REQUEST};
use crate::buffer::Budget;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::wire::{allocation, command, command_flag};
use bytes::{Buf, Bytes};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

/// Bytes read ahead: enough for many headers, little enough that the data of a large write goes
/// straight into its buffer.
const READ_AHEAD: usize = 4096;

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) export: Arc<dyn Export>,
    pub(super) offer: Offer,
    pub(super) terms: Terms,
    /// Requests that may be under way.
    pub(super) slots: Arc<Semaphore>,
    /// Bytes that they may hold.
    pub(super) budget: Budget,
}

/// All of one reply, and the slot of its request.
#[derive(Debug)]
struct Reply {
    frames: Vec<Frame>,
    _slot: Option<OwnedSemaphorePermit>,
}

/// Where a request leaves its reply. The session ends when the last of these is gone.
#[derive(Clone)]
struct Outlet {
    /// Not bounded by itself: each reply in it has a slot.
    replies: mpsc::UnboundedSender<Reply>,
    _alive: mpsc::Sender<()>,
}

impl Outlet {
    fn put(&self, frames: Vec<Frame>, slot: Option<OwnedSemaphorePermit>) {
        let reply = Reply {
            frames,
            _slot: slot,
        };
        // A client that has left does not want its reply.
        let _ = self.replies.send(reply);
    }
}

impl Session {
    /// Serves until the client leaves, breaks the rules, or `stop` is ready; then finishes what
    /// was begun.
    ///
    /// # Errors
    /// The client broke the rules so that nothing it sends can be understood any more.
    pub(super) async fn run<R, W>(
        self: Arc<Self>,
        reader: R,
        writer: W,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<()>
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (replies, queue) = mpsc::unbounded_channel();
        let (alive, mut last) = mpsc::channel(1);
        // In a set, so that it ends with this future if that is dropped.
        let mut sending = JoinSet::new();
        sending.spawn(send_replies(writer, queue));
        let outlet = Outlet {
            replies,
            _alive: alive,
        };
        let end = tokio::select! {
            end = self.take_requests(reader, outlet) => end,
            () = stop => Ok(()),
        };
        // Nothing is ever sent on it: this waits until the last request has let go of it.
        let _ = last.recv().await;
        let _ = sending.join_next().await;
        end
    }

    async fn take_requests<R>(self: &Arc<Self>, reader: R, outlet: Outlet) -> Result<()>
    where
        R: AsyncRead + Unpin + Send,
    {
        let mut reader = BufReader::with_capacity(READ_AHEAD, reader);
        let mut header = vec![0; request::header_len(self.terms.mode)];
        loop {
            let read = tokio::select! {
                read = reader.read_exact(&mut header) => read,
                () = outlet.replies.closed() => return Ok(()),
            };
            if read.is_err() {
                return Ok(());
            }
            let asked = request::parse(self.terms.mode, &header).ok_or_else(|| {
                Error::new(
                    Kind::Corrupt,
                    "an NBD client sent a request without its magic",
                )
            })?;
            if asked.command == command::DISCONNECT {
                return Ok(());
            }
            if self
                .take_request(&mut reader, asked, &outlet)
                .await?
                .is_none()
            {
                return Ok(());
            }
        }
    }

    /// Takes the payload of one request and sets it going. `None` if the client has left.
    async fn take_request<R>(
        self: &Arc<Self>,
        reader: &mut BufReader<R>,
        asked: Asked,
        outlet: &Outlet,
    ) -> Result<Option<()>>
    where
        R: AsyncRead + Unpin + Send,
    {
        let mode = self.terms.mode;
        let payload = asked.payload(mode);
        if payload > MAX_REQUEST.into() {
            let text = format!("an NBD client sends {payload} bytes in one request");
            return Err(Error::new(Kind::Corrupt, text));
        }
        // Never closed, so there is always a slot in the end.
        let slot = self.slots.clone().acquire_owned().await.ok();
        let job = match asked.check(&self.offer, mode, self.terms.contexts.len()) {
            Ok(job) => job,
            Err(fault) => {
                if skip(reader, payload).await.is_err() {
                    return Ok(None);
                }
                outlet.put(reply::failed(mode, &asked, &fault), slot);
                return Ok(Some(()));
            }
        };
        let mut data = Bytes::new();
        if payload > 0 {
            let len = usize::try_from(payload).unwrap_or(usize::MAX);
            let mut buffer = self.budget.take(len).await;
            if reader.read_exact(&mut buffer).await.is_err() {
                return Ok(None);
            }
            data = buffer.freeze();
        }
        let (session, outlet) = (self.clone(), outlet.clone());
        tokio::spawn(async move {
            let frames = match session.perform(&asked, job, data).await {
                Ok(answer) => reply::encode(mode, &asked, answer),
                Err(error) => {
                    tracing::debug!(error = error.line(), "an NBD request failed");
                    reply::failed(mode, &asked, &Fault::from(&error))
                }
            };
            outlet.put(frames, slot);
        });
        Ok(Some(()))
    }

    async fn perform(&self, asked: &Asked, job: Job, data: Bytes) -> Result<Answer> {
        let range = asked.range();
        match job {
            Job::Read { whole } => return self.read(range, whole).await.map(Answer::Data),
            Job::Status { one } => return self.status(range, one).await.map(Answer::Status),
            Job::Flush => self.export.flush().await?,
            Job::Write => self.export.write(range.start, data).await?,
            Job::Trim => self.export.trim(range).await?,
            Job::Zero { no_hole, fast } => {
                let how = ZeroHow { no_hole, fast };
                self.export.zero(range, how).await?;
            }
        }
        if asked.flag(command_flag::FUA) && job != Job::Flush {
            self.export.flush().await?;
        }
        Ok(Answer::Done)
    }

    async fn read(&self, range: ByteRange, whole: bool) -> Result<Vec<Piece>> {
        let mut known = Vec::new();
        if self.terms.mode != Mode::Simple && !whole && self.export.sparse_reads() {
            // A status that fails or ends early only means that the rest is sent as data.
            let status = self.export.status(BASE_ALLOCATION, range).await;
            known = status.unwrap_or_default();
        }
        let parts = split(range, &known);
        if parts.iter().all(|(is_hole, _)| *is_hole) {
            return Ok(parts.iter().map(|(_, part)| hole(*part)).collect());
        }
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let buffer = self.budget.take(len).await;
        let mut rest = self.export.read(range.start, buffer).await?.freeze();
        let cut = |(is_hole, part): (bool, ByteRange)| {
            let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
            let bytes = rest.split_to(len.min(rest.len()));
            match is_hole {
                true => hole(part),
                false => Piece::Data {
                    offset: part.start,
                    bytes,
                },
            }
        };
        Ok(parts.into_iter().map(cut).collect())
    }

    async fn status(&self, range: ByteRange, one: bool) -> Result<Vec<(u32, Vec<Status>)>> {
        let mut lists = Vec::with_capacity(self.terms.contexts.len());
        for &id in &self.terms.contexts {
            let name = self.offer.contexts.get(id).map_or("", String::as_str);
            let found = self.export.status(name, range).await?;
            let limit = if one { 1 } else { MAX_EXTENTS };
            let list = tidy(found, range.len(), limit);
            if list.is_empty() {
                let text = format!("the status of {name} is empty");
                return Err(Error::new(Kind::Io, text).at(range.start));
            }
            lists.push((u32::try_from(id).unwrap_or(u32::MAX), list));
        }
        Ok(lists)
    }
}

fn hole(part: ByteRange) -> Piece {
    Piece::Hole {
        offset: part.start,
        len: u32::try_from(part.len()).unwrap_or(u32::MAX),
    }
}

/// The parts of `range`, holes or not. What `known` does not reach is no hole.
fn split(range: ByteRange, known: &[Status]) -> Vec<(bool, ByteRange)> {
    let mut parts: Vec<(bool, ByteRange)> = Vec::new();
    let mut rest = range;
    let tail = Status {
        len: u64::MAX,
        flags: 0,
    };
    for status in known.iter().chain([&tail]) {
        let (part, after) = rest.split(status.len);
        let is_hole = status.flags & allocation::ZERO != 0;
        rest = after;
        match parts.last_mut() {
            _ if part.is_empty() => {}
            Some((kind, last)) if *kind == is_hole => last.end = part.end,
            _ => parts.push((is_hole, part)),
        }
    }
    parts
}

/// Merges what can be merged, ends at `len` bytes, and keeps the first `limit` extents.
fn tidy(found: Vec<Status>, len: u64, limit: usize) -> Vec<Status> {
    let mut list: Vec<Status> = Vec::new();
    let mut left = len;
    for status in found {
        let part = status.len.min(left);
        left = left.saturating_sub(part);
        let full = list.len() >= limit;
        match list.last_mut() {
            _ if part == 0 => {}
            Some(last) if last.flags == status.flags => last.len = last.len.saturating_add(part),
            _ if full => break,
            _ => list.push(Status {
                len: part,
                ..status
            }),
        }
    }
    list
}

/// Reads `left` bytes to forget them.
async fn skip<R: AsyncRead + Unpin>(reader: &mut R, left: u64) -> io::Result<()> {
    let mut rest = reader.take(left);
    let gone = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    if gone < left {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Sends what is in the queue, one whole reply after the other, until all senders are gone or the
/// client is.
async fn send_replies<W>(mut writer: W, mut queue: mpsc::UnboundedReceiver<Reply>)
where
    W: AsyncWrite + Unpin,
{
    while let Some(reply) = queue.recv().await {
        let last = queue.is_empty();
        if send(&mut writer, reply, last).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, reply: Reply, last: bool) -> io::Result<()> {
    for frame in reply.frames {
        let mut bytes = frame.head.chain(frame.body);
        writer.write_all_buf(&mut bytes).await?;
    }
    if last {
        writer.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Status, split, tidy};
    use crate::extent::ByteRange;
    use crate::nbd::wire::allocation;

    fn status(len: u64, flags: u64) -> Status {
        Status { len, flags }
    }

    #[test]
    fn what_is_told_of_a_range_never_overruns_it_and_is_merged() {
        let found = vec![status(4, 0), status(0, 3), status(4, 0), status(100, 1)];
        assert_eq!(tidy(found.clone(), 10, 9), [status(8, 0), status(2, 1)]);
        assert_eq!(tidy(found, 10, 1), [status(8, 0)]);
    }

    #[test]
    fn what_the_status_does_not_reach_is_read_as_data() {
        let range = ByteRange::new(10, 30);
        let known = [status(4, allocation::ZERO), status(4, allocation::ZERO)];
        let parts = split(range, &known);
        assert_eq!(
            parts,
            [
                (true, ByteRange::new(10, 18)),
                (false, ByteRange::new(18, 30))
            ]
        );
        assert_eq!(split(range, &[]), [(false, range)]);
        assert_eq!(
            split(range, &[status(99, allocation::ZERO)]),
            [(true, range)]
        );
    }
}
