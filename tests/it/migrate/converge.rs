//! Writers below, near and above what gets through: what was forecast, and what came.

#![allow(
    clippy::print_stdout,
    reason = "what was measured is part of what the test says"
)]

use super::{Stage, until};
use crate::rig::Outcome;
use serde_json::Value;

const SIZE: u64 = 32 << 20;
/// What gets through, in bytes a second.
const THROUGHPUT: u64 = 16 << 20;

/// A guest that writes this many per cent of what gets through.
fn stage(percent: u64, more: &str) -> Stage {
    let rate = THROUGHPUT * percent / 100;
    Stage::steady(
        SIZE,
        rate,
        &format!("limits: {{rate: {THROUGHPUT}}}\n{more}"),
    )
}

/// Says what was expected of the passes, and what they took. The last one is the final one.
fn judge(stage: &Stage) -> usize {
    let passes = stage.record()["passes"].as_array().unwrap().clone();
    let judged = passes.iter().filter(|pass| !pass["expected"].is_null());
    for pass in judged.clone() {
        let (kind, came) = (&pass["kind"], pass["copying"].as_u64().unwrap());
        let expected = pass["expected"]["copying"].as_u64().unwrap();
        let error = expected.abs_diff(came) * 100 / came.max(1);
        println!("{kind}: forecast {expected} ms, came {came} ms, off by {error} %");
    }
    judged.count()
}

fn say_outage(outcome: &Outcome) {
    let migrated = outcome.event("migrated");
    let (outage, forecast) = (&migrated["outage"], &migrated["expected_outage"]);
    println!("outage {outage} s, forecast {forecast} s");
}

#[test]
fn below_what_gets_through_the_forecast_arms_the_cutover_by_itself() {
    let more = "precopy-interval: 2s\ncutover: {when: {downtime-below: 3s}}";
    let mut stage = stage(25, more);
    let run = stage.migrate();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    assert!(judge(&stage) > 0);
    say_outage(&outcome);
    assert_eq!(stage.status()["advice"], Value::Null);
}

/// So near that it depends on the machine which of the two it is.
#[test]
fn near_what_gets_through_passes_follow_each_other_until_it_fits_or_it_is_said_that_it_will_not() {
    let more = "precopy-interval: 1h\ncutover: {when: {downtime-below: 1500ms}}";
    let mut stage = stage(70, more);
    let mut run = stage.migrate();
    until("a decision", || {
        stage.quiet_if_wanted() || stage.status()["advice"].is_string() || !run.is_running()
    });
    if !stage.quiet_if_wanted() {
        println!("{}", stage.status()["advice"]);
        stage.steer("cutover").ok();
    }
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    assert!(judge(&stage) > 1, "it was cut over after the first delta");
    say_outage(&outcome);
}

#[test]
fn above_what_gets_through_it_says_so_and_keeps_to_the_interval() {
    let more = "precopy-interval: 3s\ncutover: {when: {downtime-below: 1s}}";
    let mut stage = stage(200, more);
    let run = stage.migrate();
    until("advice", || stage.status()["advice"].is_string());
    let status = stage.status();
    let advice = status["advice"].as_str().unwrap();
    println!("{advice}");
    assert!(advice.contains("will not get below"), "{advice}");
    assert!(advice.contains("limits.rate"), "{advice}");
    assert_eq!(status["cutover"], false);
    // By command it is cut over all the same.
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    judge(&stage);
    say_outage(&outcome);
}
