//! The pipeline against endpoints that remember and lose: guarantees 2 and 3.

use diskferry::buffer::Budget;
use diskferry::digest::{Algorithm, BLOCK, Digest};
use diskferry::error::{Error, Kind, Result};
use diskferry::extent::{ByteRange, RangeSet};
use diskferry::pipeline::counters::Counters;
use diskferry::pipeline::{Commit, Ledger, Planned, RequestSize, Setup, Stop, Stopper, run};
use diskferry::plan::{Done, Step};
use diskferry::source::Source;
use diskferry::target::{Target, Zeroing};
use diskferry::testkit::{Call, Fault, Faults, FaultyTarget, MemSource, MemTarget, Op};
use futures_util::stream;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const SIZE: u64 = 64 * BLOCK;

/// Remembers the last barrier, and every digest.
#[derive(Clone, Debug, Default)]
struct Notebook {
    committed: Arc<Mutex<Vec<Done>>>,
    digests: Arc<Mutex<BTreeMap<u64, Digest>>>,
}

impl Ledger for Notebook {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Xxh3
    }

    fn copied(&mut self, offset: u64, digests: &[Digest]) -> Result<()> {
        let blocks = (0..).map(|i: u64| offset + i * BLOCK);
        self.digests
            .lock()
            .unwrap()
            .extend(blocks.zip(digests.iter().copied()));
        Ok(())
    }

    fn zeroed(&mut self, range: ByteRange) -> Result<()> {
        let blocks = (range.start / BLOCK..range.end.div_ceil(BLOCK)).map(|b| b * BLOCK);
        self.digests
            .lock()
            .unwrap()
            .extend(blocks.map(|offset| (offset, Digest::ZERO)));
        Ok(())
    }

    fn is_full(&self) -> bool {
        true // a barrier whenever the one before it has ended: as many orders as possible
    }

    fn checkpoint(&mut self, done: Done) -> Commit {
        let committed = self.committed.clone();
        Box::new(move || {
            committed.lock().unwrap().push(done);
            Ok(())
        })
    }
}

/// Random data with a hole of zeroes that extents do not tell of, and one that they do.
fn disk() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0] | 1
    })
    .take(usize::try_from(SIZE).unwrap())
    .collect();
    bytes[5000..50_000].fill(0);
    bytes[1 << 20..2 << 20].fill(0);
    bytes
}

/// A pass over `SIZE` bytes in short requests.
pub(super) fn setup(source: Arc<dyn Source>, target: Arc<dyn Target>, done: Done) -> Setup {
    Setup {
        source,
        target,
        // A target in memory keeps what was not flushed, and with it the buffers.
        budget: Budget::new(32 << 20, 4096),
        counters: Arc::new(Counters::default()),
        requests: 8,
        request_size: RequestSize::Fixed(2 * 65536),
        grain: BLOCK,
        sparse: 4096,
        zeroing: Zeroing::Unmap,
        reads_zero: false,
        known: None,
        rates: Vec::new(),
        share: None,
        size: SIZE,
        done,
        last: true,
    }
}

/// The plan of a full pass, without what is done.
fn steps(done: &Done) -> Vec<Result<Planned>> {
    let disk = ByteRange::new(0, SIZE);
    let hole = ByteRange::new(1 << 20, 2 << 20);
    let mut steps = Vec::new();
    for gap in done.to_set().gaps(disk) {
        for (range, zero) in [
            (gap.intersect(ByteRange::new(0, hole.start)), false),
            (gap.intersect(hole), true),
            (gap.intersect(ByteRange::new(hole.end, SIZE)), false),
        ] {
            if !range.is_empty() {
                steps.push(if zero {
                    Step::Zero(range)
                } else {
                    Step::Copy(range)
                });
            }
        }
    }
    vec![Ok(Planned {
        window: disk,
        steps,
        skipped: 0,
    })]
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn a_pass_copies_every_byte_and_ends_with_a_flush() {
    let bytes = disk();
    let (source, target) = (MemSource::holding(&bytes), MemTarget::new(SIZE));
    let mut notes = Notebook::default();
    let nothing = Done::default();
    let setup = setup(Arc::new(source), Arc::new(target.clone()), nothing.clone());
    block_on(run(
        setup,
        stream::iter(steps(&nothing)),
        Some(&mut notes),
        Stop::never(),
    ))
    .unwrap();
    assert!(target.bytes() == bytes, "bytes differ");
    assert_eq!(target.calls().last(), Some(&Call::Flush));
    assert_eq!(notes.committed.lock().unwrap().last().unwrap().below, SIZE);
    for (block, (offset, digest)) in bytes.chunks(65536).zip(&*notes.digests.lock().unwrap()) {
        assert_eq!(Algorithm::Xxh3.digest(block), *digest, "block at {offset}");
    }
}

/// Fails some write or zero, loses everything that was not flushed, continues: nothing that a
/// barrier called done may be missing.
fn crash_and_resume(faults: &Faults) -> (Result<()>, bool, bool) {
    let bytes = disk();
    let source: Arc<dyn Source> = Arc::new(MemSource::holding(&bytes));
    let target = MemTarget::holding(&vec![0xaa; bytes.len()]);
    let mut notes = Notebook::default();
    let nothing = Done::default();
    let faulty = FaultyTarget::new(target.clone(), faults.clone());
    let first = setup(source.clone(), Arc::new(faulty), nothing.clone());
    let outcome = block_on(run(
        first,
        stream::iter(steps(&nothing)),
        Some(&mut notes),
        Stop::never(),
    ));
    target.crash(|_| false);
    let done = notes
        .committed
        .lock()
        .unwrap()
        .last()
        .cloned()
        .unwrap_or_default();
    let now = target.bytes();
    let range = |r: ByteRange| usize::try_from(r.start).unwrap()..usize::try_from(r.end).unwrap();
    let kept = done
        .to_set()
        .within(ByteRange::new(0, SIZE))
        .all(|r| now[range(r)] == bytes[range(r)]);
    let second = setup(source, Arc::new(target.clone()), done.clone());
    block_on(run(
        second,
        stream::iter(steps(&done)),
        Some(&mut notes),
        Stop::never(),
    ))
    .unwrap();
    (outcome, kept, target.bytes() == bytes)
}

#[test]
fn whatever_write_fails_what_a_barrier_called_done_survives_and_the_rest_is_copied_again() {
    let mut partly = 0;
    for nth in 1..60 {
        for op in [Op::Write, Op::Zero] {
            let faults = Faults::default();
            faults.on(op, nth, Fault::Error(Kind::Io));
            let (outcome, kept, whole) = crash_and_resume(&faults);
            partly += usize::from(outcome.is_err());
            assert!(kept, "{op:?} {nth}: a barrier named what was not there");
            assert!(whole, "{op:?} {nth}: the resumed copy differs");
        }
    }
    assert!(partly > 10, "hardly any fault was hit: {partly}");
}

#[test]
fn this_test_sees_a_flush_that_lies() {
    let faults = Faults::default();
    faults.during(Op::Flush, 1..=u64::MAX, Fault::Lie);
    let (outcome, kept, whole) = crash_and_resume(&faults);
    assert!(
        outcome.is_ok() && !kept && !whole,
        "the crash loses what a lying flush did not keep"
    );
}

#[test]
fn a_flush_that_fails_fails_the_pass_and_records_nothing() {
    let faults = Faults::default();
    faults.during(Op::Flush, 1..=u64::MAX, Fault::Error(Kind::Io));
    let target = FaultyTarget::new(MemTarget::new(SIZE), faults);
    let mut notes = Notebook::default();
    let nothing = Done::default();
    let setup = setup(
        Arc::new(MemSource::holding(&disk())),
        Arc::new(target),
        nothing.clone(),
    );
    let outcome = block_on(run(
        setup,
        stream::iter(steps(&nothing)),
        Some(&mut notes),
        Stop::never(),
    ));
    assert_eq!(outcome.unwrap_err().kind(), Kind::Io);
    assert!(notes.committed.lock().unwrap().is_empty());
}

#[test]
fn a_stop_ends_within_a_second_even_if_the_target_hangs_and_keeps_what_is_done() {
    let faults = Faults::default();
    faults.during(Op::Write, 20..=u64::MAX, Fault::Stall);
    let target = FaultyTarget::new(MemTarget::new(SIZE), faults);
    let mut notes = Notebook::default();
    let nothing = Done::default();
    let setup = setup(
        Arc::new(MemSource::holding(&disk())),
        Arc::new(target),
        nothing.clone(),
    );
    let (stopper, stop) = Stopper::new();
    let began = std::time::Instant::now();
    let outcome: Result<(), Error> = block_on(async {
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            stopper.stop();
        });
        run(setup, stream::iter(steps(&nothing)), Some(&mut notes), stop).await
    });
    assert_eq!(outcome.unwrap_err().kind(), Kind::Interrupted);
    assert!(
        began.elapsed() < std::time::Duration::from_millis(1100),
        "{:?}",
        began.elapsed()
    );
    let done: RangeSet = notes.committed.lock().unwrap().last().unwrap().to_set();
    assert!(!done.is_empty(), "what had completed was recorded");
}

#[test]
fn a_target_that_reads_zero_is_not_zeroed_and_any_other_is() {
    for reads_zero in [true, false] {
        let bytes = disk();
        let fill = if reads_zero { 0 } else { 0xaa };
        let target = MemTarget::holding(&vec![fill; bytes.len()]);
        let nothing = Done::default();
        let source = Arc::new(MemSource::holding(&bytes));
        let mut setup = setup(source, Arc::new(target.clone()), nothing.clone());
        setup.reads_zero = reads_zero;
        let mut notes = Notebook::default();
        block_on(run(
            setup,
            stream::iter(steps(&nothing)),
            Some(&mut notes),
            Stop::never(),
        ))
        .unwrap();
        let zeroes = target
            .calls()
            .iter()
            .filter(|call| matches!(call, Call::Zero(..)))
            .count();
        assert_eq!(zeroes > 0, !reads_zero);
        assert!(target.bytes() == bytes, "bytes differ");
    }
}
