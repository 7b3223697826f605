//! An address that leads to another disk by now, under a pass that was cut short or is complete.

use super::bench::{Bench, block_on, digest};
use crate::error::{Kind, Result};
use crate::job::copy::Outcome;
use crate::job::options::Pass;
use crate::pipeline::Stop;
use crate::report::Event;
use crate::testkit::{Fault, Faults, MemSource, Op};

const BLOCKS: u64 = 40;

fn full() -> Pass {
    Pass::default()
}

fn last() -> Pass {
    Pass {
        is_final: true,
        ..Pass::default()
    }
}

/// Fills the disk with blocks of which none is like another.
fn fill(bench: &Bench, first: u8) {
    for number in 0..BLOCKS {
        bench.fill(number, first.wrapping_add(u8::try_from(number).unwrap()));
    }
}

fn filled() -> Bench {
    let bench = Bench::new(BLOCKS);
    fill(&bench, 1);
    bench
}

/// Another disk at the same address; gives the one that was there.
fn swap(bench: &mut Bench) -> MemSource {
    let before = std::mem::replace(&mut bench.source, MemSource::new(BLOCKS * 65536));
    fill(bench, 101);
    before
}

/// One write after the other, so that all before the one that fails is done.
fn run(bench: &Bench, pass: &Pass, faults: &Faults) -> Result<Outcome> {
    let mut options = bench.options(pass.clone());
    options.tuning.requests = 1;
    block_on(bench.run(&options, None, faults, Stop::never()))
}

/// A pass of which so many writes succeed.
fn cut_after(bench: &Bench, pass: &Pass, writes: u64) {
    let faults = Faults::default();
    faults.on(Op::Write, writes + 1, Fault::Error(Kind::Io));
    run(bench, pass, &faults).unwrap_err();
}

/// Bytes that the last run went on from.
fn resumed(bench: &Bench) -> u64 {
    let events = bench.heard.events();
    let starts = events.iter().rev().filter_map(|event| match event {
        Event::Start { resumed, .. } => Some(*resumed),
        _ => None,
    });
    starts.take(1).sum()
}

#[track_caller]
fn refused_and_nothing_written(bench: &Bench, pass: &Pass) {
    let before = bench.target.bytes();
    let faults = Faults::default();
    let error = run(bench, pass, &faults).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{}", error.line());
    assert!(error.line().contains("--restart"), "{}", error.line());
    assert_eq!(faults.count(Op::Write) + faults.count(Op::Zero), 0);
    assert!(bench.target.bytes() == before, "the target was changed");
}

#[test]
fn a_pass_does_not_go_on_with_another_disk_but_with_its_own() {
    for pass in [full(), last(), digest()] {
        let mut bench = filled();
        if pass != full() {
            bench.pass(full(), None);
            fill(&bench, 61);
        }
        cut_after(&bench, &pass, 20);
        let its_own = swap(&mut bench);
        refused_and_nothing_written(&bench, &pass);
        bench.source = its_own;
        bench.pass(pass.clone(), None);
        assert_eq!(resumed(&bench), 20 * 65536, "{pass:?}");
        bench.assert_same(&format!("{pass:?}"));
    }
}

#[test]
fn a_disk_that_has_not_changed_everywhere_is_still_the_same() {
    let bench = filled();
    cut_after(&bench, &full(), 20);
    (0..16).for_each(|number| bench.fill(number, 200));
    bench.pass(full(), None);
    assert_eq!(resumed(&bench), 20 * 65536);
    assert!(bench.heard.warnings().is_empty());
}

#[test]
fn a_pass_that_has_hardly_begun_begins_anew_with_another_disk() {
    let mut bench = filled();
    cut_after(&bench, &full(), 3);
    swap(&mut bench);
    bench.pass(full(), None);
    assert_eq!(resumed(&bench), 0);
    bench.assert_same("begun anew");
    let warnings = bench.heard.warnings();
    assert!(warnings[0].contains("begins anew"), "{warnings:?}");
}

#[test]
fn what_is_begun_anew_is_not_done_also_if_that_is_cut_short() {
    let mut bench = filled();
    cut_after(&bench, &full(), 3);
    let first = swap(&mut bench);
    let faults = Faults::default();
    faults.on(Op::Write, 3, Fault::Error(Kind::Io));
    faults.during(Op::Flush, 1..=9, Fault::Error(Kind::Io));
    run(&bench, &full(), &faults).unwrap_err();
    bench.source = first;
    bench.pass(full(), None);
    bench.assert_same("with the first disk again");
}

#[test]
fn a_disk_of_which_only_zeroes_are_done_cannot_be_told_from_another() {
    let mut bench = filled();
    (0..10).for_each(|number| bench.fill(number, 0));
    let faults = Faults::default();
    faults.on(Op::Write, 1, Fault::Error(Kind::Io));
    run(&bench, &full(), &faults).unwrap_err();
    swap(&mut bench);
    bench.pass(full(), None);
}

#[test]
fn a_pass_that_is_complete_is_not_complete_for_another_disk() {
    let mut bench = filled();
    bench.pass(full(), None);
    swap(&mut bench);
    refused_and_nothing_written(&bench, &full());
    fill(&bench, 1);
    (0..30).for_each(|number| bench.fill(number, 200));
    bench.pass(full(), None);
}
