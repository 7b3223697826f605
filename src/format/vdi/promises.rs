//! What the parsers here promise for any bytes. For fuzz targets: a broken promise is a panic.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is what tells of a broken promise"
)]

use super::header::{Block, header, uuid};

/// The end of the largest file there is.
const FAR: u64 = u64::MAX >> 1;

/// Tries the header and the entries of the map on `input`; whether it was an image.
///
/// # Panics
/// A promise is broken.
#[must_use]
pub fn keep(input: &[u8]) -> bool {
    let sizes = [u64::try_from(input.len()).unwrap_or(FAR), FAR];
    let found = sizes.map(|size| image(input, size));
    found.contains(&true)
}

fn image(input: &[u8], size: u64) -> bool {
    let Ok(disk) = header(input, size) else {
        return false;
    };
    assert!(disk.block.is_power_of_two() && (512..=256 << 20).contains(&disk.block));
    assert!(disk.map.end <= size);
    assert_eq!(disk.map.len(), disk.size.div_ceil(disk.block) * 4);
    assert_eq!(uuid(&disk.id).len(), 36);
    let first = disk.block(0);
    for bytes in input.as_chunks::<4>().0 {
        let entry = u32::from_le_bytes(*bytes);
        // Blocks do not overlap, whatever is between them.
        if let (Ok(Block::At(first)), Ok(Block::At(at))) = (&first, disk.block(entry)) {
            assert!(at - first >= u64::from(entry) * disk.block);
            assert!(entry == 0 || (at - first).is_multiple_of(entry.into()));
        }
    }
    true
}
