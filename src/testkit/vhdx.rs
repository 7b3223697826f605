//! VHDX files made by hand, from the specification: differencing ones and ones that were not
//! closed, which no tool at hand can make. Shares no code with the reader.

use std::ops::Range;

const MIB: usize = 1 << 20;
const LOG: usize = MIB;
const BAT: usize = 2 * MIB;
const METADATA: usize = 3 * MIB;

/// What a block holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Block {
    /// Nothing: it is in the parent, or nowhere.
    Below,
    /// Zeroes, in one of the three states that read as such: 1, 2 or 3.
    Zero(u8),
    /// These bytes.
    Data(Vec<u8>),
    /// These bytes where the flag of a sector is set.
    Partly(Vec<u8>, Vec<bool>),
}

/// How a VHDX is made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a block.
    pub block: usize,
    /// Bytes of a sector.
    pub sector: usize,
    /// The first byte of the GUID that says what was last written.
    pub id: u8,
    /// The same of the parent, and its name.
    pub parent: Option<(u8, &'static str)>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            size: 0,
            block: MIB,
            sector: 512,
            id: 1,
            parent: None,
        }
    }
}

/// Castagnoli's CRC of each byte, a bit at a time.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let [low, ..] = (crc ^ u32::from(*byte)).to_le_bytes();
        (crc >> 8) ^ CRC[usize::from(low)]
    })
}

/// Puts the checksum of `range` into its bytes 4 to 8.
pub fn seal(bytes: &mut [u8], range: Range<usize>) {
    let part = &mut bytes[range];
    part[4..8].fill(0);
    let sum = crc32c(part);
    part[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// As a number of 4 bytes.
fn long(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(0).to_le_bytes()
}

/// As a number of 2 bytes.
fn short(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(0).to_le_bytes()
}

/// The lower and the upper half.
fn halves(number: u64) -> [[u8; 4]; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [[a, b, c, d], [e, f, g, h]]
}

fn guid(first: u8) -> [u8; 16] {
    let mut guid = [0; 16];
    guid[0] = first;
    guid
}

/// A GUID as it is in the file, from its text in hexadecimal digits.
fn known(text: &str) -> [u8; 16] {
    let number = u128::from_str_radix(&text.replace('-', ""), 16).unwrap_or(0);
    let mut bytes = number.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// A header with this number and log.
#[must_use]
pub fn header(sequence: u64, id: u8, log: u8) -> Vec<u8> {
    let mut bytes = b"head\0\0\0\0".to_vec();
    bytes.extend(sequence.to_le_bytes());
    for first in [0x77, id, log] {
        bytes.extend(guid(first));
    }
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(long(MIB));
    bytes.extend((LOG as u64).to_le_bytes());
    bytes.resize(4096, 0);
    seal(&mut bytes, 0..4096);
    bytes
}

fn regions(bat: usize) -> Vec<u8> {
    let mut bytes = b"regi\0\0\0\0".to_vec();
    bytes.extend(2u64.to_le_bytes());
    for (name, at, len) in [
        ("2dc27766-f623-4200-9d64-115e9bfd4a08", BAT, bat),
        ("8b7ca206-4790-4b9a-b8fe-575f050f886e", METADATA, MIB),
    ] {
        bytes.extend(known(name));
        bytes.extend((at as u64).to_le_bytes());
        bytes.extend(long(len));
        bytes.extend(1u32.to_le_bytes());
    }
    bytes.resize(64 << 10, 0);
    seal(&mut bytes, 0..64 << 10);
    bytes
}

fn metadata(made: &Made) -> Vec<u8> {
    let flags = if made.parent.is_some() { 2u32 } else { 0 };
    let mut parameters = long(made.block).to_vec();
    parameters.extend(flags.to_le_bytes());
    let mut items = vec![
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", parameters),
        (
            "2fa54224-cd1b-4876-b211-5dbed83bf4b8",
            made.size.to_le_bytes().to_vec(),
        ),
        ("beca12ab-b2e6-4523-93ef-c309e000c746", guid(0xd1).to_vec()),
        (
            "8141bf1d-a96f-4709-ba47-f233a8faab5f",
            long(made.sector).to_vec(),
        ),
        (
            "cda348c7-445d-4471-9cc9-e9885251c556",
            4096u32.to_le_bytes().to_vec(),
        ),
    ];
    if let Some((id, name)) = made.parent {
        items.push(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", locator(id, name)));
    }
    let mut bytes = b"metadata\0\0".to_vec();
    bytes.extend(short(items.len()));
    bytes.resize(32, 0);
    let mut at = 64 << 10;
    let mut area = Vec::new();
    for (name, item) in items {
        bytes.extend(known(name));
        bytes.extend(long(at));
        bytes.extend(long(item.len()));
        bytes.extend(4u64.to_le_bytes());
        at += item.len();
        area.extend(item);
    }
    put(&mut bytes, 64 << 10, &area);
    bytes
}

fn locator(id: u8, name: &str) -> Vec<u8> {
    let linkage = format!("{{000000{id:02x}-0000-0000-0000-000000000000}}");
    let pairs = [
        ("parent_linkage", linkage),
        ("relative_path", format!(".\\{name}")),
        ("absolute_win32_path", format!("C:\\vm\\{name}")),
    ];
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let mut bytes = known("b04aefb7-d19e-4a81-b789-25b8e9445913").to_vec();
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(short(pairs.len()));
    let mut texts = Vec::new();
    let base = 20 + pairs.len() * 12;
    for (key, value) in &pairs {
        let (key, value) = (wide(key), wide(value));
        let at = base + texts.len();
        bytes.extend(long(at));
        bytes.extend(long(at + key.len()));
        bytes.extend(short(key.len()));
        bytes.extend(short(value.len()));
        texts.extend(key);
        texts.extend(value);
    }
    bytes.extend(texts);
    bytes
}

/// A file of these blocks, closed properly.
#[must_use]
pub fn file(blocks: &[Block], made: &Made) -> Vec<u8> {
    let ratio = (made.sector << 23) / made.block;
    let mut bytes = b"vhdxfile".to_vec();
    bytes.extend("by hand".encode_utf16().flat_map(u16::to_le_bytes));
    put(&mut bytes, 64 << 10, &header(7, made.id, 0));
    put(&mut bytes, 128 << 10, &header(8, made.id, 0));
    let entries = blocks.len().div_ceil(ratio) * (ratio + 1);
    let bat = (entries * 8).next_multiple_of(MIB);
    assert!(
        bat == MIB,
        "the table of so many blocks would lie on the metadata"
    );
    put(&mut bytes, 192 << 10, &regions(bat));
    put(&mut bytes, 256 << 10, &regions(bat));
    put(&mut bytes, METADATA, &metadata(made));
    bytes.resize(4 * MIB, 0);
    for (chunk, blocks) in blocks.chunks(ratio).enumerate() {
        let first = BAT + chunk * (ratio + 1) * 8;
        let mut bitmap = vec![0u8; MIB];
        for (place, block) in blocks.iter().enumerate() {
            let at = bytes.len() as u64;
            let entry = match block {
                Block::Below => 0,
                Block::Zero(state) => u64::from(*state),
                Block::Data(_) => at | 6,
                Block::Partly(..) => at | 7,
            };
            put(&mut bytes, first + place * 8, &entry.to_le_bytes());
            if let Block::Data(data) | Block::Partly(data, _) = block {
                bytes.extend(data);
                bytes.resize(bytes.len().next_multiple_of(MIB), 0);
            }
            if let Block::Partly(_, here) = block {
                for (sector, _) in here.iter().enumerate().filter(|(_, here)| **here) {
                    let bit = place * (made.block / made.sector) + sector;
                    bitmap[bit / 8] |= 1 << (bit % 8);
                }
            }
        }
        if made.parent.is_some() {
            let entry = bytes.len() as u64 | 6;
            put(&mut bytes, first + ratio * 8, &entry.to_le_bytes());
            bytes.extend(bitmap);
        }
    }
    bytes
}

/// A change that is in a log.
#[derive(Clone, Debug)]
pub enum Change {
    /// 4 KiB at this offset.
    Data(u64, Vec<u8>),
    /// Zeroes at this offset, of this length.
    Zero(u64, u64),
}

/// Puts `entries`, each of several changes, into the log of a closed file, from sector `start` of
/// the ring on, as if it had not been closed. Numbers begin at `number`.
pub fn write_log(bytes: &mut Vec<u8>, entries: &[Vec<Change>], start: usize, number: u64) {
    const RING: usize = 256;
    let size = bytes.len() as u64;
    let mut at = start;
    for (entry, number) in entries.iter().zip(number..) {
        let made = log_entry(entry, start * 4096, number, size);
        for sector in made.chunks(4096) {
            put(bytes, LOG + at % RING * 4096, sector);
            at += 1;
        }
    }
    let id = bytes[(128 << 10) + 32];
    put(bytes, 128 << 10, &header(9, id, 0x1a));
}

fn log_entry(changes: &[Change], tail: usize, number: u64, size: u64) -> Vec<u8> {
    let mut data = Vec::new();
    let mut bytes = b"loge".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(long(tail));
    bytes.extend(number.to_le_bytes());
    bytes.extend((changes.len() as u64).to_le_bytes());
    bytes.extend(guid(0x1a));
    bytes.extend(size.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    for change in changes {
        match change {
            Change::Zero(at, len) => {
                bytes.extend(b"zero\0\0\0\0");
                bytes.extend(len.to_le_bytes());
                bytes.extend(at.to_le_bytes());
            }
            Change::Data(at, sector) => {
                let [low, high] = halves(number);
                bytes.extend(b"desc");
                bytes.extend(&sector[4092..]);
                bytes.extend(&sector[..8]);
                bytes.extend(at.to_le_bytes());
                data.extend(b"data");
                data.extend(high);
                data.extend(&sector[8..4092]);
                data.extend(low);
            }
        }
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes.extend(data);
    let length = bytes.len();
    bytes[8..12].copy_from_slice(&long(length));
    seal(&mut bytes, 0..length);
    bytes
}

/// Where the block table of a [`file`] is.
pub const BLOCK_TABLE: usize = BAT;
