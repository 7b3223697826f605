//! The demo: proves what it says, notices when it is not so, and leaves nothing behind.

use crate::rig::{LoopDevice, Room, Running};
use diskferry::demo::{self, DemoOptions};
use diskferry::error::Kind;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The demo with all its files in `directory`.
fn demo(room: &Room, directory: &Path, words: &[&str]) -> Command {
    let words = [&["demo", "--size=64M"], words].concat();
    let mut command = room.command(words);
    command.env("TMPDIR", directory);
    command
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn the_demo_survives_its_crash_proves_every_byte_and_leaves_nothing() {
    let room = Room::new();
    let directory = tempfile::tempdir().unwrap();
    let outcome = Running::start(demo(&room, directory.path(), &[]))
        .wait()
        .ok();
    for part in [
        "killed with SIGKILL",
        "--changes-since=nbd-bitmap:pass-3 --final",
        "read back and proven",
        "Downtime:",
        "all 64.0 MiB are equal",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
    assert!(is_empty(directory.path()));
}

#[test]
fn the_demo_moves_its_disk_onto_a_block_device() {
    let room = Room::new();
    let directory = tempfile::tempdir().unwrap();
    let device = LoopDevice::new(80 << 20, 4096);
    let path = device.path().to_str().unwrap();
    let outcome = Running::start(demo(&room, directory.path(), &["--target", path]))
        .wait()
        .ok();
    let equal = "all 64.0 MiB are equal";
    assert!(outcome.stdout.contains(equal), "{}", outcome.stdout);
    assert!(is_empty(directory.path()));
}

#[test]
fn a_demo_that_is_stopped_in_the_middle_of_a_pass_leaves_nothing() {
    let room = Room::new();
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(demo(&room, directory.path(), &[]));
    let deadline = Instant::now() + Duration::from_secs(60);
    let started = |text: &str| text.contains("$ diskferry copy");
    while !started(&running.stdout()) {
        assert!(Instant::now() < deadline, "no pass: {}", running.stdout());
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(300));
    assert!(!is_empty(directory.path()));
    running.signal(Signal::TERM);
    running.wait().exits(5);
    assert!(is_empty(directory.path()));
}

/// One byte, changed behind the back of the last pass: the demo must not say that all is well.
#[test]
fn the_demo_notices_a_copy_that_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path().join("work");
    fs::create_dir(&work).unwrap();
    let program = directory.path().join("wrong");
    // Not a shell around every pass: it, and not the pass, would get the SIGKILL.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--final*) ;; *) exec {real} \"$@\" ;; esac\n\
         {real} \"$@\" && printf x | dd of=\"$3\" bs=1 seek=5000 conv=notrunc status=none\n",
        real = env!("CARGO_BIN_EXE_diskferry")
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let options = DemoOptions {
        program,
        size: 64 << 20,
        target: None,
        overwrite: false,
        directory: work.clone(),
        seed: 2,
    };
    let runtime = Runtime::new().unwrap();
    let mut told = String::new();
    let run = runtime.block_on(demo::run(&options, &mut |line| {
        told.push_str(line);
        Ok(())
    }));
    let error = run.unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{error:?}");
    assert_eq!(error.offset(), Some(5000));
    assert!(!told.contains("are equal"), "{told}");
    assert!(is_empty(&work));
}
