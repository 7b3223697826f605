//! A server without ranges that hangs up in the middle: what is unpacked, or becomes a new file, begins
//! anew; what is written where something is left of it does not.

use super::{assert_nothing_left, packed_qcow2, room};
use crate::formats::at;
use crate::rig::{LoopDevice, Proxy, Room, To, Web, assert_same_bytes, random_disk};
use std::fs;

const SIZE: u64 = (9 << 20) + 512;

/// A room with an image, a server that gives it in no parts, and a network to it.
fn images(seed: u64) -> (Room, Web, Proxy) {
    let room = room(seed);
    random_disk(&room.path("disk.raw"), SIZE, seed);
    let web = Web::with("max_ranges 0;");
    let packed = packed_qcow2(&room);
    for name in ["disk.raw", "disk.qcow2", &packed] {
        fs::copy(room.path(name), web.file(name)).unwrap();
    }
    let wire = Proxy::tcp(To::Tcp(web.port()));
    (room, web, wire)
}

fn url(wire: &Proxy, name: &str) -> String {
    format!("http://127.0.0.1:{}/{name}", wire.port())
}

#[test]
fn a_server_that_hangs_up_is_asked_anew_until_it_gives_all() {
    let (room, _web, wire) = images(34);
    for (name, journal) in [("disk.qcow2", false), ("disk.qcow2.gz", true)] {
        let before = wire.accepted();
        wire.break_off(2, 3 << 20);
        let from = url(&wire, name);
        let mut words = vec!["copy", "--json", "--scratch", "scratch", &from, "copied"];
        words.extend((!journal).then_some("--no-journal"));
        let copy = room.diskferry(words).ok();
        assert_eq!(wire.accepted() - before, 3);
        assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
        let all = copy.events();
        let told = |name: &str| all.iter().filter(|event| event["event"] == name).count();
        assert_eq!((told("unpack"), told("warning")), (1, 2), "{all:?}");
        for event in all.iter().filter(|event| event["event"] == "warning") {
            let line = event["message"].as_str().unwrap();
            assert!(line.ends_with("; beginning anew"), "{line}");
        }
        // What was told of it is not taken back.
        let unpacked = all.iter().take_while(|event| event["event"] != "start");
        let read: Vec<_> = unpacked
            .filter_map(|event| event["read"].as_u64())
            .collect();
        assert!(read.is_sorted() && !read.is_empty(), "{read:?}");
        fs::remove_file(room.path("copied")).unwrap();
        assert_nothing_left(&room.path("scratch"));
    }
}

#[test]
fn a_server_that_always_hangs_up_is_given_up() {
    let (room, _web, wire) = images(35);
    wire.break_off(u64::MAX, 3 << 20);
    let from = url(&wire, "disk.qcow2");
    for (retry, tries) in [("0", 1..2), ("2", 3..20)] {
        let before = wire.accepted();
        let words = [
            "copy",
            "--retry",
            retry,
            "--scratch",
            "scratch",
            &from,
            "copied",
        ];
        let told = room.diskferry(words).exits(1).stderr;
        let line = told.lines().last().unwrap();
        for part in ["read http://127.0.0.1", "offset", "the answer broke off"] {
            assert!(line.contains(part) && !line.contains("anew"), "{told}");
        }
        let made = wire.accepted() - before;
        assert!(tries.contains(&made), "{made} with {retry}");
        assert!(!room.path("copied").exists());
        assert_nothing_left(&room.path("scratch"));
    }
    // All commands ask anew.
    wire.break_off(1, 3 << 20);
    let before = wire.accepted();
    let words = ["compare", "--scratch", "scratch", &from, "disk.raw"];
    room.diskferry(words).ok();
    assert_eq!(wire.accepted() - before, 2);
}

#[test]
fn what_is_wrong_for_good_is_asked_for_once() {
    let (room, web, wire) = images(36);
    let mut damaged = fs::read(room.path("disk.qcow2.gz")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 8].fill(0x5a);
    fs::write(web.file("damaged"), damaged).unwrap();
    let from = url(&wire, "damaged");
    let words = ["copy", "--scratch", "scratch", &from, "copied"];
    room.diskferry(words).fails(1, &["damaged"]);
    assert_eq!(wire.accepted(), 1);
    let (from, sum) = (
        url(&wire, "disk.qcow2"),
        format!("sha256:{}", "0".repeat(64)),
    );
    let words = [
        "copy",
        "--scratch",
        "scratch",
        "--source-checksum",
        &sum,
        &from,
        "copied",
    ];
    room.diskferry(words).fails(3, &["checksum mismatch"]);
    assert_eq!(wire.accepted(), 2);
}

#[test]
fn what_is_copied_as_it_comes_into_a_new_file_begins_anew_and_what_is_copied_elsewhere_does_not() {
    let (room, _web, wire) = images(37);
    let from = url(&wire, "disk.raw");
    for (more, format) in [(&[][..], "raw"), (&["--no-journal"], "raw"), (&[], "vhdx")] {
        let before = wire.accepted();
        wire.break_off(2, 3 << 20);
        let words = ["copy", "--overwrite", "-O", format, &from, "copied"];
        let told = room.diskferry([&words[..], more].concat()).ok().stderr;
        assert_eq!(told.matches("; beginning anew").count(), 2, "{told}");
        // A new image needs the size first, so all of it is read once more.
        let reads = if format == "raw" { 1 } else { 2 };
        assert_eq!(wire.accepted() - before, 2 + reads);
        room.diskferry(["compare", "--strict", "disk.raw", "copied"])
            .ok();
    }
    fs::remove_file(room.path("copied")).unwrap();
    wire.break_off(u64::MAX, 3 << 20);
    let told = room.diskferry(["copy", "--retry", "2", &from, "copied"]);
    let told = told.exits(1).stderr;
    let last = told.lines().last().unwrap();
    assert!(
        last.contains("the answer broke off") && !last.contains("anew"),
        "{told}"
    );
    assert!(told.matches("; beginning anew").count() >= 2, "{told}");
    assert!(!room.path("copied").exists());
    // What is left there is a part of the disk.
    let device = LoopDevice::new(10 << 20, 512);
    fs::write(room.path("there"), vec![0; 10 << 20]).unwrap();
    for to in [device.path().display().to_string(), at(&room, "there")] {
        let before = wire.accepted();
        let words = ["copy", "--overwrite", "-n", &from, &to];
        room.diskferry(words).fails(1, &["the answer broke off"]);
        assert_eq!(wire.accepted() - before, 1, "{to}");
    }
}

#[test]
fn what_is_only_looked_at_is_asked_for_anew_wherever_it_goes() {
    let (room, _web, wire) = images(38);
    let device = LoopDevice::new(10 << 20, 512);
    let to = device.path().display().to_string();
    wire.break_off(2, 1 << 10);
    room.diskferry(["copy", &url(&wire, "disk.raw"), &to]).ok();
    assert_eq!(wire.accepted(), 3);
    let copied = fs::read(device.path()).unwrap();
    let disk = fs::read(room.path("disk.raw")).unwrap();
    assert!(copied[..disk.len()] == disk);
}
