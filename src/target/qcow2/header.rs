//! The header, which comes last. Pure.

use super::Qcow2Options;
use super::tables::Roots;
use crate::error::{Error, Kind, Result};
use crate::format::qcow2::geometry::Geometry;
use crate::format::qcow2::header::Compression;
use crate::format::qcow2::layout::{MAGIC, RawHeader, RawHeaderV3, compression, incompatible};
use zerocopy::IntoBytes;

/// Bytes of a header, the compression type and its padding included.
const LENGTH: u32 = 112;

/// The first cluster of an image whose tables are at `roots`.
///
/// # Errors
/// A table is longer than a header can tell.
pub(super) fn bytes(options: &Qcow2Options, geometry: Geometry, roots: Roots) -> Result<Vec<u8>> {
    let narrow = |number: u64| {
        let large = |_| Error::new(Kind::Usage, "the image gets too large");
        u32::try_from(number).map_err(large)
    };
    let raw = RawHeader {
        magic: MAGIC,
        version: 3.into(),
        cluster_bits: geometry.cluster_bits().into(),
        // qemu counts in sectors, and would lose the rest of the last one.
        size: options.size.next_multiple_of(512).into(),
        l1_size: narrow(roots.l1_entries)?.into(),
        l1_table_offset: roots.l1.into(),
        refcount_table_offset: roots.refcounts.into(),
        refcount_table_clusters: narrow(roots.refcount_clusters)?.into(),
        ..RawHeader::default()
    };
    let (features, kind) = match options.compression {
        Some(Compression::Zstd) => (incompatible::COMPRESSION, compression::ZSTD),
        _ => (0, compression::ZLIB),
    };
    let v3 = RawHeaderV3 {
        incompatible_features: features.into(),
        refcount_order: 4.into(),
        header_length: LENGTH.into(),
        ..RawHeaderV3::default()
    };
    let mut bytes = [raw.as_bytes(), v3.as_bytes(), &[kind]].concat();
    // Padding, and the end of extensions, of which there are none.
    bytes.resize(usize::try_from(geometry.cluster()).unwrap_or(usize::MAX), 0);
    Ok(bytes)
}
