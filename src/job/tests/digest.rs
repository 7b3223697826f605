//! A pass by digests: what it reads, what it writes, what it leaves alone.

use super::bench::{Bench, block, block_on, digest};
use crate::error::Kind;
use crate::extent::ByteRange;
use crate::job::open::Opened;
use crate::job::options::{JournalPlace, Pass};
use crate::job::prepare;
use crate::journal::{History, Mark};
use crate::pipeline::Stop;
use crate::target::Target;
use crate::testkit::{Call, Faults};
use std::sync::Arc;

/// A disk of which half is data, copied.
fn copied() -> Bench {
    let bench = Bench::new(32);
    for number in 0..16 {
        bench.fill(number, 7);
    }
    bench.pass(Pass::default(), None);
    bench.assert_same("after the full pass");
    bench
}

#[test]
fn only_what_differs_is_written_and_what_is_zero_on_both_sides_is_not_even_read() {
    let bench = copied();
    bench.fill(3, 8);
    bench.fill(4, 0);
    bench.fill(20, 9);
    let before = bench.target.calls().len();
    let reads = bench.source.calls().len();
    let outcome = bench.pass(digest(), None);
    bench.assert_same("after the pass by digests");

    let changes: Vec<_> = bench.target.calls().split_off(before);
    let written: Vec<_> = changes
        .iter()
        .filter_map(|call| match call {
            Call::Write(range) | Call::Zero(range, _) => Some(*range),
            _ => None,
        })
        .collect();
    assert_eq!(written.len(), 3, "{written:?}");
    assert!(
        [3, 4, 20]
            .iter()
            .all(|number| written.contains(&block(*number)))
    );
    let read = |call: &Call| matches!(call, Call::Read(range) if range.start >= 21 * 65536);
    assert!(
        !bench.source.calls()[reads..].iter().any(read),
        "zeroes were read"
    );

    let totals = outcome.totals;
    let expected = [16, 2, 1, 29].map(|blocks| blocks * 65536);
    let found = [totals.read, totals.written, totals.zeroed, totals.skipped];
    assert_eq!(found, expected, "read, written, zeroed, skipped");
}

#[test]
fn a_block_that_is_not_sure_is_written_though_its_digest_fits() {
    let bench = copied();
    let marks = bench.manifest().marks();
    marks.put(block(5), Mark::Unsure).unwrap();
    marks.put(block(25), Mark::Unsure).unwrap();
    let outcome = bench.pass(digest(), None);
    let found = (outcome.totals.written, outcome.totals.zeroed);
    assert_eq!(found, (65536, 65536));
    let left = bench
        .manifest()
        .marks()
        .of(ByteRange::new(0, 32 * 65536))
        .unwrap();
    assert!(left.iter().all(|mark| *mark == Mark::Known), "{left:?}");
}

#[test]
fn it_needs_a_whole_disk_under_it_and_the_journal_that_says_so() {
    let bench = Bench::new(4);
    let run = |options| {
        let faults = Faults::default();
        let run = bench.run(&options, None, &faults, Stop::never());
        block_on(run).unwrap_err()
    };
    let error = run(bench.options(digest()));
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.line().contains("no complete pass"),
        "{}",
        error.line()
    );
    bench.pass(Pass::default(), None);
    let mut options = bench.options(digest());
    options.journal = JournalPlace::None;
    let opened = Opened {
        source: Arc::new(bench.source.clone()),
        tracker: None,
        checked: None,
        files: Vec::new(),
    };
    let target = bench.target.identity();
    let history = History::default();
    let error = prepare::begin(&options, &opened, &target, None, &history).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("journal"), "{}", error.line());
}
