//! Footers and headers → something that was checked. Pure.

use super::layout::{
    DynamicHeader, FOOTER_COOKIE, Footer, HEADER_COOKIE, Locator, SECTOR, UNUSED, disk_type,
};
use crate::error::{Error, Kind as ErrorKind};
use crate::extent::ByteRange;
use zerocopy::FromBytes;

/// The product of the largest geometry: a disk that has it may be larger.
const LARGEST_GEOMETRY: u64 = 65535 * 16 * 255;

/// Most bytes of a block. The usual ones have 2 MiB.
const BLOCK_MAX: u32 = 256 << 20;

/// Where a VHD breaks the rules of its format.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Neither footer is one.
    #[error("neither its last sector nor its first is a footer")]
    NoFooter,
    /// `disk_type`.
    #[error("disks of type {found} are not known")]
    Type {
        /** What the footer says. */
        found: u32,
    },
    /// The header of a dynamic disk is none.
    #[error("what its footer points to is not the header of a dynamic disk")]
    NoHeader,
    /// A checksum.
    #[error("the checksum of its header is {found:#x} and should be {right:#x}")]
    Checksum {
        /** What the header says. */
        found: u32,
        /** What it should say. */
        right: u32,
    },
    /// A version.
    #[error("version {found:#x} is not known")]
    Version {
        /** What the header says. */
        found: u32,
    },
    /// `block_size`.
    #[error("blocks of {found} bytes are not a power of two, or too large")]
    BlockSize {
        /** What the header says. */
        found: u32,
    },
    /// The table is shorter than the disk.
    #[error("its table has {entries} blocks, and the disk has {needed}")]
    Table {
        /** What the header says. */
        entries: u32,
        /** What the size asks for. */
        needed: u64,
    },
    /// Something outside of the file.
    #[error("its {what} is at {range}, and the file ends at {size:#x}")]
    Outside {
        /** Which. */
        what: &'static str,
        /** Where it should be. */
        range: ByteRange,
        /** Of the file. */
        size: u64,
    },
}

impl Fault {
    /// The error, `doing` something to the image.
    pub(super) fn while_doing(self, doing: String) -> Error {
        let kind = match self {
            Self::Type { .. } | Self::Version { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        };
        let error = Error::new(kind, doing);
        match self {
            Self::Outside { .. } => error.hint("the file is cut off, or it is damaged"),
            _ => error,
        }
        .because(self)
    }
}

/// A footer that was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Disk {
    pub(super) kind: Kind,
    /// As the guest sees it, in bytes.
    pub(super) size: u64,
    pub(super) id: [u8; 16],
    /// Who made it.
    pub(super) creator: [u8; 4],
    /// The size is that of the geometry, as whoever made it had it.
    pub(super) by_geometry: bool,
    /// Where the header of a dynamic disk is.
    pub(super) header: u64,
    pub(super) saved_state: bool,
}

/// What a disk is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// Reads a footer; `None` if it is none, or is damaged.
pub(super) fn footer(sector: &[u8]) -> Result<Option<Disk>, Fault> {
    let Ok((footer, _)) = Footer::read_from_prefix(sector) else {
        return Ok(None);
    };
    if footer.cookie != FOOTER_COOKIE || checksum(sector, 64, 512) != footer.checksum.get() {
        return Ok(None);
    }
    let version = footer.file_format_version.get();
    if version >> 16 != 1 {
        return Err(Fault::Version { found: version });
    }
    let kind = match footer.disk_type.get() {
        disk_type::FIXED => Kind::Fixed,
        disk_type::DYNAMIC => Kind::Dynamic,
        disk_type::DIFFERENCING => Kind::Differencing,
        found => return Err(Fault::Type { found }),
    };
    let tracks = u64::from(footer.cylinders.get()).saturating_mul(footer.heads.into());
    let geometry = tracks.saturating_mul(footer.sectors_per_track.into());
    // Virtual PC, and QEMU as long as it said to be itself, go by the geometry; all others by the
    // size. The largest geometry says nothing.
    let by_geometry =
        matches!(&footer.creator_application, b"vpc " | b"qemu") && geometry != LARGEST_GEOMETRY;
    let size = match by_geometry {
        true => geometry.saturating_mul(SECTOR),
        false => footer.current_size.get(),
    };
    Ok(Some(Disk {
        kind,
        size,
        id: footer.unique_id,
        creator: footer.creator_application,
        by_geometry,
        header: footer.data_offset.get(),
        saved_state: footer.saved_state != 0,
    }))
}

/// Whether `sector` is the footer of a fixed disk of `size` bytes.
#[must_use]
pub fn is_fixed(sector: &[u8], size: u64) -> bool {
    let found = footer(sector).ok().flatten();
    found.is_some_and(|disk| disk.kind == Kind::Fixed && disk.size == size)
}

/// The tables of a dynamic disk, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Blocks {
    /// Bytes of a block.
    pub(super) block: u64,
    /// Bytes of the bitmap before each.
    pub(super) bitmap: u64,
    pub(super) table: ByteRange,
    pub(super) parent: Parent,
}

/// What a differencing disk says of its parent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Parent {
    pub(super) id: [u8; 16],
    pub(super) name: String,
    /// Where more names are, and whether they are UTF-16.
    pub(super) locators: Vec<(ByteRange, Encoding)>,
}

/// How the name in a locator is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    Utf16,
    Url,
}

/// Reads the header of a dynamic disk of `disk` bytes, in a file of `size` bytes.
pub(super) fn dynamic(bytes: &[u8], disk: u64, size: u64) -> Result<Blocks, Fault> {
    let found = DynamicHeader::read_from_prefix(bytes);
    let (header, _) = found.map_err(|_| Fault::NoHeader)?;
    if header.cookie != HEADER_COOKIE {
        return Err(Fault::NoHeader);
    }
    let (found, right) = (header.checksum.get(), checksum(bytes, 36, 1024));
    if found != right {
        return Err(Fault::Checksum { found, right });
    }
    let version = header.header_version.get();
    if version >> 16 != 1 {
        return Err(Fault::Version { found: version });
    }
    let block = header.block_size.get();
    if !block.is_power_of_two() || !(512..=BLOCK_MAX).contains(&block) {
        return Err(Fault::BlockSize { found: block });
    }
    let (block, entries) = (u64::from(block), header.max_table_entries.get());
    let needed = disk.div_ceil(block);
    if needed > entries.into() {
        return Err(Fault::Table { entries, needed });
    }
    let table = ByteRange::at(header.table_offset.get(), needed.saturating_mul(4));
    if table.end > size {
        let what = "block allocation table";
        let range = table;
        return Err(Fault::Outside { what, range, size });
    }
    let locators = header.parent_locators.iter().filter_map(locator).collect();
    Ok(Blocks {
        block,
        bitmap: block.div_ceil(SECTOR).div_ceil(8).next_multiple_of(SECTOR),
        table,
        parent: Parent {
            id: header.parent_unique_id,
            name: utf16(&header.parent_unicode_name, u16::from_be_bytes),
            locators,
        },
    })
}

fn locator(locator: &Locator) -> Option<(ByteRange, Encoding)> {
    let encoding = match &locator.platform_code {
        b"W2ru" | b"W2ku" => Encoding::Utf16,
        b"MacX" => Encoding::Url,
        _ => return None,
    };
    let len = locator.platform_data_length.get().min(4096);
    let range = ByteRange::at(locator.platform_data_offset.get(), len.into());
    Some((range, encoding))
}

/// The name that a locator holds, as a path of this system.
pub(super) fn located(bytes: &[u8], encoding: Encoding) -> String {
    match encoding {
        Encoding::Utf16 => utf16(bytes, u16::from_le_bytes),
        Encoding::Url => {
            let text = String::from_utf8_lossy(bytes);
            let text = text.trim_end_matches('\0');
            text.strip_prefix("file://").unwrap_or(text).to_owned()
        }
    }
}

/// UTF-16 up to the first NUL.
fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// "Checksum": the complement of the sum of the first `len` bytes, the four at `at` left out.
pub(super) fn checksum(bytes: &[u8], at: usize, len: usize) -> u32 {
    let counted = bytes.iter().take(len).enumerate();
    let counted = counted.filter(|(place, _)| *place < at || *place >= at.saturating_add(4));
    !counted.fold(0u32, |sum, (_, byte)| sum.wrapping_add((*byte).into()))
}

/// Where the block of a table entry begins, its bitmap first; `None` if it is not in the file.
pub(super) fn block_at(entry: u32) -> Option<u64> {
    (entry != UNUSED).then(|| u64::from(entry).saturating_mul(SECTOR))
}
