//! VMDK bytes as the specification draws them. No logic.
//!
//! Hosted sparse extents and markers: "Virtual Disk Format 5.0", VMware, 2011. COWD: the same,
//! "ESX Server Sparse Extents". seSparse is not documented by its maker; its layout is known from
//! images and from the readers that others wrote.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a sector, the unit of nearly every number below.
pub(crate) const SECTOR: u64 = 512;

/// First bytes of a hosted sparse extent.
pub(crate) const HOSTED_MAGIC: [u8; 4] = *b"KDMV";

/// First bytes of an ESX redo log.
pub(crate) const COWD_MAGIC: [u8; 4] = *b"COWD";

/// First number of a seSparse extent.
pub(crate) const SE_MAGIC: u64 = 0xcafe_babe;

/// First number of the part of a seSparse header that changes.
pub(crate) const SE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;

/// The only version of seSparse there is: 2.1.
pub(crate) const SE_VERSION: u64 = 0x2_0000_0001;

/// In place of the offset of the grain directory: the footer has it.
pub(crate) const DIRECTORY_AT_END: u64 = u64::MAX;

/// `SparseExtentHeader.flags`.
pub(crate) mod flags {
    /// The four newline characters must be what they should be.
    pub(crate) const NEWLINES: u32 = 1;
    /// A grain table entry of 1 is a grain of zeroes.
    pub(crate) const ZERO_GRAINS: u32 = 1 << 2;
    /// Grains are compressed.
    pub(crate) const COMPRESSED: u32 = 1 << 16;
    /// Each compressed grain has a marker before it.
    pub(crate) const MARKERS: u32 = 1 << 17;
}

/// `SparseExtentHeader.compressAlgorithm`: RFC 1951 inside RFC 1950.
pub(crate) const DEFLATE: u16 = 1;

/// `SparseExtentHeader`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct HostedHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U32,
    pub(crate) flags: U32,
    pub(crate) capacity: U64,
    pub(crate) grain_size: U64,
    pub(crate) descriptor_offset: U64,
    pub(crate) descriptor_size: U64,
    pub(crate) num_gtes_per_gt: U32,
    pub(crate) rgd_offset: U64,
    pub(crate) gd_offset: U64,
    pub(crate) overhead: U64,
    pub(crate) unclean_shutdown: u8,
    pub(crate) newlines: [u8; 4],
    pub(crate) compress_algorithm: U16,
    pub(crate) pad: [u8; 433],
}
const _: () = assert!(size_of::<HostedHeader>() == 512);

/// What stands before metadata in a stream-optimized extent, one sector.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Marker {
    /// Sectors of metadata that follow; of a grain, its first guest sector.
    pub(crate) value: U64,
    /// Bytes of the compressed grain; 0 before metadata.
    pub(crate) size: U32,
    /// What follows, if `size` is 0.
    pub(crate) kind: U32,
}
const _: () = assert!(size_of::<Marker>() == 16);

/// `Marker.kind`.
pub(crate) mod marker {
    /// The last sector of the stream.
    pub(crate) const END_OF_STREAM: u32 = 0;
    pub(crate) const GRAIN_TABLE: u32 = 1;
    pub(crate) const GRAIN_DIRECTORY: u32 = 2;
    /// The header again, with the offset of the directory.
    pub(crate) const FOOTER: u32 = 3;
}

/// What stands before a compressed grain; its data follow at once.
#[derive(Clone, Copy, Debug, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
pub(crate) struct GrainMarker {
    pub(crate) sector: U64,
    pub(crate) size: U32,
}
const _: () = assert!(size_of::<GrainMarker>() == 12);

/// The last three sectors of a stream-optimized extent.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Footer {
    pub(crate) marker: Marker,
    pub(crate) pad: [u8; 496],
    pub(crate) header: HostedHeader,
    pub(crate) end: Marker,
    pub(crate) end_pad: [u8; 496],
}
const _: () = assert!(size_of::<Footer>() == 1536);

/// `COWDisk_Header`, as far as it is used.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct CowdHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U32,
    pub(crate) flags: U32,
    pub(crate) num_sectors: U32,
    pub(crate) grain_size: U32,
    pub(crate) gd_offset: U32,
    pub(crate) num_gd_entries: U32,
    pub(crate) free_sector: U32,
}
const _: () = assert!(size_of::<CowdHeader>() == 32);

/// Entries of a COWD grain table.
pub(crate) const COWD_ENTRIES: u64 = 4096;

/// The part of a seSparse header that never changes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SeHeader {
    pub(crate) magic: U64,
    pub(crate) version: U64,
    pub(crate) capacity: U64,
    pub(crate) grain_size: U64,
    pub(crate) grain_table_size: U64,
    pub(crate) flags: U64,
    pub(crate) reserved: [U64; 4],
    pub(crate) volatile_header_offset: U64,
    pub(crate) volatile_header_size: U64,
    pub(crate) journal_header_offset: U64,
    pub(crate) journal_header_size: U64,
    pub(crate) journal_offset: U64,
    pub(crate) journal_size: U64,
    pub(crate) grain_dir_offset: U64,
    pub(crate) grain_dir_size: U64,
    pub(crate) grain_tables_offset: U64,
    pub(crate) grain_tables_size: U64,
    pub(crate) free_bitmap_offset: U64,
    pub(crate) free_bitmap_size: U64,
    pub(crate) backmap_offset: U64,
    pub(crate) backmap_size: U64,
    pub(crate) grains_offset: U64,
    pub(crate) grains_size: U64,
    pub(crate) pad: [u8; 304],
}
const _: () = assert!(size_of::<SeHeader>() == 512);

/// The part of a seSparse header that changes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SeVolatileHeader {
    pub(crate) magic: U64,
    pub(crate) free_gt_number: U64,
    pub(crate) next_txn_seq_number: U64,
    pub(crate) replay_journal: U64,
}
const _: () = assert!(size_of::<SeVolatileHeader>() == 32);
