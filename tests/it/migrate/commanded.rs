//! Points in time and bitmaps that somebody else makes: a guest of kind `nbd`, behind a command.

use super::{Stage, until};
use crate::rig::{Outcome, uri};
use rustix::process::Signal;
use std::fs;

const SIZE: u64 = 16 << 20;
const COMMAND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest-command");

/// The plan of a stage, with its VM behind a command.
fn behind_a_command(stage: &Stage, bitmap: &str) {
    let text = fs::read_to_string(&stage.plan).unwrap();
    let guest = text
        .lines()
        .find(|line| line.starts_with("guest:"))
        .unwrap();
    let words = format!(
        "guest: {{nbd: {{command: ['{COMMAND}', '{}', '{}', system=disk0, data=disk1, --]{bitmap}}}}}",
        stage.emulator.qmp().display(),
        stage.room.path("scratch").display(),
    );
    let address = |disk: &str| {
        format!(
            "'{}'",
            uri(&stage.emulator.nbd(), &format!("p{{point}}-{disk}"))
        )
    };
    let text = text.replace(guest, &words);
    let text = text.replace("source: disk0", &format!("source: {}", address("system")));
    let text = text.replace("source: disk1", &format!("source: {}", address("data")));
    fs::write(&stage.plan, text).unwrap();
}

/// Of how many bytes the last pass was told that they changed, if it was.
fn changed_at_last(outcome: &Outcome) -> Option<u64> {
    let pass = outcome.event("pass");
    assert_eq!(pass["pass"], "final");
    pass["changed"].as_u64()
}

#[test]
fn bitmaps_that_somebody_else_prepares_are_followed_to_the_end_through_a_crash() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 500ms\nlimits: {rate: 20M}");
    behind_a_command(&stage, ", bitmap: 's{since}'");
    let run = stage.migrate();
    until("a pass", || stage.record()["state"]["step"] == "pass");
    run.kill();
    let run = stage.migrate();
    stage.until_durable(2);
    run.kill();
    let run = stage.go_on();
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    assert!(changed_at_last(&outcome) > Some(0));
    let quiet = stage.status()["quiet"].to_string();
    assert!(quiet.contains("no export is writable"), "{quiet}");
}

#[test]
fn without_a_bitmap_every_pass_reads_everything_and_writes_what_differs() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 500ms");
    behind_a_command(&stage, "");
    let run = stage.migrate();
    stage.until_durable(2);
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    assert_eq!(changed_at_last(&outcome), None);
}

#[test]
fn what_has_changed_between_passes_is_told_by_a_command_that_can_and_else_said_to_be_unknown() {
    for (bitmap, told) in [(", bitmap: 's{since}'", true), ("", false)] {
        let stage = Stage::new(SIZE, "precopy-interval: 1h");
        behind_a_command(&stage, bitmap);
        let run = stage.migrate();
        stage.until_durable(1);
        until("an answer", || {
            let disk = &stage.status()["disks"][0];
            let changed = disk["changed"].as_u64();
            (told && changed > Some(65536)) || (!told && disk["untold"] == true)
        });
        let table = stage.steer("status").ok().stdout;
        assert_eq!(table.contains("not told between passes"), !told, "{table}");
        run.kill();
    }
}

#[test]
fn tracking_that_is_lost_in_every_pass_ends_with_a_final_pass_that_finds_nothing_to_write() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 500ms");
    behind_a_command(&stage, ", bitmap: 'other{since}'");
    let run = stage.migrate();
    stage.until_durable(2);
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    let passes = outcome.events().into_iter();
    let finals = passes.filter(|event| event["event"] == "pass" && event["pass"] == "final");
    assert!((1..=2).contains(&finals.count()), "{}", outcome.stdout);
    let last = stage.record()["passes"].as_array().unwrap().last().cloned();
    let last = last.unwrap();
    for disk in last["disks"].as_array().unwrap() {
        assert_eq!(
            (&disk["written"], &disk["zeroed"]),
            (&0.into(), &0.into()),
            "{last}"
        );
    }
    let table = stage.steer("status").ok().stdout;
    assert!(!table.contains("LOST"), "no pass comes any more: {table}");
}

#[test]
fn a_bitmap_that_is_not_there_is_named_and_whoever_mends_the_plan_goes_on() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 500ms");
    behind_a_command(&stage, ", bitmap: 'other{since}'");
    let run = stage.migrate();
    // All is compared instead: nothing is missed meanwhile.
    stage.until_durable(2);
    run.signal(Signal::TERM);
    let outcome = run.wait().exits(5);
    let why = outcome.event("tracking_lost")["why"].to_string();
    assert!(
        why.contains("no dirty bitmap") && why.contains("other1"),
        "{why}"
    );
    stage.replan("other{since}", "s{since}");
    let run = stage.go_on();
    stage.steer("cutover").ok();
    let outcome = stage.finish(run).ok();
    stage.assert_moved();
    assert!(changed_at_last(&outcome) > Some(0));
}
