//! The first megabytes of a VHDX: headers, regions, metadata. Pure.
//!
//! [MS-VHDX]; the sections are that document's. The log is empty and never used: the file gets its
//! name when all of it is durable, so there is nothing to replay.
//!
//! [MS-VHDX]: https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx

use crate::format::vhdx::layout::{
    BAT_REGION, DISK_ID, DISK_SIZE, FILE_PARAMETERS, FILE_SIGNATURE, FileParameters, Guid, HEADERS,
    ITEM_OF_DISK, ITEM_REQUIRED, LOGICAL_SECTOR, METADATA_REGION, MetadataEntry, MetadataTable,
    PHYSICAL_SECTOR, REGION_TABLE_LEN, REGION_TABLES, RawHeader, RegionEntry, RegionTable, state,
};
use zerocopy::IntoBytes;

/// The unit in which everything large is placed.
pub(super) const MIB: u64 = 1 << 20;

/// §2.2: where the log, the metadata and the block table are.
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;

/// Bytes of a sector, logical and physical.
const SECTOR: u32 = 512;

/// §2.6.1.2: items come after the table of them, in bytes of the region.
const ITEMS: usize = 64 << 10;

/// What a VHDX is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of the disk, whole sectors.
    pub(super) size: u64,
    /// Bytes of a block.
    pub(super) block: u64,
}

impl Shape {
    /// The shape for a disk of `size` bytes: small blocks, but not too many of them.
    pub(super) fn new(size: u64) -> Self {
        let block = if size <= 1 << 40 { 2 * MIB } else { 32 * MIB };
        let size = size.next_multiple_of(SECTOR.into());
        Self { size, block }
    }

    /// Blocks of the disk.
    pub(super) fn blocks(self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// §2.5: payload blocks that one sector bitmap stands for.
    fn chunk(self) -> u64 {
        (u64::from(SECTOR) << 23) / self.block
    }

    /// §2.5: the index of the entry of a payload block.
    fn entry(self, block: u64) -> u64 {
        block.saturating_add(block / self.chunk())
    }

    /// Bytes of the block table, in whole MiB.
    fn table(self) -> u64 {
        let last = self.blocks().saturating_sub(1);
        let entries = self.entry(last).saturating_add(1);
        entries.saturating_mul(8).next_multiple_of(MIB).max(MIB)
    }

    /// Where the first block may be.
    pub(super) fn payload(self) -> u64 {
        BAT.saturating_add(self.table())
    }

    /// §2.5 The block table; `places` has the offset of each block, or 0.
    pub(super) fn table_bytes(self, places: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; length(self.table())];
        for (block, place) in (0..).zip(places) {
            if *place == 0 {
                continue;
            }
            let entry = place | state::FULLY_PRESENT;
            let at = length(self.entry(block).saturating_mul(8));
            put(&mut bytes, at, &entry.to_le_bytes());
        }
        bytes
    }

    /// Where the block table is.
    pub(super) fn table_at() -> u64 {
        BAT
    }

    /// §2.2 to §2.6: everything before the block table.
    pub(super) fn head(self, ids: [Guid; 3]) -> Vec<u8> {
        let [file, data, disk] = ids;
        let mut bytes = vec![0; length(BAT)];
        put(&mut bytes, 0, &FILE_SIGNATURE);
        let creator: Vec<u8> = "diskferry"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        put(&mut bytes, FILE_SIGNATURE.len(), &creator);
        for (number, at) in (1..).zip(HEADERS) {
            put(&mut bytes, length(at), &header(number, file, data));
        }
        for at in REGION_TABLES {
            put(&mut bytes, length(at), &self.regions());
        }
        put(&mut bytes, length(METADATA), &self.metadata(disk));
        bytes
    }

    fn regions(self) -> Vec<u8> {
        let table = RegionTable {
            signature: *b"regi",
            checksum: 0.into(),
            entry_count: 2.into(),
            reserved: 0.into(),
        };
        let entry = |guid, file_offset: u64, bytes: u64| RegionEntry {
            guid,
            file_offset: file_offset.into(),
            length: u32::try_from(bytes).unwrap_or(u32::MAX).into(),
            required: 1.into(),
        };
        let entries = [
            entry(BAT_REGION, BAT, self.table()),
            entry(METADATA_REGION, METADATA, MIB),
        ];
        let bytes = [table.as_bytes(), entries.as_bytes()].concat();
        checked(bytes, REGION_TABLE_LEN)
    }

    fn metadata(self, disk: Guid) -> Vec<u8> {
        let parameters = FileParameters {
            block_size: u32::try_from(self.block).unwrap_or(u32::MAX).into(),
            flags: 0.into(),
        };
        let items: [(Guid, u32, &[u8]); 5] = [
            (FILE_PARAMETERS, 0, parameters.as_bytes()),
            (DISK_SIZE, ITEM_OF_DISK, &self.size.to_le_bytes()),
            (DISK_ID, ITEM_OF_DISK, &disk),
            (LOGICAL_SECTOR, ITEM_OF_DISK, &SECTOR.to_le_bytes()),
            (PHYSICAL_SECTOR, ITEM_OF_DISK, &SECTOR.to_le_bytes()),
        ];
        let table = MetadataTable {
            signature: *b"metadata",
            reserved: 0.into(),
            entry_count: 5.into(),
            reserved2: [0; 20],
        };
        let mut bytes = vec![0; ITEMS];
        put(&mut bytes, 0, table.as_bytes());
        for (index, (item_id, flags, data)) in items.into_iter().enumerate() {
            let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let entry = MetadataEntry {
                item_id,
                offset: narrow(bytes.len()).into(),
                length: narrow(data.len()).into(),
                flags: (flags | ITEM_REQUIRED).into(),
                reserved2: 0.into(),
            };
            let at = index.saturating_add(1).saturating_mul(32);
            put(&mut bytes, at, entry.as_bytes());
            bytes.extend(data);
        }
        bytes
    }
}

/// §2.2.2
fn header(number: u64, file: Guid, data: Guid) -> Vec<u8> {
    let raw = RawHeader {
        signature: *b"head",
        checksum: 0.into(),
        sequence_number: number.into(),
        file_write_guid: file,
        data_write_guid: data,
        log_guid: [0; 16],
        log_version: 0.into(),
        version: 1.into(),
        log_length: (1 << 20).into(),
        log_offset: LOG.into(),
    };
    checked(raw.as_bytes().to_vec(), 4096)
}

/// Fills up to `len` bytes and puts the checksum where headers and region tables have it.
fn checked(mut bytes: Vec<u8>, len: u64) -> Vec<u8> {
    bytes.resize(length(len), 0);
    let sum = crc32c::crc32c(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    let place = bytes.iter_mut().skip(at).zip(what);
    place.for_each(|(to, from)| *to = *from);
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{MIB, Shape};

    #[test]
    fn every_chunk_of_blocks_has_an_entry_for_its_bitmap_between() {
        let shape = Shape::new(9 << 30);
        assert_eq!((shape.block, shape.blocks()), (2 * MIB, 4608));
        assert_eq!((shape.entry(2047), shape.entry(2048)), (2047, 2049));
        assert_eq!(shape.payload(), 4 * MIB);
        let huge = Shape::new(64 << 40);
        assert_eq!((huge.block, huge.blocks()), (32 * MIB, 2 << 20));
        assert_eq!(huge.payload(), 3 * MIB + 17 * MIB);
    }

    #[test]
    fn the_table_says_where_each_block_is() {
        let bytes = Shape::new(8 * MIB).table_bytes(&[0, 5 * MIB, 4 * MIB]);
        let entry = |index: usize| u64::from_le_bytes(*bytes[index * 8..].first_chunk().unwrap());
        assert_eq!(
            [entry(0), entry(1), entry(2), entry(3)],
            [0, (5 * MIB) | 6, (4 * MIB) | 6, 0]
        );
    }
}
