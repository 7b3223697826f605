//! Aligned memory, in huge pages where it is large.
//!
//! A huge page is pinned for direct I/O in one step where 512 small ones take 512, is one segment of
//! a request, and one entry of the TLB: on a loop device a tenth of the client's CPU time
//! (`docs/decisions/0005-in-flight.md`).
//!
//! Alignment comes from allocating one alignment more than is used; what is skipped is never
//! touched, so the kernel never backs it with memory.

#![expect(unsafe_code, reason = "advice to the kernel about memory that we own")]

use super::ALIGN;
use bytes::BytesMut;
use rustix::mm::{Advice, madvise};

/// Size and alignment of a huge page on machines that have 4 KiB pages.
pub(super) const HUGE: usize = 2 << 20;

/// Bytes at an address that is a multiple of [`ALIGN`].
#[derive(Default)]
pub(super) struct Memory {
    bytes: BytesMut,
    /// A piece of a huge page, which goes back only when all its pieces do.
    piece: bool,
}

impl Memory {
    /// `len` bytes, all zero.
    pub(super) fn new(len: usize) -> Self {
        let bytes = if len < HUGE {
            aligned(len, ALIGN)
        } else {
            huge(len)
        };
        Self {
            bytes,
            piece: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether dropping it gives its bytes back.
    pub(super) fn is_own(&self) -> bool {
        !self.piece
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A huge page in pieces of `len` bytes, which is a part of one.
pub(super) fn pieces(len: usize) -> Vec<Memory> {
    let mut rest = huge(HUGE);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let bytes = rest.split_to(len.clamp(1, rest.len()));
        pieces.push(Memory { bytes, piece: true });
    }
    pieces
}

fn huge(len: usize) -> BytesMut {
    let mut bytes = aligned(len, HUGE);
    let (start, len) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: the range is memory that we own and that nobody else can see yet; this advice changes
    // how the kernel backs it, not what it holds.
    let advised = unsafe { madvise(start.cast(), len, Advice::LinuxHugepage) };
    if let Err(error) = advised {
        tracing::debug!(%error, "no huge pages");
    }
    bytes
}

fn aligned(len: usize, align: usize) -> BytesMut {
    let mut bytes = BytesMut::zeroed(len.saturating_add(align));
    let skip = bytes.as_ptr().align_offset(align);
    let mut bytes = bytes.split_off(skip.min(align));
    bytes.truncate(len);
    bytes
}
