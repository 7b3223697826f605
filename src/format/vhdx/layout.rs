//! VHDX bytes as the specification draws them, least significant byte first. No logic.
//!
//! [MS-VHDX]; the sections are that document's.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A GUID, in the order in which it lies in a file.
pub(crate) type Guid = [u8; 16];

/// A GUID as it is written: the first three parts are numbers, the rest is bytes.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> Guid {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f] = second.to_le_bytes();
    let [g, h] = third.to_le_bytes();
    let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// §2.2.1 The first bytes of a file.
pub(crate) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// §2.2.2 Where the two headers are, and how long.
pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(crate) const HEADER_LEN: u64 = 4096;

/// §2.2.3 Where the two region tables are, and how long.
pub(crate) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(crate) const REGION_TABLE_LEN: u64 = 64 << 10;

/// §2.2.2 Headers.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) signature: [u8; 4],
    pub(crate) checksum: U32,
    pub(crate) sequence_number: U64,
    pub(crate) file_write_guid: Guid,
    pub(crate) data_write_guid: Guid,
    pub(crate) log_guid: Guid,
    pub(crate) log_version: U16,
    pub(crate) version: U16,
    pub(crate) log_length: U32,
    pub(crate) log_offset: U64,
}
const _: () = assert!(size_of::<RawHeader>() == 80);

/// §2.2.3.1 Region Table Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RegionTable {
    pub(crate) signature: [u8; 4],
    pub(crate) checksum: U32,
    pub(crate) entry_count: U32,
    pub(crate) reserved: U32,
}
const _: () = assert!(size_of::<RegionTable>() == 16);

/// §2.2.3.2 Region Table Entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RegionEntry {
    pub(crate) guid: Guid,
    pub(crate) file_offset: U64,
    pub(crate) length: U32,
    pub(crate) required: U32,
}
const _: () = assert!(size_of::<RegionEntry>() == 32);

/// §2.2.3.2 Known regions.
pub(crate) const BAT_REGION: Guid = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
pub(crate) const METADATA_REGION: Guid = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);

/// §2.3.1.1 Log Entry Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct LogHeader {
    pub(crate) signature: [u8; 4],
    pub(crate) checksum: U32,
    pub(crate) entry_length: U32,
    pub(crate) tail: U32,
    pub(crate) sequence_number: U64,
    pub(crate) descriptor_count: U32,
    pub(crate) reserved: U32,
    pub(crate) log_guid: Guid,
    pub(crate) flushed_file_offset: U64,
    pub(crate) last_file_offset: U64,
}
const _: () = assert!(size_of::<LogHeader>() == 64);

/// §2.3.1.2 and §2.3.1.3: a zero or a data descriptor, which differ in two fields.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct LogDescriptor {
    pub(crate) signature: [u8; 4],
    /// The last 4 bytes of a data sector.
    pub(crate) trailing_bytes: [u8; 4],
    /// The first 8 bytes of a data sector; of zeroes, their length.
    pub(crate) leading_bytes: [u8; 8],
    pub(crate) file_offset: U64,
    pub(crate) sequence_number: U64,
}
const _: () = assert!(size_of::<LogDescriptor>() == 32);

/// §2.3.1.4 Data Sectors.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DataSector {
    pub(crate) signature: [u8; 4],
    pub(crate) sequence_high: U32,
    pub(crate) data: [u8; 4084],
    pub(crate) sequence_low: U32,
}
const _: () = assert!(size_of::<DataSector>() == 4096);

/// §2.6.1.1 Metadata Table Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct MetadataTable {
    pub(crate) signature: [u8; 8],
    pub(crate) reserved: U16,
    pub(crate) entry_count: U16,
    pub(crate) reserved2: [u8; 20],
}
const _: () = assert!(size_of::<MetadataTable>() == 32);

/// §2.6.1.2 Metadata Table Entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct MetadataEntry {
    pub(crate) item_id: Guid,
    pub(crate) offset: U32,
    pub(crate) length: U32,
    pub(crate) flags: U32,
    pub(crate) reserved2: U32,
}
const _: () = assert!(size_of::<MetadataEntry>() == 32);

/// `MetadataEntry.flags`: it is of the disk, not of the file.
pub(crate) const ITEM_OF_DISK: u32 = 2;

/// `MetadataEntry.flags`: whoever does not know the item must not open the file.
pub(crate) const ITEM_REQUIRED: u32 = 4;

/// §2.6.2 Known items.
pub(crate) const FILE_PARAMETERS: Guid = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
pub(crate) const DISK_SIZE: Guid = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
pub(crate) const DISK_ID: Guid = guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
pub(crate) const LOGICAL_SECTOR: Guid = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
pub(crate) const PHYSICAL_SECTOR: Guid = guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);
pub(crate) const PARENT_LOCATOR: Guid = guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);

/// §2.6.2.6.1 A parent that is a VHDX.
pub(crate) const VHDX_LOCATOR: Guid = guid(0xb04a_efb7, 0xd19e, 0x4a81, 0xb789_25b8_e944_5913);

/// §2.6.2.1 `FileParameters`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FileParameters {
    pub(crate) block_size: U32,
    pub(crate) flags: U32,
}

/// `FileParameters.flags`.
pub(crate) mod parameters {
    /// Blocks stay allocated: a fixed disk.
    pub(crate) const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
    pub(crate) const HAS_PARENT: u32 = 2;
}

/// §2.6.2.6.1 Parent Locator Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct LocatorHeader {
    pub(crate) locator_type: Guid,
    pub(crate) reserved: U16,
    pub(crate) key_value_count: U16,
}
const _: () = assert!(size_of::<LocatorHeader>() == 20);

/// §2.6.2.6.2 Parent Locator Entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct LocatorEntry {
    pub(crate) key_offset: U32,
    pub(crate) value_offset: U32,
    pub(crate) key_length: U16,
    pub(crate) value_length: U16,
}
const _: () = assert!(size_of::<LocatorEntry>() == 12);

/// §2.5.1.1 States of a payload block.
pub(crate) mod state {
    pub(crate) const NOT_PRESENT: u64 = 0;
    pub(crate) const UNDEFINED: u64 = 1;
    pub(crate) const ZERO: u64 = 2;
    pub(crate) const UNMAPPED: u64 = 3;
    pub(crate) const FULLY_PRESENT: u64 = 6;
    pub(crate) const PARTIALLY_PRESENT: u64 = 7;
}
