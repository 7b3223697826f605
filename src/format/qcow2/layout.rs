//! The bytes of a qcow2 image as its specification draws them. No logic.
//!
//! Names and sections are those of qemu's `docs/interop/qcow2.txt`. All numbers are big endian.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What every image begins with.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// "Header": the 72 bytes of version 2, with which version 3 begins too.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHeader {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// 2 or 3.
    pub version: U32,
    /// Where the backing file's name is; 0 if there is none.
    pub backing_file_offset: U64,
    /// Length of that name, 1023 at most.
    pub backing_file_size: U32,
    /// Logarithm of the cluster size.
    pub cluster_bits: U32,
    /// Bytes of the disk.
    pub size: U64,
    /// 0 none, 1 AES, 2 LUKS.
    pub crypt_method: U32,
    /// Entries of the active L1 table.
    pub l1_size: U32,
    /// Where that begins.
    pub l1_table_offset: U64,
    /// Where the refcount table begins.
    pub refcount_table_offset: U64,
    /// Clusters that it takes.
    pub refcount_table_clusters: U32,
    /// Number of internal snapshots.
    pub nb_snapshots: U32,
    /// Where the table of them begins.
    pub snapshots_offset: U64,
}
const _: () = assert!(size_of::<RawHeader>() == 72);

/// "Header", bytes 72 to 103: what version 3 adds.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHeaderV3 {
    /// Bits of [`incompatible`]: who does not know one must not open the image.
    pub incompatible_features: U64,
    /// Bits that may be ignored.
    pub compatible_features: U64,
    /// Bits of [`autoclear`]: who does not know one clears it before a write.
    pub autoclear_features: U64,
    /// Logarithm of the bits of a refcount.
    pub refcount_order: U32,
    /// Bytes of the header, these included.
    pub header_length: U32,
}
const _: () = assert!(size_of::<RawHeaderV3>() == 32);

/// Where the compression type is, in headers that are longer than this.
pub const COMPRESSION_TYPE_AT: usize = 104;

/// Bits of `incompatible_features`.
pub mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1 << 0;
    /// Anything may be wrong.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest clusters are in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// Compressed clusters are not deflated.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are 128 bits wide and tell of subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;
}

/// Bits of `compatible_features`.
pub mod compatible {
    /// Refcounts are written late.
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Bits of `autoclear_features`.
pub mod autoclear {
    /// The bitmaps extension is consistent.
    pub const BITMAPS: u64 = 1 << 0;
    /// The external data file is a raw image of the disk.
    pub const RAW_DATA_FILE: u64 = 1 << 1;
}

/// Values of the compression type.
pub mod compression {
    /// Deflate without a zlib header.
    pub const ZLIB: u8 = 0;
    /// One zstd frame a cluster.
    pub const ZSTD: u8 = 1;
}

/// "Header extensions": what precedes the data of each, which is padded to eight bytes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawExtension {
    /// One of [`extension`], or unknown and ignored.
    pub kind: U32,
    /// Bytes of its data.
    pub length: U32,
}
const _: () = assert!(size_of::<RawExtension>() == 8);

/// Kinds of header extensions.
pub mod extension {
    /// There are no more.
    pub const END: u32 = 0;
    /// Name of the backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Names of feature bits.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Where the bitmaps are.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// Where the LUKS header is.
    pub const ENCRYPTION: u32 = 0x0537_be77;
    /// Name of the external data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// "Feature name table": one entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawFeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub kind: u8,
    /// Number of the bit.
    pub bit: u8,
    /// Its name, padded with zeroes.
    pub name: [u8; 46],
}
const _: () = assert!(size_of::<RawFeatureName>() == 48);

/// "Bitmaps extension".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawBitmaps {
    /// Number of bitmaps, at least one.
    pub nb_bitmaps: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes of the directory.
    pub bitmap_directory_size: U64,
    /// Where it begins.
    pub bitmap_directory_offset: U64,
}
const _: () = assert!(size_of::<RawBitmaps>() == 24);

/// "Bitmap directory": the fixed part of an entry; extra data, the name and padding follow.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawBitmap {
    /// Where its table begins.
    pub bitmap_table_offset: U64,
    /// Entries of that table.
    pub bitmap_table_size: U32,
    /// Bits of [`bitmap_flag`].
    pub flags: U32,
    /// 1 for a dirty bitmap.
    pub kind: u8,
    /// Logarithm of the bytes of the disk that a bit stands for.
    pub granularity_bits: u8,
    /// Bytes of its name.
    pub name_size: U16,
    /// Bytes of its extra data.
    pub extra_data_size: U32,
}
const _: () = assert!(size_of::<RawBitmap>() == 24);

/// Flags of a bitmap.
pub mod bitmap_flag {
    /// It was not saved, and may be wrong.
    pub const IN_USE: u32 = 1 << 0;
    /// It records every write.
    pub const AUTO: u32 = 1 << 1;
}

/// "Snapshots": the fixed part of an entry; extra data, ID, name and padding follow.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSnapshot {
    /// Where its L1 table begins.
    pub l1_table_offset: U64,
    /// Entries of that.
    pub l1_size: U32,
    /// Bytes of its ID.
    pub id_str_size: U16,
    /// Bytes of its name.
    pub name_size: U16,
    /// When it was taken, in seconds since 1970.
    pub date_sec: U32,
    /// The nanoseconds of that.
    pub date_nsec: U32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_nsec: U64,
    /// Bytes of the machine's state, in old images.
    pub vm_state_size: U32,
    /// Bytes of the extra data.
    pub extra_data_size: U32,
}
const _: () = assert!(size_of::<RawSnapshot>() == 40);

/// "Snapshots": the extra data that is known.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSnapshotExtra {
    /// Bytes of the machine's state.
    pub vm_state_size: U64,
    /// Bytes of the disk when the snapshot was taken.
    pub disk_size: U64,
}
const _: () = assert!(size_of::<RawSnapshotExtra>() == 16);

/// Bits of an L1 or L2 entry.
pub mod entry {
    /// The refcount is exactly one.
    pub const COPIED: u64 = 1 << 63;
    /// L2: the cluster is compressed.
    pub const COMPRESSED: u64 = 1 << 62;
    /// L2, standard clusters: reads as zeroes.
    pub const ZERO: u64 = 1;
    /// Where a table or a standard cluster is: bits 9 to 55.
    pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
}
