//! Targets that nobody finds again: streams, nowhere, servers that live as long as the copy. No run
//! knows of another.

use crate::rig::{Outcome, Room, assert_same_bytes, random_disk, run};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: u64 = (4 << 20) + 513;
const USAGE: i32 = 2;
const REFUSED: i32 = 4;

fn room() -> Room {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 71);
    room
}

/// What the program writes to its standard output.
#[track_caller]
fn piped(room: &Room, words: &[&str]) -> Vec<u8> {
    let output = room.command(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    output.stdout
}

fn has_no_journal(room: &Room) {
    let state = room.state().join("diskferry");
    assert!(!state.exists(), "{:?}", fs::read_dir(state).unwrap().next());
}

#[test]
fn standard_output_gets_all_of_the_disk_each_time() {
    let room = room();
    let disk = fs::read(room.path("disk")).unwrap();
    for words in [
        &["copy", "disk", "-"][..],
        &["copy", "disk", "-", "--final"],
    ] {
        for _ in 0..2 {
            assert!(piped(&room, words) == disk, "{words:?}");
        }
    }
    has_no_journal(&room);
}

#[test]
fn standard_output_that_was_cut_short_gets_all_of_the_disk_the_next_time() {
    let room = room();
    let mut command = room.command(["copy", "disk", "-"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let mut head = vec![0; 1 << 20];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut head).unwrap();
    drop(stdout);
    assert!(!child.wait().unwrap().success());
    let disk = fs::read(room.path("disk")).unwrap();
    assert!(piped(&room, &["copy", "disk", "-"]) == disk);
}

#[test]
fn nowhere_takes_one_disk_after_the_other_and_several_at_once() {
    let room = room();
    random_disk(&room.path("other"), SIZE, 72);
    for nowhere in ["null:", "/dev/null"] {
        let slow = ["copy", "disk", nowhere, "--rate", "64k", "--json"];
        let mut long = room.start(slow);
        while !long.stdout().contains("\"start\"") {
            assert!(long.is_running());
            thread::yield_now();
        }
        for source in ["disk", "other", "disk"] {
            room.diskferry(["copy", source, nowhere]).ok();
        }
        long.kill();
    }
    has_no_journal(&room);
}

/// Copies to `pipe` while somebody reads it.
fn into(room: &Room, pipe: &Path, more: &[&str]) -> (Outcome, Vec<u8>) {
    let words = [&["copy", "disk", pipe.to_str().unwrap()], more].concat();
    let reading = thread::spawn({
        let pipe = pipe.to_owned();
        move || {
            let mut bytes = Vec::new();
            File::open(pipe).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        }
    });
    let outcome = room.diskferry(words);
    // Whoever reads waits for somebody who writes.
    drop(File::options().read(true).write(true).open(pipe).unwrap());
    (outcome, reading.join().unwrap())
}

#[test]
fn a_pipe_gets_all_of_the_disk_each_time() {
    let room = room();
    let pipe = room.path("pipe");
    run("mkfifo", [pipe.as_os_str()]);
    let disk = fs::read(room.path("disk")).unwrap();
    for _ in 0..2 {
        let (outcome, bytes) = into(&room, &pipe, &[]);
        outcome.ok();
        assert!(bytes == disk, "{} bytes", bytes.len());
    }
    has_no_journal(&room);
}

#[test]
fn no_journal_helps_a_stream() {
    let room = room();
    let words = ["copy", "disk", "/dev/null", "--journal", "j"];
    room.diskferry(words)
        .fails(USAGE, &["/dev/null is a stream", "leave out --journal"]);
    let words = ["copy", "disk", "-", "--journal", "j"];
    room.diskferry(words).fails(USAGE, &["leave out --journal"]);
    assert!(!room.path("j").exists());
    let words = ["copy", "disk", "-", "--certificate", "c"];
    let outcome = room.diskferry(words);
    assert_eq!(outcome.stdout, "");
    outcome.fails(USAGE, &["certificate", "journal"]);
}

/// `more` around a copy to a server that begins with nothing.
fn to_memory<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["copy", "disk", "[", "nbdkit", "memory", "8M", "]"];
    [&fixed[..], more].concat()
}

#[test]
fn a_server_that_is_started_for_the_copy_gets_all_of_the_disk_and_is_read_back() {
    let room = room();
    random_disk(&room.path("other"), SIZE, 72);
    for more in [&[][..], &["--verify"], &["--final"], &["--verify"]] {
        let proof = if more.is_empty() { "durable" } else { "proven" };
        let outcome = room.diskferry(to_memory(more)).ok();
        assert!(outcome.stderr.contains(proof), "{}", outcome.stderr);
    }
    let other = to_memory(&[]).into_iter();
    let other = other.map(|word| if word == "disk" { "other" } else { word });
    room.diskferry(other).ok();
    has_no_journal(&room);
}

#[test]
fn a_delta_onto_a_server_that_is_started_for_it_needs_a_record_or_a_promise() {
    let room = room();
    File::create(room.path("kept"))
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let server = ["copy", "disk", "[", "nbdkit", "file", "kept", "]"];
    let with = |more: &[&'static str]| room.diskferry([&server[..], more].concat());
    with(&["--changes-since", "digest"]).fails(REFUSED, &["nothing records", "--journal"]);
    with(&["--journal", "j"]).ok();
    random_disk(&room.path("disk"), SIZE, 73);
    with(&["--journal", "j", "--changes-since", "digest"]).ok();
    assert_same_bytes(&room.path("disk"), &room.path("kept"));
    has_no_journal(&room);
}

#[test]
fn a_signal_ends_the_wait_for_whoever_reads_a_pipe_or_writes_into_it() {
    let room = room();
    run("mkfifo", [room.path("pipe").as_os_str()]);
    for words in [["copy", "disk", "pipe"], ["copy", "pipe", "copied"]] {
        let mut running = room.start(words);
        // It waits in there: nothing tells when it began to.
        thread::sleep(Duration::from_millis(300));
        assert!(running.is_running(), "{words:?}");
        let told = Instant::now();
        running.signal(Signal::TERM);
        running.wait().fails(5, &["stopped by a signal"]);
        assert!(told.elapsed() < Duration::from_secs(5), "{words:?}");
    }
}
