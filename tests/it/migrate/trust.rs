//! Trackers that leave out changes, or have none to tell any more: what is compared instead.

use super::{Stage, until};
use crate::rig::Outcome;
use serde_json::{Value, json};

const SIZE: u64 = 128 << 20;

/// Blocks that changed before their changes are made away with; the writers have not come by them
/// all again by the next pass.
const CHANGED: u64 = 20 * 65536;

/// The bitmaps of a node.
fn bitmaps(stage: &mut Stage, node: &str) -> Vec<Value> {
    let nodes = stage
        .emulator
        .ask("query-named-block-nodes", &json!({"flat": true}));
    let nodes = nodes.as_array().unwrap().clone();
    let found = nodes.into_iter().find(|found| found["node-name"] == node);
    let found = found.unwrap()["dirty-bitmaps"].clone();
    found.as_array().cloned().unwrap_or_default()
}

/// Does something to the bitmap of `node` between two passes, once it has something to tell.
/// Gives the point of the pass that comes by it.
#[track_caller]
fn meddle(stage: &mut Stage, node: &str, command: &str) -> u64 {
    stage.steer("hold").ok();
    until("hold", || stage.status()["phase"] == "hold");
    let next = stage.status()["durable"].as_u64().unwrap() + 1;
    let mut name = Value::Null;
    until("changes", || {
        let found = bitmaps(stage, node);
        let found = found.iter().find(|bitmap| {
            bitmap["recording"] == true
                && bitmap["busy"] == false
                && bitmap["count"].as_u64().unwrap() >= CHANGED
        });
        name = found.map_or(Value::Null, |bitmap| bitmap["name"].clone());
        name.is_string()
    });
    stage
        .emulator
        .ask(command, &json!({"node": node, "name": name}));
    stage.steer("resume").ok();
    next
}

/// What was told of lost tracking.
fn lost(outcome: &Outcome) -> Vec<Value> {
    let events = outcome.events().into_iter();
    events
        .filter(|event| event["event"] == "tracking_lost")
        .collect()
}

/// The one time that tracking was lost, of the first disk.
#[track_caller]
fn lost_once(outcome: &Outcome, for_good: bool) -> Value {
    let mut lost = lost(outcome);
    assert_eq!(lost.len(), 1, "told once: {lost:?}");
    let lost = lost.remove(0);
    assert_eq!(
        (&lost["disk"], &lost["for_good"]),
        (&json!("system"), &json!(for_good))
    );
    lost
}

/// What a disk's tracker told in the last passes, from `point` on; there is one at least.
#[track_caller]
fn told(status: &Value, disk: usize, point: u64) -> Vec<Value> {
    let told: Vec<_> = passes(status, point)
        .map(|pass| pass["disks"][disk]["changed"].clone())
        .collect();
    assert!(!told.is_empty(), "no pass since {point}: {status}");
    told
}

/// The last passes, from `point` on.
fn passes(status: &Value, point: u64) -> impl Iterator<Item = &Value> {
    let passes = status["passes"].as_array().unwrap().iter();
    passes.filter(move |pass| pass["point"].as_u64() >= Some(point))
}

#[test]
fn a_bitmap_that_was_cleared_is_caught_and_its_disk_is_compared_in_every_later_pass() {
    let more = "precopy-interval: 4s\ndistrust-tracking: 100%";
    let mut stage = Stage::new(SIZE, more);
    let run = stage.migrate();
    stage.until_durable(1);
    let met = meddle(&mut stage, "disk0", "block-dirty-bitmap-clear");
    stage.until_durable(met + 1);
    let status = stage.status();
    let untracked = &status["disks"][0]["untracked"];
    assert_eq!(untracked["for-good"], true, "{status}");
    assert_eq!(status["disks"][1]["untracked"], Value::Null, "{status}");
    let table = stage.steer("status").ok().stdout;
    assert!(table.contains("LOST of system"), "{table}");
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    let lost = lost_once(&outcome, true);
    let why = lost["why"].as_str().unwrap();
    assert!(why.contains("left out a change at offset 0x"), "{why}");
    let status = stage.status();
    let (system, data) = (told(&status, 0, met + 1), told(&status, 1, met));
    assert!(system.iter().all(Value::is_null), "{system:?}");
    assert!(data.iter().all(Value::is_u64), "{data:?}");
}

#[test]
fn a_bitmap_that_was_removed_costs_one_pass_that_compares_and_tracking_goes_on() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 2s");
    let run = stage.migrate();
    stage.until_durable(1);
    let met = meddle(&mut stage, "disk0", "block-dirty-bitmap-remove");
    stage.until_durable(met + 1);
    let status = stage.status();
    assert_eq!(status["disks"][0]["untracked"], Value::Null);
    let pass = passes(&status, met).next().unwrap();
    assert_eq!(pass["point"], met);
    let pass = &pass["disks"][0];
    assert_eq!(pass["changed"], Value::Null, "tracked: {pass}");
    let written = pass["written"].as_u64().unwrap();
    assert!(written < SIZE / 2, "all was written again: {pass}");
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    lost_once(&outcome, false);
    let later = told(&stage.status(), 0, met + 1);
    assert!(later.iter().all(Value::is_u64), "{later:?}");
}

#[test]
fn a_vm_whose_process_was_started_anew_is_compared_and_not_copied_from_the_beginning() {
    let mut stage = Stage::new(
        SIZE,
        "precopy-interval: 1s\nretry: 30s\nlimits: {rate: 64M}",
    );
    let run = stage.migrate();
    stage.until_durable(1);
    for moment in ["wait", "delta"] {
        until(moment, || stage.status()["phase"] == moment);
        stage.restart_vm();
        let durable = stage.status()["durable"].as_u64().unwrap();
        stage.until_durable(durable + 2);
    }
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    let lost = lost(&outcome);
    let why = |lost: &Value| lost["why"].as_str().unwrap().contains("started anew");
    assert!(lost.len() >= 4 && lost.iter().all(why), "{lost:?}");
    let passes = outcome
        .events()
        .into_iter()
        .filter(|event| event["event"] == "pass");
    let full = passes.filter(|pass| pass["pass"] == "full").count();
    assert_eq!(full, 1, "it was copied from the beginning");
}
