//! VDIs: what qemu-img can make, and by hand what it reads wrong.

use super::{at, by_another, by_another_over, by_qemu, convert, mixed_disk, reads_as};
use crate::rig::{Rng, Room, assert_same_bytes};
use diskferry::testkit::vdi::{Made, image};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

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

const SNAPSHOTS: [&str; 3] = [
    "vm/web server.vdi",
    "vm/Snapshots/{02020202-0202-0202-0202-020202020202}.VDI",
    "vm/Snapshots/{03030303-0303-0303-0303-030303030303}.vdi",
];

/// As VirtualBox lays them out: the first image, and snapshots in a directory of their own.
fn snapshots() -> Room {
    const BLOCK: usize = 1 << 20;
    let room = Room::new();
    fs::create_dir_all(room.path("vm/Snapshots")).unwrap();
    let ids = [[1, 11, 0, 0], [2, 22, 1, 11], [3, 33, 2, 22]];
    let mut rng = Rng::new(5);
    for (layer, (ids, name)) in ids.into_iter().zip(SNAPSHOTS).enumerate() {
        let made = Made {
            size: 9 * BLOCK as u64,
            block: BLOCK,
            kind: if layer == 0 { 1 } else { 4 },
            backwards: layer == 1,
            ids,
            ..Made::default()
        };
        let blocks: Vec<_> = (0..9)
            .map(|_| (rng.below(3) == 0).then(|| rng.bytes(BLOCK)))
            .collect();
        fs::write(room.path(name), image(&blocks, &made)).unwrap();
    }
    room
}

#[test]
fn snapshots_of_virtualbox_read_as_another_reader_reads_them() {
    let (room, names) = (snapshots(), SNAPSHOTS);
    let raw = by_another_over(&room, "vdi", names[2], "other.raw", &[names[1], names[0]]);
    let alone = room.diskferry(["checksum", names[2]]);
    alone.fails(1, &["01010101-0101", "--allow-backing DIR"]);
    let expected = room.diskferry(["checksum", "other.raw"]).ok().stdout;
    let found = room
        .diskferry(["checksum", "--allow-backing", "vm", names[2]])
        .ok()
        .stdout;
    assert_eq!(found.split(' ').next(), expected.split(' ').next());
    let told = room
        .diskferry(["inspect", "--allow-backing", "vm", names[2]])
        .ok()
        .stdout;
    for part in [
        "type difference",
        "web server.vdi (vdi)",
        "parent id 02020202-",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // All in one directory.
    let flat = ["base.vdi", "middle.vdi", "top.vdi"];
    for (from, to) in names.iter().zip(flat) {
        fs::rename(room.path(from), room.path(to)).unwrap();
    }
    reads_as(&room, "vdi", "top.vdi", &raw);
    fs::copy(room.path("base.vdi"), room.path("copy.vdi")).unwrap();
    room.diskferry(["checksum", "top.vdi"])
        .fails(4, &["base.vdi", "copy.vdi", "take the copies away"]);
    // The guest of the first image ran.
    let base = File::options()
        .write(true)
        .open(room.path("base.vdi"))
        .unwrap();
    base.write_all_at(&[77; 16], 0x198).unwrap();
    fs::remove_file(room.path("copy.vdi")).unwrap();
    room.diskferry(["copy", "top.vdi", &at(&room, "copied")])
        .fails(1, &["as it was before that was written to"]);
    assert!(!room.path("copied").exists());
}
