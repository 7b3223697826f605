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
const KILLS: u32 = 200;

/// Kills within one migration, at most: then it is let go to its end.
const EACH: u32 = 12;

#[test]
fn a_migration_that_is_killed_at_any_moment_ends_right() {
    let wanted = env::var("DISKFERRY_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut rng = Rng::new(u64::from(wanted));
    let mut killed = 0;
    let mut moments: BTreeMap<String, u32> = BTreeMap::new();
    while killed < wanted {
        killed += one(&mut rng, EACH.min(wanted - killed), &mut moments);
    }
    println!("{killed} kills, by step: {moments:?}");
    assert!(moments.len() >= 3, "all in the same steps: {moments:?}");
    // The worst of moments: the VM is down, and not all of it is on the target.
    let down = moments.keys().filter(|moment| moment.starts_with(DOWN));
    assert!(
        down.count() > 0,
        "never between quiet and the last flush: {moments:?}"
    );
}

const DOWN: &str = "quiet, ";

/// Where the last process was.
fn moment(stage: &Stage) -> String {
    let record = stage.record();
    let state = &record["state"];
    let step = state["step"].as_str().unwrap_or("nothing");
    let open = !["after-cutover", "clean", "after-all", "done"].contains(&step);
    let down = if open && !state["quiet"].is_null() {
        DOWN
    } else {
        ""
    };
    let kind = state["kind"]
        .as_str()
        .filter(|_| step == "pass")
        .unwrap_or("");
    format!("{down}{step} {kind}").trim_end().to_owned()
}

/// One migration; how often it was killed.
fn one(rng: &mut Rng, most: u32, moments: &mut BTreeMap<String, u32>) -> u32 {
    let more = "precopy-interval: 100ms\nlimits: {rate: 40M}";
    let mut stage = Stage::new(16 << 20, more);
    let mut killed = 0;
    while killed < most {
        let mut run = stage.migrate();
        let down = stage.record()["state"]["quiet"].is_object();
        let mut left = 20
            + rng.below(match (down, killed % 3) {
                // It comes to the end within a second: not without being killed on the way.
                (true, _) => 150,
                (false, 0) => 3000,
                (false, _) => 400,
            });
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
        *moments.entry(moment(&stage)).or_default() += 1;
        let status = stage.status();
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
