//! Disks in files that are compressed as a whole: by the tools that make them, read forward.

use super::formats::{convert, mixed_disk};
use crate::rig::{
    LoopDevice, Nbdkit, Outcome, Proxy, Room, Running, To, assert_same_bytes, run, scrambled_disk,
};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

/// How each wrapper is made and called.
const TOOLS: [(&str, &[&str]); 3] = [
    ("gz", &["gzip", "-k"]),
    ("xz", &["xz", "-k", "-1"]),
    ("zst", &["zstd", "-q", "-k"]),
];

fn pack(room: &Room, tool: &[&str], name: &str) {
    let path = room.path(name).display().to_string();
    let words: Vec<_> = tool[1..].iter().copied().chain([path.as_str()]).collect();
    run(tool[0], words);
}

/// Not a byte less, and not one more.
#[track_caller]
fn assert_same(room: &Room, copied: &str) {
    let size = |name| fs::metadata(room.path(name)).unwrap().len();
    assert_eq!(size("disk.raw"), size(copied));
    assert_same_bytes(&room.path("disk.raw"), &room.path(copied));
}

/// Runs `script` with the program and `args` as its words.
fn by_shell(room: &Room, script: &str, args: &[&str]) -> Outcome {
    let command = room.command(args);
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "-"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(room.path("."));
    shell.env("XDG_STATE_HOME", room.state());
    Running::start(shell).wait()
}

/// `diskferry` with the file `input` as a pipe on its standard input.
pub(crate) fn piped(room: &Room, input: &str, args: &[&str]) -> Outcome {
    by_shell(room, &format!("cat {input} | \"$@\""), args)
}

#[test]
fn a_packed_disk_is_copied_from_a_file_and_from_a_pipe_with_its_holes() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), (9 << 20) + 777, 3);
    let whole = fs::metadata(room.path("disk.raw")).unwrap();
    for (name, tool) in TOOLS {
        pack(&room, tool, "disk.raw");
        let packed = format!("disk.raw.{name}");
        room.diskferry(["copy", &packed, "copied"]).ok();
        assert_same(&room, "copied");
        let copied = fs::metadata(room.path("copied")).unwrap();
        assert!(copied.blocks() < whole.size() / 512 - 2048, "{name}: holes");
        for format in [name.to_owned(), format!("raw.{name}")] {
            piped(
                &room,
                &packed,
                &["copy", "-f", &format, "-", "copied", "--overwrite"],
            )
            .ok();
            assert_same(&room, "copied");
        }
        // Without a word, the bytes of a pipe are those of a disk.
        let doubted = piped(&room, &packed, &["copy", "-", "copied", "--overwrite"]);
        doubted.fails(4, &["-f raw"]);
        piped(
            &room,
            &packed,
            &["copy", "-f", "raw", "-", "copied", "--overwrite"],
        )
        .ok();
        assert_same_bytes(&room.path(&packed), &room.path("copied"));
        fs::remove_file(room.path("copied")).unwrap();
    }
}

#[test]
fn a_packed_disk_lands_on_a_device_that_held_something_else_or_does_not_fit() {
    let room = Room::new();
    let disk = room.path("disk.raw");
    mixed_disk(&disk, 9 << 20, 4);
    pack(&room, TOOLS[2].1, "disk.raw");
    scrambled_disk(&room.path("lun"), 16 << 20);
    let lun = LoopDevice::over(&room.path("lun"), 512);
    let device = lun.path().display().to_string();
    room.diskferry(["copy", "disk.raw.zst", &device]).ok();
    room.diskferry(["compare", "disk.raw", &device]).exits(3);
    let mut bytes = vec![0; 9 << 20];
    File::open(lun.path())
        .unwrap()
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    assert!(bytes == fs::read(&disk).unwrap());
    drop(lun);
    let small = LoopDevice::new(4 << 20, 512);
    let device = small.path().display().to_string();
    room.diskferry(["copy", "disk.raw.zst", &device])
        .fails(1, &["longer than the target, which has 4194304 bytes"]);
}

#[test]
fn what_is_cut_off_or_damaged_is_an_error_and_leaves_nothing() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 3 << 20, 5);
    for (name, tool) in TOOLS {
        pack(&room, tool, "disk.raw");
        let packed = format!("disk.raw.{name}");
        let bytes = fs::read(room.path(&packed)).unwrap();
        for end in [20, bytes.len() / 2, bytes.len() - 1] {
            fs::write(room.path("cut"), &bytes[..end]).unwrap();
            room.diskferry(["copy", "cut", "copied"])
                .fails(1, &["cut", "cut off"]);
            assert!(!room.path("copied").exists());
            let left = fs::read_dir(room.path(".")).unwrap();
            let left = left.filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with(".partial")
            });
            assert_eq!(left.count(), 0, "{name} {end}");
        }
        let mut damaged = bytes.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 8].fill(0x5a);
        fs::write(room.path("damaged"), damaged).unwrap();
        room.diskferry(["copy", "damaged", "copied"])
            .fails(1, &["damaged", "unpack"]);
    }
}

#[test]
fn members_one_after_the_other_and_wrappers_in_each_other_are_one_disk() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 4 << 20, 6);
    let bytes = fs::read(room.path("disk.raw")).unwrap();
    for (name, tool) in TOOLS {
        let mut all = Vec::new();
        for (part, bytes) in bytes.chunks(1500 << 10).enumerate() {
            let part = format!("part{part}");
            fs::write(room.path(&part), bytes).unwrap();
            pack(&room, tool, &part);
            all.extend(fs::read(room.path(&format!("{part}.{name}"))).unwrap());
            fs::remove_file(room.path(&format!("{part}.{name}"))).unwrap();
        }
        fs::write(room.path("packed"), all).unwrap();
        pack(&room, &["gzip", "-k", "-f"], "packed");
        for packed in ["packed", "packed.gz"] {
            room.diskferry(["copy", packed, "copied", "--overwrite"])
                .ok();
            assert_same(&room, "copied");
        }
    }
}

#[test]
fn a_packed_stream_optimized_vmdk_is_read_forward() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 9 << 20, 7);
    convert(
        &room,
        "vmdk",
        &["-o", "subformat=streamOptimized"],
        "disk.raw",
        "disk.vmdk",
    );
    pack(&room, TOOLS[0].1, "disk.vmdk");
    room.diskferry(["copy", "disk.vmdk.gz", "copied"]).ok();
    assert_same(&room, "copied");
    let args = ["copy", "-f", "vmdk.gz", "-", "copied", "--overwrite"];
    piped(&room, "disk.vmdk.gz", &args).ok();
    assert_same(&room, "copied");
}

#[test]
fn a_bomb_takes_little_memory() {
    let room = Room::new();
    let zeroes = File::create(room.path("zeroes")).unwrap();
    zeroes.set_len(1 << 30).unwrap();
    pack(&room, TOOLS[2].1, "zeroes");
    let script = "ulimit -v 1500000; exec \"$@\"";
    by_shell(&room, script, &["copy", "zeroes.zst", "copied"]).ok();
    let copied = fs::metadata(room.path("copied")).unwrap();
    assert_eq!((copied.size(), copied.blocks()), (1 << 30, 0));
}

#[test]
fn a_packed_fixed_vhd_is_the_disk_before_its_footer() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), (3 << 20) + 512, 8);
    room.diskferry(["copy", "disk.raw", "disk.vhd", "-O", "vhd"])
        .ok();
    let vhd = room.path("disk.vhd").display().to_string();
    let by_qemu = room.path("qemu.vhd").display().to_string();
    let raw = room.path("disk.raw").display().to_string();
    let how = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
    ];
    run(
        "qemu-img",
        how.iter().copied().chain([raw.as_str(), &by_qemu]),
    );
    for name in ["disk.vhd", "qemu.vhd"] {
        pack(&room, TOOLS[2].1, name);
        let packed = format!("{name}.zst");
        room.diskferry(["copy", &packed, "copied"]).ok();
        assert_same(&room, "copied");
        room.diskferry(["compare", "--strict", &packed, "disk.raw"])
            .ok();
        fs::remove_file(room.path("copied")).unwrap();
    }
    room.diskferry(["copy", "-f", "raw.zst", "disk.vhd.zst", "copied"])
        .ok();
    assert_same_bytes(&room.path("disk.vhd"), &room.path("copied"));
    // A guest may have written what looks like one.
    piped(&room, &vhd, &["copy", "-", "copied", "--overwrite"]).fails(1, &["fixed VHD"]);
}

#[test]
fn a_disk_goes_into_the_file_that_is_there_and_no_other() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 3 << 20, 9);
    pack(&room, TOOLS[0].1, "disk.raw");
    // How much is packed shows only as it comes.
    for (source, too_small) in [("disk.raw", 4), ("disk.raw.gz", 1)] {
        let copy = |target: &str| room.diskferry(["copy", "-n", "--no-journal", source, target]);
        copy("gone").fails(4, &["not there"]);
        File::create(room.path("small"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        copy("small").fails(too_small, &["1048576"]);
        scrambled_disk(&room.path("there"), 4 << 20);
        copy("there").ok();
        let there = fs::read(room.path("there")).unwrap();
        let disk = fs::read(room.path("disk.raw")).unwrap();
        assert!(there[..disk.len()] == disk, "{source}");
        assert!(
            there[disk.len()..].iter().all(|byte| *byte == 0x55),
            "{source}"
        );
    }
    room.diskferry(["copy", "-n", "-O", "qcow2", "disk.raw", "there"])
        .fails(1, &["qemu-nbd"]);
}

/// The first word of what a run printed.
fn first_word(outcome: Outcome) -> String {
    let out = outcome.ok().stdout;
    out.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn what_comes_forward_has_a_checksum_and_is_compared_mapped_and_looked_at() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), (9 << 20) + 512, 10);
    let how = ["-o", "subformat=streamOptimized"];
    convert(&room, "vmdk", &how, "disk.raw", "disk.vmdk");
    let expected = first_word(room.diskferry(["checksum", "disk.raw"]));
    for (name, tool) in TOOLS {
        for disk in ["disk.raw", "disk.vmdk"] {
            pack(&room, tool, disk);
            let packed = format!("{disk}.{name}");
            let found = first_word(room.diskferry(["checksum", &packed]));
            assert_eq!(found, expected, "{packed}");
            room.diskferry(["compare", "--strict", &packed, "disk.raw"])
                .ok();
            room.diskferry(["compare", "--strict", "disk.raw", &packed])
                .ok();
            let format = format!("{}.{name}", &disk[5..]);
            let piped = piped(&room, &packed, &["checksum", "-f", &format, "-"]);
            assert_eq!(first_word(piped), expected, "{packed}, from a pipe");
        }
    }
    room.diskferry(["compare", "disk.raw.gz", "disk.vmdk.xz"])
        .ok();
    let map = room
        .diskferry(["map", "--output", "json", "disk.vmdk.gz"])
        .ok()
        .stdout;
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let end = map.iter().fold(0, |at, row| {
        assert_eq!(number(row, "start"), at);
        at + number(row, "length")
    });
    assert_eq!(end, (9 << 20) + 512);
    assert!(map.iter().any(|row| row["zero"] == true));
    let told = room.diskferry(["inspect", "disk.vmdk.gz"]).ok().stdout;
    assert!(
        told.contains("9437696") && told.contains("read forward"),
        "{told}"
    );
    let told = room.diskferry(["inspect", "disk.raw.gz"]).ok().stdout;
    assert!(told.contains("not known before its end"), "{told}");
}

#[test]
fn one_byte_that_differs_or_is_missing_is_found_in_what_comes_forward() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), 5 << 20, 11);
    pack(&room, TOOLS[0].1, "disk.raw");
    let disk = File::options()
        .write(true)
        .open(room.path("disk.raw"))
        .unwrap();
    disk.write_all_at(&[0x77; 3], (4 << 20) + 5).unwrap();
    room.diskferry(["compare", "disk.raw.gz", "disk.raw"])
        .fails(3, &["differ"]);
    disk.set_len(4 << 20).unwrap();
    room.diskferry(["compare", "disk.raw.gz", "disk.raw"])
        .fails(3, &["differ"]);
    for (one, two) in [("disk.raw.gz", "disk.raw"), ("disk.raw", "disk.raw.gz")] {
        room.diskferry(["compare", "--strict", one, two])
            .fails(3, &["disk.raw has 4194304 bytes and disk.raw.gz has more"]);
    }
    let bytes = fs::read(room.path("disk.raw.gz")).unwrap();
    fs::write(room.path("cut"), &bytes[..bytes.len() - 9]).unwrap();
    room.diskferry(["checksum", "cut"]).fails(1, &["cut off"]);
}

#[test]
fn an_image_is_made_of_what_comes_forward_if_its_size_can_be_known() {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), (9 << 20) + 512, 12);
    let how = ["-o", "subformat=streamOptimized"];
    convert(&room, "vmdk", &how, "disk.raw", "disk.vmdk");
    pack(&room, TOOLS[2].1, "disk.vmdk");
    pack(&room, TOOLS[2].1, "disk.raw");
    for format in ["qcow2", "vmdk", "vhdx", "vhd"] {
        for source in ["disk.raw.zst", "disk.vmdk.zst"] {
            room.diskferry(["copy", source, "image", "-O", format]).ok();
            room.diskferry(["compare", "image", "disk.raw"]).ok();
            fs::remove_file(room.path("image")).unwrap();
        }
        let words = ["copy", "-f", "vmdk", "-", "image", "-O", format];
        piped(&room, "disk.vmdk", &words).ok();
        room.diskferry(["compare", "-f", format, "image", "disk.raw"])
            .ok();
        fs::remove_file(room.path("image")).unwrap();
        let words = ["copy", "-", "image", "-O", format];
        piped(&room, "disk.raw", &words).fails(1, &["has no size", "raw file first"]);
        assert!(!room.path("image").exists());
    }
}

#[test]
fn a_stream_is_not_tried_again_with_what_is_left_of_it() {
    let room = Room::new();
    scrambled_disk(&room.path("disk.raw"), 24 << 20);
    pack(&room, TOOLS[2].1, "disk.raw");
    let server = Nbdkit::new(["memory", "24M"]);
    let wire = Proxy::tcp(To::Unix(server.socket()));
    let target = format!("nbd://127.0.0.1:{}", wire.port());
    for source in ["-", "disk.raw.zst"] {
        // What comes back are answers of 16 bytes.
        wire.cut_after(300);
        let words = [
            "copy",
            "--connections",
            "1",
            "--retry",
            "1",
            source,
            &target,
        ];
        let failed = piped(&room, "disk.raw", &words).exits(1);
        assert!(wire.is_cut());
        assert!(!failed.stderr.contains("trying again"), "{}", failed.stderr);
        wire.mend();
        piped(&room, "disk.raw", &words).ok();
        room.diskferry(["compare", "disk.raw", &target]).ok();
    }
}
