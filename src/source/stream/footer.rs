//! A raw disk that turns out to be a fixed VHD: only its last bytes say so.
//!
//! The last sector is held back until it is known to be the last. If it is the footer of a disk of
//! just as many bytes as came before it, it is none of that disk; what nobody said is a file, and may
//! be a disk that a guest wrote, is not decided by it but refused.

use super::inside::Belief;
use super::{ByteStream, take};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::format::vhd::{SECTOR, is_fixed};
use async_trait::async_trait;
use bytes::Bytes;

/// Bytes that are taken for a disk, unless they end with the footer of one.
#[derive(Debug)]
pub(super) struct Unfooted {
    stream: Box<dyn ByteStream>,
    belief: Belief,
    /// What came last: a sector at most.
    held: Vec<u8>,
    /// Bytes that came.
    came: u64,
    /// What is left to give, once all came.
    rest: Option<Bytes>,
}

impl Unfooted {
    /// Looks at the end of `stream`.
    pub(super) fn new(stream: Box<dyn ByteStream>, belief: Belief) -> Self {
        Self {
            stream,
            belief,
            held: Vec::new(),
            came: 0,
            rest: None,
        }
    }

    /// The next bytes, and whether there are fewer than there is room for.
    async fn read(&mut self, buffer: Buffer) -> Result<(Buffer, bool)> {
        let room = buffer.len();
        let bytes = self.stream.next(buffer).await?;
        if bytes.as_ref().is_some_and(|bytes| bytes.len() < room) {
            // It is asked once more: only then it says whether it ended well.
            self.stream.next(Buffer::unbudgeted(1)).await?;
        }
        let bytes = bytes.unwrap_or(Buffer::unbudgeted(0));
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.came = self.came.saturating_add(count);
        let ended = bytes.len() < room;
        Ok((bytes, ended))
    }

    /// What is left of the last bytes, if they are those of a footer.
    fn settle(&mut self, mut last: Vec<u8>) -> Result<Bytes> {
        let disk = self.came.saturating_sub(SECTOR);
        let footer = last.len().saturating_sub(sector());
        if !is_fixed(last.get(footer..).unwrap_or_default(), disk) {
            return Ok(last.into());
        }
        if self.belief == Belief::Disk {
            let what = format!("{} is a fixed VHD, which only its end tells", self.name());
            let error = Error::new(Kind::Unsupported, what);
            return Err(error.hint("put it into a file first, or add -f raw"));
        }
        last.truncate(footer);
        Ok(last.into())
    }
}

fn sector() -> usize {
    usize::try_from(SECTOR).unwrap_or(usize::MAX)
}

#[async_trait]
impl ByteStream for Unfooted {
    fn name(&self) -> &str {
        self.stream.name()
    }

    fn left(&self) -> Option<u64> {
        match self.belief {
            // The footer may be among them.
            Belief::File => None,
            Belief::Disk => self.stream.left(),
        }
    }

    async fn next(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>> {
        let room = buffer.len();
        if self.came == 0 && self.rest.is_none() {
            let (first, ended) = self.read(Buffer::unbudgeted(sector())).await?;
            self.held = first.to_vec();
            if ended {
                self.rest = Some(first.freeze());
            }
        }
        if self.rest.is_none() {
            let (mut bytes, ended) = self.read(buffer).await?;
            if !ended && room >= sector() {
                // What was held back comes first, and as much is held back at the end.
                let end = room.saturating_sub(sector());
                let last = bytes.get(end..).unwrap_or_default().to_vec();
                bytes.copy_within(..end, sector());
                let first = bytes.get_mut(..sector()).unwrap_or_default();
                first.copy_from_slice(&self.held);
                self.held = last;
                return Ok(Some(bytes));
            }
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(&bytes);
            if !ended {
                self.held = all.split_off(room);
                bytes.copy_from_slice(&all);
                return Ok(Some(bytes));
            }
            self.rest = Some(self.settle(all)?);
            buffer = Buffer::unbudgeted(room);
        }
        let mut filled = 0;
        if let Some(rest) = &mut self.rest {
            filled = take(rest, &mut buffer, 0);
        }
        buffer.truncate(filled);
        Ok((filled > 0).then_some(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::{Belief, ByteStream, Unfooted};
    use crate::buffer::Buffer;
    use crate::error::Result;
    use crate::format::vhd::fixed_footer;
    use crate::testkit::MemStream;

    async fn all(bytes: &[u8], piece: usize, belief: Belief) -> Result<Vec<u8>> {
        let mut stream = Unfooted::new(Box::new(MemStream::new(bytes)), belief);
        let (mut found, mut ended) = (Vec::new(), false);
        while let Some(came) = stream.next(Buffer::unbudgeted(piece)).await? {
            assert!(!ended && !came.is_empty(), "fewer bytes only where it ends");
            ended = came.len() < piece;
            found.extend_from_slice(&came);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn a_footer_is_left_out_and_nothing_else_is_however_it_is_read() {
        let disk: Vec<u8> = (0..9u8).cycle().take(5120).collect();
        let footer = fixed_footer(5120, 7, [9; 16]);
        let image = [&disk[..], &footer].concat();
        let shifted = [&disk[..], b"x", &footer].concat();
        for piece in [1, 100, 512, 513, 1024, 5000, 5632, 9000] {
            assert!(
                all(&image, piece, Belief::File).await.unwrap() == disk,
                "{piece}"
            );
            assert!(all(&image, piece, Belief::Disk).await.is_err(), "{piece}");
            for other in [
                &disk[..],
                &shifted,
                &footer,
                &image[..5631],
                &disk[..77],
                &[],
            ] {
                let found = all(other, piece, Belief::File).await.unwrap();
                assert!(found == other, "{piece} {}", other.len());
            }
        }
    }
}
