//! VHDs made by hand, from the specification: differencing ones, which no tool at hand can make,
//! and odd footers. Shares no code with the reader.

const SECTOR: usize = 512;

/// How a VHD is made.
#[derive(Clone, Debug)]
pub struct Made {
    /// As the footer has it, in bytes.
    pub size: u64,
    /// Who made it: what the size is taken from hangs on that.
    pub creator: [u8; 4],
    /// Cylinders, heads, sectors of a track.
    pub geometry: (u16, u8, u8),
    /// The first byte of the identity, which is otherwise zero.
    pub id: u8,
    /// Identity and name of the parent.
    pub parent: Option<(u8, &'static str)>,
    /// Bytes of a block.
    pub block: usize,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            size: 0,
            creator: *b"win ",
            geometry: (1, 1, 1),
            id: 1,
            parent: None,
            block: 64 << 10,
        }
    }
}

fn checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn footer(made: &Made, kind: u32) -> Vec<u8> {
    let mut bytes = b"conectix".to_vec();
    bytes.extend(2u32.to_be_bytes());
    bytes.extend(0x1_0000u32.to_be_bytes());
    let header = if kind == 2 { u64::MAX } else { 512 };
    bytes.extend(header.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(made.creator);
    bytes.extend([0; 8]);
    bytes.extend(made.size.to_be_bytes());
    bytes.extend(made.size.to_be_bytes());
    bytes.extend(made.geometry.0.to_be_bytes());
    bytes.extend([made.geometry.1, made.geometry.2]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.push(made.id);
    bytes.resize(SECTOR, 0);
    checksum(&mut bytes, 64);
    bytes
}

/// A fixed disk that holds `data`.
#[must_use]
pub fn fixed(data: &[u8], made: &Made) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.extend(footer(made, 2));
    bytes
}

/// A dynamic disk, or a differencing one if it has a parent: sectors as they are, in order; those
/// that are `None` are not here. A block without any sector is not in the file.
#[must_use]
pub fn dynamic(sectors: &[Option<[u8; 512]>], made: &Made) -> Vec<u8> {
    let kind = if made.parent.is_some() { 4 } else { 3 };
    let per_block = made.block / SECTOR;
    let blocks = sectors.len().div_ceil(per_block);
    let mut bytes = footer(made, kind);
    bytes.extend(header(made, blocks));
    let locator = bytes.len();
    if let Some((_, name)) = made.parent {
        let name: Vec<u8> = format!(".\\{name}")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        bytes.extend(name);
    }
    bytes.resize(locator + SECTOR, 0);
    let table = bytes.len();
    bytes.resize((table + blocks * 4).next_multiple_of(SECTOR), 0xff);
    for (number, block) in sectors.chunks(per_block).enumerate() {
        if block.iter().all(Option::is_none) {
            continue;
        }
        let place = u32::try_from(bytes.len() / SECTOR).unwrap_or(0);
        bytes[table + number * 4..][..4].copy_from_slice(&place.to_be_bytes());
        let mut bitmap = vec![0u8; per_block.div_ceil(8).next_multiple_of(SECTOR)];
        let mut data = vec![0xcc; made.block];
        for (index, sector) in block.iter().enumerate() {
            if let Some(sector) = sector {
                bitmap[index / 8] |= 0x80 >> (index % 8);
                data[index * SECTOR..][..SECTOR].copy_from_slice(sector);
            } else if made.parent.is_none() {
                data[index * SECTOR..][..SECTOR].fill(0);
            }
        }
        bytes.extend(bitmap);
        bytes.extend(data);
    }
    bytes.extend(footer(made, kind));
    bytes
}

fn header(made: &Made, blocks: usize) -> Vec<u8> {
    let mut bytes = b"cxsparse".to_vec();
    bytes.extend(u64::MAX.to_be_bytes());
    bytes.extend(2048u64.to_be_bytes());
    bytes.extend(0x1_0000u32.to_be_bytes());
    bytes.extend(u32::try_from(blocks).unwrap_or(0).to_be_bytes());
    bytes.extend(u32::try_from(made.block).unwrap_or(0).to_be_bytes());
    bytes.extend([0; 4]);
    let (id, name) = made.parent.unwrap_or((0, ""));
    bytes.push(id);
    bytes.resize(64, 0);
    bytes.extend(name.encode_utf16().flat_map(u16::to_be_bytes));
    bytes.resize(64 + 512, 0);
    if !name.is_empty() {
        let length = u32::try_from(name.len() * 2 + 4).unwrap_or(0);
        bytes.extend(b"W2ru");
        bytes.extend(512u32.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(1536u64.to_be_bytes());
    }
    bytes.resize(1024, 0);
    checksum(&mut bytes, 36);
    bytes
}
