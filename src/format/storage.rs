//! The bytes that an image is laid over.

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::fmt;

/// Longest range that [`read_range`] gives: tables are read in windows, never as a whole.
const LONGEST: u64 = 64 << 20;

/// Bytes that an image is laid over: a file, a block device, an NBD export.
///
/// # Contract
///
/// * [`read`](Self::read) fills the whole buffer or fails; a range past the end is an error.
/// * [`extents`](Self::extents) answers a prefix of the range, in order, without gaps. `Zero`
///   promises that a read gives zeroes.
#[async_trait]
pub trait Storage: fmt::Debug + Send + Sync {
    /// Size in bytes. Constant for as long as the storage is open.
    fn size(&self) -> u64;

    /// What requests may look like.
    fn limits(&self) -> Limits;

    /// Which storage this is: for messages, and to find a chain that bites its own tail.
    fn identity(&self) -> Identity;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The range is past the end, or cannot be read.
    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer>;

    /// What is known of a prefix of `range`. By default nothing is.
    ///
    /// # Errors
    /// It cannot tell now.
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        Ok(vec![Extent::data(range)])
    }

    /// The same bytes for a thread that may block. `None` where a peer or the kernel reads by
    /// itself while nobody waits, which a thread would only get in the way of.
    fn at_hand(&self) -> Option<&dyn AtHand> {
        None
    }
}

/// Bytes that a thread reads by itself, because nobody else would: those of a file in the page
/// cache, or in memory.
pub trait AtHand: fmt::Debug + Send + Sync {
    /// Fills `space` from `offset`, which may be anything. Blocks.
    ///
    /// # Errors
    /// As for [`Storage::read`].
    fn read_now(&self, offset: u64, space: &mut [u8]) -> Result<()>;
}

/// Reads `range` of `storage`, however it is aligned: for headers and windows of tables.
///
/// `what` names those bytes. A range that is not there means that the image is cut off.
///
/// # Errors
/// `Corrupt` if the range reaches past the end or is unreasonably long; else as the storage says.
pub async fn read_range(storage: &dyn Storage, what: &str, range: ByteRange) -> Result<Bytes> {
    let size = storage.size();
    let doing = || format!("read the {what} of {}", storage.identity());
    if range.end > size {
        let why = format!("it lies at {range} and the file ends at {size:#x}");
        let error = Error::new(Kind::Corrupt, doing()).because(why);
        return Err(error.hint("the image is cut off, or it is damaged"));
    }
    if range.len() > LONGEST {
        let why = format!("{} bytes are too long", range.len());
        return Err(Error::new(Kind::Corrupt, doing()).because(why));
    }
    let limits = storage.limits();
    let whole = range.align_out(limits.align.into(), size);
    let mut all = BytesMut::with_capacity(length(whole.len()));
    let mut rest = whole;
    while !rest.is_empty() {
        let (piece, after) = rest.split(limits.max.into());
        let buffer = Buffer::unbudgeted(length(piece.len()));
        let read = storage.read(piece.start, buffer).await;
        all.extend_from_slice(&read.map_err(|error| error.context(doing()))?);
        rest = after;
    }
    let skip = length(range.start.saturating_sub(whole.start));
    let mut all = all.freeze();
    let mut wanted = all.split_off(skip.min(all.len()));
    wanted.truncate(length(range.len()));
    Ok(wanted)
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
