//! Servers that start anew, targets that are full or slow, clocks that are set.

use super::trouble::replan;
use super::{Stage, until};
use crate::rig::{LoopDevice, Nbdkit, Proxy, Running, SmallDisk, To, run};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SIZE: u64 = 16 << 20;
const OFTEN: &str = "precopy-interval: 100ms\nretry: 5s\nlimits: {rate: 20M}";

/// Whether it told an event that says something, so far.
fn told(run: &Running, event: &str, part: &str) -> bool {
    let event = format!("\"event\":\"{event}\"");
    let says = |line: &str| line.contains(&event) && line.contains(part);
    run.stdout().lines().any(says)
}

#[test]
fn a_source_whose_server_starts_anew_is_read_whole_and_no_byte_is_missed() {
    let mut stage = Stage::new(SIZE, OFTEN);
    let network = Proxy::new(To::Unix(stage.emulator.nbd()));
    replan(&stage, &stage.emulator.nbd(), &network.socket());
    // In the full pass: what was frozen is gone.
    network.cut_after(3 << 20);
    let run = stage.migrate();
    network.wait_until_cut();
    stage.restart_vm();
    network.mend();
    stage.until_durable(1);
    assert!(
        told(&run, "warning", "another one is made"),
        "{}",
        run.stdout()
    );
    // Between passes, or in one: what was tracked is gone.
    stage.restart_vm();
    until("tracking that was lost", || {
        told(&run, "tracking_lost", "started anew")
    });
    let durable = stage.record()["state"]["durable"].as_u64().unwrap();
    stage.until_durable(durable + 2);
    // In the outage: the guest is back with the server, and so it was not the last of its writes.
    stage.steer("cutover").ok();
    stage.until_wanted();
    network.stall();
    stage.quiet_if_wanted();
    until("a quiet source", || {
        !stage.record()["state"]["quiet"].is_null()
    });
    stage.forget_wanted();
    stage.restart_vm();
    network.mend();
    until("a cutover that is called off", || {
        stage.record()["state"]["called-off"].is_string()
    });
    let durable = stage.record()["state"]["durable"].as_u64().unwrap();
    stage.until_durable(durable + 1);
    stage.steer("cutover").ok();
    stage.finish(run).ok();
    stage.assert_moved();
}

/// A target over NBD in place of disk `data`'s, that is full for as long as a file is there.
fn full_at_will(stage: &Stage) -> (Nbdkit, PathBuf, PathBuf) {
    let (target, full) = (stage.room.path("target"), stage.room.path("full"));
    File::create(&target).unwrap().set_len(SIZE).unwrap();
    let file = format!("file={}", target.display());
    let when = |what: &str| {
        let trigger = full.display();
        format!("error-{what}=ENOSPC error-{what}-rate=100% error-{what}-file={trigger}")
    };
    let words = ["--filter=error", "file", &file].map(str::to_owned);
    let faults = [when("pwrite"), when("zero")].join(" ");
    let server = Nbdkit::new(
        words
            .into_iter()
            .chain(faults.split(' ').map(str::to_owned)),
    );
    stage.replan(stage.devices[1].path().to_str().unwrap(), &server.uri());
    (server, target, full)
}

#[track_caller]
fn assert_full(stage: &Stage, run: Running) {
    let outcome = run.wait().exits(1);
    let message = outcome.event("failed")["message"].to_string();
    assert!(
        message.contains("disk data") && message.contains("o space left"),
        "{message}"
    );
    assert!(stage.status()["stopped"].is_string());
}

#[test]
fn a_target_that_is_full_in_any_pass_stops_it_and_room_lets_it_go_on() {
    let mut stage = Stage::new(SIZE, OFTEN);
    let (_server, target, full) = full_at_will(&stage);
    let run = stage.migrate();
    stage.until_durable(1);
    fs::write(&full, "").unwrap();
    assert_full(&stage, run);
    // Nobody watches how a snapshot grows.
    stage.assert_nothing_held();
    let stopped = stage.status();
    assert_eq!(
        (&stopped["reached"], &stopped["snapshot_stands"]),
        (&"delta".into(), &false.into())
    );
    fs::remove_file(&full).unwrap();
    let run = stage.migrate();
    let durable = stage.record()["state"]["durable"].as_u64().unwrap();
    stage.until_durable(durable + 1);
    stage.steer("cutover").ok();
    stage.until_wanted();
    fs::write(&full, "").unwrap();
    stage.quiet_if_wanted();
    assert_full(&stage, run);
    assert_eq!(stage.record()["pass"]["kind"], "final");
    fs::remove_file(&full).unwrap();
    let run = stage.migrate();
    stage.finish(run).ok();
    stage.assert_same(1, &target);
    stage.assert_clean();
}

/// A loop device takes a write of which its file took a part for a write that was done (Linux 6.18):
/// some of what was written before the pool was full may not be there.
#[test]
fn a_thin_device_whose_pool_is_full_stops_it_and_what_it_lost_is_found_out_and_written_again() {
    let mut stage = Stage::new(SIZE, OFTEN);
    let pool = SmallDisk::new(stage.room.path("pool"), 4);
    let backing = pool.path().join("thin");
    File::create(&backing).unwrap().set_len(SIZE).unwrap();
    let device = LoopDevice::over(&backing, 512);
    replan(&stage, stage.devices[1].path(), device.path());
    let outcome = stage.migrate().wait().exits(1);
    let message = outcome.event("failed")["message"].to_string();
    assert!(message.contains("disk data: write"), "{message}");
    let room = ["-o", "remount,size=64m", pool.path().to_str().unwrap()];
    run("mount", room);
    let again = stage.go_on();
    stage.steer("cutover").ok();
    let mut outcome = stage.finish(again);
    if outcome.code == Some(3) {
        outcome = stage.finish(stage.migrate());
    }
    outcome.ok();
    stage.assert_same(1, &backing);
    stage.assert_clean();
    drop(device);
}

#[test]
fn what_a_target_lost_is_found_out_and_whoever_goes_on_writes_it_again() {
    for prove in ["before-cutover", "at-cutover"] {
        // The guest never comes to the end of its disks.
        let more = format!("precopy-interval: 1h\nprove: {prove}");
        let mut stage = Stage::steady(SIZE, 256 << 10, &more);
        let run = stage.migrate();
        stage.until_durable(1);
        let mut options = OpenOptions::new();
        let target = options.write(true).open(stage.devices[1].path()).unwrap();
        target.write_all_at(&[0x55; 4096], SIZE - 65536).unwrap();
        target.sync_all().unwrap();
        drop(target);
        stage.steer("cutover").ok();
        let outcome = stage.finish(run).exits(3);
        let message = outcome.event("failed")["message"].to_string();
        assert!(
            message.contains("disk data: 1 of 256 blocks differ"),
            "{message}"
        );
        let again = stage.migrate();
        let outcome = stage.finish(again).ok();
        assert_eq!(outcome.event("pass")["pass"], "final");
        stage.assert_moved();
    }
}

#[test]
fn a_target_that_is_slow_is_waited_for_and_named() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 100ms");
    let target = stage.room.path("target");
    File::create(&target).unwrap().set_len(SIZE).unwrap();
    let file = format!("file={}", target.display());
    let words = [
        "--filter=delay",
        "file",
        &file,
        "wdelay=60ms",
        "delay-zero=60ms",
    ];
    let server = Nbdkit::new(words);
    stage.replan(stage.devices[1].path().to_str().unwrap(), &server.uri());
    let run = stage.migrate();
    stage.until_durable(2);
    stage.steer("cutover").ok();
    stage.finish(run).ok();
    stage.assert_same(1, &target);
    stage.assert_clean();
    let passes = stage.status()["passes"].clone();
    assert_eq!(passes[0]["waited-for"], "target", "{passes}");
}

/// A clock of a process, that can be set while it runs: libfaketime. Its waiting is not touched.
struct Clock(PathBuf);

impl Clock {
    const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

    fn new(stage: &Stage) -> Self {
        let clock = Self(stage.room.path("clock"));
        clock.set("+0");
        clock
    }

    /// So much from the real time, from now on.
    fn set(&self, offset: &str) {
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, offset).unwrap();
        fs::rename(fresh, &self.0).unwrap();
    }

    fn migrate(&self, stage: &Stage) -> Running {
        let libraries = Path::new("/usr/lib").read_dir().unwrap();
        let mut libraries = libraries.map(|entry| entry.unwrap().path().join(Self::LIBRARY));
        let library = libraries.find(|path| path.exists());
        let library = library.expect("libfaketime (tests/run peers)");
        stage.migrate_with(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ])
    }
}

/// Points that are durable, soon after.
#[track_caller]
fn goes_on(stage: &Stage) {
    let durable = |record: &Value| record["state"]["durable"].as_u64().unwrap_or(0);
    let before = durable(&stage.record());
    until("two more passes", || durable(&stage.record()) >= before + 2);
}

#[test]
fn a_clock_that_is_set_back_or_ahead_stops_no_pass_and_moves_only_what_was_set_by_it() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 500ms\nretry: 5s");
    let tomorrow = run("date", ["-u", "-d", "+24 hours", "+%FT%TZ"]);
    stage.replan(
        "precopy-interval",
        &format!("cutover: {{at: {}}}\nprecopy-interval", tomorrow.trim()),
    );
    let clock = Clock::new(&stage);
    let run = clock.migrate(&stage);
    goes_on(&stage);
    clock.set("-2d");
    goes_on(&stage);
    let intervals = |stage: &Stage| {
        let passes = stage.record()["passes"].as_array().unwrap().clone();
        let intervals = passes.into_iter().map(|pass| pass["interval"].as_u64());
        intervals.flatten().collect::<Vec<_>>()
    };
    let told = intervals(&stage);
    assert!(told.iter().all(|millis| *millis < 60_000), "{told:?}");
    run.kill();
    // Whoever comes then finds points that are still to come.
    clock.set("-4d");
    let run = clock.migrate(&stage);
    goes_on(&stage);
    assert!(!stage.record()["state"]["cutover"].as_bool().unwrap());
    clock.set("+25h");
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    let outage = outcome.event("migrated")["outage"].as_f64().unwrap();
    assert!(outage < 60.0, "{outage}");
}
