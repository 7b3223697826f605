//! VHD bytes as the specification draws them, most significant byte first. No logic.
//!
//! "Virtual Hard Disk Image Format Specification", Microsoft, 2006.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// `Footer.cookie`.
pub(super) const FOOTER_COOKIE: [u8; 8] = *b"conectix";

/// `Footer.features`: always set.
pub(super) const FEATURES: u32 = 2;

/// `Footer.file_format_version`.
pub(super) const VERSION: u32 = 0x0001_0000;

/// `DynamicHeader.cookie`.
pub(super) const HEADER_COOKIE: [u8; 8] = *b"cxsparse";

/// `Footer.disk_type`.
pub(super) mod disk_type {
    pub(in super::super) const FIXED: u32 = 2;
    pub(in super::super) const DYNAMIC: u32 = 3;
    pub(in super::super) const DIFFERENCING: u32 = 4;
}

/// An entry of the block allocation table: the block is not in the file.
pub(super) const UNUSED: u32 = u32::MAX;

/// "Hard Disk Footer Format": the last sector, of which a dynamic disk has a copy in its first.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Footer {
    pub(super) cookie: [u8; 8],
    pub(super) features: U32,
    pub(super) file_format_version: U32,
    pub(super) data_offset: U64,
    pub(super) time_stamp: U32,
    pub(super) creator_application: [u8; 4],
    pub(super) creator_version: U32,
    pub(super) creator_host_os: [u8; 4],
    pub(super) original_size: U64,
    pub(super) current_size: U64,
    pub(super) cylinders: U16,
    pub(super) heads: u8,
    pub(super) sectors_per_track: u8,
    pub(super) disk_type: U32,
    pub(super) checksum: U32,
    pub(super) unique_id: [u8; 16],
    pub(super) saved_state: u8,
    pub(super) reserved: [u8; 427],
}
const _: () = assert!(size_of::<Footer>() == 512);

/// "Dynamic Disk Header Format".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DynamicHeader {
    pub(super) cookie: [u8; 8],
    pub(super) data_offset: U64,
    pub(super) table_offset: U64,
    pub(super) header_version: U32,
    pub(super) max_table_entries: U32,
    pub(super) block_size: U32,
    pub(super) checksum: U32,
    pub(super) parent_unique_id: [u8; 16],
    pub(super) parent_time_stamp: U32,
    pub(super) reserved: U32,
    /// UTF-16, most significant byte first, unlike those in the locators.
    pub(super) parent_unicode_name: [u8; 512],
    pub(super) parent_locators: [Locator; 8],
    pub(super) reserved_too: [u8; 256],
}
const _: () = assert!(size_of::<DynamicHeader>() == 1024);

/// Where a name of the parent is.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Locator {
    pub(super) platform_code: [u8; 4],
    pub(super) platform_data_space: U32,
    pub(super) platform_data_length: U32,
    pub(super) reserved: U32,
    pub(super) platform_data_offset: U64,
}
const _: () = assert!(size_of::<Locator>() == 24);
