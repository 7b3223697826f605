//! A stream as target: written in order, whatever order the writes come in.
//!
//! A write that is not next waits. So whoever writes must have the next bytes under way: a
//! pipeline that starts requests in order does, however they finish.

use super::{Target, Zeroing};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::watch;

/// Bytes of zeroes that one write takes.
const PIECE: u64 = 256 << 10;

/// A pipe, FIFO, socket or character device that is written in order.
#[derive(Debug)]
pub struct StreamTarget {
    fd: Arc<OwnedFd>,
    name: String,
    /// How far the stream is written, or `None` once it has failed.
    next: watch::Sender<Option<u64>>,
}

impl StreamTarget {
    /// Writes to `fd`; `name` is for messages.
    pub fn new(fd: OwnedFd, name: impl Into<String>) -> Self {
        Self {
            fd: Arc::new(fd),
            name: name.into(),
            next: watch::Sender::new(Some(0)),
        }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn stdout() -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
            .map_err(|error| Error::io("open standard output", error))?;
        Ok(Self::new(fd, "standard output"))
    }

    /// A failure for good, also where the errno says that a repetition may help: a stream cannot
    /// go back.
    fn broken(&self, doing: &str, error: io::Error) -> Error {
        Error::io(format!("{doing} {}", self.name), error).with_kind(Kind::Io)
    }

    /// Waits until `offset` is next. An empty range waits for its turn as well.
    async fn turn(&self, doing: &str, offset: u64) -> Result<()> {
        let mut next = self.next.subscribe();
        let reached = next.wait_for(|next| next.is_none_or(|next| next >= offset));
        let now = reached.await.ok().and_then(|next| *next);
        let error = |why| Error::new(Kind::Io, format!("{doing} {}", self.name)).because(why);
        match now {
            Some(now) if now == offset => Ok(()),
            Some(_) => Err(error("these bytes of the stream were written before").at(offset)),
            None => Err(error("an earlier write failed").at(offset)),
        }
    }

    /// Writes what is next. A failure, and a future that is dropped, end the stream: how much of
    /// it was written is not known.
    async fn put(&self, offset: u64, data: Bytes) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        let mut outcome = Outcome {
            next: &self.next,
            then: None,
        };
        let fd = Arc::clone(&self.fd);
        let written = blocking(move || write_all(&fd, &data)).await;
        written.map_err(|error| self.broken("write", error).at(offset))?;
        outcome.then = Some(end);
        Ok(())
    }
}

/// Tells those who wait what became of a write, also if it is abandoned.
struct Outcome<'a> {
    next: &'a watch::Sender<Option<u64>>,
    then: Option<u64>,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.next.send_replace(self.then);
    }
}

/// Writes all of `data`. Blocks, also where `fd` says not to.
fn write_all(fd: &OwnedFd, data: &[u8]) -> io::Result<()> {
    let mut rest = data;
    while !rest.is_empty() {
        match rustix::io::write(fd, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(fd, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[async_trait]
impl Target for StreamTarget {
    fn capacity(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn identity(&self) -> Identity {
        Identity {
            id: format!("stream:{}", self.name),
            size: 0,
            name: self.name.clone(),
        }
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.turn("write", offset).await?;
        self.put(offset, data).await
    }

    async fn zero(&self, range: ByteRange, _zeroing: Zeroing) -> Result<()> {
        self.turn("write", range.start).await?;
        let piece = usize::try_from(PIECE.min(range.len())).unwrap_or(0);
        let zeroes = Bytes::from(vec![0; piece]);
        let mut rest = range;
        while !rest.is_empty() {
            let (now, after) = rest.split(PIECE);
            let len = usize::try_from(now.len()).unwrap_or(0);
            self.put(now.start, zeroes.slice(..len)).await?;
            rest = after;
        }
        Ok(())
    }

    /// What is in a pipe is as durable as it gets; a file behind it is synced.
    async fn flush(&self) -> Result<()> {
        let fd = Arc::clone(&self.fd);
        let synced = blocking(move || match rustix::fs::fdatasync(&*fd) {
            Err(Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        });
        let synced = synced.await;
        synced.map_err(|error| {
            self.next.send_replace(None);
            self.broken("flush", error)
        })
    }

    fn can_read_back(&self) -> bool {
        false
    }

    async fn read_back(&self, offset: u64, _buffer: Buffer) -> Result<Buffer> {
        let why = format!("read back {}", self.name);
        Err(Error::new(Kind::Unsupported, why).at(offset))
    }
}
