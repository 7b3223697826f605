//! A stream that is compressed as a whole, unpacked as it comes.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::format::{Decoder, Wrapper};
use crate::sys::computing;
use async_trait::async_trait;

/// Compressed bytes that are read at once.
const PIECE: usize = 256 << 10;

/// What comes out of a compressed stream.
#[derive(Debug)]
pub struct Unwrap {
    packed: Box<dyn ByteStream>,
    /// `None` only while it is at work.
    decoder: Option<Decoder>,
    input: Input,
    /// The packed stream has ended.
    ended: bool,
}

/// Packed bytes, of which the first `used` are done with.
#[derive(Debug)]
struct Input {
    bytes: Buffer,
    used: usize,
}

impl Unwrap {
    /// Unpacks `packed`.
    #[must_use]
    pub fn new(packed: Box<dyn ByteStream>, wrapper: Wrapper) -> Self {
        Self {
            packed,
            decoder: Some(Decoder::new(wrapper)),
            input: Input {
                bytes: Buffer::unbudgeted(0),
                used: 0,
            },
            ended: false,
        }
    }

    fn failed(&self, error: Error) -> Error {
        error.context(format!("read {}", self.packed.name()))
    }

    /// Fills `out` from byte `at` on with what there is to unpack; how far that went.
    async fn unpack(&mut self, out: Buffer, at: usize) -> Result<(Buffer, usize)> {
        let Some(mut decoder) = self.decoder.take() else {
            // A read before this one was given up half-way.
            return Err(self.failed(Error::new(Kind::Io, "an earlier read did not end")));
        };
        let empty = Input {
            bytes: Buffer::unbudgeted(0),
            used: 0,
        };
        let mut input = std::mem::replace(&mut self.input, empty);
        let mut out = out;
        let work = computing(move || {
            let done = run(&mut decoder, &mut input, &mut out, at);
            (decoder, input, out, done)
        });
        let (decoder, input, out, done) = work.await?;
        (self.decoder, self.input) = (Some(decoder), input);
        let filled = done.map_err(|error| self.failed(error))?;
        Ok((out, filled))
    }
}

/// Unpacks until `out` is full or nothing moves any more; how far it is full.
fn run(decoder: &mut Decoder, input: &mut Input, out: &mut [u8], at: usize) -> Result<usize> {
    let mut filled = at;
    loop {
        let packed = input.bytes.get(input.used..).unwrap_or_default();
        let room = out.get_mut(filled..).unwrap_or_default();
        if room.is_empty() {
            return Ok(filled);
        }
        let done = decoder.step(packed, room)?;
        input.used = input.used.saturating_add(done.used);
        filled = filled.saturating_add(done.made);
        if done.used == 0 && done.made == 0 {
            return match packed.is_empty() {
                true => Ok(filled),
                false => Err(Error::new(Kind::Corrupt, "unpacking does not go on")),
            };
        }
    }
}

#[async_trait]
impl ByteStream for Unwrap {
    fn name(&self) -> &str {
        self.packed.name()
    }

    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        let mut filled = 0;
        loop {
            (buffer, filled) = self.unpack(buffer, filled).await?;
            if filled == buffer.len() {
                return Ok(Some(buffer));
            }
            if self.ended {
                break;
            }
            match self.packed.next(Buffer::unbudgeted(PIECE)).await? {
                Some(bytes) => self.input = Input { bytes, used: 0 },
                None => self.ended = true,
            }
        }
        if let Some(decoder) = &self.decoder {
            decoder.finish().map_err(|error| self.failed(error))?;
        }
        buffer.truncate(filled);
        Ok((filled > 0).then_some(buffer))
    }
}
