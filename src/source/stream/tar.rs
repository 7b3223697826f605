//! A tar file on its way: headers and contents, in the order in which they come.

use super::ByteStream;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::format::ova::{BLOCK, Fault, Member, Next, Walk, padded};

/// Bytes that are passed over at a time.
const PIECE: u64 = 1 << 20;

/// A tar file on its way.
#[derive(Debug)]
pub(super) struct Tar {
    input: Box<dyn ByteStream>,
    walk: Walk,
    /// What it should be, for people.
    what: &'static str,
}

/// What comes next in it.
#[derive(Debug)]
pub(super) enum Entry {
    /// A file, whose content follows.
    File(Member),
    /// Anything else that has a name.
    Other(Member),
}

impl Tar {
    pub(super) fn new(input: Box<dyn ByteStream>, walk: Walk, what: &'static str) -> Self {
        Self { input, walk, what }
    }

    pub(super) fn name(&self) -> &str {
        self.input.name()
    }

    /// The next bytes of a file of which `left` were not given yet, as many as `buffer` holds.
    pub(super) async fn content(&mut self, left: &mut u64, mut buffer: Buffer) -> Result<Buffer> {
        buffer.truncate(length(*left));
        let wanted = buffer.len();
        let bytes = self.input.next(buffer).await?;
        let bytes = bytes.filter(|bytes| bytes.len() == wanted);
        let bytes = bytes.ok_or_else(|| self.failed(Fault::Short))?;
        *left = left.saturating_sub(u64::try_from(wanted).unwrap_or(0));
        Ok(bytes)
    }

    /// All that is left, passed over: whoever adds up what comes has to see it.
    pub(super) async fn rest(&mut self) -> Result<()> {
        while self
            .input
            .next(Buffer::unbudgeted(length(PIECE)))
            .await?
            .is_some()
        {}
        Ok(())
    }

    pub(super) fn failed(&self, fault: Fault) -> Error {
        fault.while_doing(format!("read {} as {}", self.input.name(), self.what))
    }

    /// The next member; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let block = self.input.next(Buffer::unbudgeted(length(BLOCK))).await?;
            let Some(block) = block else { return Ok(None) };
            let next = self.walk.header(&block);
            match next.map_err(|fault| self.failed(fault))? {
                Next::End => return Ok(None),
                Next::Header => {}
                Next::File(member) => return Ok(Some(Entry::File(member))),
                Next::Other(member) => return Ok(Some(Entry::Other(member))),
                Next::Extra(len) => {
                    let bytes = self.exactly(len).await?;
                    let taken = self.walk.extra(&bytes);
                    taken.map_err(|fault| self.failed(fault))?;
                    self.pass(padded(len).saturating_sub(len)).await?;
                }
            }
        }
    }

    /// Bytes that must be there.
    pub(super) async fn exactly(&mut self, len: u64) -> Result<Buffer> {
        let bytes = self.input.next(Buffer::unbudgeted(length(len))).await?;
        let bytes = bytes.unwrap_or(Buffer::unbudgeted(0));
        match bytes.len() == length(len) {
            true => Ok(bytes),
            false => Err(self.failed(Fault::Short)),
        }
    }

    pub(super) async fn pass(&mut self, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let piece = left.min(PIECE);
            self.exactly(piece).await?;
            left = left.saturating_sub(piece);
        }
        Ok(())
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
