//! Images that must be read in any order and come only in one: unpacked into scratch space, of which
//! nothing is left.

mod broken;
mod ends;

use super::formats::{at, convert, mixed_disk};
use crate::rig::{Outcome, Room, Running, Web, assert_same_bytes, run};
use diskferry::testkit::ova;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

const SIZE: u64 = (9 << 20) + 512;

/// Images that qemu-img makes and nobody can read forward.
const FORMATS: [(&str, &[&str]); 6] = [
    ("qcow2", &["-c"]),
    ("qcow2", &["-o", "compression_type=zstd,extended_l2=on"]),
    ("vmdk", &["-o", "subformat=monolithicSparse"]),
    ("vhdx", &["-o", "subformat=dynamic"]),
    ("vpc", &["-o", "subformat=dynamic,force_size=on"]),
    ("vdi", &[]),
];

/// A room with `disk.raw` and an empty `scratch`.
fn room(seed: u64) -> Room {
    let room = Room::new();
    mixed_disk(&room.path("disk.raw"), SIZE, seed);
    fs::create_dir(room.path("scratch")).unwrap();
    room
}

fn pack(room: &Room, tool: &str, name: &str) -> String {
    run(tool, ["-k", "-q", "-1", "-f", &at(room, name)]);
    let ending = match tool {
        "gzip" => "gz",
        "xz" => "xz",
        _ => "zst",
    };
    format!("{name}.{ending}")
}

/// `disk.qcow2` of the disk, compressed as a whole.
fn packed_qcow2(room: &Room) -> String {
    convert(room, "qcow2", &[], "disk.raw", "disk.qcow2");
    pack(room, "gzip", "disk.qcow2")
}

#[track_caller]
fn assert_nothing_left(dir: &Path) {
    let left: Vec<_> = fs::read_dir(dir).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `diskferry` with the file `input` as a pipe on its standard input.
fn piped(room: &Room, input: &str, args: &[&str]) -> Outcome {
    let command = room.command(args);
    let mut shell = Command::new("bash");
    let script = format!("cat {input} | \"$@\"");
    shell.args(["-c", &script, "-"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(room.path("."));
    shell.env("XDG_STATE_HOME", room.state());
    Running::start(shell).wait()
}

#[test]
fn a_packed_image_of_any_format_is_the_disk_for_every_command() {
    let room = room(21);
    for (number, (format, how)) in FORMATS.iter().enumerate() {
        let image = format!("disk{number}.{format}");
        convert(&room, format, how, "disk.raw", &image);
        let tool = ["gzip", "xz", "zstd"][number % 3];
        let packed = pack(&room, tool, &image);
        let words = [
            "copy",
            "--no-journal",
            "--scratch",
            "scratch",
            &packed,
            "copied",
        ];
        let copy = room.diskferry(words);
        let told = copy.ok().stderr;
        assert!(told.contains("is unpacked into scratch"), "{told}");
        assert_eq!(fs::metadata(room.path("copied")).unwrap().len(), SIZE);
        assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
        fs::remove_file(room.path("copied")).unwrap();
        let words = [
            "compare",
            "--strict",
            "--scratch",
            "scratch",
            &packed,
            "disk.raw",
        ];
        room.diskferry(words).ok();
        let words = [
            "checksum",
            "--scratch",
            "scratch",
            "-f",
            &format!("{format}.{}", &packed[image.len() + 1..]),
            &packed,
        ];
        let found = room.diskferry(words).ok().stdout;
        let expected = room.diskferry(["checksum", "disk.raw"]).ok().stdout;
        assert_eq!(
            found.split(' ').next(),
            expected.split(' ').next(),
            "{packed}"
        );
        assert_nothing_left(&room.path("scratch"));
    }
}

#[test]
fn it_is_looked_at_mapped_served_and_written_as_another_image() {
    let room = room(22);
    let packed = packed_qcow2(&room);
    let told = room
        .diskferry(["inspect", "--scratch", "scratch", &packed])
        .ok()
        .stdout;
    for part in [
        "disk.qcow2.gz (qcow2)",
        "virtual size 9437696",
        "unpacked:",
        "compat 1.1",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let map = room.diskferry(["map", "--output", "json", "--scratch", "scratch", &packed]);
    let map: Vec<Value> = serde_json::from_str(&map.ok().stdout).unwrap();
    let end = map
        .iter()
        .map(|row| row["length"].as_u64().unwrap())
        .sum::<u64>();
    assert_eq!(end, SIZE);
    assert!(map.iter().any(|row| row["zero"] == true));
    let words = [
        "copy",
        "-O",
        "vhdx",
        "--scratch",
        "scratch",
        &packed,
        "disk.vhdx",
    ];
    room.diskferry(words).ok();
    room.diskferry(["compare", "disk.vhdx", "disk.raw"]).ok();
    // Served, it may as well be one that could be read forward.
    for packed in [packed, pack(&room, "zstd", "disk.raw")] {
        let socket = at(&room, "socket");
        let words = [
            "serve",
            "--once",
            "-k",
            &socket,
            "--scratch",
            "scratch",
            &packed,
        ];
        let server = room.start(words);
        while server.stdout().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        let uri = format!("nbd+unix:///?socket={socket}");
        room.diskferry(["compare", "--strict", &uri, "disk.raw"])
            .ok();
        server.wait().ok();
    }
    assert_nothing_left(&room.path("scratch"));
}

#[test]
fn without_scratch_space_one_line_says_what_helps() {
    let room = room(23);
    let packed = packed_qcow2(&room);
    for words in [
        &["copy", &packed, "copied"][..],
        &["copy", "-O", "vhdx", &packed, "copied"],
        &["checksum", &packed],
        &["inspect", &packed],
        &["map", &packed],
        &["compare", "disk.raw", &packed],
        &["serve", &packed],
    ] {
        let failed = room.diskferry(words.iter().copied());
        failed.fails(
            1,
            &["must be unpacked into scratch space first", "--scratch DIR"],
        );
    }
    assert!(!room.path("copied").exists());
    let words = ["copy", "--scratch", "nowhere", &packed, "copied"];
    room.diskferry(words)
        .fails(1, &["into nowhere", "no such file"]);
    room.diskferry(["copy", "--scratch-limit", "1M", &packed, "copied"])
        .exits(2);
    // What can be read forward takes no scratch space, though it may.
    let raw = pack(&room, "gzip", "disk.raw");
    room.diskferry(["copy", "--scratch", "nowhere", &raw, "copied"])
        .ok();
    assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
}

#[test]
fn a_stream_is_unpacked_too_if_somebody_says_what_it_is() {
    let room = room(24);
    let packed = packed_qcow2(&room);
    for (input, format) in [
        ("disk.qcow2", "qcow2"),
        (&packed, "qcow2.gz"),
        (&packed, "gz"),
    ] {
        let words = [
            "copy",
            "-f",
            format,
            "--scratch",
            "scratch",
            "-",
            "copied",
            "--overwrite",
        ];
        piped(&room, input, &[&words[..], &["--no-journal"]].concat()).ok();
        assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
    }
    let doubted = piped(
        &room,
        "disk.qcow2",
        &["copy", "--scratch", "scratch", "-", "copied"],
    );
    doubted.fails(4, &["-f qcow2"]);
}

#[test]
fn an_image_in_an_archive_that_is_packed_is_unpacked_by_itself() {
    let room = room(25);
    packed_qcow2(&room);
    let image = fs::read(room.path("disk.qcow2")).unwrap();
    let text = ova::descriptor(&[("other.qcow2", 512), ("disk.qcow2", SIZE)]);
    let tar = ova::tar(&[
        ("a.ovf", text.as_bytes()),
        ("other.qcow2", &[7; 70]),
        ("disk.qcow2", &image),
    ]);
    fs::write(room.path("a.ova"), tar).unwrap();
    let packed = pack(&room, "xz", "a.ova");
    let words = [
        "copy",
        "--scratch",
        "scratch",
        "--disk",
        "disk.qcow2",
        &packed,
        "copied",
    ];
    room.diskferry(words).ok();
    assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
    room.diskferry([
        "copy",
        "--scratch",
        "scratch",
        &packed,
        "copied",
        "--overwrite",
    ])
    .fails(2, &["several disks"]);
}

#[test]
fn the_files_beside_a_packed_image_are_its_own_and_no_others_are() {
    let room = room(26);
    fs::create_dir(room.path("vm")).unwrap();
    convert(&room, "qcow2", &[], "disk.raw", "vm/base.qcow2");
    convert(&room, "qcow2", &[], "disk.raw", "outside.qcow2");
    let make = |backing: &str, name: &str| {
        let words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing];
        run(
            "qemu-img",
            words.iter().copied().chain([at(&room, name).as_str()]),
        );
        pack(&room, "zstd", name)
    };
    let packed = make("base.qcow2", "vm/top.qcow2");
    room.diskferry(["compare", "--scratch", "scratch", &packed, "disk.raw"])
        .ok();
    let packed = make("../outside.qcow2", "vm/out.qcow2");
    room.diskferry(["checksum", "--scratch", "scratch", &packed])
        .fails(4, &["outside of the image's own directory"]);
}

#[test]
fn an_image_on_a_server_that_gives_no_parts_is_unpacked_and_its_checksum_counts() {
    let room = room(27);
    let web = Web::with("max_ranges 0;");
    packed_qcow2(&room);
    for name in ["disk.qcow2", "disk.qcow2.gz"] {
        fs::copy(room.path(name), web.file(name)).unwrap();
        let line = run("sha256sum", [web.file(name)]);
        let sum = format!("sha256:{}", line.split(' ').next().unwrap());
        let url = web.url(name);
        let copy = |sum: &str| {
            let words = [
                "copy",
                "--overwrite",
                "--restart",
                "--scratch",
                "scratch",
                &url,
                "copied",
            ];
            room.diskferry(words.iter().copied().chain(["--source-checksum", sum]))
        };
        copy(&sum).ok();
        assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
        fs::remove_file(room.path("copied")).unwrap();
        copy(&format!("sha256:{}", "0".repeat(64))).fails(3, &["checksum mismatch"]);
        assert!(!room.path("copied").exists());
        room.diskferry(["compare", "--scratch", "scratch", &url, "disk.raw"])
            .ok();
        room.diskferry(["inspect", &url])
            .fails(1, &["gives no parts", "--scratch DIR"]);
    }
    assert_nothing_left(&room.path("scratch"));
}

#[test]
fn what_can_only_be_read_forward_is_verified_if_there_is_scratch_space() {
    let room = room(33);
    let packed = pack(&room, "zstd", "disk.raw");
    room.diskferry(["copy", "--verify", &packed, "copied"])
        .fails(1, &["--scratch DIR"]);
    let words = [
        "copy",
        "--verify",
        "--scratch",
        "scratch",
        &packed,
        "copied",
    ];
    let told = room.diskferry(words).ok().stderr;
    assert!(told.contains("proven"), "{told}");
    assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
}
