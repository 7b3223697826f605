//! The bytes of a stream-optimized extent as "Virtual Disk Format 5.0" draws them. No logic.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// Bytes of a sector, the unit of nearly every number below.
pub(super) const SECTOR: u64 = 512;

/// In place of the offset of the grain directory: the footer has it.
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;

/// Entries of a grain table.
pub(super) const GRAINS: u32 = 512;

/// Newlines can be checked, grains are compressed, and each has a marker.
pub(super) const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;

/// `SparseExtentHeader`.
#[derive(Debug, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
pub(super) struct Header {
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
const _: () = assert!(size_of::<Header>() == 512);

/// What stands before a grain; its data follow at once.
#[derive(Debug, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
pub(super) struct GrainMarker {
    pub(super) sector: U64,
    pub(super) size: U32,
}
const _: () = assert!(size_of::<GrainMarker>() == 12);

/// What stands before metadata; they follow in the next sector.
#[derive(Debug, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
pub(super) struct Marker {
    pub(super) sectors: U64,
    pub(super) size: U32,
    pub(super) kind: U32,
    pub(super) pad: [u8; 496],
}
const _: () = assert!(size_of::<Marker>() == 512);

/// `Marker.kind`.
pub(super) mod marker {
    pub(in super::super) const END_OF_STREAM: u32 = 0;
    pub(in super::super) const GRAIN_TABLE: u32 = 1;
    pub(in super::super) const GRAIN_DIRECTORY: u32 = 2;
    pub(in super::super) const FOOTER: u32 = 3;
}
