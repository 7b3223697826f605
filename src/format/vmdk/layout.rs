//! VMDK bytes as the specification draws them. No logic.
//!
//! Hosted sparse extents and markers: "Virtual Disk Format 5.0", VMware, 2011. COWD: the same,
//! "ESX Server Sparse Extents". seSparse is not documented by its maker; its layout is known from
//! images and from the readers that others wrote.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes of a sector, the unit of nearly every number below.
pub(super) const SECTOR: u64 = 512;

/// First bytes of a hosted sparse extent.
pub(super) const HOSTED_MAGIC: [u8; 4] = *b"KDMV";

/// First bytes of an ESX redo log.
pub(super) const COWD_MAGIC: [u8; 4] = *b"COWD";

/// First number of a seSparse extent.
pub(super) const SE_MAGIC: u64 = 0xcafe_babe;

/// First number of the part of a seSparse header that changes.
pub(super) const SE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;

/// The only version of seSparse there is: 2.1.
pub(super) const SE_VERSION: u64 = 0x2_0000_0001;

/// In place of the offset of the grain directory: the footer has it.
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;

/// `SparseExtentHeader.flags`.
pub(super) mod flags {
    /// The four newline characters must be what they should be.
    pub(in super::super) const NEWLINES: u32 = 1;
    /// A grain table entry of 1 is a grain of zeroes.
    pub(in super::super) const ZERO_GRAINS: u32 = 1 << 2;
    /// Each compressed grain has a marker before it.
    pub(in super::super) const MARKERS: u32 = 1 << 17;
}

/// `SparseExtentHeader.compressAlgorithm`: RFC 1951 inside RFC 1950.
pub(super) const DEFLATE: u16 = 1;

/// `SparseExtentHeader`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct HostedHeader {
    pub(super) magic: [u8; 4],
    pub(super) version: U32,
    pub(super) flags: U32,
    pub(super) capacity: U64,
    pub(super) grain_size: U64,
    pub(super) descriptor_offset: U64,
    pub(super) descriptor_size: U64,
    pub(super) num_gtes_per_gt: U32,
    pub(super) rgd_offset: U64,
    pub(super) gd_offset: U64,
    pub(super) overhead: U64,
    pub(super) unclean_shutdown: u8,
    pub(super) newlines: [u8; 4],
    pub(super) compress_algorithm: U16,
    pub(super) pad: [u8; 433],
}
const _: () = assert!(size_of::<HostedHeader>() == 512);

/// What stands before metadata in a stream-optimized extent, one sector.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Marker {
    /// Sectors of metadata that follow; of a grain, its first guest sector.
    pub(super) value: U64,
    /// Bytes of the compressed grain; 0 before metadata.
    pub(super) size: U32,
    /// What follows, if `size` is 0.
    pub(super) kind: U32,
}
const _: () = assert!(size_of::<Marker>() == 16);

/// `Marker.kind`.
pub(super) mod marker {
    /// The last sector of the stream.
    pub(in super::super) const END_OF_STREAM: u32 = 0;
    pub(in super::super) const GRAIN_TABLE: u32 = 1;
    pub(in super::super) const GRAIN_DIRECTORY: u32 = 2;
    /// The header again, with the offset of the directory.
    pub(in super::super) const FOOTER: u32 = 3;
}

/// The last three sectors of a stream-optimized extent.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Footer {
    pub(super) marker: Marker,
    pub(super) pad: [u8; 496],
    pub(super) header: HostedHeader,
    pub(super) end: Marker,
    pub(super) end_pad: [u8; 496],
}
const _: () = assert!(size_of::<Footer>() == 1536);

/// `COWDisk_Header`, as far as it is used.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct CowdHeader {
    pub(super) magic: [u8; 4],
    pub(super) version: U32,
    pub(super) flags: U32,
    pub(super) num_sectors: U32,
    pub(super) grain_size: U32,
    pub(super) gd_offset: U32,
    pub(super) num_gd_entries: U32,
    pub(super) free_sector: U32,
}
const _: () = assert!(size_of::<CowdHeader>() == 32);

/// Entries of a COWD grain table.
pub(super) const COWD_ENTRIES: u64 = 4096;

/// The part of a seSparse header that never changes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SeHeader {
    pub(super) magic: U64,
    pub(super) version: U64,
    pub(super) capacity: U64,
    pub(super) grain_size: U64,
    pub(super) grain_table_size: U64,
    pub(super) flags: U64,
    pub(super) reserved: [U64; 4],
    pub(super) volatile_header_offset: U64,
    pub(super) volatile_header_size: U64,
    pub(super) journal_header_offset: U64,
    pub(super) journal_header_size: U64,
    pub(super) journal_offset: U64,
    pub(super) journal_size: U64,
    pub(super) grain_dir_offset: U64,
    pub(super) grain_dir_size: U64,
    pub(super) grain_tables_offset: U64,
    pub(super) grain_tables_size: U64,
    pub(super) free_bitmap_offset: U64,
    pub(super) free_bitmap_size: U64,
    pub(super) backmap_offset: U64,
    pub(super) backmap_size: U64,
    pub(super) grains_offset: U64,
    pub(super) grains_size: U64,
    pub(super) pad: [u8; 304],
}
const _: () = assert!(size_of::<SeHeader>() == 512);

/// The part of a seSparse header that changes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SeVolatileHeader {
    pub(super) magic: U64,
    pub(super) free_gt_number: U64,
    pub(super) next_txn_seq_number: U64,
    pub(super) replay_journal: U64,
}
const _: () = assert!(size_of::<SeVolatileHeader>() == 32);
