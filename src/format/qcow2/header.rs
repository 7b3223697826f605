//! The first cluster of an image to a header that was checked. Pure, no I/O.
//!
//! Sections "Header" and "Header extensions". Everything that the header points to is bounded by
//! the real size of the file; the refcounts are not looked at, as a reader has no use for them:
//! that is why the dirty bit, which says that they may be wrong, is accepted. The corrupt bit is
//! not: "any data structure may be corrupt" includes those that say where the data are, and a copy
//! that ends well is a promise.

use super::extension::{Extensions, FeatureKind};
use super::flaw::Flaw;
use super::geometry::{Geometry, Table};
use super::layout::{
    COMPRESSION_TYPE_AT, MAGIC, RawHeader, RawHeaderV3, autoclear, compatible, compression,
    incompatible,
};
use zerocopy::FromBytes;

/// Incompatible features that are read.
const KNOWN: u64 = incompatible::DIRTY
    | incompatible::CORRUPT
    | incompatible::DATA_FILE
    | incompatible::COMPRESSION
    | incompatible::EXTENDED_L2;

/// qemu's limits, so that no image there is breaks them.
const SNAPSHOTS_MAX: u64 = 65536;
const BACKING_NAME_MAX: u32 = 1023;
const REFCOUNT_ORDER_MAX: u32 = 6;

/// A header that was checked against its rules and its file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The units of the image.
    pub geometry: Geometry,
    /// Bytes of the disk.
    pub size: u64,
    /// The active L1 table, as long as the disk needs it.
    pub l1: Table,
    /// The table of internal snapshots; `entries` is how many there are.
    pub snapshots: Table,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// Refcounts may be wrong.
    pub dirty: bool,
    /// Refcounts are written late.
    pub lazy_refcounts: bool,
    /// What is under clusters that are not allocated.
    pub backing: Option<Backing>,
    /// Where guest clusters are, if not in this file.
    pub data_file: Option<DataFile>,
    /// Where the directory of bitmaps is, if it is to be relied on.
    pub bitmaps: Option<BitmapDirectory>,
}

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// Deflate, without a header.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// What an image calls its backing file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backing {
    /// Its name, as it is written.
    pub name: String,
    /// Its format, if that is written too.
    pub format: Option<String>,
}

/// What an image says of its external data file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataFile {
    /// Its name, if that is written.
    pub name: Option<String>,
    /// It is a raw image of the disk.
    pub raw: bool,
}

/// Where the directory of bitmaps is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BitmapDirectory {
    /// Number of bitmaps.
    pub count: u32,
    /// Where it begins.
    pub offset: u64,
    /// Bytes that it has.
    pub bytes: u64,
}

impl Header {
    /// How many bytes of the file [`parse`](Self::parse) wants to see, by its first 72.
    ///
    /// # Errors
    /// It is not a qcow2 image, or none of a size that is read.
    pub fn wanted(start: &[u8], file: u64) -> Result<u64, Flaw> {
        let raw = fixed(start, file)?;
        Ok(Geometry::of(&raw)?.cluster().min(file))
    }

    /// Reads the header from the first cluster of a file of `file` bytes, or from all of it.
    ///
    /// # Errors
    /// It breaks a rule, or uses something that is not read here.
    pub fn parse(first: &[u8], file: u64) -> Result<Self, Flaw> {
        let raw = fixed(first, file)?;
        let (v3, length) = second_part(first, &raw, file)?;
        let features = v3.incompatible_features.get();
        let geometry = Geometry::of(&raw)?;
        let end = extensions_end(&raw, geometry);
        let extensions = Extensions::parse(first, length.into(), end, file)?;
        refuse_features(features, &extensions)?;
        refuse_encryption(raw.crypt_method.get())?;
        let extended = features & incompatible::EXTENDED_L2 != 0;
        let geometry = Geometry::new(geometry.cluster_bits(), extended)?;
        let size = raw.size.get();
        let l1 = Table {
            offset: raw.l1_table_offset.get(),
            entries: raw.l1_size.get().into(),
        };
        let auto = v3.autoclear_features.get();
        let data_file = (features & incompatible::DATA_FILE != 0).then(|| DataFile {
            name: extensions.data_file.clone(),
            raw: auto & autoclear::RAW_DATA_FILE != 0,
        });
        let backing = backing(
            first,
            &raw,
            geometry,
            file,
            extensions.backing_format.clone(),
        )?;
        if backing.is_some() && data_file.as_ref().is_some_and(|file| file.raw) {
            return Err(Flaw::BackedRaw);
        }
        let bitmaps = match auto & autoclear::BITMAPS {
            0 => None,
            _ => Some(extensions.bitmaps(geometry, file)?),
        };
        Ok(Self {
            version: raw.version.get(),
            geometry,
            size,
            l1: geometry.check_l1(l1, size, file)?,
            snapshots: snapshots(&raw, geometry, file)?,
            compression: compression_of(first, length, features)?,
            refcount_bits: refcount_bits(v3.refcount_order.get())?,
            dirty: features & incompatible::DIRTY != 0,
            lazy_refcounts: v3.compatible_features.get() & compatible::LAZY_REFCOUNTS != 0,
            backing,
            data_file,
            bitmaps,
        })
    }
}

/// The part that all versions have.
fn fixed(bytes: &[u8], file: u64) -> Result<RawHeader, Flaw> {
    if bytes.get(..4) != Some(&MAGIC) {
        return Err(Flaw::Magic);
    }
    let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| in_header(file))?;
    match raw.version.get() {
        2 | 3 => Ok(raw),
        other => Err(Flaw::Version(other)),
    }
}

/// The part of version 3, or what version 2 means by its absence; and the length of both.
fn second_part(bytes: &[u8], raw: &RawHeader, file: u64) -> Result<(RawHeaderV3, u32), Flaw> {
    if raw.version.get() == 2 {
        let v3 = RawHeaderV3 {
            refcount_order: 4.into(),
            ..RawHeaderV3::default()
        };
        return Ok((v3, 72));
    }
    let rest = bytes.get(size_of::<RawHeader>()..).unwrap_or_default();
    let (v3, _) = RawHeaderV3::read_from_prefix(rest).map_err(|_| in_header(file))?;
    let length = v3.header_length.get();
    let fits = u64::from(length) <= Geometry::of(raw)?.cluster();
    if length < 104 || !length.is_multiple_of(8) || !fits {
        return Err(Flaw::HeaderLength(length));
    }
    Ok((v3, length))
}

fn in_header(file: u64) -> Flaw {
    Flaw::Truncated {
        what: "its header",
        size: file,
    }
}

/// Extensions end where the backing file's name begins, or with the first cluster.
fn extensions_end(raw: &RawHeader, geometry: Geometry) -> u64 {
    match raw.backing_file_offset.get() {
        0 => geometry.cluster(),
        name => name.min(geometry.cluster()),
    }
}

fn refuse_features(features: u64, extensions: &Extensions) -> Result<(), Flaw> {
    let unknown = features & !KNOWN;
    if unknown != 0 {
        let bits =
            (0..64_u8).filter(|bit| unknown.checked_shr((*bit).into()).unwrap_or(0) & 1 != 0);
        let names: Vec<_> = bits
            .map(|bit| extensions.feature(FeatureKind::Incompatible, bit))
            .collect();
        return Err(Flaw::Feature(names.join(", ")));
    }
    if features & incompatible::CORRUPT != 0 {
        return Err(Flaw::MarkedCorrupt);
    }
    Ok(())
}

fn refuse_encryption(method: u32) -> Result<(), Flaw> {
    match method {
        0 => Ok(()),
        1 => Err(Flaw::Encrypted("AES")),
        2 => Err(Flaw::Encrypted("LUKS")),
        _ => Err(Flaw::Encrypted("unknown")),
    }
}

fn refcount_bits(order: u32) -> Result<u32, Flaw> {
    if order > REFCOUNT_ORDER_MAX {
        return Err(Flaw::RefcountOrder(order));
    }
    Ok(1_u32.checked_shl(order).unwrap_or(0))
}

/// The type field counts only if the header has it, and agrees with the feature bit.
fn compression_of(bytes: &[u8], length: u32, features: u64) -> Result<Compression, Flaw> {
    let present = usize::try_from(length).is_ok_and(|length| length > COMPRESSION_TYPE_AT);
    let found = match bytes.get(COMPRESSION_TYPE_AT) {
        Some(found) if present => *found,
        _ => compression::ZLIB,
    };
    let other_than_zlib = features & incompatible::COMPRESSION != 0;
    match found {
        _ if other_than_zlib != (found != compression::ZLIB) => Err(Flaw::CompressionBit(found)),
        compression::ZLIB => Ok(Compression::Zlib),
        compression::ZSTD => Ok(Compression::Zstd),
        other => Err(Flaw::CompressionType(other)),
    }
}

fn backing(
    bytes: &[u8],
    raw: &RawHeader,
    geometry: Geometry,
    file: u64,
    format: Option<String>,
) -> Result<Option<Backing>, Flaw> {
    let (offset, length) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
    if offset == 0 {
        return Ok(None);
    }
    let end = offset.saturating_add(length.into());
    if length == 0 || length > BACKING_NAME_MAX || end > geometry.cluster() {
        return Err(Flaw::BackingName(length));
    }
    let what = "the backing file's name";
    let name = slice(bytes, offset, length.into()).ok_or(Flaw::Truncated { what, size: file })?;
    Ok(Some(Backing {
        name: text(name, what)?,
        format,
    }))
}

fn snapshots(raw: &RawHeader, geometry: Geometry, file: u64) -> Result<Table, Flaw> {
    let table = Table {
        offset: raw.snapshots_offset.get(),
        entries: raw.nb_snapshots.get().into(),
    };
    if table.entries == 0 {
        return Ok(Table {
            offset: 0,
            entries: 0,
        });
    }
    // An entry has at least its fixed part.
    let most = SNAPSHOTS_MAX.saturating_mul(40);
    geometry.check_table("the snapshot table", table, 40, most, file)?;
    Ok(table)
}

/// `len` bytes at `offset`, if they are there.
pub(super) fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    bytes.get(start..end)
}

/// A name that people and the file system can take.
pub(super) fn text(bytes: &[u8], what: &'static str) -> Result<String, Flaw> {
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name.to_owned()),
        _ => Err(Flaw::NotText(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Compression, Flaw, Header};
    use crate::format::qcow2::layout::{MAGIC, RawHeader, RawHeaderV3};
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};
    use zerocopy::IntoBytes;

    const FILE: u64 = 1 << 20;

    /// A sound header of version 3, and one cluster of zeroes after it.
    struct Made {
        raw: RawHeader,
        v3: RawHeaderV3,
        rest: Vec<u8>,
    }

    fn made() -> Made {
        Made {
            raw: RawHeader {
                magic: MAGIC,
                version: 3.into(),
                cluster_bits: 16.into(),
                size: (1 << 30).into(),
                l1_size: 2.into(),
                l1_table_offset: 0x30000.into(),
                ..RawHeader::default()
            },
            v3: RawHeaderV3 {
                refcount_order: 4.into(),
                header_length: 112.into(),
                ..RawHeaderV3::default()
            },
            rest: vec![0; 8],
        }
    }

    impl Made {
        fn extension(mut self, kind: u32, data: &[u8]) -> Self {
            self.rest.extend(kind.to_be_bytes());
            self.rest
                .extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            self.rest.extend(data);
            self.rest.resize(self.rest.len().next_multiple_of(8), 0);
            self
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = self.raw.as_bytes().to_vec();
            if self.raw.version.get() > 2 {
                bytes.extend(self.v3.as_bytes());
            }
            bytes.extend(&self.rest);
            bytes.resize(1 << 16, 0);
            bytes
        }

        fn parse(&self) -> Result<Header, Flaw> {
            Header::parse(&self.bytes(), FILE)
        }
    }

    #[test]
    fn a_sound_header_is_read() {
        let header = made().parse().unwrap();
        assert_eq!((header.version, header.size), (3, 1 << 30));
        assert_eq!(header.compression, Compression::Zlib);
        assert_eq!(header.refcount_bits, 16);
        assert_eq!((header.l1.offset, header.l1.entries), (0x30000, 2));
        let mut old = made();
        old.raw.version = 2.into();
        assert_eq!(old.parse().unwrap().version, 2);
    }

    #[test]
    fn an_unknown_incompatible_feature_is_refused_by_its_name() {
        let mut image = made();
        image.v3.incompatible_features = (1 << 40 | 1 << 41).into();
        let mut name = vec![0, 40];
        name.extend(b"time travel");
        name.resize(48, 0);
        let found = image.extension(0x6803_f857, &name).parse().unwrap_err();
        assert_eq!(found.to_string(), "the feature \"time travel\", of bit 41");
    }

    #[test]
    fn an_image_marked_corrupt_is_refused_and_a_dirty_one_is_read() {
        let mut image = made();
        image.v3.incompatible_features = 2.into();
        assert_eq!(image.parse(), Err(Flaw::MarkedCorrupt));
        image.v3.incompatible_features = 1.into();
        assert!(image.parse().unwrap().dirty);
    }

    #[test]
    fn the_compression_type_and_its_feature_bit_agree() {
        let mut image = made();
        image.rest[0] = 1;
        assert_eq!(image.parse(), Err(Flaw::CompressionBit(1)));
        image.v3.incompatible_features = 8.into();
        assert_eq!(image.parse().unwrap().compression, Compression::Zstd);
        image.rest[0] = 0;
        assert_eq!(image.parse(), Err(Flaw::CompressionBit(0)));
        image.rest[0] = 7;
        assert_eq!(image.parse(), Err(Flaw::CompressionType(7)));
        image.v3.header_length = 104.into();
        assert_eq!(image.parse(), Err(Flaw::CompressionBit(0)), "not there");
    }

    #[test]
    fn the_backing_file_is_named_with_its_format() {
        let mut image = made().extension(0xe279_2aca, b"vmdk");
        let at = 104 + image.rest.len() + 8;
        image.rest.extend([0; 8]);
        image.rest.extend(b"base.vmdk");
        image.raw.backing_file_offset = u64::try_from(at).unwrap().into();
        image.raw.backing_file_size = 9.into();
        let backing = image.parse().unwrap().backing.unwrap();
        assert_eq!(backing.name, "base.vmdk");
        assert_eq!(backing.format.as_deref(), Some("vmdk"));
        image.raw.backing_file_size = 1024.into();
        assert_eq!(image.parse(), Err(Flaw::BackingName(1024)));
        image.raw.backing_file_offset = u64::MAX.into();
        image.raw.backing_file_size = 9.into();
        assert_eq!(image.parse(), Err(Flaw::BackingName(9)));
    }

    #[test]
    fn a_raw_data_file_has_nothing_below_it() {
        let mut image = made().extension(0x4441_5441, b"disk.raw");
        image.v3.incompatible_features = 4.into();
        image.v3.autoclear_features = 2.into();
        let data_file = image.parse().unwrap().data_file.unwrap();
        assert_eq!(data_file.name.as_deref(), Some("disk.raw"));
        // Among the zeroes after the extensions.
        image.rest.resize(0x400, 0);
        image.rest.splice(0x200.., *b"base");
        image.raw.backing_file_offset = (104 + 0x200).into();
        image.raw.backing_file_size = 4.into();
        assert_eq!(image.parse(), Err(Flaw::BackedRaw));
    }

    #[test]
    fn what_is_told_twice_or_longer_than_there_is_room_is_refused() {
        let twice = made()
            .extension(0xe279_2aca, b"raw")
            .extension(0xe279_2aca, b"raw");
        assert!(matches!(twice.parse(), Err(Flaw::Twice(_))));
        let mut long = made().extension(0x1234, b"").bytes();
        long[116..120].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(
            Header::parse(&long, FILE),
            Err(Flaw::TooLarge { .. })
        ));
    }

    #[test]
    fn bitmaps_count_only_if_the_feature_bit_says_that_they_are_consistent() {
        let mut data = 3_u32.to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend(96_u64.to_be_bytes());
        data.extend(0x40000_u64.to_be_bytes());
        let mut image = made().extension(0x2385_2875, &data);
        assert_eq!(image.parse().unwrap().bitmaps, None);
        image.v3.autoclear_features = 1.into();
        assert_eq!(image.parse().unwrap().bitmaps.unwrap().count, 3);
        image.rest.clear();
        assert_eq!(image.parse(), Err(Flaw::Bitmaps));
    }

    #[test]
    fn a_header_cut_off_anywhere_is_an_error() {
        let bytes = made().extension(0xe279_2aca, b"raw").bytes();
        for end in 0..132 {
            let file = u64::try_from(end).unwrap();
            let found = Header::parse(&bytes[..end], file);
            assert!(found.is_err(), "{end} bytes gave {found:?}");
        }
    }

    proptest! {
        /// Whatever replaces a few bytes of a sound header, the answer is a header or an error.
        #[test]
        fn a_damaged_header_never_panics(damage in vec((0_usize..200, any::<u8>()), 1..6), file in any::<u64>()) {
            let mut bytes = made().extension(0xe279_2aca, b"raw").bytes();
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            let _ = Header::parse(&bytes, file);
            let _ = Header::wanted(&bytes, file);
        }
    }
}
