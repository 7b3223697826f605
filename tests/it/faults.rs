//! Peers that fail for a while and peers that fail for good: what is tried again, what fails the
//! copy, and what it costs.

use crate::rig::{Nbdkit, Room, assert_same_bytes, random_disk, run};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Duration;

const SIZE: u64 = 16 << 20;

fn words<'a>(source: &'a str, target: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["copy", "--json", "--request-size", "64k", source, target];
    [&fixed[..], more].concat()
}

fn file(disk: &Path) -> String {
    format!("file={}", disk.display())
}

/// A room with a random disk, and where its copy goes.
fn room() -> (Room, String, String) {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, SIZE, 31);
    let target = room.path("copy").display().to_string();
    let disk = file(&disk);
    (room, disk, target)
}

fn retries(done: &Value) -> u64 {
    done["retries"].as_u64().unwrap()
}

#[test]
fn reads_that_fail_for_a_while_are_repeated_and_that_is_visible() {
    let (room, disk, target) = room();
    let trigger = room.path("trigger");
    File::create(&trigger).unwrap();
    let fails = format!("error-file={}", trigger.display());
    let words_of = [
        "-r",
        "--filter=error",
        "file",
        &disk,
        "error-pread-rate=50%",
        &fails,
    ];
    let server = Nbdkit::new(words_of);
    let uri = server.uri();
    let run = room.start(words(&uri, &target, &[]));
    thread::sleep(Duration::from_millis(700));
    fs::remove_file(&trigger).unwrap();
    let outcome = run.wait().ok();
    assert!(retries(&outcome.event("done")) > 0);
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

#[test]
fn reads_that_fail_for_good_fail_the_copy_which_then_goes_on_from_there() {
    let (room, disk, target) = room();
    let mut server = Nbdkit::new([
        "-r",
        "--filter=error",
        "file",
        &disk,
        "error-pread-rate=100%",
    ]);
    let uri = server.uri();
    let outcome = room
        .diskferry(words(&uri, &target, &["--retry", "1"]))
        .exits(1);
    let message = outcome.event("failed")["message"].to_string();
    assert!(
        message.contains("read") && message.contains("offset 0x"),
        "{message}"
    );
    assert!(
        !room.path("copy").exists(),
        "a part of a disk looks like a disk"
    );
    server.crash();
    server.restart(["-r", "file", &disk]);
    room.diskferry(words(&uri, &target, &[])).ok();
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

#[test]
fn extents_that_fail_cost_speed_only() {
    let (room, disk, target) = room();
    let words_of = [
        "-r",
        "--filter=error",
        "file",
        &disk,
        "error-extents-rate=100%",
    ];
    let server = Nbdkit::new(words_of);
    let outcome = room.diskferry(words(&server.uri(), &target, &[])).ok();
    assert_eq!(outcome.event("done")["read"], SIZE);
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

/// A copy onto an NBD target that fails as `failing` says, then onto one that does not.
fn fails_then_succeeds(failing: &[&str], said: &str) {
    let (room, disk, _) = room();
    let source = Nbdkit::new(["-r", "file", &disk]);
    let bytes = room.path("bytes");
    File::create(&bytes).unwrap().set_len(SIZE).unwrap();
    let plugin = file(&bytes);
    let sound = ["file", &plugin];
    let filter: &[&str] = if failing.is_empty() {
        &[]
    } else {
        &["--filter=error"]
    };
    let mut target = Nbdkit::new([filter, &sound[..], failing].concat());
    let (from, to) = (source.uri(), target.uri());
    let outcome = room
        .diskferry(words(&from, &to, &["--retry", "1"]))
        .exits(1);
    let message = outcome.event("failed")["message"].to_string();
    assert!(message.contains(said), "{message}");
    target.crash();
    target.restart(sound);
    room.diskferry(words(&from, &to, &[])).ok();
    assert_same_bytes(&room.path("disk"), &bytes);
}

#[test]
fn writes_that_fail_for_good_fail_the_copy() {
    fails_then_succeeds(&["error-pwrite-rate=100%"], "write");
}

#[test]
fn a_single_write_that_runs_out_of_space_fails_the_copy() {
    fails_then_succeeds(&["error-pwrite=ENOSPC", "error-pwrite-rate=1%"], "space");
}

#[test]
fn a_flush_that_fails_is_never_success() {
    let (room, disk, _) = room();
    let source = Nbdkit::new(["-r", "file", &disk]);
    let target = Nbdkit::that_loses(SIZE);
    let (from, to) = (source.uri(), target.uri());
    let outcome = room
        .diskferry(words(&from, &to, &["--retry", "1"]))
        .exits(1);
    let message = outcome.event("failed")["message"].to_string();
    assert!(message.contains("flush"), "{message}");
    assert!(
        outcome
            .events()
            .iter()
            .all(|event| event["event"] != "done")
    );
}

#[test]
fn a_server_that_crashes_and_comes_back_is_used_on() {
    let (room, disk, target) = room();
    let mut server = Nbdkit::new(["-r", "file", &disk]);
    let uri = server.uri();
    let copy = room.start(words(&uri, &target, &["--rate", "6M"]));
    thread::sleep(Duration::from_millis(900));
    server.crash();
    thread::sleep(Duration::from_millis(500));
    server.restart(["-r", "file", &disk]);
    let outcome = copy.wait().ok();
    assert!(retries(&outcome.event("done")) > 0);
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

#[test]
fn a_server_that_pauses_is_waited_for_with_a_heartbeat() {
    let (room, disk, target) = room();
    let control = room.path("pause");
    let socket = format!("pause-control={}", control.display());
    let server = Nbdkit::new(["-r", "--filter=pause", "file", &disk, &socket]);
    let copy = room.start(words(&server.uri(), &target, &["--rate", "6M"]));
    thread::sleep(Duration::from_millis(800));
    tell(&control, "p");
    let before = copy.stdout().lines().count();
    thread::sleep(Duration::from_millis(2500));
    let beats = copy.stdout().lines().count() - before;
    tell(&control, "r");
    copy.wait().ok();
    assert!(beats >= 2, "{beats} events in 2.5 seconds of silence");
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

/// Tells the pause filter what to do; it answers when that is done.
fn tell(control: &Path, what: &str) {
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect({:?}); s.send(b'{what}'); \
         print(s.recv(1))",
        control.display().to_string()
    );
    run("python3", ["-c", &script]);
}

#[test]
fn a_slow_server_has_many_requests_under_way_and_each_byte_is_read_once() {
    let (room, disk, target) = room();
    let log = room.path("log");
    let logfile = format!("logfile={}", log.display());
    let filters = ["-r", "--filter=log", "--filter=delay", "file"];
    let settings = [disk.as_str(), "rdelay=20ms", logfile.as_str()];
    let server = Nbdkit::new([&filters[..], &settings[..]].concat());
    room.diskferry(words(&server.uri(), &target, &["-C", "2"]))
        .ok();
    let (mut under_way, mut most, mut reads) = (0, 0, 0);
    for line in fs::read_to_string(&log).unwrap().lines() {
        if line.contains("...Read ") {
            under_way -= 1;
        } else if line.contains(" Read ") {
            under_way += 1;
            reads += 1;
        }
        most = most.max(under_way);
    }
    assert_eq!(reads, SIZE / (64 << 10));
    assert!(most >= 16, "at most {most} reads were under way");
}
