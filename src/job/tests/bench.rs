//! A disk in memory that changes, its copy, and passes from one to the other.

use crate::address::Address;
use crate::buffer::{Budget, Buffer};
use crate::digest::{Algorithm, BLOCK};
use crate::endpoint::Identity;
use crate::error::Result;
use crate::extent::ByteRange;
use crate::job::copy::{Job, Outcome, open_manifest};
use crate::job::open::Opened;
use crate::job::options::{
    Baseline, CopyOptions, JournalPlace, Making, Pass, Reading, Tuning, Zeroes,
};
use crate::job::{Context, Shared, prepare};
use crate::journal::{Journal, Manifest};
use crate::pipeline::Stop;
use crate::pipeline::counters::Counters;
use crate::report::{Event, Reporter};
use crate::source::Source;
use crate::target::Target;
use crate::testkit::{Faults, FaultyTarget, MemSource, MemTarget, MemTracker};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tempfile::TempDir;

/// Remembers what was told.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Vec<Event>>);

impl Reporter for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    pub(super) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let warnings = events.iter().filter_map(|event| match event {
            Event::Warning { message } => Some(message.clone()),
            _ => None,
        });
        warnings.collect()
    }
}

/// A disk, its copy and the journal of the passes.
pub(super) struct Bench {
    pub(super) source: MemSource,
    pub(super) target: MemTarget,
    pub(super) heard: Arc<Heard>,
    /// Of its last pass.
    pub(super) counters: Mutex<Arc<Counters>>,
    /// With other benches.
    pub(super) shared: Shared,
    blocks: u64,
    dir: TempDir,
}

pub(super) fn block(number: u64) -> ByteRange {
    ByteRange::at(number * BLOCK, BLOCK)
}

pub(super) fn delta(baseline: &str) -> Pass {
    Pass {
        changes_since: Some(baseline.parse().unwrap()),
        is_final: false,
    }
}

pub(super) fn digest() -> Pass {
    Pass {
        changes_since: Some(Baseline::Digest),
        is_final: false,
    }
}

impl Bench {
    /// A disk of zeroes, and a target that holds something else.
    pub(super) fn new(blocks: u64) -> Self {
        let old = vec![0xaa; usize::try_from(blocks * BLOCK).unwrap()];
        Self {
            source: MemSource::new(blocks * BLOCK),
            target: MemTarget::holding(&old),
            heard: Arc::default(),
            counters: Mutex::default(),
            shared: Shared::default(),
            blocks,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Fills one block of the disk; 0 makes a hole of it.
    pub(super) fn fill(&self, number: u64, byte: u8) {
        match byte {
            0 => self.source.punch(block(number)),
            byte => self.source.put(block(number).start, &vec![byte; 65536]),
        }
    }

    /// Bytes that its last pass has dealt with by now.
    pub(super) fn dealt(&self) -> u64 {
        self.counters.lock().unwrap().snapshot().dealt
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    pub(super) fn manifest(&self) -> Manifest {
        let journal = Journal::open(&self.journal()).unwrap();
        open_manifest(&journal).unwrap()
    }

    pub(super) fn options(&self, pass: Pass) -> CopyOptions {
        CopyOptions {
            source: Address::Null,
            reading: Reading::default(),
            target: Address::Null,
            making: Making::default(),
            pass,
            journal: JournalPlace::Path(self.journal()),
            restart: false,
            adopt: false,
            overwrite: false,
            allow_sector_mismatch: false,
            verify: Some(false),
            distrust_ppm: 0,
            digest: Algorithm::Xxh3,
            tuning: Tuning {
                request_size: Some(65536),
                requests: 4,
                ..Tuning::default()
            },
            zeroes: Zeroes::default(),
        }
    }

    pub(super) fn context(&self, stop: Stop) -> Context {
        let counters = Arc::<Counters>::default();
        *self.counters.lock().unwrap() = counters.clone();
        Context {
            counters,
            shared: self.shared.clone(),
            ..Context::new(self.heard.clone(), stop)
        }
    }

    /// A pass with what the options say, onto a target with faults.
    pub(super) async fn run(
        &self,
        options: &CopyOptions,
        tracker: Option<&MemTracker>,
        faults: &Faults,
        stop: Stop,
    ) -> Result<Outcome> {
        let target = FaultyTarget::new(self.target.clone(), faults.clone());
        self.run_onto(options, tracker, Arc::new(target), stop)
            .await
    }

    /// The same, onto a target of the test's own over ours.
    pub(super) async fn run_onto(
        &self,
        options: &CopyOptions,
        tracker: Option<&MemTracker>,
        target: Arc<dyn Target>,
        stop: Stop,
    ) -> Result<Outcome> {
        let journal = Journal::open(&self.journal())?;
        let opened = Opened {
            source: Arc::new(self.source.clone()),
            tracker: tracker.map(|tracker| Arc::new(tracker.clone()) as _),
            checked: None,
            files: Vec::new(),
        };
        let identity: Identity = self.target.identity();
        let history = journal.history().clone();
        let start = prepare::begin(options, &opened, &identity, Some(&journal), &history)?;
        let job = Job {
            options,
            context: self.context(stop),
            number: prepare::number(&start, &history),
            whole: history.whole || prepare::adopted(&start, &history),
            adopted: prepare::adopted(&start, &history),
            proving: history.proving,
            distrusted: prepare::distrusted(&start, &history),
            seed: 7,
            start,
            journal: Some(Arc::new(Mutex::new(journal))),
            target,
            identity,
            budget: Budget::new(8 << 20, 256),
            opened,
            began: Instant::now(),
        };
        job.run().await
    }

    /// A pass that nothing disturbs.
    pub(super) fn pass(&self, pass: Pass, tracker: Option<&MemTracker>) -> Outcome {
        let options = self.options(pass);
        let faults = Faults::default();
        block_on(self.run(&options, tracker, &faults, Stop::never())).unwrap()
    }

    /// A final pass that proves what is left to be proven; the bytes that it read back.
    pub(super) fn last(&self, changes_since: Option<Baseline>) -> u64 {
        let options = CopyOptions {
            verify: None,
            ..self.options(Pass {
                changes_since,
                is_final: true,
            })
        };
        let faults = Faults::default();
        let run = self.run(&options, None, &faults, Stop::never());
        block_on(run).unwrap().totals.verified
    }

    #[track_caller]
    pub(super) fn assert_same(&self, when: &str) {
        let size = usize::try_from(self.source.size()).unwrap();
        let buffer = Buffer::unbudgeted(size);
        let disk = block_on(self.source.read(0, buffer)).unwrap();
        let copy = self.target.bytes();
        let differs = (0..self.blocks).find(|number| {
            let at = |offset| usize::try_from(offset).unwrap();
            let range = at(block(*number).start)..at(block(*number).end);
            disk[range.clone()] != copy[range]
        });
        assert_eq!(differs, None, "first block that differs, {when}");
    }
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(work)
}
