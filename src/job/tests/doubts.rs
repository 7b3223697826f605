//! Trackers that leave out a change.

use super::bench::{Bench, block, block_on, delta};
use crate::error::Kind;
use crate::job::options::CopyOptions;
use crate::pipeline::Stop;
use crate::testkit::{Fault, Faults, MemTracker, Op};

const BLOCKS: u64 = 40;

/// A disk that was copied and changed since in three places, and a tracker that hides some.
fn lied_about(hidden: &[u64]) -> (Bench, MemTracker) {
    let bench = Bench::new(BLOCKS);
    (0..BLOCKS).for_each(|number| bench.fill(number, 7));
    bench.pass(Default::default(), None);
    let tracker = MemTracker::default();
    for number in [3, 9, 30] {
        bench.fill(number, 8);
        tracker.note(block(number));
    }
    hidden
        .iter()
        .for_each(|number| tracker.hide(block(*number)));
    (bench, tracker)
}

fn doubting(bench: &Bench, ppm: u32) -> CopyOptions {
    CopyOptions {
        distrust_ppm: ppm,
        ..bench.options(delta("nbd-bitmap:b"))
    }
}

#[test]
fn a_tracker_that_is_caught_is_believed_no_more_and_all_is_compared() {
    let (bench, tracker) = lied_about(&[30]);
    let options = doubting(&bench, 1_000_000);
    let sound = Faults::default();
    let outcome = block_on(bench.run(&options, Some(&tracker), &sound, Stop::never())).unwrap();
    assert!(outcome.distrusted);
    bench.assert_same("after the pass");
    let warnings = bench.heard.warnings();
    let told = |words| warnings.iter().any(|line| line.contains(words));
    assert!(
        told("offset 0x90000") || told("offset 0x1e0000"),
        "{warnings:?}"
    );
}

#[test]
fn a_change_that_was_left_out_where_disks_are_recognized_makes_no_other_disk_of_it() {
    let (bench, tracker) = lied_about(&[9]);
    let sound = Faults::default();
    let run = |ppm| {
        let options = doubting(&bench, ppm);
        block_on(bench.run(&options, Some(&tracker), &sound, Stop::never()))
    };
    assert_eq!(run(0).unwrap_err().kind(), Kind::Refused);
    assert!(run(1).unwrap().distrusted);
    bench.assert_same("after the pass");

    let (bench, tracker) = lied_about(&[]);
    (0..BLOCKS).for_each(|number| bench.fill(number, 100));
    let options = doubting(&bench, 1_000_000);
    let other = block_on(bench.run(&options, Some(&tracker), &sound, Stop::never()));
    let kind = other.unwrap_err().kind();
    assert_eq!(kind, Kind::Refused, "all differs: another disk");
}

#[test]
fn a_tracker_that_tells_all_is_believed_and_one_that_nobody_doubts_too() {
    let (bench, tracker) = lied_about(&[30]);
    let options = doubting(&bench, 0);
    let sound = Faults::default();
    let outcome = block_on(bench.run(&options, Some(&tracker), &sound, Stop::never())).unwrap();
    assert!(!outcome.distrusted);
    assert_eq!(
        outcome.totals.written,
        2 * 65536,
        "what was left out is not copied"
    );

    let (bench, tracker) = lied_about(&[30]);
    [9, 30]
        .into_iter()
        .for_each(|number| tracker.note(block(number)));
    let options = doubting(&bench, 1_000_000);
    let outcome = block_on(bench.run(&options, Some(&tracker), &sound, Stop::never())).unwrap();
    assert!(!outcome.distrusted);
    assert_eq!(outcome.totals.written, 3 * 65536);
    assert_eq!(bench.heard.warnings(), Vec::<String>::new());
    bench.assert_same("after the pass");
}

#[test]
fn doubt_outlives_a_crash() {
    let (bench, tracker) = lied_about(&[30]);
    let options = doubting(&bench, 1_000_000);
    let faults = Faults::default();
    faults.during(Op::Write, 2..=99, Fault::Error(Kind::Io));
    block_on(bench.run(&options, Some(&tracker), &faults, Stop::never())).unwrap_err();
    bench.target.crash(|_| true);
    // Nobody doubts it now, but what was found out then is not forgotten.
    let options = doubting(&bench, 0);
    let sound = Faults::default();
    let outcome = block_on(bench.run(&options, Some(&tracker), &sound, Stop::never())).unwrap();
    assert!(outcome.distrusted);
    bench.assert_same("after the pass was gone on with");
}
