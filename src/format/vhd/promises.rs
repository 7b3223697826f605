//! What the parsers here promise for any bytes. For fuzz targets: a broken promise is a panic.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is what tells of a broken promise"
)]

use super::header::{Kind, block_at, checksum, dynamic, footer, is_fixed, located};
use super::{SECTOR, fixed_footer};

/// The end of the largest file there is.
const FAR: u64 = u64::MAX >> 1;

/// Tries every parser on `input`: a footer, a header, and names of the parent. No fuzzer finds a
/// checksum, so both get the right one. Whether it was a disk.
///
/// # Panics
/// A promise is broken.
#[must_use]
pub fn keep(input: &[u8]) -> bool {
    let mut bytes = input.to_vec();
    seal(&mut bytes, 0, 64, 512);
    seal(&mut bytes, 512, 36, 1024);
    let Ok(Some(disk)) = footer(&bytes) else {
        return false;
    };
    assert!(!disk.by_geometry || disk.size.is_multiple_of(SECTOR));
    assert_eq!(is_fixed(&bytes, disk.size), disk.kind == Kind::Fixed);
    let again = footer(&fixed_footer(disk.size, 0, disk.id));
    let again = again.ok().flatten().map(|again| (again.size, again.id));
    assert_eq!(again, Some((disk.size, disk.id)));
    if disk.kind == Kind::Fixed {
        return true;
    }
    let sizes = [u64::try_from(bytes.len()).unwrap_or(FAR), FAR];
    let head = bytes.get(512..).unwrap_or_default();
    let found = sizes.map(|size| tables(head, disk.size, size));
    found.contains(&true)
}

fn tables(head: &[u8], disk: u64, size: u64) -> bool {
    let Ok(blocks) = dynamic(head, disk, size) else {
        return false;
    };
    assert!(blocks.block.is_power_of_two() && (512..=256 << 20).contains(&blocks.block));
    assert!(blocks.table.end <= size);
    assert_eq!(blocks.table.len(), disk.div_ceil(blocks.block) * 4);
    assert!(blocks.bitmap.is_multiple_of(SECTOR));
    assert!(blocks.bitmap * 8 >= blocks.block / SECTOR);
    for (place, encoding) in blocks.parent.locators {
        assert!(place.len() <= 4096);
        let text = head.get(1024..).unwrap_or_default();
        let name = located(text, encoding);
        assert!(name.len() <= text.len() * 3);
    }
    for bytes in head.as_chunks::<4>().0 {
        let entry = u32::from_be_bytes(*bytes);
        let at = block_at(entry);
        assert!(at.is_none_or(|at| at / SECTOR == u64::from(entry)));
    }
    true
}

/// Puts the checksum of `len` bytes from `start` where it belongs, `at` bytes after it.
fn seal(bytes: &mut [u8], start: usize, at: usize, len: usize) {
    let Some(part) = bytes.get_mut(start..start + len) else {
        return;
    };
    let sum = checksum(part, at, len);
    part[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}
