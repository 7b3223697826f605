//! Jobs that share requests, memory and bytes per second.

use super::bench::{Bench, block_on, delta};
use crate::job::Shared;
use crate::job::options::{Baseline, CopyOptions, Pass};
use crate::pipeline::{RateLimit, Stop, Team};
use crate::testkit::{Faults, MemTracker};
use futures_util::future::join;
use std::time::{Duration, Instant};

const RATE: u64 = 4 << 20;

fn bench(blocks: u64, shared: &Shared) -> Bench {
    let mut bench = Bench::new(blocks);
    (0..blocks).for_each(|number| bench.fill(number, 7));
    bench.shared = shared.clone();
    bench
}

fn options(bench: &Bench) -> CopyOptions {
    let mut options = bench.options(Pass::default());
    options.tuning.requests = 16;
    options
}

/// Copies a large disk and a small one at once; how much of the large one was done, in per cent, when
/// the small one had ended.
fn together(shared: &Shared, large: u64, small: u64) -> u64 {
    let (large, small) = (bench(large, shared), bench(small, shared));
    let sound = Faults::default();
    let (a, b) = (options(&large), options(&small));
    let mut done = 0;
    block_on(async {
        let first = large.run(&a, None, &sound, Stop::never());
        let second = async {
            small.run(&b, None, &sound, Stop::never()).await.unwrap();
            done = large.dealt();
        };
        join(first, second).await.0.unwrap();
    });
    large.assert_same("the large one");
    small.assert_same("the small one");
    done * 100 / large.dealt()
}

#[test]
fn disks_of_unequal_size_end_together_and_keep_to_one_rate() {
    let shared = Shared {
        rates: vec![RateLimit::new(Some(RATE))],
        team: Some(Team::new(16)),
        ..Shared::default()
    };
    let began = Instant::now();
    let done = together(&shared, 128, 32);
    assert!(done >= 75, "only {done} % of the large disk was done");
    // A limit can be kept, or not: no machine is too slow for it.
    let bytes = 160 * 65536;
    let least = Duration::from_secs_f64(bytes as f64 / RATE as f64 * 0.85);
    let took = began.elapsed();
    assert!(took >= least, "{bytes} bytes in {took:?}");
}

/// A bench that was copied and is not proven, and the options of a last pass, which only proves.
fn unproven(blocks: u64, shared: &Shared) -> (Bench, CopyOptions) {
    let mut bench = bench(blocks, &Shared::default());
    bench.pass(Pass::default(), None);
    bench.shared = shared.clone();
    let pass = Pass {
        is_final: true,
        ..delta("nbd-bitmap:b")
    };
    let mut options = options(&bench);
    (options.pass, options.verify) = (pass, None);
    (bench, options)
}

#[test]
fn proofs_of_unequal_size_end_together() {
    let shared = Shared {
        rates: vec![RateLimit::new(Some(32 << 20))],
        team: Some(Team::new(64)),
        ..Shared::default()
    };
    let (large, a) = unproven(512, &shared);
    let (small, b) = unproven(128, &shared);
    let (sound, nothing) = (Faults::default(), MemTracker::default());
    let mut done = 0;
    block_on(async {
        let first = large.run(&a, Some(&nothing), &sound, Stop::never());
        let second = async {
            let proven = small.run(&b, Some(&nothing), &sound, Stop::never()).await;
            assert!(proven.unwrap().proven);
            done = large.counters.lock().unwrap().snapshot().verified;
        };
        assert!(join(first, second).await.0.unwrap().proven);
    });
    let done = done * 100 / (512 * 65536);
    assert!(done >= 75, "only {done} % of the large disk was proven");
}

#[test]
fn what_is_read_back_keeps_to_the_rate_as_well() {
    let mut bench = bench(40, &Shared::default());
    bench.pass(Pass::default(), None);
    bench.shared.rates = vec![RateLimit::new(Some(4 << 20))];
    let began = Instant::now();
    // Nothing changed: all that it does is the proof.
    let since = Some(Baseline::Digest);
    let proven = bench.last(since);
    assert_eq!(proven, 40 * 65536);
    // It reads the source once, to compare, and the target once.
    let least = Duration::from_secs_f64(2.0 * proven as f64 / (4 << 20) as f64 * 0.7);
    let took = began.elapsed();
    assert!(took >= least, "{took:?}, not {least:?}");
}
