//! Passes of every kind cut short at random, with the power of the target gone, onto a disk whose
//! blocks return to what they were: at the end a pass by digests makes both the same.

use super::bench::{Bench, block, block_on, delta, digest};
use crate::error::Kind;
use crate::job::options::{Baseline, Pass};
use crate::pipeline::Stopper;
use crate::testkit::{Fault, Faults, MemTracker, Op};
use std::time::Duration;

const BLOCKS: u64 = 48;

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What happens to a pass.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// It is killed: no barrier, nothing is tidied up.
    Kill,
    /// A user stops it.
    Stop,
    /// A write fails.
    Write,
    /// Every flush fails.
    Flush,
}

/// Runs a pass that is cut in some way, then takes the target's power. Whether it was complete.
fn cut(bench: &Bench, pass: &Pass, tracker: Option<&MemTracker>, rng: &mut Rng) -> bool {
    let nth = 1 + rng.below(30);
    let cut = [Cut::Kill, Cut::Kill, Cut::Stop, Cut::Write, Cut::Flush];
    let cut = cut[usize::try_from(rng.below(5)).unwrap()];
    let faults = Faults::default();
    match cut {
        Cut::Kill | Cut::Stop => faults.during(Op::Write, nth..=u64::MAX, Fault::Stall),
        Cut::Write => faults.on(Op::Write, nth, Fault::Error(Kind::Io)),
        Cut::Flush => faults.during(Op::Flush, 1..=9, Fault::Error(Kind::Io)),
    }
    let (stopper, stop) = Stopper::new();
    let options = bench.options(pass.clone());
    let outcome = block_on(async {
        let run = bench.run(&options, tracker, &faults, stop);
        tokio::pin!(run);
        let time = Duration::from_millis(20 + rng.below(20));
        match tokio::time::timeout(time, &mut run).await {
            Ok(outcome) => Some(outcome),
            Err(_) if matches!(cut, Cut::Kill) => None,
            Err(_) => {
                stopper.stop();
                Some(run.await)
            }
        }
    });
    let survives = rng.below(4);
    bench.target.crash(|_| rng.below(4) < survives);
    matches!(outcome, Some(Ok(_)))
}

/// Changes some blocks among few values, so that many return to what they were.
fn change(bench: &Bench, since: &MemTracker, rng: &mut Rng) {
    for _ in 0..rng.below(12) {
        let number = rng.below(BLOCKS);
        bench.fill(number, u8::try_from(rng.below(3)).unwrap());
        since.note(block(number));
    }
}

fn story(seed: u64) -> u32 {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bench = Bench::new(BLOCKS);
    let mut since = MemTracker::default();
    (0..BLOCKS).for_each(|number| bench.fill(number, u8::try_from(number % 3).unwrap()));
    bench.pass(Pass::default(), None);
    let (mut baseline, mut cuts) = (0, 0);
    // After a pass by digests that was cut only another one may come.
    let mut digest_only = false;
    for name in ["1", "2", "3", "4", "5", "6"] {
        // What may be gone on with is the same point in time, and no other.
        bench.source = bench.source.clone().named(name);
        change(&bench, &since, &mut rng);
        let tracked = !digest_only && rng.below(2) == 0;
        let mut pass = match tracked {
            true => delta(&format!("nbd-bitmap:b{baseline}")),
            false => digest(),
        };
        pass.is_final = rng.below(4) == 0;
        let tracker = tracked.then_some(&since);
        match cut(&bench, &pass, tracker, &mut rng) {
            true => {
                bench.assert_same(&format!("seed {seed}, {pass:?}"));
                (since, baseline, digest_only) = (MemTracker::default(), baseline + 1, false);
            }
            false => {
                cuts += 1;
                digest_only |= !tracked;
            }
        }
        if rng.below(3) == 0 && digest_only {
            let pass = Pass {
                changes_since: Some(Baseline::Digest),
                is_final: pass.is_final,
            };
            bench.pass(pass, None);
            bench.assert_same(&format!("seed {seed}, continued"));
            (since, baseline, digest_only) = (MemTracker::default(), baseline + 1, false);
        }
    }
    cuts
}

#[test]
fn whatever_is_cut_and_whatever_returns_to_what_it_was_a_pass_by_digests_makes_it_right() {
    let cuts: u32 = (1..=60).map(story).sum();
    assert!(cuts > 60, "hardly any pass was cut: {cuts}");
}
