//! VDIs: what qemu-img can make, and by hand what it reads wrong.

use super::{by_another, by_qemu, convert, mixed_disk, reads_as};
use crate::rig::{Room, assert_same_bytes};
use diskferry::testkit::vdi::{Made, image};
use std::fs::{self, File};

#[test]
fn what_qemu_img_makes_reads_as_qemu_img_reads_it() {
    for (option, size) in [
        ("static=off", 9 << 20),
        ("static=on", (4 << 20) + 512),
        ("static=off", 700),
    ] {
        let room = Room::new();
        mixed_disk(&room.path("disk.raw"), size, size);
        convert(&room, "vdi", &["-o", option], "disk.raw", "disk.vdi");
        let raw = by_qemu(&room, "vdi", "disk.vdi", "qemu.raw");
        reads_as(&room, "vdi", "disk.vdi", &raw);
        if size > 4096 {
            let other = by_another(&room, "vdi", "disk.vdi", "other.raw");
            assert_same_bytes(&raw, &other);
        }
    }
}

/// qemu-img takes those bytes for the guest's.
#[test]
fn what_stands_before_each_block_is_not_the_guests() {
    let room = Room::new();
    let made = Made {
        size: 5 * 8192,
        extra: 512,
        ..Made::default()
    };
    let blocks: Vec<_> = (1..=5u8)
        .map(|byte| (byte != 3).then(|| vec![byte; 8192]))
        .collect();
    fs::write(room.path("disk.vdi"), image(&blocks, &made)).unwrap();
    let expected: Vec<u8> = blocks
        .iter()
        .flat_map(|block| block.clone().unwrap_or(vec![0; 8192]))
        .collect();
    fs::write(room.path("expected.raw"), expected).unwrap();
    reads_as(&room, "vdi", "disk.vdi", &room.path("expected.raw"));
}

/// qemu-img reads zeroes and ends with 0.
#[test]
fn a_disk_that_is_cut_off_never_looks_whole() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 4 << 20, 8);
    convert(&room, "vdi", &[], "disk.raw", "disk.vdi");
    let file = File::options()
        .write(true)
        .open(room.path("disk.vdi"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() - 4096).unwrap();
    room.diskferry(["copy", "--no-journal", "disk.vdi", "null:"])
        .fails(1, &["disk.vdi", "cut off"]);
}
