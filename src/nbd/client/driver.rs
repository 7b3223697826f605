//! The task that owns a connection: it alone touches the socket and the requests under way.
//!
//! Commands come in by a channel, answers go out by one-shot channels, so nothing is locked. What
//! the bytes mean is decided by [`Transmission`]; this file moves them and watches the clock.

use super::request::{Header, Work, goodbye};
use super::stream::Stream;
use super::transmission::{Answer, Transmission};
use crate::error::{Error, Kind, Result};
use crate::nbd::client::assembly::ServerError;
use crate::nbd::handshake::Style;
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// Parts of one vectored write: well below the kernel's limit of 1024.
const MAX_PARTS: usize = 64;

/// The clock ticks so many times in the time that a request may take.
const TICKS: u32 = 8;

/// How much longer a slow kind of request may take, and any request while others are answered.
const SLOWER: u32 = 10;

/// Time for a polite end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server answered with an error.
    Answer(ServerError),
    /// The connection is gone, for a reason that many requests share.
    Lost(Arc<Error>),
}

/// A failed request, with what is needed to try again.
pub(super) type Refusal = Box<(Failure, Work)>;

/// Where the end of a request is told.
pub(super) type Reply = oneshot::Sender<Result<Answer, Refusal>>;

/// What the task is told to do.
#[derive(Debug)]
pub(super) enum Command {
    Work(Work, Reply),
    /// End politely once no request is under way.
    Close(oneshot::Sender<()>),
}

/// All that one connection owns.
pub(super) struct Driver {
    stream: Stream,
    style: Style,
    commands: mpsc::UnboundedReceiver<Command>,
    transmission: Transmission<Reply>,
    outbox: Outbox,
    closing: bool,
    farewell: Vec<oneshot::Sender<()>>,
    clock: Clock,
}

impl Driver {
    pub(super) fn new(
        stream: Stream,
        style: Style,
        contexts: Vec<u32>,
        patience: Duration,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            stream,
            style,
            commands,
            transmission: Transmission::new(style, contexts),
            outbox: Outbox::default(),
            closing: false,
            farewell: Vec::new(),
            clock: Clock::new(patience),
        }
    }

    /// Works until the connection ends; says why in `lost` before it fails what is under way.
    pub(super) async fn run(mut self, lost: Arc<OnceLock<Arc<Error>>>) {
        let why = match poll_fn(|cx| self.poll(cx)).await {
            Ok(()) => {
                // Not an error of the server if it does not wait for our goodbye.
                timeout(GOODBYE, self.say_goodbye()).await.ok();
                Error::new(Kind::Transient, "the connection was closed")
            }
            Err(error) => error,
        };
        let why = lost.get_or_init(|| Arc::new(why)).clone();
        for (reply, work) in self.transmission.abandon() {
            fail(reply, Failure::Lost(why.clone()), work);
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Work(work, reply) = command {
                fail(reply, Failure::Lost(why.clone()), work);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            self.take_commands(cx);
            self.write(cx)?;
            if self.closing && self.transmission.is_idle() && self.outbox.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match self.read(cx)? {
                Poll::Ready(0) => {}
                Poll::Ready(_) => {
                    // Whoever waits for this data should have it while it is in the cache.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        self.clock.poll(cx, &self.transmission).map(Err)
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) {
        while !self.closing {
            match self.commands.poll_recv(cx) {
                Poll::Ready(Some(Command::Work(work, reply))) => {
                    let now = self.clock.now;
                    let send = |header, payload| self.outbox.push(header, payload);
                    self.transmission.issue(work, reply, now, send);
                }
                Poll::Ready(Some(Command::Close(done))) => {
                    self.farewell.push(done);
                    self.closing = true;
                }
                Poll::Ready(None) => self.closing = true,
                Poll::Pending => return,
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let done = poll_send(&mut self.stream, &mut self.outbox, &mut self.clock, cx);
        match done {
            Poll::Ready(Err(error)) => Err(Error::io("send to the NBD server", error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Receives once; gives how many requests were completed by it.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Poll<usize>> {
        let (first, second) = self.transmission.space();
        let count = match self.stream.poll_read(cx, first, second) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => return Err(self.hung_up()),
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.hung_up());
            }
            Poll::Ready(Err(error)) => {
                return Err(Error::io("receive from the NBD server", error));
            }
        };
        self.clock.active();
        let heard = self.transmission.received(count);
        let mut completed = 0usize;
        while let Some((reply, finished)) = self.transmission.finished() {
            completed = completed.saturating_add(1);
            // Nobody waits for it if its future was dropped; the memory goes home either way.
            let finished = finished.map_err(|refused| {
                let (error, work) = *refused;
                Box::new((Failure::Answer(error), work))
            });
            drop(reply.send(finished));
        }
        heard?;
        Ok(Poll::Ready(completed))
    }

    fn hung_up(&self) -> Error {
        let when = if !self.transmission.is_between_replies() {
            "the server hung up in the middle of a reply"
        } else if self.transmission.is_idle() {
            "the server hung up"
        } else {
            "the server hung up with requests under way"
        };
        Error::new(Kind::Transient, when)
    }

    async fn say_goodbye(&mut self) {
        self.outbox.push(goodbye(self.style), None);
        let (stream, outbox, clock) = (&mut self.stream, &mut self.outbox, &mut self.clock);
        let sent = poll_fn(|cx| poll_send(stream, outbox, clock, cx)).await;
        if sent.is_err() || poll_fn(|cx| self.stream.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut rest = [0; 64];
        while let Ok(1..) = poll_fn(|cx| self.stream.poll_read(cx, &mut rest, &mut [])).await {}
    }
}

fn fail(reply: Reply, failure: Failure, work: Work) {
    drop(reply.send(Err(Box::new((failure, work)))));
}

/// Sends all of the outbox, and through TLS.
fn poll_send(
    stream: &mut Stream,
    outbox: &mut Outbox,
    clock: &mut Clock,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !outbox.is_empty() {
        let count = ready!(stream.poll_write(cx, &outbox.parts()))?;
        outbox.sent(count);
        clock.active();
    }
    if outbox.unflushed {
        ready!(stream.poll_flush(cx))?;
        outbox.unflushed = false;
    }
    Poll::Ready(Ok(()))
}

/// Requests that are not sent yet.
#[derive(Default)]
struct Outbox {
    letters: VecDeque<(Header, Option<Bytes>)>,
    /// Bytes of the first letter that are gone.
    gone: usize,
    unflushed: bool,
}

impl Outbox {
    fn push(&mut self, header: Header, payload: Option<Bytes>) {
        self.letters.push_back((header, payload));
        self.unflushed = true;
    }

    fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    fn parts(&self) -> Vec<IoSlice<'_>> {
        let mut parts = Vec::with_capacity(MAX_PARTS.min(self.letters.len().saturating_mul(2)));
        let mut gone = self.gone;
        let pieces = self
            .letters
            .iter()
            .flat_map(|(header, payload)| [header.as_ref(), payload.as_deref().unwrap_or(&[])]);
        for piece in pieces.take(MAX_PARTS) {
            let rest = piece.get(gone..).unwrap_or(&[]);
            gone = gone.saturating_sub(piece.len());
            if !rest.is_empty() {
                parts.push(IoSlice::new(rest));
            }
        }
        parts
    }

    fn sent(&mut self, count: usize) {
        self.gone = self.gone.saturating_add(count);
        while let Some((header, payload)) = self.letters.front() {
            let len = header.as_ref().len();
            let len = len.saturating_add(payload.as_ref().map_or(0, Bytes::len));
            match self.gone.checked_sub(len) {
                Some(rest) => {
                    self.gone = rest;
                    self.letters.pop_front();
                }
                None => return,
            }
        }
    }
}

/// Notices a server that has fallen silent, without looking at the time for each packet.
struct Clock {
    ticks: Interval,
    now: u32,
    /// When bytes last went either way, or nothing was asked.
    heard: u32,
    patience: Duration,
}

impl Clock {
    fn new(patience: Duration) -> Self {
        let period = patience.checked_div(TICKS).unwrap_or(patience);
        let mut ticks = interval(period.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            now: 0,
            heard: 0,
            patience,
        }
    }

    fn active(&mut self) {
        self.heard = self.now;
    }

    /// Ready with an error when the server must be taken for dead.
    fn poll<T>(&mut self, cx: &mut Context<'_>, requests: &Transmission<T>) -> Poll<Error> {
        loop {
            ready!(self.ticks.poll_tick(cx));
            self.now = self.now.saturating_add(1);
            let Some((since, long)) = requests.oldest() else {
                self.active();
                continue;
            };
            let slow = TICKS.saturating_mul(SLOWER);
            let silent = self.now.saturating_sub(self.heard.max(since));
            let old = self.now.saturating_sub(since);
            if silent > if long { slow } else { TICKS } || old > slow {
                let seconds = self.patience.as_secs_f32();
                return Poll::Ready(Error::new(
                    Kind::Transient,
                    format!("the server has not answered for {seconds} s"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outbox;
    use crate::nbd::client::request::goodbye;
    use crate::nbd::handshake::Style;
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert_eq, proptest};

    proptest! {
        /// However little the socket takes at a time, the bytes leave in order and once.
        #[test]
        fn partial_writes_lose_and_repeat_nothing(
            payloads in vec(vec(0u8..255, 0..20), 1..60),
            takes in vec(1usize..50, 1..20),
        ) {
            let mut outbox = Outbox::default();
            let mut all = Vec::new();
            for payload in payloads {
                let header = goodbye(Style::Simple);
                all.extend_from_slice(header.as_ref());
                all.extend_from_slice(&payload);
                outbox.push(header, (!payload.is_empty()).then(|| Bytes::from(payload)));
            }
            let mut sent = Vec::new();
            for take in takes.iter().cycle() {
                if outbox.is_empty() {
                    break;
                }
                let bytes = outbox.parts().iter().flat_map(|p| p.to_vec()).take(*take).collect::<Vec<_>>();
                outbox.sent(bytes.len());
                sent.extend(bytes);
            }
            prop_assert_eq!(sent, all);
        }
    }
}
