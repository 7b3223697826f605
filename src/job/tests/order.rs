//! What is durable before what: a block is marked before it is written, and is known again only
//! after the flush that made it durable.

use super::bench::{Bench, block_on, delta, digest};
use crate::buffer::Buffer;
use crate::digest::BLOCK;
use crate::endpoint::{Identity, Limits};
use crate::error::{Kind, Result};
use crate::extent::ByteRange;
use crate::job::options::Pass;
use crate::journal::{Journal, Mark, Marks};
use crate::pipeline::Stop;
use crate::report::Event;
use crate::target::{Target, Zeroing};
use crate::testkit::{Fault, Faults, MemTarget, MemTracker, Op};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Looks at the marks in the file whenever something is asked of the target.
#[derive(Debug)]
struct Watched {
    inner: MemTarget,
    marks: Marks,
    /// Written, and not flushed since.
    volatile: Mutex<Vec<ByteRange>>,
    looked: AtomicU64,
}

impl Watched {
    fn assert_unsure(&self, range: ByteRange, when: &str) {
        let marks = self.marks.of(range).unwrap();
        let unsure = marks.iter().all(|mark| *mark == Mark::Unsure);
        assert!(unsure, "{range} is not marked {when}: {marks:?}");
        self.looked.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Target for Watched {
    fn capacity(&self) -> Option<u64> {
        self.inner.capacity()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        self.assert_unsure(range, "when it is written");
        self.volatile.lock().unwrap().push(range);
        self.inner.write(offset, data).await
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        self.assert_unsure(range, "when it is zeroed");
        self.volatile.lock().unwrap().push(range);
        self.inner.zero(range, zeroing).await
    }

    async fn flush(&self) -> Result<()> {
        let written = std::mem::take(&mut *self.volatile.lock().unwrap());
        for range in written {
            self.assert_unsure(range, "until it is flushed");
        }
        self.inner.flush().await
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.inner.read_back(offset, buffer).await
    }
}

#[test]
fn no_block_is_written_before_it_is_marked_nor_called_known_before_it_is_flushed() {
    let quiet = Pass {
        is_final: true,
        ..Pass::default()
    };
    for pass in [digest(), delta("nbd-bitmap:b"), quiet] {
        let bench = Bench::new(32);
        bench.pass(Pass::default(), None);
        let changed = MemTracker::default();
        for number in 3..20 {
            bench.fill(number, if number % 5 == 0 { 0 } else { 9 });
        }
        changed.note(ByteRange::new(3 * BLOCK, 20 * BLOCK));
        let target = Arc::new(Watched {
            inner: bench.target.clone(),
            marks: bench.manifest().marks(),
            volatile: Mutex::default(),
            looked: AtomicU64::new(0),
        });
        let tracker = pass.since().is_some_and(|since| since != "digest");
        let tracker = tracker.then_some(&changed);
        let options = bench.options(pass.clone());
        block_on(bench.run_onto(&options, tracker, target.clone(), Stop::never())).unwrap();
        bench.assert_same(&format!("{pass:?}"));
        assert!(target.looked.load(Ordering::Relaxed) > 20, "{pass:?}");
        let marks = target.marks.of(ByteRange::new(0, 32 * BLOCK)).unwrap();
        assert!(marks.iter().all(|mark| *mark == Mark::Known), "{marks:?}");
    }
}

/// How far each barrier of a pass that was told of reached, and what the journal says of the last.
fn barriers(bench: &Bench) -> (Vec<u64>, u64) {
    let told = bench.heard.events().into_iter();
    let positions = told.filter_map(|event| match event {
        Event::Barrier { position, .. } => Some(position),
        _ => None,
    });
    let journal = Journal::open(&bench.journal()).unwrap();
    let last = journal.history().last.as_ref().unwrap();
    (positions.collect(), last.done.below)
}

#[test]
fn a_barrier_is_told_of_when_it_is_recorded_and_not_when_the_flush_failed() {
    let bench = Bench::new(8);
    bench.fill(2, 7);
    bench.pass(Pass::default(), None);
    let (told, recorded) = barriers(&bench);
    assert_eq!(told.last(), Some(&recorded));
    assert_eq!(recorded, 8 * BLOCK);

    let bench = Bench::new(8);
    bench.fill(2, 7);
    let faults = Faults::default();
    faults.during(Op::Flush, 1..=9, Fault::Error(Kind::Io));
    let options = bench.options(Pass::default());
    let failed = block_on(bench.run(&options, None, &faults, Stop::never()));
    assert_eq!(failed.unwrap_err().kind(), Kind::Io);
    assert_eq!(barriers(&bench), (vec![], 0));
}
