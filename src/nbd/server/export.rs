//! What a server serves: a disk as the NBD protocol sees it.
//!
//! The trait is here, below sources and targets, so that both can be served without this module
//! knowing of either. It does not speak the protocol: offsets, lengths and rights were checked
//! before any of its methods is called.

use crate::buffer::Buffer;
use crate::error::Result;
use crate::extent::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;

/// The context that every export has.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Block sizes as `INFO_BLOCK_SIZE` tells them, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockSizes {
    /// Offset and length of every request are multiples of this. A power of two, at most 64 KiB.
    /// The size of the disk should be a multiple of it: qemu 7.2 as a client falls over one that
    /// is not.
    pub minimum: u32,
    /// What is fast.
    pub preferred: u32,
    /// The longest read or write. A server allows 32 MiB at most, whatever is said here.
    pub maximum: u32,
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self {
            minimum: 1,
            preferred: 64 << 10,
            maximum: super::MAX_REQUEST,
        }
    }
}

/// What one context knows of some bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// How many bytes.
    pub len: u64,
    /// Flags of the context: [`allocation`](crate::nbd::wire::allocation) or
    /// [`DIRTY`](crate::nbd::wire::DIRTY).
    pub flags: u64,
}

/// How a range is to be zeroed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ZeroHow {
    /// The space stays allocated.
    pub no_hole: bool,
    /// Fail with ENOTSUP at once if it would take as long as writing zeroes.
    pub fast: bool,
}

/// A disk that is served. Methods run many at a time, from all connections.
///
/// A range that a method is called with is not empty, lies on the disk, and is aligned to
/// [`BlockSizes::minimum`] unless it ends where the disk ends. A read-only export is never asked
/// to change anything. The errno at the bottom of an error goes to the client, as far as the
/// protocol knows it.
#[async_trait]
pub trait Export: fmt::Debug + Send + Sync {
    /// Size in bytes. Constant.
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool {
        true
    }

    /// What requests may look like.
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::default()
    }

    /// For people; may be empty.
    fn description(&self) -> String {
        String::new()
    }

    /// Whether a flush on one connection covers the writes of all.
    fn multi_conn(&self) -> bool {
        true
    }

    /// Whether [`trim`](Self::trim) does anything.
    fn can_trim(&self) -> bool {
        false
    }

    /// Whether [`zero`](Self::zero) understands [`ZeroHow::fast`].
    fn can_zero_fast(&self) -> bool {
        false
    }

    /// Whether the status of [`BASE_ALLOCATION`] is so cheap that reads ask for it first, and
    /// answer holes as holes.
    fn sparse_reads(&self) -> bool {
        false
    }

    /// Contexts beyond [`BASE_ALLOCATION`], such as `qemu:dirty-bitmap:NAME`.
    fn contexts(&self) -> Vec<String> {
        Vec::new()
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The disk cannot be read there.
    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The disk cannot be written there.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Makes `range` read as zeroes.
    ///
    /// # Errors
    /// The disk cannot be written there, or not fast enough.
    async fn zero(&self, range: ByteRange, how: ZeroHow) -> Result<()>;

    /// The content of `range` does not matter any more.
    ///
    /// # Errors
    /// The disk cannot do it.
    async fn trim(&self, range: ByteRange) -> Result<()>;

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// Some of them may be lost.
    async fn flush(&self) -> Result<()>;

    /// What `context`, one that this export offers, knows of a prefix of `range`.
    ///
    /// The default calls everything data, which is right for [`BASE_ALLOCATION`] only.
    ///
    /// # Errors
    /// It cannot be told.
    async fn status(&self, context: &str, range: ByteRange) -> Result<Vec<Status>> {
        let _ = context;
        Ok(vec![Status {
            len: range.len(),
            flags: 0,
        }])
    }
}
