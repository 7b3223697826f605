//! What the parsers here promise for any bytes. For fuzz targets: a broken promise is a panic.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is what tells of a broken promise"
)]

use super::bat::{Bat, Block};
use super::header::{Disk, checksum, current, metadata, regions};
use super::log::replay;
use crate::extent::ByteRange;

const MIB: u64 = 1 << 20;
const SECTOR: usize = 4096;

/// The end of the largest file there is.
const FAR: u64 = u64::MAX >> 1;

/// Tries the parser that the first byte of `input` chooses on the rest. No fuzzer finds a checksum,
/// so what has one gets the right one. Whether the parser took it.
///
/// # Panics
/// A promise is broken.
#[must_use]
pub fn keep(input: &[u8]) -> bool {
    let Some((choice, rest)) = input.split_first() else {
        return false;
    };
    match choice % 4 {
        0 => headers(rest),
        1 => tables(rest),
        2 => disk(rest),
        _ => log(rest),
    }
}

/// Two copies of a header.
fn headers(input: &[u8]) -> bool {
    let (first, second) = input.split_at(input.len().min(SECTOR));
    let copies = [sealed(first, SECTOR), sealed(second, SECTOR)];
    let found = current([&copies[0], &copies[1]], FAR);
    let Ok(header) = found else { return false };
    let unused = header.log_guid == [0; 16];
    assert!(unused || (header.log.start >= MIB && header.log.end <= FAR));
    assert!(unused || header.log.len() <= 64 * MIB);
    // A torn copy is as good as none.
    let torn = vec![0xff; SECTOR];
    let alone = |at: usize| current([&copies[at], &torn], FAR);
    assert!(alone(0).is_ok() || alone(1).is_ok());
    true
}

fn tables(input: &[u8]) -> bool {
    let table = sealed(input, 64 << 10);
    let Ok(found) = regions([&table, &[]], FAR) else {
        return false;
    };
    assert_eq!(regions([&[], &table], FAR), Ok(found));
    for region in [found.bat, found.metadata] {
        assert!(region.start >= MIB && region.start.is_multiple_of(MIB) && region.end <= FAR);
    }
    true
}

/// The table of metadata, then the items, which are 64 KiB after it.
fn disk(input: &[u8]) -> bool {
    let (table, items) = input.split_at(input.len().min(SECTOR));
    let mut region = table.to_vec();
    region.resize(64 << 10, 0);
    region.extend(items);
    let Ok(disk) = metadata(&region) else {
        return false;
    };
    assert!(disk.block.is_power_of_two() && (MIB..=256 * MIB).contains(&disk.block));
    assert!(disk.sector == 512 || disk.sector == 4096);
    assert!(disk.size <= 64 << 40 && disk.size.is_multiple_of(disk.sector));
    for len in [MIB, 64 * MIB] {
        let region = ByteRange::at(MIB, len);
        if let Ok(bat) = Bat::new(region, &disk) {
            entries(&bat, region, &disk, input);
        }
    }
    true
}

/// Entries lie in the table, and what they name lies at whole MiB.
fn entries(bat: &Bat, region: ByteRange, disk: &Disk, input: &[u8]) {
    let blocks = disk.size.div_ceil(disk.block);
    for block in [0, blocks / 2, blocks.saturating_sub(1)] {
        let count = bat.neighbours(block).min(blocks.saturating_sub(block));
        assert!(bat.neighbours(block) > 0 && region.covers(bat.entries(block, count)));
        assert!(disk.parent.is_none() || blocks == 0 || region.covers(bat.bitmap_entry(block)));
    }
    for bytes in input.as_chunks::<8>().0 {
        let entry = u64::from_le_bytes(*bytes);
        if let Ok(Block::At(at) | Block::Partly(at)) = bat.block(entry) {
            assert!(at > 0 && at.is_multiple_of(MIB));
        }
        if let Ok(bits) = bat.bitmap(blocks / 2, entry) {
            assert_eq!(bits.len() * 8 * disk.sector, disk.block);
        }
    }
}

/// What is set by a sector is not zero as well, and the file has an end.
fn log(input: &[u8]) -> bool {
    let mut log = input.to_vec();
    log.resize(input.len().next_multiple_of(SECTOR), 0);
    seal_entries(&mut log);
    let first = log
        .chunks(SECTOR)
        .find(|sector| sector.starts_with(b"loge"));
    let guid = first.and_then(|sector| sector.get(32..48)?.try_into().ok());
    let Some(guid) = guid else { return false };
    let Ok(found) = replay(&log, &guid, FAR) else {
        return false;
    };
    assert!(found.entries > 0 && found.file_size <= FAR);
    for (at, bytes) in &found.sectors {
        assert!(at.is_multiple_of(4096) && bytes.len() == SECTOR);
        let zeroes = found.zeroes.within(ByteRange::at(*at, 4096));
        assert_eq!(zeroes.into_iter().count(), 0, "{at:#x} is zero as well");
    }
    true
}

fn seal_entries(log: &mut [u8]) {
    for at in (0..log.len()).step_by(SECTOR) {
        let length = log[at + 8..at + 12]
            .try_into()
            .map_or(0, u32::from_le_bytes);
        let length = usize::try_from(length).unwrap_or(0);
        if log[at..].starts_with(b"loge") && (SECTOR..=log.len()).contains(&length) {
            let entry = [&*log, &*log].concat();
            let sum = checksum(&entry[at..at + length]);
            log[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// `len` bytes that begin with `input`, and have the checksum that they should.
fn sealed(input: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(len, 0);
    let sum = checksum(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}
