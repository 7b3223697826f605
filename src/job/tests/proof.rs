//! Proofs: what is read back, what need not be, and what a write takes away.

use super::bench::{Bench, block, block_on, digest};
use crate::error::{Kind, Result};
use crate::extent::ByteRange;
use crate::job::copy::Outcome;
use crate::job::options::{Baseline, Pass};
use crate::journal::{Journal, Mark};
use crate::pipeline::Stop;
use crate::target::Target;
use crate::testkit::{Fault, Faults, Op};

const BLOCKS: u64 = 40;

/// A disk, copied.
fn copied() -> Bench {
    let bench = Bench::new(BLOCKS);
    (0..BLOCKS).for_each(|number| bench.fill(number, 7));
    bench.pass(Pass::default(), None);
    bench
}

fn marks(bench: &Bench) -> Vec<Mark> {
    let disk = ByteRange::new(0, BLOCKS * 65536);
    bench.manifest().marks().of(disk).unwrap()
}

/// Changes a block of the target, behind our back.
fn change(bench: &Bench, number: u64, byte: u8) {
    let bytes = vec![byte; 65536];
    block_on(bench.target.write(block(number).start, bytes.into())).unwrap();
}

/// A pass with a proof of everything: how it ends, and the bytes that it read back.
fn proof(bench: &Bench, pass: Pass, faults: &Faults) -> (Result<Outcome>, u64) {
    let mut options = bench.options(pass);
    options.verify = Some(true);
    let outcome = block_on(bench.run(&options, None, faults, Stop::never()));
    let verified = bench.counters.lock().unwrap().snapshot().verified;
    (outcome, verified)
}

#[test]
fn a_final_pass_reads_back_only_what_was_not_proven_since_it_was_written() {
    let bench = copied();
    assert_eq!(bench.last(Some(Baseline::Digest)), BLOCKS * 65536);
    bench.fill(3, 8);
    bench.fill(9, 0);
    bench.pass(digest(), None);
    assert_eq!(bench.last(Some(Baseline::Digest)), 2 * 65536);
    assert!(marks(&bench).iter().all(|mark| *mark == Mark::Proven));
    // Without a baseline all is written, and so all is to be proven again.
    assert_eq!(bench.last(None), BLOCKS * 65536);
}

#[test]
fn a_write_that_never_ended_takes_the_proof_of_its_block_with_it() {
    let bench = copied();
    bench.last(Some(Baseline::Digest));
    bench.fill(5, 9);
    let faults = Faults::default();
    faults.during(Op::Write, 1..=9, Fault::Error(Kind::Io));
    let options = bench.options(digest());
    block_on(bench.run(&options, None, &faults, Stop::never())).unwrap_err();
    let found = marks(&bench);
    assert_eq!(found[5], Mark::Unsure);
    assert_eq!(
        found.iter().filter(|mark| **mark == Mark::Proven).count(),
        39
    );
    assert_eq!(bench.last(Some(Baseline::Digest)), 65536);
}

#[test]
fn a_proof_that_is_cut_short_goes_on_where_it_was() {
    let bench = copied();
    let mut options = bench.options(Pass {
        changes_since: Some(Baseline::Digest),
        is_final: true,
    });
    options.verify = None;
    options.tuning.requests = 1;
    let faults = Faults::default();
    // Reads of 1 MiB, of 16 blocks; some are samples of a few blocks before the pass.
    faults.during(Op::ReadBack, 18..=99, Fault::Error(Kind::Io));
    block_on(bench.run(&options, None, &faults, Stop::never())).unwrap_err();
    let proven = marks(&bench)
        .iter()
        .filter(|mark| **mark == Mark::Proven)
        .count();
    assert_eq!(proven, 16, "one read of the proof was to succeed");
    let sound = Faults::default();
    let outcome = block_on(bench.run(&options, None, &sound, Stop::never())).unwrap();
    assert_eq!(outcome.totals.verified, (BLOCKS - 16) * 65536);
    assert!(outcome.proven);
}

#[test]
fn a_block_that_differs_is_written_again_by_the_next_pass_by_digests() {
    let bench = copied();
    let faults = Faults::default();
    faults.on(Op::ReadBack, 17, Fault::Lie);
    let mut options = bench.options(digest());
    options.verify = Some(true);
    let error = block_on(bench.run(&options, None, &faults, Stop::never())).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch);
    assert_eq!(
        marks(&bench)[8],
        Mark::Unsure,
        "the middle of the first read"
    );
    let again = Pass {
        changes_since: Some(Baseline::Digest),
        is_final: true,
    };
    let outcome = bench.pass(again, None);
    assert_eq!(outcome.totals.written, 65536);
    assert_eq!(
        bench.manifest().marks().of(block(8)).unwrap(),
        [Mark::Known]
    );
}

#[test]
fn a_proof_that_was_asked_for_covers_everything_again() {
    let bench = copied();
    bench.last(Some(Baseline::Digest));
    let mut options = bench.options(digest());
    options.verify = Some(true);
    let sound = Faults::default();
    let outcome = block_on(bench.run(&options, None, &sound, Stop::never())).unwrap();
    assert_eq!(outcome.totals.verified, BLOCKS * 65536);
}

#[test]
fn a_pass_that_was_complete_is_proven_anew_each_time_it_is_run() {
    let bench = copied();
    for _ in 0..3 {
        let again = bench.pass(Pass::default(), None);
        assert!(again.proven);
        assert_eq!(again.totals.verified, BLOCKS * 65536);
    }
    let faults = Faults::default();
    faults.on(Op::ReadBack, 1, Fault::Lie);
    let options = bench.options(Pass::default());
    let error = block_on(bench.run(&options, None, &faults, Stop::never())).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch);
}

#[test]
fn a_proof_that_found_a_difference_has_ended_and_the_next_one_reads_everything() {
    let (bench, sound) = (copied(), Faults::default());
    assert!(proof(&bench, Pass::default(), &sound).0.unwrap().proven);
    change(&bench, 8, 99);
    let (outcome, _) = proof(&bench, Pass::default(), &sound);
    assert_eq!(outcome.unwrap_err().kind(), Kind::Mismatch);
    let journal = Journal::open(&bench.journal()).unwrap();
    let last = journal.history().last.clone().unwrap();
    assert!(!last.proven, "it was, and is not any more");
    drop(journal);

    // What was found to be right is damaged, and the other one is as it must be again.
    change(&bench, 30, 99);
    change(&bench, 8, 7);
    let (outcome, verified) = proof(&bench, Pass::default(), &sound);
    assert_eq!(outcome.unwrap_err().kind(), Kind::Mismatch);
    assert_eq!(verified, BLOCKS * 65536);
    let found = marks(&bench);
    assert_eq!((found[8], found[30]), (Mark::Proven, Mark::Unsure));
}

#[test]
fn a_pass_whose_proof_found_a_difference_writes_it_again_when_it_is_run_again() {
    for pass in [Pass::default(), digest()] {
        let bench = Bench::new(BLOCKS);
        (0..BLOCKS).for_each(|number| bench.fill(number, 7));
        if pass != Pass::default() {
            bench.pass(Pass::default(), None);
            bench.fill(3, 8);
            bench.fill(9, 8);
        }
        let (sound, loses) = (Faults::default(), Faults::default());
        loses.on(Op::Write, 2, Fault::Lie);
        let (outcome, _) = proof(&bench, pass.clone(), &loses);
        assert_eq!(outcome.unwrap_err().kind(), Kind::Mismatch);
        let (outcome, verified) = proof(&bench, pass.clone(), &sound);
        assert!(outcome.unwrap().proven, "{pass:?}");
        assert_eq!(verified, BLOCKS * 65536);
        bench.assert_same(&format!("{pass:?}"));
    }
}
