//! Killed at any moment, again and again: what comes out is right, and nothing is left behind.

#![allow(
    clippy::print_stdout,
    reason = "what was measured is part of what the test says"
)]

use super::Stage;
use crate::rig::Rng;
use std::collections::BTreeMap;
use std::env;
use std::thread;
use std::time::Duration;

/// How often the process is killed; `DISKFERRY_KILLS` says otherwise.
const KILLS: u32 = 40;

/// Kills within one migration, at most: then it is let go to its end.
const EACH: u32 = 12;

#[test]
fn a_migration_that_is_killed_at_any_moment_ends_right() {
    let wanted = env::var("DISKFERRY_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut rng = Rng::new(u64::from(wanted));
    let mut killed = 0;
    let mut phases: BTreeMap<String, u32> = BTreeMap::new();
    while killed < wanted {
        killed += one(&mut rng, EACH.min(wanted - killed), &mut phases);
    }
    println!("{killed} kills, by phase: {phases:?}");
    assert!(phases.len() >= 3, "all in the same phases: {phases:?}");
}

/// One migration; how often it was killed.
fn one(rng: &mut Rng, most: u32, phases: &mut BTreeMap<String, u32>) -> u32 {
    let more = "precopy-interval: 100ms\nlimits: {rate: 40M}";
    let mut stage = Stage::new(16 << 20, more);
    let mut killed = 0;
    while killed < most {
        let mut run = stage.migrate();
        let mut left = 20 + rng.below(if killed % 3 == 0 { 3000 } else { 400 });
        while left > 0 && run.is_running() {
            stage.quiet_if_wanted();
            let nap = left.min(5);
            thread::sleep(Duration::from_millis(nap));
            left -= nap;
        }
        if !run.is_running() {
            run.wait().ok();
            break;
        }
        run.kill();
        killed += 1;
        let status = stage.status();
        let phase = status["phase"].as_str().unwrap_or("nothing").to_owned();
        *phases.entry(phase).or_default() += 1;
        if status["durable"].as_u64().unwrap_or(0) >= 2 && status["cutover"] != true {
            // Nobody drives: it is recorded, unless it has begun already.
            stage.steer("cutover");
        }
    }
    let run = stage.migrate();
    if stage.status()["cutover"] != true {
        stage.until_durable(1);
        // Refused if it is over by now.
        stage.steer("cutover");
    }
    stage.finish(run).ok();
    stage.assert_moved();
    killed
}
