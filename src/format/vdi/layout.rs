//! VDI bytes, least significant byte first. No logic.
//!
//! VirtualBox publishes no specification; its sources are one (`src/VBox/Storage/VDICore.h`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// `PreHeader.signature`.
pub(super) const SIGNATURE: u32 = 0xbeda_107f;

/// Where the signature is.
pub(super) const SIGNATURE_AT: usize = 64;

/// `Header.image_type`.
pub(super) mod image_type {
    pub(in super::super) const NORMAL: u32 = 1;
    pub(in super::super) const FIXED: u32 = 2;
    pub(in super::super) const DIFFERENCE: u32 = 4;
}

/// An entry of the block map: the block is not in the file.
pub(super) const FREE: u32 = u32::MAX;

/// An entry of the block map: the block was discarded, and reads as zero.
pub(super) const ZERO: u32 = u32::MAX - 1;

/// The pre-header and the header of version 1.1.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) text: [u8; 64],
    pub(super) signature: U32,
    /// 1.1 is 0x10001.
    pub(super) version: U32,
    pub(super) header_size: U32,
    pub(super) image_type: U32,
    pub(super) flags: U32,
    pub(super) comment: [u8; 256],
    pub(super) blocks_offset: U32,
    pub(super) data_offset: U32,
    pub(super) geometry: [U32; 4],
    pub(super) unused: U32,
    pub(super) disk_size: U64,
    pub(super) block_size: U32,
    /// Bytes before the data of each block.
    pub(super) block_extra: U32,
    pub(super) blocks: U32,
    pub(super) blocks_allocated: U32,
    pub(super) uuid_create: [u8; 16],
    pub(super) uuid_modify: [u8; 16],
    pub(super) uuid_linkage: [u8; 16],
    pub(super) uuid_parent_modify: [u8; 16],
}
const _: () = assert!(size_of::<Header>() == 456);
