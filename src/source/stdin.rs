//! A stream as source: read once, in order, until it ends. Its size is not known before.
//!
//! Not a [`Source`](super::Source): there is no offset to ask for.

use super::stream::ByteStream;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::sys::blocking;
use async_trait::async_trait;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A pipe, FIFO, socket or character device that is read once.
#[derive(Debug)]
pub struct StreamSource {
    fd: Arc<OwnedFd>,
    name: String,
    read: u64,
}

impl StreamSource {
    /// Reads from `fd`; `name` is for messages.
    pub fn new(fd: OwnedFd, name: impl Into<String>) -> Self {
        Self {
            fd: Arc::new(fd),
            name: name.into(),
            read: 0,
        }
    }

    /// Reads from standard input.
    ///
    /// # Errors
    /// Standard input is closed.
    pub fn stdin() -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
            .map_err(|error| Error::io("open standard input", error))?;
        Ok(Self::new(fd, "standard input"))
    }
}

#[async_trait]
impl ByteStream for StreamSource {
    fn name(&self) -> &str {
        &self.name
    }

    /// Standard input may be a file.
    fn left(&self) -> Option<u64> {
        let stat = rustix::fs::fstat(&self.fd).ok()?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return None;
        }
        let at = rustix::fs::tell(&self.fd).ok()?;
        Some(u64::try_from(stat.st_size).ok()?.saturating_sub(at))
    }

    /// What was read before a failure is lost with the buffer.
    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        let fd = Arc::clone(&self.fd);
        let filled = blocking(move || {
            let count = fill(&fd, &mut buffer)?;
            buffer.truncate(count);
            Ok(buffer)
        });
        let buffer = filled
            .await
            // For good: a stream cannot go back.
            .map_err(|error| Error::io(format!("read {}", self.name), error).with_kind(Kind::Io))
            .map_err(|error| error.at(self.read))?;
        if buffer.is_empty() {
            return Ok(None);
        }
        self.read = self.read.saturating_add(buffer.len() as u64);
        Ok(Some(buffer))
    }
}

/// Reads until `buffer` is full or the stream ends. Blocks, also where `fd` says not to.
fn fill(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0usize;
    while let Some(space) = buffer.get_mut(done..).filter(|space| !space.is_empty()) {
        match rustix::io::read(fd, space) {
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, rustix::event::PollFlags::IN)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Waits until `fd`, which somebody made non-blocking, is ready.
fn wait(fd: &OwnedFd, what: rustix::event::PollFlags) -> io::Result<()> {
    let mut fds = [rustix::event::PollFd::new(fd, what)];
    match rustix::event::poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
