//! Headers of sparse extents → tables that were checked. Pure.
//!
//! The three kinds of sparse extent differ in their headers and in what an entry means. What they
//! have in common is [`Tables`]: a directory of grain tables, each an array of entries, one a grain.

use super::fault::Fault;
use super::layout::{
    COWD_ENTRIES, COWD_MAGIC, CowdHeader, DEFLATE, DIRECTORY_AT_END, Footer, HOSTED_MAGIC,
    HostedHeader, SE_MAGIC, SE_VERSION, SE_VOLATILE_MAGIC, SECTOR, SeHeader, SeVolatileHeader,
    flags, marker,
};
use crate::extent::ByteRange;
use zerocopy::FromBytes;

/// Most bytes of a grain: 64 MiB; compressed ones must fit into memory many times.
const GRAIN_MAX: u64 = 64 << 20;
const PACKED_GRAIN_MAX: u64 = 4 << 20;

/// Most entries of a grain table. The specification has 512.
const ENTRIES_MAX: u32 = 1 << 14;

/// Where grains are, for any kind of sparse extent. Numbers are bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Tables {
    pub(super) kind: Kind,
    /// Of the extent, as the guest sees it.
    pub(super) capacity: u64,
    pub(super) grain: u64,
    /// Entries of a grain table.
    pub(super) entries: u64,
    /// Where the grain directory is.
    pub(super) directory: ByteRange,
}

/// What an entry means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Hosted {
        /// An entry of 1 is a grain of zeroes.
        zeroes: bool,
        packing: Packing,
    },
    Cowd,
    Se {
        /// Where the grain tables begin, and the grains.
        tables: u64,
        grains: u64,
    },
}

/// How grains are stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Packing {
    Plain,
    /// Compressed, each after its marker.
    Marked,
}

/// What an entry of a grain table says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// The grain is not in this extent.
    Below,
    Zero,
    /// It is at this offset.
    At(u64),
}

impl Tables {
    /// Bytes of an entry, in the directory and in the tables.
    pub(super) fn entry_size(&self) -> u64 {
        match self.kind {
            Kind::Hosted { .. } | Kind::Cowd => 4,
            Kind::Se { .. } => 8,
        }
    }

    /// Guest bytes that one grain table covers. Never 0.
    pub(super) fn table_span(&self) -> u64 {
        self.grain.saturating_mul(self.entries).max(1)
    }

    /// Where the table is that a directory entry names; `None` if there is none.
    pub(super) fn table_at(&self, entry: u64) -> Result<Option<u64>, Fault> {
        let fault = || Fault::Table { entry };
        match self.kind {
            _ if entry == 0 => Ok(None),
            Kind::Hosted { .. } | Kind::Cowd => Ok(Some(entry.saturating_mul(SECTOR))),
            // The highest nibble says that the table is allocated, the lower half which it is.
            Kind::Se { tables, .. } if entry >> 32 == 0x1000_0000 => {
                let bytes = self.entries.saturating_mul(self.entry_size());
                let at = (entry & 0xffff_ffff).checked_mul(bytes);
                let at = at.and_then(|at| at.checked_add(tables));
                at.map(Some).ok_or_else(fault)
            }
            Kind::Se { .. } => Err(fault()),
        }
    }

    /// What a table entry says.
    pub(super) fn grain_at(&self, entry: u64) -> Result<Entry, Fault> {
        let fault = || Fault::Grain { entry };
        match self.kind {
            _ if entry == 0 => Ok(Entry::Below),
            Kind::Hosted { zeroes: true, .. } if entry == 1 => Ok(Entry::Zero),
            Kind::Hosted { .. } | Kind::Cowd => Ok(Entry::At(entry.saturating_mul(SECTOR))),
            Kind::Se { grains, .. } => match entry >> 60 {
                // Unmapped by the guest, or written with zeroes.
                1 | 2 => Ok(Entry::Zero),
                3 => {
                    // The number of the grain is rotated: its low 12 bits stand above the others.
                    let low = (entry >> 48) & 0xfff;
                    let high = (entry & 0xffff_ffff_ffff) << 12;
                    let at = (high | low).checked_mul(self.grain);
                    let at = at.and_then(|at| at.checked_add(grains));
                    at.map(Entry::At).ok_or_else(fault)
                }
                _ => Err(fault()),
            },
        }
    }
}

/// A hosted sparse extent: its tables, and what else its header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hosted {
    pub(super) tables: Tables,
    pub(super) version: u32,
    pub(super) unclean: bool,
}

/// What the first sector of a hosted extent says to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum First {
    /// This is it.
    Header(Hosted),
    /// The footer has the directory.
    Footer,
    /// The extent is empty: the descriptor inside is all there is.
    Empty,
}

/// Looks at the first sector of a hosted extent, in a file of `size` bytes.
pub(super) fn hosted(sector: &[u8], size: u64) -> Result<First, Fault> {
    let header = cut::<HostedHeader>(sector)?;
    if header.magic != HOSTED_MAGIC {
        return Err(Fault::Magic);
    }
    if header.capacity.get() == 0 && header.descriptor_offset.get() != 0 {
        return Ok(First::Empty);
    }
    if header.gd_offset.get() == DIRECTORY_AT_END {
        return Ok(First::Footer);
    }
    check_hosted(&header, size).map(First::Header)
}

/// Looks at the last three sectors of a hosted extent, in a file of `size` bytes.
pub(super) fn footer(sectors: &[u8], size: u64) -> Result<Hosted, Fault> {
    let footer = cut::<Footer>(sectors)?;
    let marked = footer.marker.size.get() == 0
        && footer.marker.kind.get() == marker::FOOTER
        && footer.end.value.get() == 0
        && footer.end.size.get() == 0
        && footer.end.kind.get() == marker::END_OF_STREAM;
    if !marked || footer.header.magic != HOSTED_MAGIC {
        return Err(Fault::Footer);
    }
    if footer.header.gd_offset.get() == DIRECTORY_AT_END {
        return Err(Fault::Footer);
    }
    check_hosted(&footer.header, size)
}

fn check_hosted(header: &HostedHeader, size: u64) -> Result<Hosted, Fault> {
    let mut hosted = streamed(header)?;
    hosted.tables = with_directory(hosted.tables, header.gd_offset.get(), size)?;
    Ok(hosted)
}

/// The same of an extent whose directory nobody looks for.
pub(super) fn streamed(header: &HostedHeader) -> Result<Hosted, Fault> {
    let (version, flags) = (header.version.get(), header.flags.get());
    if !(1..=3).contains(&version) {
        return Err(Fault::Version { found: version });
    }
    if flags & flags::NEWLINES != 0 && header.newlines != *b"\n \r\n" {
        return Err(Fault::Newlines {
            found: header.newlines,
        });
    }
    let packing = match header.compress_algorithm.get() {
        0 => Packing::Plain,
        DEFLATE if flags & flags::MARKERS != 0 => Packing::Marked,
        // Readers do not agree on what such grains begin with.
        DEFLATE => return Err(Fault::Unmarked),
        found => return Err(Fault::Compression { found }),
    };
    let grain = grain_bytes(header.grain_size.get(), packing)?;
    let entries = header.num_gtes_per_gt.get();
    if entries == 0 || entries > ENTRIES_MAX {
        return Err(Fault::Entries { found: entries });
    }
    let capacity = bytes(header.capacity.get(), "capacity")?;
    let kind = Kind::Hosted {
        zeroes: flags & flags::ZERO_GRAINS != 0,
        packing,
    };
    let tables = Tables {
        kind,
        capacity,
        grain,
        entries: entries.into(),
        directory: ByteRange::default(),
    };
    Ok(Hosted {
        tables,
        version,
        unclean: header.unclean_shutdown != 0,
    })
}

/// Where the descriptor inside a hosted extent is, if there is one.
pub(super) fn descriptor(sector: &[u8], size: u64) -> Result<Option<ByteRange>, Fault> {
    let header = cut::<HostedHeader>(sector)?;
    let (at, len) = (header.descriptor_offset.get(), header.descriptor_size.get());
    if at == 0 || len == 0 {
        return Ok(None);
    }
    let range = ByteRange::at(bytes(at, "descriptor")?, bytes(len, "descriptor")?);
    inside("descriptor", range, size).map(Some)
}

/// Looks at the first sector of a COWD extent, in a file of `size` bytes.
pub(super) fn cowd(sector: &[u8], size: u64) -> Result<Tables, Fault> {
    let header = cut::<CowdHeader>(sector)?;
    if header.magic != COWD_MAGIC {
        return Err(Fault::Magic);
    }
    let version = header.version.get();
    if version != 1 {
        return Err(Fault::Version { found: version });
    }
    let tables = Tables {
        kind: Kind::Cowd,
        capacity: bytes(header.num_sectors.get().into(), "capacity")?,
        grain: grain_bytes(header.grain_size.get().into(), Packing::Plain)?,
        entries: COWD_ENTRIES,
        directory: ByteRange::default(),
    };
    with_directory(tables, header.gd_offset.get().into(), size)
}

/// Looks at the first two sectors of a seSparse extent, in a file of `size` bytes.
pub(super) fn se_sparse(sectors: &[u8], size: u64) -> Result<Tables, Fault> {
    let (header, rest) = SeHeader::read_from_prefix(sectors).map_err(|_| Fault::Short)?;
    if header.magic.get() != SE_MAGIC {
        return Err(Fault::Magic);
    }
    let number = |name: &'static str, found: u64, known: u64| match found == known {
        true => Ok(()),
        false => Err(Fault::Number { name, found }),
    };
    number("version", header.version.get(), SE_VERSION)?;
    number("grain size", header.grain_size.get(), 8)?;
    number("grain table size", header.grain_table_size.get(), 64)?;
    number("flags", header.flags.get(), 0)?;
    number(
        "place of the second header",
        header.volatile_header_offset.get(),
        1,
    )?;
    let volatile = cut::<SeVolatileHeader>(rest)?;
    if volatile.magic.get() != SE_VOLATILE_MAGIC {
        return Err(Fault::Magic);
    }
    if volatile.replay_journal.get() != 0 {
        return Err(Fault::Journal);
    }
    let tables = Tables {
        kind: Kind::Se {
            tables: bytes(header.grain_tables_offset.get(), "grain tables")?,
            grains: bytes(header.grains_offset.get(), "grains")?,
        },
        capacity: bytes(header.capacity.get(), "capacity")?,
        grain: grain_bytes(header.grain_size.get(), Packing::Plain)?,
        entries: 4096,
        directory: ByteRange::default(),
    };
    with_directory(tables, header.grain_dir_offset.get(), size)
}

/// Puts the directory where the header says, as long as the capacity makes it.
fn with_directory(mut tables: Tables, sector: u64, size: u64) -> Result<Tables, Fault> {
    let count = tables.capacity.div_ceil(tables.table_span());
    let len = count.saturating_mul(tables.entry_size());
    let range = ByteRange::at(bytes(sector, "grain directory")?, len);
    tables.directory = inside("grain directory", range, size)?;
    Ok(tables)
}

fn grain_bytes(sectors: u64, packing: Packing) -> Result<u64, Fault> {
    let most = match packing {
        Packing::Plain => GRAIN_MAX,
        Packing::Marked => PACKED_GRAIN_MAX,
    };
    let grain = sectors.saturating_mul(SECTOR);
    if sectors.is_power_of_two() && grain <= most {
        return Ok(grain);
    }
    Err(Fault::GrainSize { found: sectors })
}

/// Sectors as bytes; what does not fit a signed offset does not fit a file either.
pub(super) fn bytes(sectors: u64, name: &'static str) -> Result<u64, Fault> {
    let bytes = sectors.checked_mul(SECTOR);
    let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or(Fault::Number {
        name,
        found: sectors,
    })
}

fn inside(what: &'static str, range: ByteRange, size: u64) -> Result<ByteRange, Fault> {
    if range.start > 0 && range.end <= size {
        return Ok(range);
    }
    Err(Fault::Outside { what, range, size })
}

/// The structure at the start of `bytes`.
fn cut<T: FromBytes>(bytes: &[u8]) -> Result<T, Fault> {
    let (found, _) = T::read_from_prefix(bytes).map_err(|_| Fault::Short)?;
    Ok(found)
}
