//! VHDs: what qemu-img can make, and by hand what it cannot.

use super::{at, by_another, by_qemu, convert, mixed_disk, reads_as};
use crate::rig::{Room, assert_same_bytes, run};
use diskferry::testkit::vhd::{Made, dynamic, fixed};
use std::fs::{self, File};

#[test]
fn what_qemu_img_makes_reads_as_qemu_img_reads_it() {
    for kind in ["fixed", "dynamic"] {
        for (size, force) in [(5 << 20, "on"), ((3 << 20) + 512, "on"), (7 << 20, "off")] {
            let room = Room::new();
            mixed_disk(&room.path("disk.raw"), size, size);
            let options = format!("subformat={kind},force_size={force}");
            convert(&room, "vpc", &["-o", &options], "disk.raw", "disk.vhd");
            // Named: qemu-img would take a fixed one for raw, footer and all.
            let raw = by_qemu(&room, "vpc", "disk.vhd", "qemu.raw");
            reads_as(&room, "vhd", "disk.vhd", &raw);
            // That the geometry is the size is QEMU's rule alone.
            if force == "on" {
                let other = by_another(&room, "vhd", "disk.vhd", "other.raw");
                assert_same_bytes(&raw, &other);
            }
        }
    }
}

/// qemu-img reads it as if it were dynamic, says nothing, and ends with 0: wrong bytes.
#[test]
fn a_differencing_disk_reads_sector_by_sector_from_itself_and_its_parent() {
    let room = Room::new();
    let (sectors, size) = (4096usize, 4096u64 * 512);
    mixed_disk(&room.path("base.raw"), size, 3);
    let base = fs::read(room.path("base.raw")).unwrap();
    let made = Made {
        size,
        ..Made::default()
    };
    let bytes = fixed(
        &base,
        &Made {
            id: 2,
            ..made.clone()
        },
    );
    fs::write(room.path("base.vhd"), bytes).unwrap();
    let here: Vec<_> = (0..sectors)
        .map(|sector| {
            (sector / 3 % 3 == 1 && sector < 3000).then_some([sector.to_le_bytes()[0]; 512])
        })
        .collect();
    let child = Made {
        parent: Some((2, "base.vhd")),
        ..made
    };
    fs::write(room.path("top.vhd"), dynamic(&here, &child)).unwrap();
    let mut expected = base;
    for (sector, bytes) in here.iter().enumerate() {
        if let Some(bytes) = bytes {
            expected[sector * 512..][..512].copy_from_slice(bytes);
        }
    }
    fs::write(room.path("expected.raw"), expected).unwrap();
    reads_as(&room, "vhd", "top.vhd", &room.path("expected.raw"));
    let text = room.diskferry(["inspect", "top.vhd"]).ok().stdout;
    assert!(
        text.contains("type differencing") && text.contains("type fixed"),
        "{text}"
    );
}

#[test]
fn a_large_sparse_disk_is_mapped_at_once_and_a_short_one_never_looks_whole() {
    let room = Room::new();
    let image = at(&room, "large.vhd");
    let options = "subformat=dynamic,force_size=on";
    run(
        "qemu-img",
        ["create", "-q", "-f", "vpc", "-o", options, &image, "2000G"],
    );
    run(
        "qemu-io",
        ["-f", "vpc", "-c", "write -P 5 1999G 3M", &image],
    );
    let map = room.diskferry(["map", "large.vhd"]).ok().stdout;
    let first = map.lines().find(|line| line.ends_with("data")).unwrap();
    assert!(first.starts_with("0x1f3c0000000 "), "{map}");
    let file = File::options()
        .write(true)
        .open(room.path("large.vhd"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() - (2 << 20))
        .unwrap();
    room.diskferry(["checksum", "large.vhd"])
        .fails(1, &["large.vhd", "cut off"]);
}
