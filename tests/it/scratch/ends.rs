//! How unpacking ends where it does not end well: cut off, killed, without room; and that a copy goes
//! on after it.

use super::{SIZE, assert_nothing_left, pack, packed_qcow2, room};
use crate::formats::{convert, mixed_disk};
use crate::rig::{Rng, Room, Running, Web, assert_same_bytes, random_disk};
use crate::targets::Mounted;
use rustix::fs::{CWD, FileType, Mode, mknodat, statvfs};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

#[test]
fn what_is_cut_off_or_damaged_is_an_error_and_nothing_is_left() {
    let room = room(28);
    for tool in ["gzip", "xz", "zstd"] {
        convert(&room, "qcow2", &[], "disk.raw", "disk.qcow2");
        let bytes = fs::read(room.path(&pack(&room, tool, "disk.qcow2"))).unwrap();
        for end in [bytes.len() / 2, bytes.len() - 1] {
            fs::write(room.path("cut"), &bytes[..end]).unwrap();
            room.diskferry(["copy", "--scratch", "scratch", "cut", "copied"])
                .fails(1, &["cut off"]);
        }
        let mut damaged = bytes;
        let middle = damaged.len() / 2;
        damaged[middle..middle + 8].fill(0x5a);
        fs::write(room.path("damaged"), damaged).unwrap();
        room.diskferry(["copy", "--scratch", "scratch", "damaged", "copied"])
            .fails(1, &["damaged"]);
    }
    assert!(!room.path("copied").exists());
    assert_nothing_left(&room.path("scratch"));
}

/// The files in `dir` that a process has open, by the size of each.
fn open_in(pid: u32, dir: &Path) -> Vec<u64> {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let paths = open.filter_map(|entry| Some(entry.ok()?.path()));
    let there = paths.filter(|path| fs::read_link(path).is_ok_and(|to| to.starts_with(dir)));
    there
        .filter_map(|path| Some(fs::metadata(path).ok()?.blocks()))
        .collect()
}

#[test]
fn a_copy_that_is_killed_while_it_unpacks_leaves_nothing() {
    let room = room(29);
    random_disk(&room.path("disk.raw"), SIZE, 29);
    let bytes = fs::read(room.path(&packed_qcow2(&room))).unwrap();
    let dir = room.path("scratch").canonicalize().unwrap();
    let fifo = room.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let words = ["copy", "-f", "gz", "--scratch", "scratch", "fifo", "copied"];
    for gently in [false, true] {
        let running = room.start(words);
        let mut pipe = File::options().write(true).open(&fifo).unwrap();
        pipe.write_all(&bytes[..bytes.len() / 2]).unwrap();
        while open_in(running.pid(), &dir)
            .iter()
            .all(|blocks| *blocks < 2048)
        {
            thread::sleep(Duration::from_millis(5));
        }
        assert_nothing_left(&dir);
        match gently {
            true => {
                running.signal(rustix::process::Signal::TERM);
                // Whoever waits for the pipe is not waited for.
                running.wait().fails(5, &["stopped by a signal"]);
            }
            false => assert_eq!(running.kill().signal, Some(9)),
        }
        drop(pipe);
        assert_nothing_left(&dir);
        assert!(!room.path("copied").exists());
    }
}

/// A qcow2 that claims to hold what comes after its header, and does.
fn bomb(room: &Room, tool: &str, script: &str) -> String {
    convert(room, "qcow2", &[], "disk.raw", "bomb");
    let script = format!("(cat bomb; {script}) | {tool} -1 > packed");
    let mut shell = Command::new("bash");
    shell.args(["-ec", &script]).current_dir(room.path("."));
    Running::start(shell).wait().ok();
    "packed".to_owned()
}

#[test]
fn a_bomb_ends_before_the_file_system_is_full_and_takes_no_more_than_it_may() {
    let room = room(30);
    let small = Mounted::tmpfs(64 << 20);
    let (dir, text) = (small.path(""), "yes 'a line that is worth nothing'");
    let packed = bomb(&room, "gzip", &format!("{text} | head -c 200M"));
    let shown = dir.display().to_string();
    let mut running = room.start(["copy", "--scratch", &shown, &packed, "copied"]);
    let mut least = u64::MAX;
    while running.is_running() {
        least = least.min(statvfs(&dir).unwrap().f_bavail);
    }
    running
        .wait()
        .fails(1, &["unpack packed into", "no space left on device"]);
    // One in 64 stays free, whatever is under way.
    assert!((256..2000).contains(&least), "{least} blocks were left");
    assert_nothing_left(&dir);
    let words = [
        "copy",
        "--scratch",
        &shown,
        "--scratch-limit",
        "20M",
        &packed,
        "copied",
    ];
    room.diskferry(words)
        .fails(4, &["more than the 20971520 bytes", "--scratch-limit"]);
    // Zeroes take no space, however many there are.
    let packed = bomb(&room, "zstd", "head -c 3G /dev/zero");
    let words = [
        "checksum",
        "--scratch",
        &shown,
        "--scratch-limit",
        "20M",
        &packed,
    ];
    let script = "ulimit -v 1500000; exec \"$@\"";
    let command = room.command(words);
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "-"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(room.path("."));
    Running::start(shell).wait().ok();
    assert!(!room.path("copied").exists());
}

#[test]
fn a_copy_that_was_cut_short_goes_on_after_the_image_is_unpacked_anew() {
    let room = room(31);
    let mut rng = Rng::new(31);
    fs::write(room.path("disk.raw"), rng.bytes(24 << 20)).unwrap();
    let packed = packed_qcow2(&room);
    let web = Web::with("max_ranges 0;");
    fs::copy(room.path(&packed), web.file("disk.qcow2.gz")).unwrap();
    let copy = |source: &str, rate: &str| {
        let words = [
            "copy",
            "--json",
            "--request-size",
            "64k",
            "--memory",
            "4M",
            "--rate",
            rate,
        ];
        room.start(
            words
                .iter()
                .copied()
                .chain(["--scratch", "scratch", source, "copied"]),
        )
    };
    let killed = copy(&packed, "4M");
    let written = |line: &str| {
        let event = serde_json::from_str::<Value>(line).ok()?;
        event["written"].as_u64()
    };
    // Three seconds of it: there were barriers.
    while !killed
        .stdout()
        .lines()
        .filter_map(written)
        .any(|bytes| bytes > 12 << 20)
    {
        thread::sleep(Duration::from_millis(20));
    }
    killed.kill();
    assert_nothing_left(&room.path("scratch"));
    // Wherever it comes from: it is the same image.
    let resumed = copy(&web.url("disk.qcow2.gz"), "1G").wait().ok();
    assert_eq!(resumed.events()[0]["event"], "unpack");
    assert!(resumed.event("start")["resumed"].as_u64().unwrap() > 0);
    assert_same_bytes(&room.path("disk.raw"), &room.path("copied"));
    // And another one is not.
    mixed_disk(&room.path("disk.raw"), 24 << 20, 32);
    let other = packed_qcow2(&room);
    let words = ["copy", "--scratch", "scratch", "--final", &other, "copied"];
    room.diskferry(words).exits(4);
}
