//! What the next pass will be, and how long the VM would be down if it were cut over now. Pure.
//!
//! Two things are learned from the passes so far: how fast each disk changes, and how long a pass of
//! so many bytes takes. A pass is taken to cost what the last few cost, and a byte more or less than
//! theirs at the best speed that was seen. How wrong forecasts were is part of every one.

use super::phase::Prove;
use super::record::PassRecord;
use serde::Serialize;
use std::time::Duration;

/// Passes that are looked back at. Fewer, and one odd pass decides; more, and the past does.
const RECENT: usize = 3;

/// Passes among which the fastest change is looked for. Over a long interval a busy block counts
/// once, so the VM seems to change more slowly than it would between passes that follow each other.
const REMEMBERED: usize = 10;

/// Passes that follow each other at once, at most: if they have not done it, more will not.
pub const ROUNDS: u32 = 8;

/// Per cent by which a forecast may be wrong, while none was judged yet.
const UNJUDGED: u64 = 50;

/// Per cent by which any forecast may be wrong.
const LEAST: u64 = 10;

/// What will have to be read back, and how fast that goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Proofs {
    /// When.
    pub when: Prove,
    /// Bytes that were written since they were proven.
    pub unproven: u64,
    /// Bytes of all disks.
    pub size: u64,
    /// Bytes per second, if that was seen; else it is taken to be the speed of passes.
    pub speed: Option<u64>,
}

impl Proofs {
    /// If no more than `limit` bytes per second are read back.
    fn within(&self, limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        Self {
            speed: self.speed.map(|speed| speed.min(limit)),
            ..*self
        }
    }

    /// Milliseconds that reading back so many bytes takes.
    fn millis(&self, bytes: u64, throughput: u64) -> u64 {
        share(bytes, 1000, self.speed.unwrap_or(throughput).max(1))
    }

    /// Milliseconds of the proof before the outage.
    fn early(&self, throughput: u64) -> u64 {
        match self.when {
            Prove::EachPass | Prove::BeforeCutover => self.millis(self.unproven, throughput),
            Prove::AtCutover | Prove::None => 0,
        }
    }

    /// Milliseconds of the proof in an outage whose pass copies so many bytes.
    fn last(&self, bytes: u64, throughput: u64) -> u64 {
        match self.when {
            Prove::EachPass | Prove::BeforeCutover => self.millis(bytes, throughput),
            Prove::AtCutover => self.millis(self.size, throughput),
            Prove::None => 0,
        }
    }
}

/// What holds at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now<'a> {
    /// Since the last point was frozen.
    pub since: Duration,
    /// Bytes of each disk that had changed since, where the guest can tell,
    pub changed: &'a [Option<u64>],
    /// and how long ago it told.
    pub age: Duration,
    /// Bytes per second that the plan allows in this hour; `None` is as fast as it goes. What passes
    /// got through in another hour says nothing of this one.
    pub limit: Option<u64>,
}

/// What is expected, for a VM and each of its disks.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Forecast {
    /// Each disk, in the order of the plan.
    pub disks: Vec<DiskForecast>,
    /// Bytes of all disks that change per second; `None` before the second pass.
    pub dirty_rate: Option<u64>,
    /// Bytes per second that a pass gets through; `None` before the first.
    pub throughput: Option<u64>,
    /// It is the plan's limit that keeps it there.
    pub limited: bool,
    /// The next pass, if it began now.
    pub next: Option<Estimate>,
    /// The outage, if it were cut over now, with what has to be proven before and in it; how long it
    /// takes to make the VM quiet is the guest's affair.
    pub outage: Option<Estimate>,
    /// The same, if what is to be proven before it had been proven already.
    pub proven_outage: Option<Estimate>,
    /// Milliseconds that the proof before the outage takes.
    pub early_proof: u64,
    /// What changes while something is copied and proven takes less than half as long to be copied and
    /// proven itself: proofs and passes in turn come to an end.
    pub keeps_up: bool,
    /// What the outage could be brought down to by [`ROUNDS`] passes that follow each other at once.
    pub best_outage: Option<Estimate>,
}

/// What is expected of a disk.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct DiskForecast {
    /// The disk.
    pub name: String,
    /// Bytes that change per second.
    pub dirty_rate: Option<u64>,
    /// Bytes of the next pass, if it began now.
    pub next: Option<u64>,
}

/// Bytes and time, and how wrong that may be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Estimate {
    /// Bytes.
    pub bytes: u64,
    /// Milliseconds.
    pub millis: u64,
    /// Per cent of the time, up or down.
    pub margin: u64,
}

impl Estimate {
    /// The time.
    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// The time, and all that it may be wrong by.
    #[must_use]
    pub fn at_worst(&self) -> Duration {
        let more = share(self.millis, self.margin, 100);
        Duration::from_millis(self.millis.saturating_add(more))
    }
}

/// Forecasts from the durable `passes`, oldest first.
#[must_use]
pub fn forecast(passes: &[PassRecord], now: &Now<'_>, proofs: &Proofs) -> Forecast {
    let Some(last) = passes.last() else {
        return Forecast::default();
    };
    let disks: Vec<DiskForecast> = (0..last.disks.len())
        .map(|i| disk(passes, i, now))
        .collect();
    let dirty_rate = sum(disks.iter().map(|disk| disk.dirty_rate));
    let fastest_pass = Cost::of(passes, |pass| pass.copying);
    let copying = fastest_pass.map(|cost| cost.within(now.limit));
    // What proofs take is reckoned by itself.
    let cycle = Cost::of(passes, |pass| {
        pass.cycle.saturating_sub(pass.proving).max(pass.copying)
    });
    let cycle = cycle.map(|cost| cost.within(now.limit));
    let proofs = &proofs.within(now.limit);
    let margin = margin(passes);
    let estimate = |cost: &Cost, bytes| Estimate {
        bytes,
        millis: cost.millis(bytes),
        margin,
    };
    let bytes = sum(disks.iter().map(|disk| disk.next));
    let next = copying.as_ref().zip(bytes);
    let outage = cycle.as_ref().zip(copying.as_ref()).zip(bytes);
    let outage = outage.map(|((cycle, copying), bytes)| Down {
        cycle,
        bytes,
        rate: dirty_rate.unwrap_or(0),
        fastest: fastest(passes).max(dirty_rate),
        throughput: copying.throughput,
        margin,
        proofs,
    });
    Forecast {
        next: next.map(|(cost, bytes)| estimate(cost, bytes)),
        outage: outage.as_ref().map(|down| down.now(down.early())),
        proven_outage: outage.as_ref().map(|down| down.now(0)),
        early_proof: outage.as_ref().map_or(0, Down::early),
        keeps_up: outage.as_ref().is_some_and(Down::keeps_up),
        best_outage: outage.as_ref().and_then(Down::best),
        throughput: copying.as_ref().map(|cost| cost.throughput),
        limited: fastest_pass
            .zip(now.limit)
            .is_some_and(|(cost, limit)| limit < cost.throughput),
        dirty_rate,
        disks,
    }
}

/// What an outage is reckoned from.
struct Down<'a> {
    cycle: &'a Cost,
    /// What a pass that begins now would copy.
    bytes: u64,
    /// Bytes that change per second,
    rate: u64,
    /// and at most.
    fastest: Option<u64>,
    throughput: u64,
    margin: u64,
    proofs: &'a Proofs,
}

impl Down<'_> {
    /// Milliseconds of the proof before it.
    fn early(&self) -> u64 {
        self.proofs.early(self.throughput)
    }

    fn keeps_up(&self) -> bool {
        let copy = share(self.rate, 1000, self.throughput);
        let proof = self.proofs.millis(self.rate, self.throughput);
        copy.saturating_add(proof) < 500
    }

    /// If it came after a proof of so many milliseconds, in which the VM goes on to change.
    fn now(&self, early: u64) -> Estimate {
        self.of(self.bytes.saturating_add(self.meanwhile(early)))
    }

    /// Bytes that change in so many milliseconds, of those that there are.
    fn meanwhile(&self, millis: u64) -> u64 {
        let left = match self.proofs.size {
            0 => u64::MAX,
            size => size.saturating_sub(self.bytes),
        };
        share(self.rate, millis, 1000).min(left)
    }

    /// With so many bytes to copy, and then to prove.
    fn of(&self, bytes: u64) -> Estimate {
        let copy = self.cycle.millis(bytes);
        Estimate {
            bytes,
            millis: copy.saturating_add(self.proofs.last(bytes, self.throughput)),
            margin: self.margin,
        }
    }

    /// What passes could bring it down to; what the last of them wrote is proven before it.
    fn best(&self) -> Option<Estimate> {
        let bytes = best(self.cycle, self.bytes, self.fastest?);
        let early = match self.proofs.when {
            Prove::BeforeCutover => self.proofs.millis(bytes, self.throughput),
            Prove::EachPass | Prove::AtCutover | Prove::None => 0,
        };
        Some(self.of(bytes.saturating_add(self.meanwhile(early))))
    }
}

/// What is left to be copied when each of [`ROUNDS`] passes begins as soon as the one before has
/// ended. No more of them are looked ahead: a VM that changes nearly as fast as it is copied would
/// get anywhere in the end, and a small error in either speed is then a large one in the outcome.
fn best(cycle: &Cost, mut bytes: u64, rate: u64) -> u64 {
    // A VM that outruns its copy: no pass makes the next one shorter.
    let rounds = if rate < cycle.throughput { ROUNDS } else { 0 };
    for _ in 0..rounds {
        let next = share(rate, cycle.millis(bytes), 1000);
        if next == bytes {
            break;
        }
        bytes = next;
    }
    bytes
}

/// The fastest change of late, in bytes per second over all disks.
fn fastest(passes: &[PassRecord]) -> Option<u64> {
    let deltas = passes.iter().rev().filter(|pass| !pass.is_full());
    let rates = deltas.take(REMEMBERED).filter_map(|pass| {
        let changed = sum(pass.disks.iter().map(|disk| disk.changed))?;
        share(changed, 1000, 1).checked_div(pass.interval?)
    });
    rates.max()
}

fn disk(passes: &[PassRecord], i: usize, now: &Now<'_>) -> DiskForecast {
    let told = now.changed.get(i).copied().flatten();
    let (since, age) = (millis(now.since), millis(now.age));
    let mut changed: u128 = 0;
    let mut time: u128 = 0;
    let deltas = passes.iter().rev().filter(|pass| !pass.is_full());
    let known = deltas.filter_map(|pass| Some((pass.disks.get(i)?.differed(), pass.interval?)));
    // The newest counts four times what the third does: the guest has moods.
    for ((bytes, interval), weight) in known.take(RECENT).zip([4u128, 2, 1]) {
        changed = changed.saturating_add(u128::from(bytes).saturating_mul(weight));
        time = time.saturating_add(u128::from(interval).saturating_mul(weight));
    }
    let rate = changed.saturating_mul(1000).checked_div(time);
    let rate = rate.map(|rate| u64::try_from(rate).unwrap_or(u64::MAX));
    // Before the second pass, what the guest tells is all that there is to go by.
    let before = since.saturating_sub(age);
    let seen = || Some(share(told.filter(|_| before >= 1000)?, 1000, before));
    let dirty_rate = rate.or_else(seen);
    let last = passes.last().and_then(|pass| pass.disks.get(i));
    // No more can have changed than there is.
    let most = last.map(|disk| disk.size).filter(|size| *size > 0);
    let most = most.unwrap_or(u64::MAX);
    let full = passes.last().is_none_or(PassRecord::is_full);
    let guess = match last {
        // All of it was read, and will be again.
        Some(last) if !full && last.changed.is_none() => Some(last.read),
        _ => dirty_rate.map(|rate| share(rate, since, 1000).min(most)),
    };
    // It went on to change after it was asked.
    let since_told = || share(dirty_rate.unwrap_or(0), age, 1000);
    let told = told.map(|told| told.saturating_add(since_told()).min(most.max(told)));
    DiskForecast {
        name: last.map(|disk| disk.name.clone()).unwrap_or_default(),
        dirty_rate,
        next: told.or(guess),
    }
}

/// What passes cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// The mean of the last few deltas.
    bytes: u64,
    millis: u64,
    /// Bytes per second at best.
    throughput: u64,
}

impl Cost {
    /// Learned from passes; `None` if nothing was ever moved.
    fn of(passes: &[PassRecord], time: impl Fn(&PassRecord) -> u64) -> Option<Self> {
        let deltas = passes.iter().rev().filter(|pass| !pass.is_full());
        let (mut bytes, mut millis, mut count) = (0u64, 0u64, 0u64);
        for pass in deltas.take(RECENT) {
            bytes = bytes.saturating_add(pass.moved());
            millis = millis.saturating_add(time(pass));
            count = count.saturating_add(1);
        }
        let mean = |sum: u64| sum.checked_div(count).unwrap_or(0);
        let speeds = passes
            .iter()
            .filter(|pass| pass.is_full())
            .map(|pass| (pass.moved(), time(pass)));
        let speeds = speeds.chain([(bytes, millis)]);
        let throughput = speeds.filter_map(|(bytes, millis)| {
            share(bytes, 1000, 1)
                .checked_div(millis.max(1))
                .filter(|speed| *speed > 0)
        });
        Some(Self {
            bytes: mean(bytes),
            millis: mean(millis),
            throughput: throughput.max()?,
        })
    }

    /// If no more than `limit` bytes per second are copied.
    fn within(self, limit: Option<u64>) -> Self {
        Self {
            throughput: self.throughput.min(limit.unwrap_or(u64::MAX)).max(1),
            ..self
        }
    }

    /// Milliseconds that a pass of so many bytes takes.
    fn millis(&self, bytes: u64) -> u64 {
        let at_best = |bytes: u64| share(bytes, 1000, self.throughput);
        let more = at_best(bytes.saturating_sub(self.bytes));
        let less = at_best(self.bytes.saturating_sub(bytes));
        let like_the_last = self.millis.saturating_add(more).saturating_sub(less);
        like_the_last.max(at_best(bytes))
    }
}

/// By how much forecasts were wrong, in per cent.
fn margin(passes: &[PassRecord]) -> u64 {
    let judged = passes.iter().rev().filter_map(|pass| {
        let expected = pass.expected?.copying;
        let off = expected.abs_diff(pass.copying);
        share(off, 100, 1).checked_div(pass.copying.max(1))
    });
    let judged: Vec<u64> = judged.take(RECENT).collect();
    match judged.iter().max() {
        None => UNJUDGED,
        Some(worst) => worst.saturating_mul(3).div_euclid(2).clamp(LEAST, 1000),
    }
}

/// `value` × `part` ÷ `whole`, without overflow on the way.
fn share(value: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(value).saturating_mul(u128::from(part));
    let share = product.checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The sum of those that are known; `None` if none is.
fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let known = values.flatten();
    known.fold(None, |sum: Option<u64>, value| {
        Some(sum.unwrap_or(0).saturating_add(value))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Duration, Forecast, Now, PassRecord, Proofs, Prove, forecast};
    use crate::migrate::record::{DiskPass, Expected};
    use proptest::prelude::{prop_assert, proptest};

    /// A VM that changes steadily, and a target that takes what it takes.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::migrate) struct Steady {
        /// Bytes per second.
        pub(in crate::migrate) rate: u64,
        /// Bytes per second.
        pub(in crate::migrate) throughput: u64,
        /// Milliseconds that every pass takes, however short.
        pub(in crate::migrate) overhead: u64,
        /// Bytes.
        pub(in crate::migrate) size: u64,
    }

    impl Steady {
        pub(in crate::migrate) fn full(&self) -> PassRecord {
            self.pass("full", self.size, None)
        }

        /// A delta `interval` milliseconds after the point before.
        pub(in crate::migrate) fn delta(&self, interval: u64) -> PassRecord {
            let changed = self.rate * interval / 1000;
            self.pass("delta", changed.min(self.size), Some(interval))
        }

        fn pass(&self, kind: &str, bytes: u64, interval: Option<u64>) -> PassRecord {
            let copying = self.overhead + bytes * 1000 / self.throughput;
            let disk = DiskPass {
                changed: interval.map(|_| bytes),
                read: bytes,
                ..DiskPass::default()
            };
            PassRecord {
                kind: kind.to_owned(),
                interval,
                copying,
                cycle: copying,
                disks: vec![disk],
                ..PassRecord::default()
            }
        }
    }

    /// A moment so many milliseconds after the last point.
    pub(in crate::migrate) fn since(millis: u64) -> Now<'static> {
        Now {
            since: Duration::from_millis(millis),
            ..Now::default()
        }
    }

    fn at(passes: &[PassRecord], millis: u64) -> Forecast {
        let none = Proofs {
            when: Prove::None,
            ..Proofs::default()
        };
        forecast(passes, &since(millis), &none)
    }

    proptest! {
        /// Whatever the rates are, as long as they stay, the next pass is forecast to a quarter.
        #[test]
        fn steady_rates_are_forecast_to_a_quarter(
            rate in 1u64..200,
            throughput in 1u64..500,
            overhead in 0u64..3000,
            intervals in proptest::collection::vec(1_000u64..600_000, 1..6),
            next in 1_000u64..600_000,
        ) {
            let vm = Steady {
                rate: rate << 20,
                throughput: throughput << 20,
                overhead,
                size: 1 << 40,
            };
            let mut passes = vec![vm.full()];
            passes.extend(intervals.iter().map(|interval| vm.delta(*interval)));
            let truth = vm.delta(next);
            let told = at(&passes, next).next.unwrap();
            let bytes = truth.moved();
            prop_assert!(told.bytes.abs_diff(bytes) <= bytes / 4, "{told:?}, not {truth:?}");
            // What has no steady part cannot be told from short passes alone: a tenth of a second.
            let slack = truth.copying / 4 + 100;
            prop_assert!(told.millis.abs_diff(truth.copying) <= slack, "{told:?}, not {truth:?}");
        }

        #[test]
        fn no_numbers_are_too_large(
            bytes in 0..=u64::MAX,
            interval in 0..=u64::MAX,
            copying in 0..=u64::MAX,
        ) {
            let disk = DiskPass { changed: Some(bytes), ..DiskPass::default() };
            let pass = PassRecord {
                kind: "delta".to_owned(),
                interval: Some(interval),
                copying,
                expected: Some(Expected { bytes, copying: interval }),
                disks: vec![disk],
                ..PassRecord::default()
            };
            let proofs = Proofs {
                unproven: bytes,
                size: bytes,
                speed: Some(interval),
                when: Prove::BeforeCutover,
            };
            let now = Now {
                since: Duration::MAX,
                changed: &[Some(bytes)],
                age: Duration::from_millis(interval),
                limit: Some(copying),
            };
            let _ = forecast(&[pass.clone(), pass], &now, &proofs);
        }
    }

    #[test]
    fn nothing_is_foretold_from_nothing_and_no_rate_from_one_pass() {
        assert_eq!(at(&[], 1000), Forecast::default());
        let vm = Steady {
            rate: 1,
            throughput: 1 << 20,
            overhead: 0,
            size: 1 << 30,
        };
        let told = at(&[vm.full()], 1000);
        assert_eq!((told.throughput, told.dirty_rate), (Some(1 << 20), None));
        assert_eq!((told.next, told.outage), (None, None));
    }

    #[test]
    fn no_more_changes_than_a_disk_has() {
        let vm = Steady {
            rate: 8 << 20,
            throughput: 4 << 20,
            overhead: 0,
            size: 64 << 20,
        };
        let mut delta = vm.delta(4000);
        delta.disks[0].size = vm.size;
        let told = at(&[vm.full(), delta], 60_000).next.unwrap();
        assert_eq!((told.bytes, told.millis), (64 << 20, 16_000));
    }

    #[test]
    fn what_the_guest_tells_is_believed_more_than_the_rate() {
        let vm = Steady {
            rate: 1 << 20,
            throughput: 8 << 20,
            overhead: 0,
            size: 1 << 30,
        };
        let passes = [vm.full(), vm.delta(10_000)];
        let none = Proofs::default();
        let mut now = Now {
            changed: &[Some(3 << 20)],
            ..since(10_000)
        };
        let told = forecast(&passes, &now, &none);
        assert_eq!(told.next.unwrap().bytes, 3 << 20);
        assert_eq!(told.dirty_rate, Some(1 << 20));
        now.age = Duration::from_secs(2);
        let told = forecast(&passes, &now, &none);
        assert_eq!(told.next.unwrap().bytes, 5 << 20, "it changes on");
    }

    #[test]
    fn what_passes_got_through_without_a_limit_is_not_expected_with_one() {
        let vm = Steady {
            rate: 1 << 20,
            throughput: 100 << 20,
            overhead: 0,
            size: 1 << 30,
        };
        let passes = [vm.full(), vm.delta(60_000)];
        let proofs = Proofs {
            when: Prove::BeforeCutover,
            speed: Some(400 << 20),
            ..Proofs::default()
        };
        let outage = |limit| {
            let now = Now {
                limit,
                ..since(60_000)
            };
            let told = forecast(&passes, &now, &proofs);
            (told.outage.unwrap().millis, told.limited)
        };
        assert_eq!(outage(None), (750, false));
        assert_eq!(outage(Some(200 << 20)), (900, false), "only the proof");
        // 60 MiB are copied, and read back.
        assert_eq!(outage(Some(2 << 20)), (60_000, true));
    }

    #[test]
    fn what_the_guest_tells_is_enough_before_the_second_pass() {
        let vm = Steady {
            rate: 0,
            throughput: 8 << 20,
            overhead: 0,
            size: 1 << 30,
        };
        let none = Proofs::default();
        let now = Now {
            changed: &[Some(20 << 20)],
            ..since(10_000)
        };
        let told = forecast(&[vm.full()], &now, &none);
        assert_eq!(told.dirty_rate, Some(2 << 20));
        assert_eq!(told.next.unwrap().bytes, 20 << 20);
        assert!(told.outage.is_some());
    }

    #[test]
    fn what_is_read_back_in_the_outage_is_part_of_it_and_what_is_before_lets_the_vm_change() {
        let vm = Steady {
            rate: 1 << 20,
            throughput: 10 << 20,
            overhead: 0,
            size: 1 << 30,
        };
        let passes = [vm.full(), vm.delta(100_000)];
        let told = |when, unproven| {
            let proofs = Proofs {
                when,
                unproven,
                size: 1 << 30,
                speed: Some(20 << 20),
            };
            let told = forecast(&passes, &since(100_000), &proofs);
            (
                told.outage.unwrap().millis,
                told.proven_outage.unwrap().millis,
            )
        };
        // 100 MiB changed: 10 s to copy, 5 s to read back.
        assert_eq!(told(Prove::None, 0), (10_000, 10_000));
        assert_eq!(told(Prove::BeforeCutover, 0), (15_000, 15_000));
        // 1000 MiB to be proven before: 50 s, in which 50 MiB more change.
        assert_eq!(told(Prove::BeforeCutover, 1000 << 20), (22_500, 15_000));
        // All of 1024 MiB in the outage.
        assert_eq!(told(Prove::AtCutover, 0), (61_200, 61_200));
    }

    #[test]
    fn the_margin_is_wide_until_a_forecast_was_judged_and_grows_with_the_error() {
        let vm = Steady {
            rate: 1 << 20,
            throughput: 8 << 20,
            overhead: 0,
            size: 1 << 30,
        };
        let mut delta = vm.delta(80_000);
        let margin = |delta: &PassRecord| at(&[vm.full(), delta.clone()], 1).outage.unwrap().margin;
        assert_eq!(margin(&delta), 50);
        delta.expected = Some(Expected {
            bytes: 0,
            copying: delta.copying,
        });
        assert_eq!(margin(&delta), 10);
        delta.expected = Some(Expected {
            bytes: 0,
            copying: delta.copying / 5,
        });
        assert_eq!(margin(&delta), 120);
    }

    #[test]
    fn passes_that_follow_each_other_bring_the_outage_down_to_its_fixed_part() {
        let vm = Steady {
            rate: 4 << 20,
            throughput: 16 << 20,
            overhead: 1500,
            size: 1 << 40,
        };
        let told = at(&[vm.full(), vm.delta(600_000)], 600_000);
        assert!(told.outage.unwrap().millis > 100_000);
        // The fixed point of t = 1.5 s + t / 4.
        assert!(
            told.best_outage.unwrap().millis.abs_diff(2000) < 300,
            "{told:?}"
        );
    }
}
