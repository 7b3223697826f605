//! Entries of L1 and L2 tables: 64 or 128 bits to what they say. Pure.
//!
//! Sections "Cluster mapping" and "Extended L2 Entries". Reserved bits that are set make an entry
//! corrupt: a bit with a meaning would have come with a feature bit that has one.

use super::flaw::Flaw;
use super::geometry::{Geometry, SUBCLUSTERS};
use super::layout::entry;

/// Bits 56 to 61, reserved in a standard descriptor.
const STANDARD_HIGH: u64 = 0x3f00_0000_0000_0000;
/// Bits 1 to 8, reserved in a standard descriptor.
const STANDARD_LOW: u64 = 0x1fe;
/// The unit in which the length of compressed data is told.
const SECTOR: u64 = 512;

/// What an L2 entry says of a guest cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cluster {
    /// What the backing file says, or zeroes if there is none.
    Unallocated,
    /// Zeroes.
    Zero,
    /// The cluster at this offset.
    Standard(u64),
    /// Compressed data.
    Compressed(Packed),
    /// A cluster whose subclusters differ.
    Mixed(Subclusters),
}

/// Where compressed data are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packed {
    /// Offset in the image file, to the byte.
    pub offset: u64,
    /// Bytes up to the end of their last sector; more than the data themselves take.
    pub len: u64,
}

/// A cluster whose subclusters differ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subclusters {
    /// Where the whole cluster is.
    pub host: u64,
    /// One bit a subcluster: its data are there.
    pub allocated: u32,
    /// One bit a subcluster: it reads as zeroes.
    pub zero: u32,
}

/// What the L2 entries of an image may say.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Sizes.
    pub geometry: Geometry,
    /// Version 2 has no zero clusters.
    pub version: u32,
    /// Data are in a file of their own, each cluster where it is on the disk.
    pub data_file: bool,
}

/// Where the L2 table is that an L1 entry points to; `None` if nothing there is allocated.
///
/// # Errors
/// Reserved bits are set, or it is not at a cluster.
pub fn l1(raw: u64, geometry: Geometry) -> Result<Option<u64>, Flaw> {
    if raw & !(entry::OFFSET | entry::COPIED) != 0 {
        return Err(Flaw::L1Reserved(raw));
    }
    let offset = raw & entry::OFFSET;
    if !geometry.is_aligned(offset) {
        let what = "an L2 table";
        return Err(Flaw::Unaligned { what, offset });
    }
    Ok((offset != 0).then_some(offset))
}

/// The L1 or L2 entry of a table or cluster at `offset` that nothing else points to.
#[must_use]
pub fn standard(offset: u64) -> u64 {
    offset | entry::COPIED
}

/// The L2 entry of compressed data; `None` if they are too long or too far back to be described.
#[must_use]
pub fn compressed(data: Packed, geometry: Geometry) -> Option<u64> {
    let (length_bits, offset_bits) = compressed_bits(geometry);
    let last = data.offset.checked_add(data.len.checked_sub(1)?)?;
    let more =
        (last >> SECTOR.trailing_zeros()).checked_sub(data.offset >> SECTOR.trailing_zeros())?;
    let fits = more <= low_bits(length_bits) && data.offset <= low_bits(offset_bits.min(56));
    let length = more.checked_shl(offset_bits)?;
    fits.then_some(entry::COMPRESSED | length | data.offset)
}

/// "Compressed Clusters Descriptor": bits of the length, and of the offset below it.
fn compressed_bits(geometry: Geometry) -> (u32, u32) {
    let length = geometry.cluster_bits().saturating_sub(8);
    (length, 62_u32.saturating_sub(length))
}

impl Rules {
    /// What an L2 entry says of the cluster at the guest offset `at`. `bitmap` is its second half
    /// in extended tables, else 0.
    ///
    /// # Errors
    /// It says nothing that makes sense.
    pub fn l2(&self, raw: u64, bitmap: u64, at: u64) -> Result<Cluster, Flaw> {
        if raw & entry::COMPRESSED != 0 {
            return self.compressed(raw, bitmap).map(Cluster::Compressed);
        }
        let no_zero_bit = self.version < 3 || self.geometry.is_extended();
        let zero = raw & entry::ZERO != 0;
        if raw & (STANDARD_HIGH | STANDARD_LOW) != 0 || (zero && no_zero_bit) {
            return Err(Flaw::L2Reserved(raw));
        }
        let host = self.host(raw, at)?;
        if self.geometry.is_extended() {
            return subclusters(host, bitmap);
        }
        Ok(match host {
            _ if zero => Cluster::Zero,
            Some(host) => Cluster::Standard(host),
            None => Cluster::Unallocated,
        })
    }

    /// The host cluster of a standard descriptor, if it has one.
    fn host(&self, raw: u64, at: u64) -> Result<Option<u64>, Flaw> {
        let offset = raw & entry::OFFSET;
        let copied = raw & entry::COPIED != 0;
        if !self.geometry.is_aligned(offset) {
            let what = "a cluster";
            return Err(Flaw::Unaligned { what, offset });
        }
        if offset == 0 {
            // Offset 0 is the header, save in a file that holds nothing but data.
            return match (copied, self.data_file) {
                (false, _) => Ok(None),
                (true, true) if at == 0 => Ok(Some(0)),
                (true, true) => Err(Flaw::Displaced {
                    found: 0,
                    expected: at,
                }),
                (true, false) => Err(Flaw::L2Reserved(raw)),
            };
        }
        if self.data_file && offset != at {
            return Err(Flaw::Displaced {
                found: offset,
                expected: at,
            });
        }
        Ok(Some(offset))
    }

    fn compressed(&self, raw: u64, bitmap: u64) -> Result<Packed, Flaw> {
        if self.data_file {
            return Err(Flaw::CompressedOutside);
        }
        if bitmap != 0 {
            return Err(Flaw::Subclusters(bitmap));
        }
        let (length_bits, offset_bits) = compressed_bits(self.geometry);
        let offset = raw & low_bits(offset_bits);
        if raw & entry::COPIED != 0 || offset & !low_bits(56) != 0 {
            return Err(Flaw::L2Reserved(raw));
        }
        let more = raw.checked_shr(offset_bits).unwrap_or(0) & low_bits(length_bits);
        let sectors = more.saturating_add(1);
        let len = sectors.saturating_mul(SECTOR);
        Ok(Packed {
            offset,
            len: len.saturating_sub(offset.checked_rem(SECTOR).unwrap_or(0)),
        })
    }
}

/// "Subcluster Allocation Bitmap": the lower half says what is there, the upper what is zero.
fn subclusters(host: Option<u64>, bitmap: u64) -> Result<Cluster, Flaw> {
    let allocated = u32::try_from(bitmap & low_bits(SUBCLUSTERS)).unwrap_or(0);
    let zero = u32::try_from(bitmap >> SUBCLUSTERS).unwrap_or(0);
    if allocated & zero != 0 {
        return Err(Flaw::Subclusters(bitmap));
    }
    match (allocated, zero, host) {
        (0, 0, _) => Ok(Cluster::Unallocated),
        (0, u32::MAX, _) => Ok(Cluster::Zero),
        (u32::MAX, 0, Some(host)) => Ok(Cluster::Standard(host)),
        (0, _, host) => Ok(Cluster::Mixed(Subclusters {
            host: host.unwrap_or(0),
            allocated,
            zero,
        })),
        (_, _, Some(host)) => Ok(Cluster::Mixed(Subclusters {
            host,
            allocated,
            zero,
        })),
        (_, _, None) => Err(Flaw::Subclusters(bitmap)),
    }
}

/// The lowest `count` bits, all set.
fn low_bits(count: u32) -> u64 {
    1_u64
        .checked_shl(count)
        .map_or(u64::MAX, |bit| bit.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::{Cluster, Flaw, Packed, Rules, compressed, l1};
    use crate::format::qcow2::geometry::Geometry;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn rules(bits: u32, extended: bool) -> Rules {
        Rules {
            geometry: Geometry::new(bits, extended).unwrap(),
            version: 3,
            data_file: false,
        }
    }

    #[test]
    fn a_standard_entry_points_to_a_cluster_whether_or_not_it_is_shared() {
        let usual = rules(16, false);
        for shared in [0, 1 << 63] {
            let cluster = usual.l2(0x50000 | shared, 0, 0).unwrap();
            assert_eq!(cluster, Cluster::Standard(0x50000));
        }
        assert_eq!(usual.l2(0, 0, 0), Ok(Cluster::Unallocated));
        assert_eq!(usual.l2(1, 0, 0), Ok(Cluster::Zero));
        assert_eq!(usual.l2(0x50001, 0, 0), Ok(Cluster::Zero), "preallocated");
    }

    #[test]
    fn version_2_and_extended_entries_have_no_zero_bit() {
        let old = Rules {
            version: 2,
            ..rules(16, false)
        };
        assert_eq!(old.l2(1, 0, 0), Err(Flaw::L2Reserved(1)));
        assert_eq!(rules(16, true).l2(1, 0, 0), Err(Flaw::L2Reserved(1)));
    }

    #[test]
    fn clusters_of_a_data_file_are_where_they_are_on_the_disk() {
        let outside = Rules {
            data_file: true,
            ..rules(16, false)
        };
        assert_eq!(outside.l2(1 << 63, 0, 0), Ok(Cluster::Standard(0)));
        let moved = Flaw::Displaced {
            found: 0x20000,
            expected: 0x10000,
        };
        assert_eq!(outside.l2(0x20000, 0, 0x10000), Err(moved));
        assert_eq!(outside.l2(1 << 62, 0, 0), Err(Flaw::CompressedOutside));
    }

    #[test]
    fn a_subcluster_is_not_there_and_zero_at_once() {
        let extended = rules(16, true);
        let both = (1 << 32) | 1;
        assert_eq!(extended.l2(0x50000, both, 0), Err(Flaw::Subclusters(both)));
        assert_eq!(extended.l2(0, 1, 0), Err(Flaw::Subclusters(1)), "nowhere");
        let all = u64::from(u32::MAX);
        assert_eq!(extended.l2(0x50000, all, 0), Ok(Cluster::Standard(0x50000)));
        assert_eq!(extended.l2(0x50000, all << 32, 0), Ok(Cluster::Zero));
        assert_eq!(extended.l2(0x50000, 0, 0), Ok(Cluster::Unallocated));
    }

    #[test]
    fn an_l1_entry_with_reserved_bits_is_corrupt() {
        let geometry = rules(16, false).geometry;
        assert_eq!(l1(1 << 63 | 0x30000, geometry), Ok(Some(0x30000)));
        assert_eq!(l1(0, geometry), Ok(None));
        assert_eq!(l1(1, geometry), Err(Flaw::L1Reserved(1)));
        assert!(matches!(l1(0x30200, geometry), Err(Flaw::Unaligned { .. })));
    }

    proptest! {
        /// What the specification's formula packs comes out again.
        #[test]
        fn a_compressed_descriptor_is_read_as_it_was_written(
            bits in 9_u32..=21, offset in 0_u64..1 << 49, sectors in any::<u64>(),
        ) {
            let offset_bits = 62 - (bits - 8);
            let sectors = sectors % (1 << (bits - 8));
            let raw = 1 << 62 | sectors << offset_bits | offset;
            let Ok(Cluster::Compressed(Packed { offset: found, len })) =
                rules(bits, false).l2(raw, 0, 0)
            else {
                panic!("{raw:#x} is not compressed");
            };
            prop_assert_eq!(found, offset);
            prop_assert_eq!((offset + len) % 512, 0);
            prop_assert_eq!(offset / 512 + sectors + 1, (offset + len) / 512);
        }

        /// What is described is found again, up to the end of its last sector.
        #[test]
        fn compressed_data_are_found_where_they_were_put(
            bits in 9_u32..=21, offset in 0_u64..1 << 49, len in 1_u64..1 << 21,
        ) {
            let rules = rules(bits, false);
            let raw = compressed(Packed { offset, len }, rules.geometry);
            prop_assert!(raw.is_some() || len > 1 << bits);
            if let Some(raw) = raw {
                let found = rules.l2(raw, 0, 0).unwrap();
                let len = (offset + len).next_multiple_of(512) - offset;
                prop_assert_eq!(found, Cluster::Compressed(Packed { offset, len }));
            }
        }

        /// Any bits are an answer or an error, and what is found is aligned and below 2^56.
        #[test]
        fn any_entry_is_an_answer_or_an_error(
            raw in any::<u64>(), bitmap in any::<u64>(), bits in 9_u32..=21, extended in any::<bool>(),
        ) {
            let extended = extended && bits >= 14;
            match rules(bits, extended).l2(raw, bitmap, 0) {
                Ok(Cluster::Standard(host)) => prop_assert!(host % (1 << bits) == 0 && host >> 56 == 0),
                Ok(Cluster::Compressed(packed)) => {
                    prop_assert!(packed.offset >> 56 == 0);
                    prop_assert!(packed.len > 0 && packed.len <= 2 << bits);
                }
                Ok(Cluster::Mixed(parts)) => prop_assert_eq!(parts.allocated & parts.zero, 0),
                _ => {}
            }
        }
    }
}
