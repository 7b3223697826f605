//! VMDK extents made by hand, from the specification: what no tool at hand can make.
//!
//! Shares no code with the reader. Numbers in headers are sectors, as in the specification.

use libdeflater::{CompressionLvl, Compressor};

const SECTOR: usize = 512;

/// What a grain holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Grain {
    /// Nothing: it is in the parent, or nowhere.
    Below,
    /// Zeroes, and an entry that says so.
    Zero,
    /// These bytes. The last grain of a disk may hold fewer.
    Data(Vec<u8>),
}

/// How a hosted sparse extent is made.
#[derive(Clone, Copy, Debug)]
pub struct Hosted {
    /// 1, 2 or 3.
    pub version: u32,
    /// Entries of a grain table.
    pub entries: usize,
    /// Sectors of a grain.
    pub grain: usize,
    /// Compressed with markers, directory at the end: a stream.
    pub stream: bool,
}

impl Default for Hosted {
    fn default() -> Self {
        Self {
            version: 1,
            entries: 512,
            grain: 16,
            stream: false,
        }
    }
}

/// The text of a descriptor; `parent` is its CID and its name.
#[must_use]
pub fn descriptor(kind: &str, cid: u32, parent: Option<(u32, &str)>, extents: &[&str]) -> String {
    let parent_cid = parent.map_or(u32::MAX, |(cid, _)| cid);
    let hint = parent.map_or(String::new(), |(_, name)| {
        format!("parentFileNameHint=\"{name}\"\n")
    });
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\n\
         createType=\"{kind}\"\n{hint}\n# Extent description\n{}\n\n\
         # The Disk Data Base\nddb.adapterType = \"lsilogic\"\n",
        extents.join("\n")
    )
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
}

fn sector(offset: usize) -> u32 {
    u32::try_from(offset / SECTOR).unwrap_or(u32::MAX)
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut packer = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; packer.zlib_compress_bound(data.len())];
    let len = packer.zlib_compress(data, &mut out).unwrap_or(0);
    out.truncate(len);
    out
}

fn hosted_header(how: Hosted, capacity: u64, descriptor: usize, directory: u64) -> Vec<u8> {
    let flags: u32 = if how.stream { 0x3_0005 } else { 5 };
    let mut header = b"KDMV".to_vec();
    header.extend(how.version.to_le_bytes());
    header.extend(flags.to_le_bytes());
    header.extend(capacity.to_le_bytes());
    header.extend((how.grain as u64).to_le_bytes());
    header.extend(u64::from(descriptor > 0).to_le_bytes());
    header.extend((descriptor as u64).to_le_bytes());
    header.extend(u32::try_from(how.entries).unwrap_or(0).to_le_bytes());
    header.extend(0u64.to_le_bytes());
    header.extend(directory.to_le_bytes());
    header.extend((descriptor as u64 + 2).to_le_bytes());
    header.push(0);
    header.extend(b"\n \r\n");
    header.extend(u16::from(how.stream).to_le_bytes());
    header.resize(SECTOR, 0);
    header
}

/// A hosted sparse extent of `capacity` sectors, with `text` as its descriptor inside.
#[must_use]
pub fn hosted(grains: &[Grain], capacity: u64, text: &str, how: Hosted) -> Vec<u8> {
    let room = text.len().div_ceil(SECTOR);
    let mut bytes = vec![0; SECTOR];
    put(&mut bytes, SECTOR, text.as_bytes());
    // An entry of 1 is not the place of a grain.
    bytes.resize(SECTOR * (room + 2), 0);
    let entries: Vec<u32> = (0..)
        .zip(grains)
        .map(|(number, grain)| match grain {
            Grain::Below => 0,
            Grain::Zero => 1,
            Grain::Data(data) => {
                pad(&mut bytes);
                let at = sector(bytes.len());
                if how.stream {
                    let packed = zlib(data);
                    let guest = number * how.grain as u64;
                    bytes.extend(guest.to_le_bytes());
                    bytes.extend(u32::try_from(packed.len()).unwrap_or(0).to_le_bytes());
                    bytes.extend(packed);
                } else {
                    bytes.extend(data);
                }
                at
            }
        })
        .collect();
    let tables: Vec<u32> = entries
        .chunks(how.entries)
        .map(|table| {
            if table.iter().all(|entry| *entry == 0) {
                return 0;
            }
            marker(&mut bytes, how, (how.entries * 4).div_ceil(SECTOR), 1);
            let at = sector(bytes.len());
            table
                .iter()
                .for_each(|entry| bytes.extend(entry.to_le_bytes()));
            bytes.resize(bytes.len() + (how.entries - table.len()) * 4, 0);
            at
        })
        .collect();
    marker(&mut bytes, how, (tables.len() * 4).div_ceil(SECTOR), 2);
    let directory = u64::from(sector(bytes.len()));
    tables
        .iter()
        .for_each(|entry| bytes.extend(entry.to_le_bytes()));
    pad(&mut bytes);
    let header = hosted_header(how, capacity, room, directory);
    if how.stream {
        put(&mut bytes, 0, &hosted_header(how, capacity, room, u64::MAX));
        marker(&mut bytes, how, 1, 3);
        bytes.extend(header);
        bytes.extend([0; SECTOR]);
    } else {
        put(&mut bytes, 0, &header);
    }
    bytes
}

/// Ends the sector, and in a stream says what follows.
fn marker(bytes: &mut Vec<u8>, how: Hosted, sectors: usize, kind: u32) {
    pad(bytes);
    if how.stream {
        bytes.extend((sectors as u64).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        pad(bytes);
    }
}

/// An ESX redo log of `capacity` sectors in grains of `grain` sectors.
#[must_use]
pub fn cowd(grains: &[Grain], capacity: u32, grain: u32) -> Vec<u8> {
    let mut header = b"COWD".to_vec();
    let tables = grains.len().div_ceil(4096);
    let count = u32::try_from(tables).unwrap_or(0);
    for field in [1, 3, capacity, grain, 4, count, 0] {
        header.extend(field.to_le_bytes());
    }
    header.resize(4 * SECTOR, 0);
    let mut bytes = header;
    let directory = bytes.len();
    bytes.resize(bytes.len() + (tables * 4).next_multiple_of(SECTOR), 0);
    for (number, table) in grains.chunks(4096).enumerate() {
        if table.iter().all(|grain| *grain == Grain::Below) {
            continue;
        }
        let at = bytes.len();
        put(
            &mut bytes,
            directory + number * 4,
            &sector(at).to_le_bytes(),
        );
        bytes.resize(at + 4096 * 4, 0);
        for (place, grain) in table.iter().enumerate() {
            if let Grain::Data(data) = grain {
                let here = sector(bytes.len());
                put(&mut bytes, at + place * 4, &here.to_le_bytes());
                bytes.extend(data);
                pad(&mut bytes);
            }
        }
    }
    bytes
}

/// Entries of a seSparse grain table.
const SE_ENTRIES: usize = 4096;

/// A seSparse extent of `capacity` sectors, in grains of 4 KiB.
#[must_use]
pub fn se_sparse(grains: &[Grain], capacity: u64) -> Vec<u8> {
    let used = grains.chunks(SE_ENTRIES).filter(|table| is_used(table));
    let directory_at = 8;
    let directory_size = (grains.len().div_ceil(SE_ENTRIES) as u64 * 8).div_ceil(512);
    let tables_at = directory_at + directory_size;
    let tables_size = used.count() as u64 * 64;
    let grains_at = tables_at + tables_size;
    let fields = [
        0xcafe_babe,
        0x2_0000_0001,
        capacity,
        8,
        64,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        4,
        4,
        directory_at,
        directory_size,
        tables_at,
        tables_size,
        0,
        0,
        0,
        0,
        grains_at,
        0,
    ];
    let number = |field: &u64| field.to_le_bytes();
    let mut bytes: Vec<u8> = fields.iter().flat_map(number).collect();
    bytes.resize(SECTOR, 0);
    bytes.extend([0xcafe_cafe_u64, 0, 0, 0].iter().flat_map(number));
    let place = |sector: u64| usize::try_from(sector * 512).unwrap_or(0);
    let (mut tables, mut area) = (0u64, Vec::new());
    for (number, table) in grains.chunks(SE_ENTRIES).enumerate() {
        if !is_used(table) {
            continue;
        }
        let entry = 0x1000_0000_0000_0000 | tables;
        put(
            &mut bytes,
            place(directory_at) + number * 8,
            &entry.to_le_bytes(),
        );
        let at = place(tables_at + tables * 64);
        put(&mut bytes, at, &se_table(table, &mut area));
        tables += 1;
    }
    bytes.resize(place(grains_at), 0);
    bytes.extend(area);
    pad(&mut bytes);
    bytes
}

fn is_used(table: &[Grain]) -> bool {
    table.iter().any(|grain| *grain != Grain::Below)
}

/// A grain table; its grains are appended to `area`.
fn se_table(table: &[Grain], area: &mut Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, grain) in table.iter().enumerate() {
        let entry = match grain {
            Grain::Below => 0,
            // Unmapped and zeroed are two entries for one content.
            Grain::Zero if index % 2 == 0 => 0x1000_0000_0000_0000,
            Grain::Zero => 0x2000_0000_0000_0000,
            Grain::Data(data) => {
                let here = area.len().div_ceil(4096) as u64;
                area.resize(area.len().next_multiple_of(4096), 0);
                area.extend(data);
                0x3000_0000_0000_0000 | ((here & 0xfff) << 48) | (here >> 12)
            }
        };
        bytes.extend(entry.to_le_bytes());
    }
    bytes.resize(SE_ENTRIES * 8, 0);
    bytes
}
