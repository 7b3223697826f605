//! Compressed grains, in the order of the disk, to the bytes of an extent. Pure.
//!
//! A grain table follows the grains that it lists, the directory follows the tables, and a footer
//! with its place comes last: whoever reads such a file forward meets everything before it is
//! referred to. What is kept is one table, and four bytes a table.

use crate::format::vmdk::layout::{
    DEFLATE, DIRECTORY_AT_END, GrainMarker, HOSTED_MAGIC, HostedHeader, Marker, SECTOR, flags,
    marker,
};
use std::io;
use zerocopy::IntoBytes;

/// Bytes of a grain.
pub(super) const GRAIN: u64 = 64 << 10;

/// Sectors before the first grain: the header and the descriptor.
const OVERHEAD: u64 = 128;

/// Sectors of the descriptor.
const DESCRIPTOR: u64 = 20;

/// Entries of a grain table.
const GRAINS: u32 = 512;

/// Newlines can be checked, grains are compressed, and each has a marker.
const FLAGS: u32 = flags::NEWLINES | flags::COMPRESSED | flags::MARKERS;

/// Guest bytes of a grain table.
const TABLE: u64 = GRAIN * 512;

/// An extent that is being written.
#[derive(Debug)]
pub(super) struct Stream {
    /// Sectors of the disk.
    capacity: u64,
    /// What was not taken yet.
    out: Vec<u8>,
    /// Sectors of the file before `out`.
    taken: u64,
    /// The table that is being filled, and its number.
    table: Vec<u32>,
    number: u64,
    /// Sectors of the tables that were written; 0 is a table of zeroes.
    directory: Vec<u32>,
}

impl Stream {
    /// The extent of a disk of `size` bytes, which `name` calls itself.
    pub(super) fn new(size: u64, name: &str, id: u32) -> Self {
        let capacity = size.div_ceil(SECTOR);
        let mut stream = Self {
            capacity,
            out: Vec::new(),
            taken: 0,
            table: Vec::new(),
            number: 0,
            directory: Vec::new(),
        };
        stream
            .out
            .extend(header(capacity, DIRECTORY_AT_END).as_bytes());
        stream.out.extend(descriptor(capacity, name, id).bytes());
        stream.fill_up(OVERHEAD * SECTOR);
        stream
    }

    /// Appends the grain at the guest offset `at`, compressed.
    pub(super) fn grain(&mut self, at: u64, packed: &[u8]) -> io::Result<()> {
        self.zero_until(at)?;
        let place = self.sector()?;
        let size = u32::try_from(packed.len()).map_err(io::Error::other)?;
        let marker = GrainMarker {
            sector: (at / SECTOR).into(),
            size: size.into(),
        };
        self.out.extend(marker.as_bytes());
        self.out.extend(packed);
        self.fill_up(SECTOR);
        let index = usize::try_from(at % TABLE / GRAIN).map_err(io::Error::other)?;
        self.table.resize(index, 0);
        self.table.push(place);
        Ok(())
    }

    /// Everything before the guest offset `at` that was not written is zero.
    pub(super) fn zero_until(&mut self, at: u64) -> io::Result<()> {
        while self.number < at / TABLE {
            self.end_table()?;
        }
        Ok(())
    }

    /// Whole sectors that can be written, beginning where the last ones ended; where that is.
    pub(super) fn take(&mut self) -> (u64, Vec<u8>) {
        let at = self.taken.saturating_mul(SECTOR);
        let bytes = std::mem::take(&mut self.out);
        self.taken = self.taken.saturating_add(bytes.len() as u64 / SECTOR);
        (at, bytes)
    }

    /// Bytes that can be taken.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Writes what comes after the last grain.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let tables = self.capacity.saturating_mul(SECTOR).div_ceil(TABLE);
        while self.number < tables {
            self.end_table()?;
        }
        let directory = std::mem::take(&mut self.directory);
        self.marker(marker::GRAIN_DIRECTORY, sectors(directory.len()));
        let place = self.sector()?;
        self.entries(&directory);
        self.marker(marker::FOOTER, 1);
        let footer = header(self.capacity, place.into());
        self.out.extend(footer.as_bytes());
        self.marker(marker::END_OF_STREAM, 0);
        Ok(())
    }

    fn end_table(&mut self) -> io::Result<()> {
        let mut table = std::mem::take(&mut self.table);
        self.number = self.number.saturating_add(1);
        if table.is_empty() {
            self.directory.push(0);
            return Ok(());
        }
        table.resize(512, 0);
        self.marker(marker::GRAIN_TABLE, sectors(table.len()));
        let place = self.sector()?;
        self.directory.push(place);
        self.entries(&table);
        Ok(())
    }

    fn marker(&mut self, kind: u32, sectors: u64) {
        let marker = Marker {
            value: sectors.into(),
            size: 0.into(),
            kind: kind.into(),
        };
        self.out.extend(marker.as_bytes());
        self.fill_up(SECTOR);
    }

    fn entries(&mut self, entries: &[u32]) {
        self.out
            .extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        self.fill_up(SECTOR);
    }

    /// Zeroes up to a multiple of `unit` bytes.
    fn fill_up(&mut self, unit: u64) {
        let end = (self.out.len() as u64).next_multiple_of(unit);
        self.out
            .resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
    }

    /// The sector where the next bytes go.
    fn sector(&self) -> io::Result<u32> {
        let sector = self.taken.saturating_add(self.out.len() as u64 / SECTOR);
        let full = |_| io::Error::other("the image is longer than the 2 TiB that VMDK can address");
        u32::try_from(sector).map_err(full)
    }
}

fn sectors(entries: usize) -> u64 {
    (entries as u64).saturating_mul(4).div_ceil(SECTOR)
}

fn header(capacity: u64, directory: u64) -> HostedHeader {
    HostedHeader {
        magic: HOSTED_MAGIC,
        version: 3.into(),
        flags: FLAGS.into(),
        capacity: capacity.into(),
        grain_size: (GRAIN / SECTOR).into(),
        descriptor_offset: 1.into(),
        descriptor_size: DESCRIPTOR.into(),
        num_gtes_per_gt: GRAINS.into(),
        rgd_offset: 0.into(),
        gd_offset: directory.into(),
        overhead: OVERHEAD.into(),
        unclean_shutdown: 0,
        newlines: *b"\n \r\n",
        compress_algorithm: DEFLATE.into(),
        pad: [0; 433],
    }
}

/// What people and VMware read; `name` is free of quotes and newlines by then.
fn descriptor(capacity: u64, name: &str, id: u32) -> String {
    let name = name.replace(['"', '\n', '\r'], "_");
    let name: String = name.chars().take(255).collect();
    // A cylinder has 255 heads of 63 sectors, as for every SCSI disk of that size.
    let cylinders = (capacity / (255 * 63)).clamp(1, 65535);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\n# Extent description\n\
         RW {capacity} SPARSE \"{name}\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n\
         ddb.virtualHWVersion = \"7\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::{GRAIN, Stream};

    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn entry(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    #[test]
    fn the_footer_leads_to_the_directory_to_the_table_to_the_grain() {
        let mut stream = Stream::new(100 << 20, "disk.vmdk", 7);
        stream.grain(3 * GRAIN, b"first").unwrap();
        let (at, mut bytes) = stream.take();
        assert_eq!(at, 0);
        stream.grain((64 << 20) + GRAIN, b"second").unwrap();
        stream.finish().unwrap();
        let (at, rest) = stream.take();
        assert_eq!(at, bytes.len() as u64);
        bytes.extend(rest);
        assert_eq!(bytes.len() % 512, 0);
        let footer = bytes.len() - 1024;
        assert_eq!(&bytes[footer..footer + 4], b"KDMV");
        let directory = usize::try_from(number(&bytes, footer + 56)).unwrap() * 512;
        assert_eq!(
            entry(&bytes, directory + 4),
            0,
            "nothing between 32 and 64 MiB"
        );
        for (table, index, lba, text) in [(0, 3, 384, &b"first"[..]), (2, 1, 131_200, b"second")] {
            let table = entry(&bytes, directory + 4 * table) * 512;
            let grain = entry(&bytes, table + 4 * index) * 512;
            assert_eq!(number(&bytes, grain), lba);
            assert_eq!(entry(&bytes, grain + 8), text.len());
            assert_eq!(&bytes[grain + 12..grain + 12 + text.len()], text);
        }
        assert_eq!(
            number(&bytes, 56),
            u64::MAX,
            "the first header sends to the footer"
        );
    }
}
