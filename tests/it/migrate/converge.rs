//! Writers below, near and above what gets through: what was forecast, and what came.

#![allow(
    clippy::print_stdout,
    reason = "what was measured is part of what the test says"
)]

use super::{Stage, until};
use serde_json::Value;

const SIZE: u64 = 64 << 20;

/// The passes of a status, with what was expected of them, as lines for the test's output.
fn judged(status: &Value) -> Vec<(u64, u64)> {
    let passes = status["passes"].as_array().unwrap();
    let judged = passes.iter().filter(|pass| !pass["expected"].is_null());
    let pair = |pass: &Value| {
        let expected = pass["expected"]["copying"].as_u64().unwrap();
        (expected, pass["copying"].as_u64().unwrap())
    };
    let pairs: Vec<_> = judged.map(pair).collect();
    for (expected, came) in &pairs {
        let error = expected.abs_diff(*came) * 100 / came.max(&1);
        println!("forecast {expected} ms, came {came} ms, off by {error} %");
    }
    pairs
}

#[test]
fn below_what_gets_through_the_forecast_arms_the_cutover_by_itself() {
    let more = "precopy-interval: 2s\nlimits: {rate: 40M}\n\
                cutover: {when: {downtime-below: 6s}}";
    let mut stage = Stage::new(SIZE, more);
    let run = stage.migrate();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    let migrated = outcome.event("migrated");
    println!(
        "outage {} s, forecast {} s",
        migrated["outage"], migrated["expected_outage"]
    );
    assert!(!judged(&stage.status()).is_empty());
}

#[test]
fn above_what_gets_through_it_says_so_and_keeps_to_the_interval() {
    let more = "precopy-interval: 3s\nlimits: {rate: 2M}\n\
                cutover: {when: {downtime-below: 1s}}";
    let mut stage = Stage::new(8 << 20, more);
    let run = stage.migrate();
    until("advice", || stage.status()["advice"].is_string());
    let status = stage.status();
    let advice = status["advice"].as_str().unwrap();
    assert!(advice.contains("will not get below"), "{advice}");
    assert!(advice.contains("limits.rate"), "{advice}");
    judged(&status);
    assert_eq!(status["cutover"], false);
    // By command it is cut over all the same.
    stage.steer("cutover").ok();
    stage.finish(run).ok();
    stage.assert_moved();
}
