//! Headers, regions and metadata → something that was checked. Pure.

use super::fault::{Fault, shown};
use super::layout::{
    BAT_REGION, DISK_ID, DISK_SIZE, FILE_PARAMETERS, FileParameters, Guid, ITEM_REQUIRED,
    LOGICAL_SECTOR, LocatorEntry, LocatorHeader, METADATA_REGION, MetadataEntry, MetadataTable,
    PARENT_LOCATOR, PHYSICAL_SECTOR, RawHeader, RegionEntry, RegionTable, VHDX_LOCATOR, parameters,
};
use crate::extent::ByteRange;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

const MIB: u64 = 1 << 20;

/// §2.6.2.2: no disk is larger.
const SIZE_MAX: u64 = 64 << 40;

/// Longest log that is replayed. The usual one has 1 MiB.
const LOG_MAX: u64 = 64 << 20;

/// §2.2.3.1, §2.6.1.1: entries that a table may have.
const ENTRIES_MAX: usize = 2047;

/// A header that was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) data_write_guid: Guid,
    pub(super) log_guid: Guid,
    pub(super) log: ByteRange,
}

/// The checksum of a structure whose own is at bytes 4 to 8.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(4));
    let crc = crc32c::crc32c(head);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

/// §2.2.2: the newer of two copies, of which one may be torn.
pub(super) fn current(copies: [&[u8]; 2], size: u64) -> Result<Header, Fault> {
    let valid = copies.into_iter().filter_map(|bytes| {
        let (header, _) = RawHeader::read_from_prefix(bytes).ok()?;
        let sound = header.signature == *b"head" && header.checksum.get() == checksum(bytes);
        sound.then_some(header)
    });
    let newest = valid.max_by_key(|header| header.sequence_number.get());
    let header = newest.ok_or(Fault::NoCopy { what: "header" })?;
    let version = |what, found: u16, known: u16| match found == known {
        true => Ok(()),
        false => Err(Fault::Unknown {
            what,
            id: found.to_string(),
        }),
    };
    version("version", header.version.get(), 1)?;
    let log = ByteRange::at(header.log_offset.get(), header.log_length.get().into());
    if header.log_guid != [0; 16] {
        version("log version", header.log_version.get(), 0)?;
        if !log.start.is_multiple_of(MIB) || log.start == 0 || !log.len().is_multiple_of(MIB) {
            let (name, found) = ("log offset or length", log.start);
            return Err(Fault::Number { name, found });
        }
        if log.len() > LOG_MAX {
            let (name, found) = ("log length", log.len());
            return Err(Fault::Number { name, found });
        }
        inside("log", log, size)?;
    }
    Ok(Header {
        data_write_guid: header.data_write_guid,
        log_guid: header.log_guid,
        log,
    })
}

/// Where the known regions are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Regions {
    pub(super) bat: ByteRange,
    pub(super) metadata: ByteRange,
}

/// §2.2.3: the first valid one of two copies of the region table.
pub(super) fn regions(copies: [&[u8]; 2], size: u64) -> Result<Regions, Fault> {
    let mut valid = copies.into_iter().filter_map(|bytes| {
        let (table, entries) = RegionTable::read_from_prefix(bytes).ok()?;
        let sound = table.signature == *b"regi" && table.checksum.get() == checksum(bytes);
        sound.then_some((
            usize::try_from(table.entry_count.get()).ok()?,
            entries.to_vec(),
        ))
    });
    let what = "region table";
    let (count, entries) = valid.next().ok_or(Fault::NoCopy { what })?;
    let (mut bat, mut metadata) = (None, None);
    for entry in list::<RegionEntry>(&entries, count, "number of regions")? {
        let range = ByteRange::at(entry.file_offset.get(), entry.length.get().into());
        match entry.guid {
            BAT_REGION => bat = Some(region(range, size)?),
            METADATA_REGION => metadata = Some(region(range, size)?),
            guid if entry.required.get() & 1 != 0 => {
                let (what, id) = ("region", shown(&guid));
                return Err(Fault::Unknown { what, id });
            }
            _ => {}
        }
    }
    let missing = |what| Fault::Missing { what };
    Ok(Regions {
        bat: bat.ok_or_else(|| missing("block allocation table"))?,
        metadata: metadata.ok_or_else(|| missing("metadata"))?,
    })
}

fn region(range: ByteRange, size: u64) -> Result<ByteRange, Fault> {
    if range.start < MIB || !range.start.is_multiple_of(MIB) {
        let (name, found) = ("region offset", range.start);
        return Err(Fault::Number { name, found });
    }
    inside("region", range, size)
}

/// What the metadata say of the disk, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Disk {
    pub(super) size: u64,
    pub(super) block: u64,
    pub(super) sector: u64,
    pub(super) physical_sector: u32,
    pub(super) id: Guid,
    pub(super) fixed: bool,
    /// Names and values, if the disk is a difference.
    pub(super) parent: Option<Vec<(String, String)>>,
}

/// §2.6: reads the metadata region.
pub(super) fn metadata(region: &[u8]) -> Result<Disk, Fault> {
    let missing = |what| move || Fault::Missing { what };
    let found = MetadataTable::read_from_prefix(region);
    let (table, entries) = found.map_err(|_| Fault::Missing { what: "metadata" })?;
    if table.signature != *b"metadata" {
        return Err(Fault::Missing { what: "metadata" });
    }
    let (mut parameters, mut size, mut id, mut sector) = (None, None, None, None);
    let (mut physical, mut locator) = (None, None);
    let count = usize::from(table.entry_count.get());
    for entry in list::<MetadataEntry>(entries, count, "number of metadata items")? {
        let range = ByteRange::at(entry.offset.get().into(), entry.length.get().into());
        let item = part(region, range).ok_or(Fault::Missing {
            what: "metadata item where its table says",
        })?;
        let (what, required) = ("metadata item", entry.flags.get() & ITEM_REQUIRED != 0);
        match entry.item_id {
            FILE_PARAMETERS => parameters = FileParameters::read_from_prefix(item).ok(),
            DISK_SIZE => size = U64::read_from_prefix(item).ok(),
            DISK_ID => id = Guid::read_from_prefix(item).ok(),
            LOGICAL_SECTOR => sector = U32::read_from_prefix(item).ok(),
            PHYSICAL_SECTOR => physical = U32::read_from_prefix(item).ok(),
            PARENT_LOCATOR => locator = Some(item),
            unknown if required => {
                let id = shown(&unknown);
                return Err(Fault::Unknown { what, id });
            }
            _ => {}
        }
    }
    let (parameters, _) = parameters.ok_or_else(missing("file parameters"))?;
    let (size, _) = size.ok_or_else(missing("virtual disk size"))?;
    let (sector, _) = sector.ok_or_else(missing("logical sector size"))?;
    let flags = parameters.flags.get();
    let parent = match flags & parameters::HAS_PARENT != 0 {
        true => Some(names(locator.ok_or_else(missing("parent locator"))?)?),
        false => None,
    };
    check(Disk {
        size: size.get(),
        block: parameters.block_size.get().into(),
        sector: sector.get().into(),
        physical_sector: physical.map_or(0, |(size, _)| size.get()),
        id: id.map_or([0; 16], |(id, _)| id),
        fixed: flags & parameters::LEAVE_BLOCKS_ALLOCATED != 0,
        parent,
    })
}

fn check(disk: Disk) -> Result<Disk, Fault> {
    let number = |name, found, holds| match holds {
        true => Ok(()),
        false => Err(Fault::Number { name, found }),
    };
    let block = disk.block;
    let range = MIB..=(MIB << 8);
    number(
        "block size",
        block,
        block.is_power_of_two() && range.contains(&block),
    )?;
    let sector = disk.sector;
    number(
        "logical sector size",
        sector,
        sector == 512 || sector == 4096,
    )?;
    let size = disk.size;
    number(
        "size",
        size,
        size <= SIZE_MAX && size.is_multiple_of(sector),
    )?;
    Ok(disk)
}

/// §2.6.2.6: the names of the parent.
fn names(locator: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let found = LocatorHeader::read_from_prefix(locator);
    let what = "parent locator";
    let (header, entries) = found.map_err(|_| Fault::Missing { what })?;
    if header.locator_type != VHDX_LOCATOR {
        let id = shown(&header.locator_type);
        return Err(Fault::Unknown { what, id });
    }
    let count = usize::from(header.key_value_count.get());
    let entries = list::<LocatorEntry>(entries, count, "number of names of the parent")?;
    let text = |offset: U32, length: u16| {
        let range = ByteRange::at(offset.get().into(), length.into());
        let bytes = part(locator, range).ok_or(Fault::Missing { what })?;
        let units = bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(*pair));
        Ok(String::from_utf16_lossy(&units.collect::<Vec<_>>()))
    };
    let pair = |entry: &LocatorEntry| {
        let key = text(entry.key_offset, entry.key_length.get())?;
        Ok((key, text(entry.value_offset, entry.value_length.get())?))
    };
    entries.iter().map(pair).collect()
}

/// The first `count` structures in `bytes`.
fn list<T: FromBytes>(bytes: &[u8], count: usize, name: &'static str) -> Result<Vec<T>, Fault> {
    let found = u64::try_from(count).unwrap_or(u64::MAX);
    let fault = || Fault::Number { name, found };
    let all = bytes
        .chunks_exact(size_of::<T>())
        .take(count.min(ENTRIES_MAX));
    let all: Vec<T> = all
        .filter_map(|chunk| T::read_from_bytes(chunk).ok())
        .collect();
    if all.len() == count {
        Ok(all)
    } else {
        Err(fault())
    }
}

fn part(bytes: &[u8], range: ByteRange) -> Option<&[u8]> {
    let at = |offset: u64| usize::try_from(offset).ok();
    bytes.get(at(range.start)?..at(range.end)?)
}

fn inside(what: &'static str, range: ByteRange, size: u64) -> Result<ByteRange, Fault> {
    match range.end <= size {
        true => Ok(range),
        false => Err(Fault::Outside { what, range, size }),
    }
}
