//! What is on a disk already: a table of magic numbers. Pure; reads no disk.
//!
//! Only for the question "would somebody miss this?", so a name is enough and the most telling
//! entry comes first. What each magic means is in blkid's documentation and the formats' own.

/// Bytes at the start of a disk in which every leading signature lies.
pub const HEAD: usize = (1 << 20) + 4096;

/// Bytes at the end of a disk in which every trailing signature lies.
pub const TAIL: usize = 128 << 10;

/// A name, where its magic is, and the magic.
type Magic = (&'static str, usize, &'static [u8]);

/// Magic numbers counted from the start of the disk.
const LEADING: &[Magic] = &[
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an ext file system", 0x438, b"\x53\xef"),
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("an encrypted volume (LUKS)", 0, b"LUKS\xba\xbe"),
    ("an encrypted volume (LUKS)", 0x4000, b"SKUL\xba\xbe"),
    ("an encrypted volume (BitLocker)", 3, b"-FVE-FS-"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 1024, b"LABELONE"),
    ("an LVM physical volume", 1536, b"LABELONE"),
    ("swap space", 4096 - 10, b"SWAPSPACE2"),
    ("swap space", 65536 - 10, b"SWAPSPACE2"),
    ("swap space", 4096 - 10, b"SWAP-SPACE"),
    ("a RAID member (md 1.1)", 0, b"\xfc\x4e\x2b\xa9"),
    ("a RAID member (md 1.2)", 4096, b"\xfc\x4e\x2b\xa9"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("a UDF file system", 0x8001, b"BEA01"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 0x36, b"FAT12   "),
    ("a FAT file system", 0x36, b"FAT16   "),
    ("a FAT file system", 0x52, b"FAT32   "),
    ("a VMFS volume", 0x10_0000, b"\x0d\xd0\x01\xc0"),
    ("a Ceph BlueStore device", 0, b"bluestore block device"),
    (
        "a bcache device",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
    ),
    ("a VDO volume", 0, b"dmvdo001"),
    ("a Stratis pool", 512, b"!Stra0tis"),
    ("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    ("a JFS file system", 0x8000, b"JFS1"),
    ("a GFS2 file system", 0x1_0000, b"\x01\x16\x19\x70"),
    ("an OCFS2 file system", 0x400, b"OCFSV2"),
    ("an OCFS2 file system", 0x800, b"OCFSV2"),
    ("an OCFS2 file system", 0x1000, b"OCFSV2"),
    ("a ReiserFS file system", 0x1_0034, b"ReIsEr"),
    ("a SquashFS file system", 0, b"hsqs"),
    ("an EROFS file system", 0x400, b"\xe2\xe1\xf5\xe0"),
    ("a QCOW2 image", 0, b"QFI\xfb"),
    ("a VMDK image", 0, b"KDMV"),
    ("a VHDX image", 0, b"vhdxfile"),
];

/// Magic numbers counted back from the end of the disk.
const TRAILING: &[Magic] = &[
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
];

/// Names what `head`, the first [`HEAD`] bytes of a disk of `size` bytes, and `tail`, its last
/// [`TAIL`] bytes, show to be there. Shorter slices are searched as far as they go.
#[must_use]
pub fn find(head: &[u8], tail: &[u8], size: u64) -> Option<&'static str> {
    let leading = LEADING.iter().find(|(_, at, magic)| has(head, *at, magic));
    let trailing = || {
        TRAILING.iter().find(|(_, back, magic)| {
            let at = tail.len().checked_sub(*back);
            at.is_some_and(|at| has(tail, at, magic))
        })
    };
    let named = leading.or_else(trailing).map(|(name, _, _)| *name);
    named
        .or_else(|| has_zfs(head).then_some("a ZFS pool member"))
        .or_else(|| has_md_at_end(tail, size).then_some("a RAID member (md)"))
        .or_else(|| has_mbr(head).then_some("a DOS partition table"))
}

/// Size of the sectors that the GPT at the start of a disk counts in, if there is one.
#[must_use]
pub fn gpt_sector(head: &[u8]) -> Option<u32> {
    [512u32, 4096]
        .into_iter()
        .find(|sector| usize::try_from(*sector).is_ok_and(|at| has(head, at, b"EFI PART")))
}

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// The uberblocks of the first label: 128 of them, 1 KiB each, at 128 KiB; either byte order.
fn has_zfs(head: &[u8]) -> bool {
    (128..256usize).any(|kib| {
        let at = kib.saturating_mul(1024);
        has(head, at, b"\x0c\xb1\xba\0\0\0\0\0") || has(head, at, b"\0\0\0\0\0\xba\xb1\x0c")
    })
}

/// md 0.90 keeps its superblock in the last whole 64 KiB but one, md 1.0 8 KiB before the end.
fn has_md_at_end(tail: &[u8], size: u64) -> bool {
    let start = size.saturating_sub(u64::try_from(tail.len()).unwrap_or(u64::MAX));
    let old = (size & !0xffff).checked_sub(0x1_0000);
    let new = (size & !0xfff).checked_sub(0x2000);
    [old, new].into_iter().flatten().any(|at| {
        at.checked_sub(start)
            .and_then(|at| usize::try_from(at).ok())
            .is_some_and(|at| has(tail, at, b"\xfc\x4e\x2b\xa9"))
    })
}

/// A boot signature alone also ends boot sectors, so there must be a sane partition as well.
fn has_mbr(head: &[u8]) -> bool {
    let entries = head.get(446..510).unwrap_or_default().as_chunks::<16>().0;
    has(head, 510, b"\x55\xaa")
        && entries.iter().all(|entry| entry[0] & 0x7f == 0)
        && entries.iter().any(|entry| entry[4] != 0)
}

#[cfg(test)]
mod tests {
    use super::{HEAD, LEADING, TAIL, TRAILING, find, gpt_sector};

    const SIZE: u64 = 64 << 20;

    fn blank() -> (Vec<u8>, Vec<u8>) {
        (vec![0; HEAD], vec![0; TAIL])
    }

    #[test]
    fn a_blank_disk_and_a_noisy_one_have_no_signature() {
        let (head, tail) = blank();
        assert_eq!(find(&head, &tail, SIZE), None);
        assert_eq!(find(&[0xa5; HEAD], &[0xa5; TAIL], SIZE), None);
        assert_eq!(find(&[], &[], 0), None);
    }

    #[test]
    fn every_row_of_the_table_is_reachable() {
        for (name, at, magic) in LEADING {
            let (mut head, tail) = blank();
            head[*at..*at + magic.len()].copy_from_slice(magic);
            assert_eq!(find(&head, &tail, SIZE), Some(*name), "{at:#x}");
        }
        for (name, back, magic) in TRAILING {
            let (head, mut tail) = blank();
            let at = tail.len() - back;
            tail[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(find(&head, &tail, SIZE), Some(*name), "-{back:#x}");
        }
    }

    #[test]
    fn a_boot_sector_is_a_partition_table_only_with_a_partition() {
        let (mut head, tail) = blank();
        head[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(find(&head, &tail, SIZE), None);
        head[446 + 4] = 0x83;
        assert_eq!(find(&head, &tail, SIZE), Some("a DOS partition table"));
        head[446] = 0x12;
        assert_eq!(find(&head, &tail, SIZE), None, "a status that is none");
    }

    #[test]
    fn zfs_and_raid_are_found_where_they_keep_their_labels() {
        let (mut head, mut tail) = blank();
        head[(128 << 10) + 5 * 1024..][..4].copy_from_slice(b"\x0c\xb1\xba\0");
        assert_eq!(find(&head, &tail, SIZE), Some("a ZFS pool member"));
        for back in [0x1_0000, 0x2000] {
            tail.fill(0);
            tail[TAIL - back..][..4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
            assert_eq!(find(&[], &tail, SIZE), Some("a RAID member (md)"));
        }
    }

    #[test]
    fn the_sector_size_of_a_gpt_is_where_its_header_is() {
        let (mut head, _) = blank();
        assert_eq!(gpt_sector(&head), None);
        head[4096..4104].copy_from_slice(b"EFI PART");
        assert_eq!(gpt_sector(&head), Some(4096));
        head[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(gpt_sector(&head), Some(512));
    }
}
