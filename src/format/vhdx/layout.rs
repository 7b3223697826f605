//! VHDX bytes as the specification draws them, least significant byte first. No logic.
//!
//! [MS-VHDX]; the sections are that document's.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A GUID, in the order in which it lies in a file.
pub(super) type Guid = [u8; 16];

/// A GUID as it is written: the first three parts are numbers, the rest is bytes.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> Guid {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f] = second.to_le_bytes();
    let [g, h] = third.to_le_bytes();
    let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// §2.2.1 The first bytes of a file.
pub(super) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// §2.2.2 Where the two headers are, and how long.
pub(super) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER_LEN: u64 = 4096;

/// §2.2.3 Where the two region tables are, and how long.
pub(super) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGION_TABLE_LEN: u64 = 64 << 10;

/// §2.2.2 Headers.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) signature: [u8; 4],
    pub(super) checksum: U32,
    pub(super) sequence_number: U64,
    pub(super) file_write_guid: Guid,
    pub(super) data_write_guid: Guid,
    pub(super) log_guid: Guid,
    pub(super) log_version: U16,
    pub(super) version: U16,
    pub(super) log_length: U32,
    pub(super) log_offset: U64,
}
const _: () = assert!(size_of::<RawHeader>() == 80);

/// §2.2.3.1 Region Table Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RegionTable {
    pub(super) signature: [u8; 4],
    pub(super) checksum: U32,
    pub(super) entry_count: U32,
    pub(super) reserved: U32,
}
const _: () = assert!(size_of::<RegionTable>() == 16);

/// §2.2.3.2 Region Table Entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RegionEntry {
    pub(super) guid: Guid,
    pub(super) file_offset: U64,
    pub(super) length: U32,
    pub(super) required: U32,
}
const _: () = assert!(size_of::<RegionEntry>() == 32);

/// §2.2.3.2 Known regions.
pub(super) const BAT_REGION: Guid = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
pub(super) const METADATA_REGION: Guid = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);

/// §2.3.1.1 Log Entry Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LogHeader {
    pub(super) signature: [u8; 4],
    pub(super) checksum: U32,
    pub(super) entry_length: U32,
    pub(super) tail: U32,
    pub(super) sequence_number: U64,
    pub(super) descriptor_count: U32,
    pub(super) reserved: U32,
    pub(super) log_guid: Guid,
    pub(super) flushed_file_offset: U64,
    pub(super) last_file_offset: U64,
}
const _: () = assert!(size_of::<LogHeader>() == 64);

/// §2.3.1.2 and §2.3.1.3: a zero or a data descriptor, which differ in two fields.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LogDescriptor {
    pub(super) signature: [u8; 4],
    /// The last 4 bytes of a data sector.
    pub(super) trailing_bytes: [u8; 4],
    /// The first 8 bytes of a data sector; of zeroes, their length.
    pub(super) leading_bytes: [u8; 8],
    pub(super) file_offset: U64,
    pub(super) sequence_number: U64,
}
const _: () = assert!(size_of::<LogDescriptor>() == 32);

/// §2.3.1.4 Data Sectors.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DataSector {
    pub(super) signature: [u8; 4],
    pub(super) sequence_high: U32,
    pub(super) data: [u8; 4084],
    pub(super) sequence_low: U32,
}
const _: () = assert!(size_of::<DataSector>() == 4096);

/// §2.6.1.1 Metadata Table Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MetadataTable {
    pub(super) signature: [u8; 8],
    pub(super) reserved: U16,
    pub(super) entry_count: U16,
    pub(super) reserved2: [u8; 20],
}
const _: () = assert!(size_of::<MetadataTable>() == 32);

/// §2.6.1.2 Metadata Table Entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MetadataEntry {
    pub(super) item_id: Guid,
    pub(super) offset: U32,
    pub(super) length: U32,
    pub(super) flags: U32,
    pub(super) reserved2: U32,
}
const _: () = assert!(size_of::<MetadataEntry>() == 32);

/// `MetadataEntry.flags`: whoever does not know the item must not open the file.
pub(super) const ITEM_REQUIRED: u32 = 4;

/// §2.6.2 Known items.
pub(super) const FILE_PARAMETERS: Guid = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
pub(super) const DISK_SIZE: Guid = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
pub(super) const DISK_ID: Guid = guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
pub(super) const LOGICAL_SECTOR: Guid = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
pub(super) const PHYSICAL_SECTOR: Guid = guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);
pub(super) const PARENT_LOCATOR: Guid = guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);

/// §2.6.2.6.1 A parent that is a VHDX.
pub(super) const VHDX_LOCATOR: Guid = guid(0xb04a_efb7, 0xd19e, 0x4a81, 0xb789_25b8_e944_5913);

/// §2.6.2.1 `FileParameters`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FileParameters {
    pub(super) block_size: U32,
    pub(super) flags: U32,
}

/// `FileParameters.flags`.
pub(super) mod parameters {
    /// Blocks stay allocated: a fixed disk.
    pub(in super::super) const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
    pub(in super::super) const HAS_PARENT: u32 = 2;
}

/// §2.6.2.6.1 Parent Locator Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LocatorHeader {
    pub(super) locator_type: Guid,
    pub(super) reserved: U16,
    pub(super) key_value_count: U16,
}
const _: () = assert!(size_of::<LocatorHeader>() == 20);

/// §2.6.2.6.2 Parent Locator Entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LocatorEntry {
    pub(super) key_offset: U32,
    pub(super) value_offset: U32,
    pub(super) key_length: U16,
    pub(super) value_length: U16,
}
const _: () = assert!(size_of::<LocatorEntry>() == 12);

/// §2.5.1.1 States of a payload block.
pub(super) mod state {
    pub(in super::super) const NOT_PRESENT: u64 = 0;
    pub(in super::super) const UNDEFINED: u64 = 1;
    pub(in super::super) const ZERO: u64 = 2;
    pub(in super::super) const UNMAPPED: u64 = 3;
    pub(in super::super) const FULLY_PRESENT: u64 = 6;
    pub(in super::super) const PARTIALLY_PRESENT: u64 = 7;
}
