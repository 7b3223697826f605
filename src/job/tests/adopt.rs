//! A target that somebody else copied: what is read of it, what is written, what can be proven.

use super::bench::{Bench, block, block_on, delta, digest};
use crate::error::{Kind, Result};
use crate::extent::ByteRange;
use crate::job::Outcome;
use crate::job::options::{CopyOptions, Pass};
use crate::journal::Mark;
use crate::pipeline::Stop;
use crate::testkit::{Call, Fault, Faults, MemTarget, MemTracker, Op};
use std::time::Duration;
use tokio::time::timeout;

const BLOCKS: u64 = 32;

/// A disk, and a target that holds what it was before blocks 3, 4 and 20 changed.
fn bench() -> Bench {
    let mut bench = Bench::new(BLOCKS);
    let mut held = vec![0; usize::try_from(BLOCKS * 65536).unwrap()];
    held[..16 * 65536].fill(7);
    bench.target = MemTarget::holding(&held);
    (0..16).for_each(|number| bench.fill(number, 7));
    bench.fill(3, 8);
    bench.fill(4, 0);
    bench.fill(20, 9);
    bench
}

fn adopting(bench: &Bench, pass: Pass) -> CopyOptions {
    CopyOptions {
        adopt: true,
        verify: None,
        ..bench.options(pass)
    }
}

/// Runs a pass that nothing disturbs.
fn run(bench: &Bench, options: &CopyOptions, tracker: Option<&MemTracker>) -> Result<Outcome> {
    let faults = Faults::default();
    block_on(bench.run(options, tracker, &faults, Stop::never()))
}

fn changed(bench: &Bench) -> Vec<ByteRange> {
    let calls = bench.target.calls().into_iter();
    let changes = calls.filter_map(|call| match call {
        Call::Write(range) | Call::Zero(range, _) => Some(range),
        _ => None,
    });
    let mut changes: Vec<_> = changes.collect();
    changes.sort_by_key(|range| range.start);
    changes
}

fn last(pass: Pass) -> Pass {
    Pass {
        is_final: true,
        ..pass
    }
}

#[test]
fn only_what_differs_is_written_and_all_of_it_is_proven() {
    let bench = bench();
    let options = adopting(&bench, last(digest()));
    let outcome = run(&bench, &options, None).unwrap();
    bench.assert_same("after comparing");
    assert_eq!(changed(&bench), [3, 4, 20].map(block));
    assert!(outcome.proven);
    assert_eq!(outcome.totals.verified, BLOCKS * 65536);
    let marks = bench
        .manifest()
        .marks()
        .of(ByteRange::new(0, BLOCKS * 65536));
    assert!(marks.unwrap().iter().all(|mark| *mark == Mark::Proven));
}

#[test]
fn what_a_tracker_tells_is_written_and_the_rest_is_nothing_to_prove() {
    let bench = bench();
    let tracker = MemTracker::default();
    [3, 4, 20]
        .iter()
        .for_each(|number| tracker.note(block(*number)));
    let options = adopting(&bench, last(delta("nbd-bitmap:b")));
    let outcome = run(&bench, &options, Some(&tracker)).unwrap();
    bench.assert_same("after what was told");
    assert!(!outcome.proven);
    let reads = bench.target.calls().into_iter();
    assert_eq!(
        reads.filter(|call| matches!(call, Call::Read(_))).count(),
        0
    );

    let demanded = CopyOptions {
        verify: Some(true),
        ..adopting(&bench, delta("nbd-bitmap:c"))
    };
    assert!(!run(&bench, &demanded, Some(&tracker)).unwrap().proven);
    let demanded = CopyOptions {
        adopt: false,
        ..demanded
    };
    let error = run(&bench, &demanded, Some(&tracker)).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{}", error.line());
    // Compared once, it is as if it was ours.
    bench.fill(9, 1);
    let options = adopting(&bench, last(digest()));
    assert!(run(&bench, &options, None).unwrap().proven);
    bench.assert_same("after comparing");
}

#[test]
fn nobody_adopts_without_being_asked_to_or_a_full_pass() {
    let bench = bench();
    let refused = run(&bench, &bench.options(digest()), None);
    assert_eq!(refused.unwrap_err().kind(), Kind::Refused);
    let options = adopting(&bench, Pass::default());
    run(&bench, &options, None).unwrap();
    let written: u64 = changed(&bench).iter().map(|range| range.len()).sum();
    assert_eq!(written, BLOCKS * 65536, "a full pass writes all");
}

/// What the pass wrote is compared all the same, and a write that the storage lost is found.
#[test]
fn what_was_written_onto_a_copy_of_somebody_elses_is_read_back() {
    let told = [3, 4, 20].map(block);
    for (verify, is_final, compared) in [
        (Some(true), false, 3),
        (None, true, 3),
        (None, false, 0),
        (Some(false), true, 0),
    ] {
        let bench = bench();
        let tracker = MemTracker::default();
        told.iter().for_each(|range| tracker.note(*range));
        let pass = Pass {
            is_final,
            ..delta("nbd-bitmap:b")
        };
        let options = CopyOptions {
            verify,
            ..adopting(&bench, pass)
        };
        let outcome = run(&bench, &options, Some(&tracker)).unwrap();
        assert!(!outcome.proven);
        assert_eq!(outcome.totals.verified, compared * 65536);
    }

    let bench = bench();
    let tracker = MemTracker::default();
    told.iter().for_each(|range| tracker.note(*range));
    let options = CopyOptions {
        verify: Some(true),
        ..adopting(&bench, delta("nbd-bitmap:b"))
    };
    let faults = Faults::default();
    faults.on(Op::Write, 1, Fault::Lie);
    let error = block_on(bench.run(&options, Some(&tracker), &faults, Stop::never())).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{}", error.line());
}

/// Killed while the target is read, and at each write, and the power of the target gone with it.
#[test]
fn a_comparison_that_is_killed_anywhere_goes_on_and_makes_it_right() {
    for (op, most) in [(Op::Read, 8), (Op::Write, 4), (Op::Flush, 3)] {
        for nth in 1..=most {
            let bench = bench();
            let options = adopting(&bench, digest());
            let faults = Faults::default();
            faults.during(op, nth..=u64::MAX, Fault::Stall);
            block_on(async {
                let cut = bench.run(&options, None, &faults, Stop::never());
                let _ = timeout(Duration::from_millis(30), cut).await;
            });
            bench.target.crash(|_| nth % 2 == 0);
            run(&bench, &options, None).unwrap();
            bench.assert_same(&format!("{op:?} {nth}"));
        }
    }
}
