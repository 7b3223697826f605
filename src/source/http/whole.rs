//! An object that comes once, in order: from a server that gives no parts of it.

use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::http::Reply;
use crate::source::stream::{ByteStream, take};
use async_trait::async_trait;
use bytes::Bytes;
use std::error::Error as StdError;
use std::fmt;

/// An answer broke off before its end, and what comes next cannot be asked for: who wants the object
/// must begin it anew. Found in the chain of causes of what reading it ended with.
#[derive(Debug)]
pub struct BrokenOff {
    /// Bytes that had come.
    pub came: u64,
    cause: Error,
}

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer broke off")
    }
}

impl StdError for BrokenOff {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

/// An object that comes once: the answer that holds it.
#[derive(Debug)]
pub struct Whole {
    reply: Reply,
    /// Its bytes, if the server says.
    size: Option<u64>,
    name: String,
    /// Bytes that came.
    came: u64,
    rest: Bytes,
}

impl Whole {
    pub(super) fn new(reply: Reply, size: Option<u64>, name: String) -> Self {
        Self {
            reply,
            size,
            name,
            came: 0,
            rest: Bytes::new(),
        }
    }

    /// How people know it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its bytes, if the server says.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// For good: what came cannot be asked for again.
    fn failed(&self, error: Error) -> Error {
        let came = self.came;
        let failed = Error::new(Kind::Io, format!("read {}", self.name)).at(came);
        match error.kind() {
            Kind::Transient => failed.because(BrokenOff { came, cause: error }),
            _ => failed.because(error),
        }
    }
}

#[async_trait]
impl ByteStream for Whole {
    fn name(&self) -> &str {
        &self.name
    }

    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        let mut filled = 0usize;
        while filled < buffer.len() {
            if self.rest.is_empty() {
                let piece = self.reply.next().await;
                match piece.map_err(|error| self.failed(error))? {
                    Some(piece) => self.rest = piece,
                    None => break,
                }
            }
            let count = take(&mut self.rest, &mut buffer, filled);
            filled = filled.saturating_add(count);
            self.came = self.came.saturating_add(count as u64);
        }
        if filled < buffer.len() && self.size.is_some_and(|size| size != self.came) {
            let what = "the server sends another number of bytes than it said";
            return Err(self.failed(Error::new(Kind::Io, what)));
        }
        buffer.truncate(filled);
        Ok((filled > 0).then_some(buffer))
    }
}
