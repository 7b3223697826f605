//! What all disks of the VM share, and what changes while a pass runs.

use super::{Stage, until};
use diskferry::migrate::plan::HourOfDay;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SIZE: u64 = 16 << 20;

/// The clock on the wall, so many seconds from now.
fn clock(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    HourOfDay::at(now.as_secs() + seconds).to_string()
}

#[test]
fn a_window_that_opens_in_the_middle_of_a_pass_takes_effect_then() {
    let (from, to) = (clock(6), clock(7200));
    // A byte per second: without the window it takes a year.
    let limits = format!("limits: {{rate: 1, windows: [{{from: '{from}', to: '{to}', rate: 0}}]}}");
    let mut stage = Stage::new(SIZE, &format!("precopy-interval: 1s\n{limits}"));
    let run = stage.migrate();
    until("a pass", || stage.status()["phase"] == "full");
    sleep(Duration::from_secs(1));
    let status = stage.status();
    if clock(0) < from {
        let read = |disk: usize| status["disks"][disk]["read"].as_u64().unwrap();
        // One request of any size may go before the first is paid for.
        assert!(read(0) + read(1) <= 2 << 20, "{status}");
        assert_eq!(status["phase"], "full");
    }
    stage.until_durable(2);
    stage.steer("cutover").ok();
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn what_has_changed_since_the_last_point_is_told_before_there_is_a_second_pass() {
    let stage = Stage::new(SIZE, "precopy-interval: 1h");
    let run = stage.migrate();
    stage.until_durable(1);
    until("changes", || {
        let status = stage.status();
        let changed = |disk: usize| status["disks"][disk]["changed"].as_u64().unwrap_or(0);
        let outage = &status["forecast"]["outage"]["millis"];
        changed(0) > 65536 && changed(1) > 65536 && outage.as_u64().is_some_and(|time| time > 0)
    });
    assert_eq!(stage.status()["point"], 1, "another pass was needed for it");
    run.kill();
}
