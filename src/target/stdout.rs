//! A stream as target: written in order, whatever order the writes come in.

use super::turn::{Turn, Turns};
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
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes of zeroes that one write takes.
const PIECE: u64 = 256 << 10;

/// Nobody reads standard output any more. Found in the chain of causes of what a write to it ended
/// with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads it")
    }
}

impl StdError for Closed {}

/// A pipe, FIFO, socket or character device that is written in order.
#[derive(Debug)]
pub struct StreamTarget {
    fd: Arc<OwnedFd>,
    name: String,
    is_stdout: bool,
    turns: Turns,
}

impl StreamTarget {
    /// Writes to `fd`; `name` is for messages.
    pub fn new(fd: OwnedFd, name: impl Into<String>) -> Self {
        Self {
            fd: Arc::new(fd),
            name: name.into(),
            is_stdout: false,
            turns: Turns::new(),
        }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn stdout() -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
            .map_err(|error| Error::io("open standard output", error))?;
        Ok(Self::of_stdout(fd, "standard output"))
    }

    /// Writes to `fd`, which is standard output; `name` is for messages.
    pub fn of_stdout(fd: OwnedFd, name: impl Into<String>) -> Self {
        Self {
            is_stdout: true,
            ..Self::new(fd, name)
        }
    }

    /// A failure for good, also where the errno says that a repetition may help: a stream cannot
    /// go back.
    fn broken(&self, doing: &str, error: io::Error) -> Error {
        if self.is_stdout && error.kind() == io::ErrorKind::BrokenPipe {
            return Error::new(Kind::Io, format!("{doing} {}", self.name)).because(Closed);
        }
        Error::io(format!("{doing} {}", self.name), error).with_kind(Kind::Io)
    }

    /// Waits until `offset` is next. An empty range waits for its turn as well.
    async fn turn(&self, offset: u64) -> Result<Turn<'_>> {
        let doing = format!("write {}", self.name);
        self.turns.wait(&doing, offset).await
    }

    /// Writes what is next.
    async fn put(&self, turn: Turn<'_>, offset: u64, data: Bytes) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        let fd = Arc::clone(&self.fd);
        let written = blocking(move || write_all(&fd, &data)).await;
        written.map_err(|error| self.broken("write", error).at(offset))?;
        turn.done(end);
        Ok(())
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
        let turn = self.turn(offset).await?;
        self.put(turn, offset, data).await
    }

    async fn zero(&self, range: ByteRange, _zeroing: Zeroing) -> Result<()> {
        let mut turn = self.turn(range.start).await?;
        let piece = usize::try_from(PIECE.min(range.len())).unwrap_or(0);
        let zeroes = Bytes::from(vec![0; piece]);
        let mut rest = range;
        while !rest.is_empty() {
            let (now, after) = rest.split(PIECE);
            let len = usize::try_from(now.len()).unwrap_or(0);
            self.put(turn, now.start, zeroes.slice(..len)).await?;
            turn = self.turn(after.start).await?;
            rest = after;
        }
        turn.done(range.end);
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
            self.turns.fail();
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
