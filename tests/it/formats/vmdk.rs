//! VMDKs: every subformat that qemu-img can make, and by hand what it cannot.

use super::{at, by_another, by_qemu, convert, mixed_disk, reads_as};
use crate::rig::{Room, assert_same_bytes, run};
use diskferry::testkit::vmdk::{Grain, cowd, descriptor, se_sparse};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::thread;

const SUBFORMATS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

/// Whole grains, a partial grain, a partial sector.
const SIZES: [u64; 3] = [3 << 20, (2 << 20) + 512 * 7, (1 << 20) + 333];

#[test]
fn every_subformat_of_qemu_img_reads_as_qemu_img_reads_it() {
    for (kind, seed) in SUBFORMATS.into_iter().zip(1..) {
        for size in SIZES {
            let room = Room::new();
            mixed_disk(&room.path("disk.raw"), size, seed);
            let subformat = format!("subformat={kind}");
            convert(&room, "vmdk", &["-o", &subformat], "disk.raw", "disk.vmdk");
            let raw = by_qemu(&room, "vmdk", "disk.vmdk", "qemu.raw");
            reads_as(&room, "vmdk", "disk.vmdk", &raw);
        }
    }
}

#[test]
fn grains_of_zeroes_and_old_versions_are_read() {
    for options in ["zeroed_grain=on", "compat6=on", "adapter_type=lsilogic"] {
        let room = Room::new();
        mixed_disk(&room.path("disk.raw"), 3 << 20, 9);
        convert(
            &room,
            "vmdk",
            &["-S", "0", "-o", options],
            "disk.raw",
            "disk.vmdk",
        );
        let (image, zero) = (at(&room, "disk.vmdk"), "write -z 1M 512k");
        run("qemu-io", ["-f", "vmdk", "-c", zero, &image]);
        let raw = by_qemu(&room, "vmdk", "disk.vmdk", "qemu.raw");
        reads_as(&room, "vmdk", "disk.vmdk", &raw);
    }
}

/// A disk in three extents of 2 GiB and less.
#[test]
fn extents_of_two_gigabytes_are_put_together() {
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let room = Room::new();
        let options = ["-o".to_owned(), format!("subformat={kind}")];
        let image = at(&room, "disk.vmdk");
        let options = options.iter().map(String::as_str);
        let words = ["create", "-q", "-f", "vmdk"].into_iter().chain(options);
        run("qemu-img", words.chain([image.as_str(), "5G"]));
        for write in [
            "write -P 1 2047M 2M",
            "write -P 2 4095M 2M",
            "write -P 3 5119M 1M",
        ] {
            run("qemu-io", ["-f", "vmdk", "-c", write, &image]);
        }
        let raw = by_qemu(&room, "vmdk", "disk.vmdk", "qemu.raw");
        let raw = raw.display().to_string();
        room.diskferry(["compare", "--strict", &image, &raw]).ok();
        let facts = room.diskferry(["--json", "inspect", &image]).ok().stdout;
        let facts: Value = serde_json::from_str(&facts).unwrap();
        let details = &facts["image"]["details"];
        assert_eq!(details["create type"], kind);
        assert_eq!(details["extents"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn a_chain_of_three_reads_as_qemu_img_reads_it() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 4 << 20, 3);
    convert(
        &room,
        "vmdk",
        &["-o", "subformat=monolithicFlat"],
        "disk.raw",
        "base.vmdk",
    );
    for (name, below, write) in [
        ("middle.vmdk", "base.vmdk", "write -P 7 100k 700k"),
        ("top.vmdk", "middle.vmdk", "write -P 8 700k 1M"),
    ] {
        let (image, below) = (at(&room, name), at(&room, below));
        let words = [
            "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", &below, &image,
        ];
        run("qemu-img", words);
        run("qemu-io", ["-f", "vmdk", "-c", write, &image]);
    }
    let raw = by_qemu(&room, "vmdk", "top.vmdk", "qemu.raw");
    reads_as(&room, "vmdk", "top.vmdk", &raw);
    let text = room.diskferry(["inspect", "top.vmdk"]).ok().stdout;
    assert_eq!(text.matches("(vmdk)").count(), 3, "{text}");

    // The middle is written to behind the back of the top.
    run(
        "qemu-io",
        [
            "-f",
            "vmdk",
            "-c",
            "write -P 9 0 64k",
            &at(&room, "middle.vmdk"),
        ],
    );
    room.diskferry(["checksum", "top.vmdk"]).fails(
        1,
        &["top.vmdk", "middle.vmdk", "CID", "was written to since"],
    );
}

/// ESX makes these; no tool at hand does.
#[test]
fn snapshots_of_esx_read_as_another_reader_reads_them() {
    let room = Room::new();
    let (sectors, size) = (20_480u64, 20_480 * 512);
    mixed_disk(&room.path("base-flat.vmdk"), size, 5);
    let base = descriptor("vmfs", 1, None, &["RW 20480 VMFS \"base-flat.vmdk\""]);
    fs::write(room.path("base.vmdk"), base).unwrap();
    let grain = |number: u64| match number % 5 {
        0 | 3 => Grain::Data(vec![number.to_le_bytes()[0] | 1; 4096]),
        _ => Grain::Below,
    };
    let grains: Vec<Grain> = (0..sectors / 8).map(grain).collect();
    let log = cowd(&grains, u32::try_from(sectors).unwrap(), 8);
    fs::write(room.path("delta.vmdk"), log).unwrap();
    let lines = ["RW 20480 VMFSSPARSE \"delta.vmdk\""];
    let text = descriptor("vmfsSparse", 2, Some((1, "base.vmdk")), &lines);
    fs::write(room.path("snap1.vmdk"), text).unwrap();

    // Only odd grains are zeroed: those have the entry of which readers think alike.
    let grain = |number: u64| match number % 7 {
        1 | 2 => Grain::Data(vec![number.to_le_bytes()[0] | 2; 4096]),
        4 if number % 2 == 1 => Grain::Zero,
        _ => Grain::Below,
    };
    let grains: Vec<Grain> = (0..sectors / 8).map(grain).collect();
    fs::write(room.path("sesparse.vmdk"), se_sparse(&grains, sectors)).unwrap();
    let lines = ["RW 20480 SESPARSE \"sesparse.vmdk\""];
    let text = descriptor("seSparse", 3, Some((2, "snap1.vmdk")), &lines);
    fs::write(room.path("snap2.vmdk"), text).unwrap();

    let mut pictures = Vec::new();
    for image in ["snap1.vmdk", "snap2.vmdk"] {
        let raw = by_another(&room, "vmdk", image, &format!("{image}.raw"));
        reads_as(&room, "vmdk", image, &raw);
        pictures.push(raw);
    }
    assert_ne!(
        fs::read(&pictures[0]).unwrap(),
        fs::read(&pictures[1]).unwrap()
    );
    // qemu-img knows chains of redo logs as well.
    let raw = by_qemu(&room, "vmdk", "snap1.vmdk", "qemu.raw");
    assert_same_bytes(&pictures[0], &raw);
}

/// qemu-img drops such extents, and what follows them shifts.
#[test]
fn extents_of_zeroes_and_without_access_keep_their_places() {
    let room = Room::new();
    mixed_disk(&room.path("part.bin"), 1 << 20, 4);
    let lines = [
        "RW 100 ZERO",
        "RDONLY 2048 FLAT \"part.bin\" 0",
        "NOACCESS 50 FLAT \"part.bin\" 0",
        "RW 2000 FLAT \"part.bin\" 48",
    ];
    fs::write(room.path("d.vmdk"), descriptor("custom", 1, None, &lines)).unwrap();
    let part = fs::read(room.path("part.bin")).unwrap();
    let mut bytes = vec![0; 100 * 512];
    bytes.extend(&part);
    bytes.extend([0; 50 * 512]);
    bytes.extend(&part[48 * 512..]);
    fs::write(room.path("expected.raw"), bytes).unwrap();
    reads_as(&room, "vmdk", "d.vmdk", &room.path("expected.raw"));
    let text = room.diskferry(["inspect", "d.vmdk"]).ok().stdout;
    assert!(text.contains("NOACCESS: the guest sees zeroes"), "{text}");
}

#[test]
fn a_sparse_disk_of_four_tebibytes_is_mapped_and_compared_at_once() {
    let room = Room::new();
    let image = at(&room, "large.vmdk");
    run("qemu-img", ["create", "-q", "-f", "vmdk", &image, "4T"]);
    run("qemu-io", ["-f", "vmdk", "-c", "write -P 5 3T 1M", &image]);
    run(
        "qemu-io",
        ["-f", "vmdk", "-c", "write -P 6 4095G 64k", &image],
    );
    let raw = room.path("large.raw");
    let file = File::create(&raw).unwrap();
    file.set_len(4 << 40).unwrap();
    write_at(&raw, 3 << 40, 1 << 20, 5);
    write_at(&raw, 4095 << 30, 64 << 10, 6);
    room.diskferry(["compare", "--strict", "large.vmdk", "large.raw"])
        .ok();
    let map = room
        .diskferry(["map", "--output", "json", "large.vmdk"])
        .ok();
    let map: Value = serde_json::from_str(&map.stdout).unwrap();
    assert_eq!(map.as_array().unwrap().len(), 5, "{map}");
}

fn write_at(path: &Path, at: u64, len: usize, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![byte; len], at).unwrap();
}

#[test]
fn a_disk_that_is_cut_off_never_looks_whole() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 1 << 20, 2);
    for kind in SUBFORMATS {
        let option = format!("subformat={kind}");
        convert(&room, "vmdk", &["-o", &option], "disk.raw", "disk.vmdk");
        let file = match kind {
            "monolithicFlat" => "disk-flat.vmdk",
            "twoGbMaxExtentFlat" => "disk-f001.vmdk",
            "twoGbMaxExtentSparse" => "disk-s001.vmdk",
            _ => "disk.vmdk",
        };
        let file = File::options().write(true).open(room.path(file)).unwrap();
        // What QEMU puts after the last grain of a stream nobody misses.
        let cut = if kind == "streamOptimized" {
            128 << 10
        } else {
            2048
        };
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        room.diskferry(["copy", "--no-journal", "disk.vmdk", "null:"])
            .exits(1);
    }
}

/// As it comes out of an OVA, or of a download: through a pipe, onto a target that holds something.
#[test]
fn a_stream_is_copied_from_a_pipe_without_a_file_between() {
    for (size, seed) in [(3 << 20, 1), ((2 << 20) + 512 * 7, 2)] {
        let room = Room::new();
        mixed_disk(&room.path("disk.raw"), size, seed);
        let option = "subformat=streamOptimized";
        convert(&room, "vmdk", &["-o", option], "disk.raw", "disk.vmdk");
        mknodat(CWD, room.path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (from, to) = (room.path("disk.vmdk"), room.path("pipe"));
        let writer = thread::spawn(move || fs::copy(from, to));
        fs::write(
            room.path("out.raw"),
            vec![0x55; usize::try_from(size).unwrap()],
        )
        .unwrap();
        let words = ["copy", "-f", "vmdk", "--overwrite", "pipe", "out.raw"];
        room.diskferry(words).ok();
        writer.join().unwrap().unwrap();
        let raw = by_qemu(&room, "vmdk", "disk.vmdk", "qemu.raw");
        assert_same_bytes(&raw, &room.path("out.raw"));
        assert_same_bytes(&room.path("out.raw"), &raw);
    }
}
