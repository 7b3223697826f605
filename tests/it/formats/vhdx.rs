//! VHDX: what qemu-img can make, and by hand what it cannot.

use super::{at, by_another, by_qemu, convert, mixed_disk, reads_as};
use crate::rig::{Room, assert_same_bytes, run};
use diskferry::testkit::vhdx::{BLOCK_TABLE, Block, Change, Made, file, write_log};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const MIB: usize = 1 << 20;

#[test]
fn what_qemu_img_makes_reads_as_qemu_img_reads_it() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), (37 << 20) + 512 * 3, 6);
    for options in [
        "subformat=dynamic",
        "subformat=fixed",
        "subformat=dynamic,block_size=1M",
        "subformat=dynamic,block_size=2M,block_state_zero=off",
        "subformat=dynamic,block_size=256M,log_size=4M",
    ] {
        convert(&room, "vhdx", &["-o", options], "disk.raw", "disk.vhdx");
        let raw = by_qemu(&room, "vhdx", "disk.vhdx", "qemu.raw");
        reads_as(&room, "vhdx", "disk.vhdx", &raw);
        let other = by_another(&room, "vhdx", "disk.vhdx", "other.raw");
        assert_same_bytes(&raw, &other);
    }
}

/// Blocks of which every third is here, each of other bytes.
fn blocks(count: usize, seed: usize) -> Vec<Block> {
    let data =
        |number: usize| (0..MIB).map(move |at| ((at / 64 + number + seed) % 251).to_le_bytes()[0]);
    let block = |number: usize| match (number + seed) % 3 {
        0 => Block::Data(data(number).collect()),
        1 => Block::Below,
        _ => Block::Zero(2),
    };
    (0..count).map(block).collect()
}

fn made(blocks: usize) -> Made {
    Made {
        size: (blocks * MIB) as u64,
        ..Made::default()
    }
}

#[test]
fn a_difference_reads_as_another_reader_reads_it() {
    for sector in [512, 4096] {
        let room = Room::new();
        let base = Made {
            id: 2,
            sector,
            ..made(6)
        };
        fs::write(room.path("base.vhdx"), file(&blocks(6, 1), &base)).unwrap();
        let top = Made {
            parent: Some((2, "base.vhdx")),
            sector,
            ..made(6)
        };
        let mut tops = blocks(6, 2);
        // Whole bytes of the bitmap: of others the other reader makes mistakes.
        let here = (0..MIB / sector).map(|at| at / 16 % 3 == 1).collect();
        tops[4] = Block::Partly(vec![0x5a; MIB], here);
        fs::write(room.path("top.vhdx"), file(&tops, &top)).unwrap();
        let other = by_another(&room, "vhdx", "top.vhdx", "other.raw");
        reads_as(&room, "vhdx", "top.vhdx", &other);
    }
}

/// What the host left when its power went: qemu-img replays the same log, into a copy.
#[test]
fn a_file_that_was_not_closed_reads_as_qemu_img_repairs_it() {
    let room = Room::new();
    let made = made(5);
    let whole = file(&blocks(5, 0), &made);
    let mut dirty = whole.clone();
    let table = whole[BLOCK_TABLE..][..4096].to_vec();
    let entries = [
        vec![Change::Zero(BLOCK_TABLE as u64, 4096)],
        vec![Change::Data(BLOCK_TABLE as u64, table)],
    ];
    write_log(&mut dirty, &entries, 0, 50);
    dirty[BLOCK_TABLE..][..4096].fill(0);
    fs::write(room.path("dirty.vhdx"), &dirty).unwrap();
    fs::write(room.path("repaired.vhdx"), &dirty).unwrap();
    run(
        "qemu-img",
        [
            "check",
            "-q",
            "-r",
            "all",
            "-f",
            "vhdx",
            &at(&room, "repaired.vhdx"),
        ],
    );
    let raw = by_qemu(&room, "vhdx", "repaired.vhdx", "qemu.raw");
    reads_as(&room, "vhdx", "dirty.vhdx", &raw);
    assert_eq!(
        fs::read(room.path("dirty.vhdx")).unwrap(),
        dirty,
        "it was written to"
    );
    let text = room.diskferry(["inspect", "dirty.vhdx"]).ok().stdout;
    assert!(text.contains("2 entries of its log are replayed"), "{text}");
}

#[test]
fn a_sparse_disk_of_four_tebibytes_is_mapped_and_compared_at_once() {
    let room = Room::new();
    let image = at(&room, "large.vhdx");
    run("qemu-img", ["create", "-q", "-f", "vhdx", &image, "4T"]);
    run("qemu-io", ["-f", "vhdx", "-c", "write -P 5 3T 1M", &image]);
    let file = File::create(room.path("large.raw")).unwrap();
    file.set_len(4 << 40).unwrap();
    file.write_all_at(&[5; MIB], 3 << 40).unwrap();
    room.diskferry(["compare", "--strict", "large.vhdx", "large.raw"])
        .ok();
}

/// An export is raw unless it is said to be an image: a guest must not choose how it is read.
#[test]
fn an_image_behind_an_export_is_read_when_it_is_named() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 5 << 20, 6);
    convert(&room, "vhdx", &[], "disk.raw", "disk.vhdx");
    let export = ["[", "nbdkit", "-r", "file", "disk.vhdx", "]"];
    let compare = |options: &[&'static str], with: &'static str| {
        let words = ["compare", "--strict"]
            .into_iter()
            .chain(options.iter().copied());
        room.diskferry(words.chain(export).chain([with])).ok();
    };
    compare(&["-f", "vhdx", "-F", "raw"], "disk.raw");
    fs::copy(room.path("disk.vhdx"), room.path("copy")).unwrap();
    compare(&["-F", "raw"], "copy");
}
