//! Header extensions: what an image tells beside the fixed fields. Pure.

use super::flaw::Flaw;
use super::geometry::{Geometry, Table};
use super::header::{BitmapDirectory, slice, text};
use super::layout::{RawBitmaps, RawExtension, RawFeatureName, extension};
use zerocopy::FromBytes;

/// Bytes of a bitmap directory at most, so that a list of bitmaps stays a list.
const DIRECTORY_MAX: u64 = 16 << 20;

/// Which feature field a bit is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FeatureKind {
    /// An image with such a bit that is not known must not be opened.
    Incompatible = 0,
}

/// What the extensions of an image say.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<String>,
    bitmaps: Option<RawBitmaps>,
    names: Vec<RawFeatureName>,
}

impl Extensions {
    /// Reads the extensions in `start..end` of the first cluster.
    pub(super) fn parse(first: &[u8], start: u64, end: u64, file: u64) -> Result<Self, Flaw> {
        let mut found = Self::default();
        let mut at = start;
        while at < end {
            let what = "its header extensions";
            let cut = Flaw::Truncated { what, size: file };
            let head = slice(first, at, 8).ok_or_else(|| cut.clone())?;
            let head = RawExtension::read_from_bytes(head).map_err(|_| cut.clone())?;
            let (kind, length) = (head.kind.get(), u64::from(head.length.get()));
            if kind == extension::END {
                break;
            }
            let data_at = at.saturating_add(8);
            if length > end.saturating_sub(data_at) {
                let most = end.saturating_sub(data_at);
                return Err(Flaw::TooLarge {
                    what: "a header extension",
                    bytes: length,
                    most,
                });
            }
            found.take(kind, slice(first, data_at, length).ok_or(cut)?)?;
            at = data_at.saturating_add(length.next_multiple_of(8));
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &[u8]) -> Result<(), Flaw> {
        match kind {
            extension::BACKING_FORMAT => {
                let what = "the backing file's format";
                once(&mut self.backing_format, text(data, what)?, what)
            }
            extension::DATA_FILE => {
                let what = "the external data file's name";
                once(&mut self.data_file, text(data, what)?, what)
            }
            extension::BITMAPS => {
                let raw = RawBitmaps::read_from_bytes(data).map_err(|_| Flaw::Bitmaps)?;
                once(&mut self.bitmaps, raw, "the bitmaps extension")
            }
            extension::FEATURE_NAMES => {
                let names = data.chunks_exact(size_of::<RawFeatureName>());
                self.names = names
                    .filter_map(|name| RawFeatureName::read_from_bytes(name).ok())
                    .collect();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What people call a feature bit.
    pub(super) fn feature(&self, kind: FeatureKind, bit: u8) -> String {
        let found = |name: &&RawFeatureName| name.kind == kind as u8 && name.bit == bit;
        let Some(name) = self.names.iter().find(found) else {
            return format!("of bit {bit}");
        };
        let end = name.name.iter().position(|byte| *byte == 0);
        let name = name.name.get(..end.unwrap_or(name.name.len()));
        format!("\"{}\"", name.unwrap_or_default().escape_ascii())
    }

    /// Where the bitmaps are; the feature bit says that there are some.
    pub(super) fn bitmaps(&self, geometry: Geometry, file: u64) -> Result<BitmapDirectory, Flaw> {
        let raw = self.bitmaps.ok_or(Flaw::Bitmaps)?;
        let (count, bytes) = (raw.nb_bitmaps.get(), raw.bitmap_directory_size.get());
        let offset = raw.bitmap_directory_offset.get();
        // An entry has at least its fixed part and a name, padded to 32 bytes.
        if count == 0 || raw.reserved.get() != 0 || bytes < u64::from(count).saturating_mul(32) {
            return Err(Flaw::Bitmaps);
        }
        let table = Table {
            offset,
            entries: bytes,
        };
        geometry.check_table("the bitmap directory", table, 1, DIRECTORY_MAX, file)?;
        Ok(BitmapDirectory {
            count,
            offset,
            bytes,
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T, what: &'static str) -> Result<(), Flaw> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Flaw::Twice(what)),
    }
}
