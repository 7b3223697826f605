//! Sizes that follow from the header, and where in which table a guest offset is looked up. Pure.

use super::flaw::Flaw;
use super::layout::RawHeader;

/// Logarithms of the smallest and the largest cluster. The specification has no upper limit; this
/// is qemu's, and so that of every image there is.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// Bytes of an L1 table at most: qemu's limit.
const L1_BYTES_MAX: u64 = 32 << 20;

/// Subclusters of a cluster, where there are any.
pub const SUBCLUSTERS: u32 = 32;

/// The units of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    cluster_bits: u32,
    extended: bool,
}

/// A contiguous table of 64-bit entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table {
    /// Where it begins, in bytes of the image file.
    pub offset: u64,
    /// Entries that it has.
    pub entries: u64,
}

impl Geometry {
    /// An image of clusters of `2^cluster_bits` bytes, with subclusters if `extended`.
    ///
    /// # Errors
    /// There are no such images.
    pub fn new(cluster_bits: u32, extended: bool) -> Result<Self, Flaw> {
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Flaw::ClusterBits(cluster_bits));
        }
        // "Header": with extended L2 entries a cluster has at least 16 KiB.
        if extended && cluster_bits < 14 {
            return Err(Flaw::SmallSubclusters(cluster_bits));
        }
        Ok(Self {
            cluster_bits,
            extended,
        })
    }

    /// The units that `header` tells of, before its features are known.
    pub(super) fn of(header: &RawHeader) -> Result<Self, Flaw> {
        Self::new(header.cluster_bits.get(), false)
    }

    /// Logarithm of the cluster size.
    #[must_use]
    pub fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    /// Whether L2 entries are 128 bits wide and tell of subclusters.
    #[must_use]
    pub fn is_extended(self) -> bool {
        self.extended
    }

    /// Bytes of a cluster.
    #[must_use]
    pub fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the smallest part of a cluster that has a state of its own.
    #[must_use]
    pub fn subcluster(self) -> u64 {
        if self.extended {
            self.cluster() >> SUBCLUSTERS.trailing_zeros()
        } else {
            self.cluster()
        }
    }

    /// Bytes of an L2 entry.
    #[must_use]
    pub fn l2_entry(self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Logarithm of the guest bytes that an L2 table maps.
    #[must_use]
    pub fn table_bits(self) -> u32 {
        let entry_bits = if self.extended { 4 } else { 3 };
        // 2 × 21 − 3 at most.
        self.cluster_bits
            .saturating_mul(2)
            .saturating_sub(entry_bits)
    }

    /// Guest bytes that an L2 table maps.
    #[must_use]
    pub fn table(self) -> u64 {
        1 << self.table_bits()
    }

    /// The index into the L1 table for the guest offset `at`.
    #[must_use]
    pub fn l1_index(self, at: u64) -> u64 {
        at >> self.table_bits()
    }

    /// Entries of the L1 table of a disk of `size` bytes.
    #[must_use]
    pub fn l1_needed(self, size: u64) -> u64 {
        size.div_ceil(self.table())
    }

    /// Whether `offset` is where a cluster begins.
    #[must_use]
    pub fn is_aligned(self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster())
    }

    /// Checks an L1 table against the disk that it maps and the file that holds it.
    ///
    /// # Errors
    /// It is too short, too long, not at a cluster, or not all there.
    pub fn check_l1(self, table: Table, disk: u64, file: u64) -> Result<Table, Flaw> {
        let needed = self.l1_needed(disk);
        if table.entries < needed {
            let entries = table.entries;
            return Err(Flaw::ShortL1 { entries, needed });
        }
        self.check_table("the L1 table", table, 8, L1_BYTES_MAX, file)?;
        // What a longer table maps is past the disk: the state of a machine.
        Ok(Table {
            entries: needed,
            ..table
        })
    }

    /// Checks that a table of `entries` of `width` bytes is aligned, not too large, and all there.
    pub(super) fn check_table(
        self,
        what: &'static str,
        table: Table,
        width: u64,
        most: u64,
        file: u64,
    ) -> Result<(), Flaw> {
        let bytes = table.entries.saturating_mul(width);
        if bytes > most {
            return Err(Flaw::TooLarge { what, bytes, most });
        }
        if !self.is_aligned(table.offset) {
            let offset = table.offset;
            return Err(Flaw::Unaligned { what, offset });
        }
        if table.offset.saturating_add(bytes) > file {
            return Err(Flaw::Truncated { what, size: file });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Flaw, Geometry, Table};

    #[test]
    fn an_l2_table_maps_half_a_gibibyte_with_the_clusters_that_qemu_makes() {
        let usual = Geometry::new(16, false).unwrap();
        assert_eq!(usual.table(), 512 << 20);
        let extended = Geometry::new(16, true).unwrap();
        assert_eq!(extended.table(), 256 << 20);
        assert_eq!(extended.subcluster(), 2048);
    }

    #[test]
    fn an_l1_table_too_short_for_its_disk_is_refused() {
        let geometry = Geometry::new(16, false).unwrap();
        let table = |entries| Table {
            offset: 0x10000,
            entries,
        };
        let disk = (512 << 20) + 1;
        let check = |entries, file| geometry.check_l1(table(entries), disk, file);
        assert_eq!(
            check(1, 1 << 20),
            Err(Flaw::ShortL1 {
                entries: 1,
                needed: 2
            })
        );
        assert_eq!(check(2, 1 << 20), Ok(table(2)));
        assert_eq!(check(9, 1 << 20), Ok(table(2)), "the rest is not the disk");
        assert!(matches!(check(2, 0x1000f), Err(Flaw::Truncated { .. })));
        assert!(matches!(
            check(9 << 20, 1 << 40),
            Err(Flaw::TooLarge { .. })
        ));
    }

    #[test]
    fn sizes_of_clusters_that_qemu_does_not_know_are_refused() {
        for bits in [0, 8, 22, 63, 64, u32::MAX] {
            assert_eq!(Geometry::new(bits, false), Err(Flaw::ClusterBits(bits)));
        }
        assert_eq!(Geometry::new(13, true), Err(Flaw::SmallSubclusters(13)));
    }
}
