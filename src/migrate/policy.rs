//! When a pass is due and when the VM may be made quiet. Pure: time comes in as values.
//!
//! What is *safe* is the business of `phase`; here is only decided what is *wanted*.

use super::forecast::{Forecast, ROUNDS};
use super::plan::Cutover;
use crate::report::{bytes, seconds};
use std::time::Duration;

/// A pass more is worth it if it takes this much off the outage, in per cent.
const WORTH: u64 = 10;

/// Before a cutover that was asked for: in per cent, and no less than the time below.
const WORTH_BEFORE_CUTOVER: u64 = 30;
const WORTH_TIME: Duration = Duration::from_secs(2);

/// What the decision is made of.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// As in the plan.
    pub interval: Duration,
    /// As in the plan.
    pub cutover: Cutover,
    /// Somebody asked for the cutover.
    pub asked: bool,
    /// A cutover came to nothing: none begins by itself until somebody asks.
    pub called_off: bool,
    /// No pass is complete yet.
    pub first: bool,
    /// Since the last point was frozen.
    pub since: Duration,
    /// Seconds since 1970.
    pub now: u64,
    /// A pass has shown how fast the VM changes.
    pub measured: bool,
    /// What is expected.
    pub forecast: &'a Forecast,
    /// [Hurried](Facts::is_hurried) passes, one after the other.
    pub rounds: u32,
    /// What the last pass waited for: `source`, `target`, `cpu` or `limit`.
    pub waited_for: &'a str,
}

/// What should happen now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// A pass.
    Due,
    /// What was written is read back, so that it need not be just before the outage.
    Prove,
    /// The cutover.
    Arm,
    /// Nothing, for so long at most.
    Wait(Duration),
}

/// What should happen now, and what a user should know of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What should happen.
    pub next: Next,
    /// Why the outage cannot be as short as wanted, and what would help.
    pub advice: Option<String>,
}

impl From<Next> for Decision {
    fn from(next: Next) -> Self {
        Self { next, advice: None }
    }
}

/// Decides.
#[must_use]
pub fn decide(facts: &Facts<'_>) -> Decision {
    if facts.first {
        return Next::Due.into();
    }
    if facts.asked || facts.time_has_come() {
        return match (facts.proof_first(), facts.another_pass_first()) {
            (true, _) => Next::Prove.into(),
            (false, true) => Next::Due.into(),
            (false, false) => Next::Arm.into(),
        };
    }
    let mut advice = None;
    if let (Cutover::DowntimeBelow(budget), false) = (facts.cutover, facts.called_off) {
        match facts.converge(budget) {
            Converge::Below => return Next::Arm.into(),
            Converge::Shrinks if facts.proof_first() => return Next::Prove.into(),
            Converge::Shrinks => return Next::Due.into(),
            Converge::Unknown => {}
            Converge::Never(why) => advice = Some(why),
        }
    }
    let left = facts.interval.saturating_sub(facts.since);
    let left = left.min(facts.until_last_pass().unwrap_or(left));
    let next = match left.is_zero() {
        true => Next::Due,
        false => Next::Wait(left),
    };
    Decision { next, advice }
}

/// How the outage stands against what it may be.
enum Converge {
    Below,
    Shrinks,
    Unknown,
    Never(String),
}

impl Facts<'_> {
    /// Whether a pass that begins now is one of a row of [`ROUNDS`] at most: it begins before the
    /// interval is over, or somebody waits for the cutover. A pass may take longer than the interval.
    #[must_use]
    pub fn is_hurried(&self) -> bool {
        let early = !self.first && self.since < self.interval;
        early || self.asked || self.time_has_come()
    }

    fn time_has_come(&self) -> bool {
        matches!(self.cutover, Cutover::At(moment) if !self.called_off && moment <= self.now)
    }

    /// Whether the outage would be much shorter after one more pass.
    fn another_pass_first(&self) -> bool {
        if self.rounds >= ROUNDS {
            return false;
        }
        let (Some(now), Some(best)) = (&self.forecast.outage, &self.forecast.best_outage) else {
            return false;
        };
        let saved = now.time().saturating_sub(best.time());
        saved > WORTH_TIME && is_worth(saved, now.time(), WORTH_BEFORE_CUTOVER)
    }

    /// Whether the VM would change so much while it is proven just before the outage that it is better
    /// proven now, and copied once more after that.
    fn proof_first(&self) -> bool {
        let forecast = self.forecast;
        let (Some(now), Some(proven)) = (&forecast.outage, &forecast.proven_outage) else {
            return false;
        };
        let saved = now.time().saturating_sub(proven.time());
        let helps = forecast.keeps_up && self.rounds < ROUNDS;
        helps && saved > WORTH_TIME && is_worth(saved, now.time(), WORTH)
    }

    /// Time until the pass that should be the last one before a scheduled cutover; `None` without
    /// one, or if that pass has begun already.
    fn until_last_pass(&self) -> Option<Duration> {
        let Cutover::At(moment) = self.cutover else {
            return None;
        };
        let left = Duration::from_secs(moment.saturating_sub(self.now));
        let lead = self.forecast.next.map(|next| next.at_worst())?;
        let lead = lead.saturating_mul(2).max(Duration::from_secs(5));
        match (self.called_off, self.since > lead) {
            (false, true) => Some(left.saturating_sub(lead)),
            (false, false) => Some(left),
            (true, _) => None,
        }
    }

    fn converge(&self, budget: Duration) -> Converge {
        let (Some(now), Some(best)) = (&self.forecast.outage, &self.forecast.best_outage) else {
            // Only a second pass shows how fast the VM changes.
            return match self.measured {
                false => Converge::Shrinks,
                true => Converge::Unknown,
            };
        };
        if now.at_worst() <= budget {
            return Converge::Below;
        }
        if best.time() > budget || self.rounds >= ROUNDS {
            return Converge::Never(self.advice(best.time().max(budget), budget));
        }
        let saved = now.time().saturating_sub(best.time());
        // At its best already, and only the margin is too wide: passes make it narrower.
        let narrows = self.since >= budget;
        match is_worth(saved, now.time(), WORTH) || narrows {
            true => Converge::Shrinks,
            false => Converge::Unknown,
        }
    }

    fn advice(&self, best: Duration, budget: Duration) -> String {
        let rate = |rate: Option<u64>| format!("{}/s", bytes(rate.unwrap_or(0)));
        let limited = self.forecast.limited.then_some("limit");
        let help = match limited.unwrap_or(self.waited_for) {
            "source" => {
                "reading is what takes the time: more connections, or a source that is less busy"
            }
            "target" => {
                "the target is what takes the time: a faster LUN, or fewer writers beside it"
            }
            "cpu" => "the processor is what takes the time: more cores, or digest: xxh3",
            "limit" => "limits.rate is what takes the time: raise it, or give the cutover a window",
            _ => "less work for the guest, or a longer downtime",
        };
        format!(
            "the outage will not get below {} ({} wanted): the VM changes {} and {} get through; {help}",
            seconds(best),
            seconds(budget),
            rate(self.forecast.dirty_rate),
            rate(self.forecast.throughput)
        )
    }
}

fn is_worth(saved: Duration, of: Duration, percent: u64) -> bool {
    saved.as_millis().saturating_mul(100) >= of.as_millis().saturating_mul(percent.into())
        && !saved.is_zero()
}

#[cfg(test)]
mod tests {
    use super::super::forecast::tests::{Steady, since as moment};
    use super::super::forecast::{Proofs, forecast};
    use super::super::phase::Prove;
    use super::super::record::{Expected, PassRecord};
    use super::{Cutover, Decision, Duration, Facts, Next, ROUNDS, decide};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A VM, and when it is proven.
    struct Vm {
        steady: Steady,
        prove: Prove,
    }

    impl From<Steady> for Vm {
        fn from(steady: Steady) -> Self {
            let prove = Prove::None;
            Self { steady, prove }
        }
    }

    /// Lets policy drive a steady VM; the moments at which passes began, and when it armed.
    fn drive(
        vm: impl Into<Vm>,
        cutover: Cutover,
        asked_at: Option<u64>,
    ) -> (Vec<u64>, Option<u64>, String) {
        let vm: Vm = vm.into();
        let mut passes: Vec<PassRecord> = Vec::new();
        let (mut now, mut frozen, mut begun) = (0u64, 0u64, Vec::new());
        let mut told = String::new();
        let (mut rounds, mut unproven) = (0, 0);
        while now < 24 * 3_600_000 {
            let since = Duration::from_millis(now - frozen);
            let proofs = Proofs {
                when: vm.prove,
                unproven,
                size: vm.steady.size,
                speed: Some(vm.steady.throughput),
            };
            let forecast = forecast(&passes, &moment(now - frozen), &proofs);
            let facts = Facts {
                interval: HOUR,
                cutover,
                asked: asked_at.is_some_and(|asked| asked <= now),
                called_off: false,
                first: passes.is_empty(),
                since,
                now: now / 1000,
                measured: passes.len() > 1,
                forecast: &forecast,
                rounds,
                waited_for: "target",
            };
            let Decision { next, advice } = decide(&facts);
            let hurried = facts.is_hurried();
            told = advice.unwrap_or(told);
            match next {
                Next::Arm => return (begun, Some(now), told),
                Next::Prove => {
                    now += unproven * 1000 / vm.steady.throughput;
                    unproven = 0;
                }
                Next::Wait(time) => {
                    let time = u64::try_from(time.as_millis()).unwrap();
                    let asked = asked_at.filter(|asked| *asked > now).unwrap_or(u64::MAX);
                    now = (now + time.clamp(1, 60_000)).min(asked);
                }
                Next::Due => {
                    let mut pass = match passes.is_empty() {
                        true => vm.steady.full(),
                        false => vm.steady.delta(now - frozen),
                    };
                    unproven = (unproven + pass.moved()).min(vm.steady.size);
                    pass.expected = forecast.next.map(|next| Expected {
                        bytes: next.bytes,
                        copying: next.millis,
                    });
                    rounds = if hurried { rounds + 1 } else { 0 };
                    begun.push(now);
                    frozen = now;
                    now += pass.cycle;
                    passes.push(pass);
                }
            }
        }
        (begun, None, told)
    }

    fn vm(rate: u64, throughput: u64) -> Steady {
        Steady {
            rate: rate << 20,
            throughput: throughput << 20,
            overhead: 500,
            size: 20 << 30,
        }
    }

    #[test]
    fn passes_come_every_interval_until_somebody_asks() {
        let (begun, armed, _) = drive(vm(1, 100), Cutover::Manual, Some(4 * 3_600_000 + 60_000));
        let gaps: Vec<u64> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().take(4).all(|gap| *gap == 3_600_000), "{gaps:?}");
        assert!(armed.unwrap() >= 4 * 3_600_000 + 60_000);
    }

    #[test]
    fn a_cutover_that_was_asked_for_late_in_the_interval_is_made_short_first() {
        let asked = 3_600_000 + 3_000_000;
        let (begun, armed, _) = drive(vm(10, 100), Cutover::Manual, Some(asked));
        let after = begun.iter().filter(|moment| **moment >= asked).count();
        assert!((1..=3).contains(&after), "{begun:?}");
        assert!(
            armed.unwrap() < asked + 600_000,
            "but it does not take for ever"
        );
    }

    /// Passes that take longer than the interval are never early.
    #[test]
    fn whoever_asks_for_a_cutover_gets_it_after_a_row_of_passes_whatever_they_promise() {
        let steady = vm(10, 100);
        let passes = [steady.full(), steady.delta(600_000)];
        let proofs = Proofs {
            when: Prove::None,
            unproven: 0,
            size: steady.size,
            speed: None,
        };
        let forecast = forecast(&passes, &moment(3_000_000), &proofs);
        let facts = |rounds| Facts {
            interval: Duration::from_secs(60),
            cutover: Cutover::Manual,
            asked: true,
            called_off: false,
            first: false,
            since: Duration::from_secs(3000),
            now: 0,
            measured: true,
            forecast: &forecast,
            rounds,
            waited_for: "target",
        };
        assert_eq!(decide(&facts(0)).next, Next::Due);
        assert!(facts(0).is_hurried());
        assert_eq!(decide(&facts(ROUNDS)).next, Next::Arm);
        let nobody = Facts {
            asked: false,
            ..facts(0)
        };
        assert!(!nobody.is_hurried());
    }

    #[test]
    fn a_vm_that_outruns_the_target_is_cut_over_at_once_when_somebody_says_so() {
        let asked = 3 * 3_600_000;
        let (begun, armed, _) = drive(vm(200, 100), Cutover::Manual, Some(asked));
        assert!(armed.is_some(), "{begun:?}");
    }

    #[test]
    fn a_downtime_that_can_be_met_is_met_within_a_few_passes() {
        let below = Cutover::DowntimeBelow(Duration::from_secs(5));
        let (begun, armed, told) = drive(vm(10, 100), below, None);
        assert!(armed.unwrap() < 2 * 3_600_000, "{begun:?}");
        assert!(begun.len() < 20, "{begun:?}");
        assert_eq!(told, "");
    }

    #[test]
    fn a_downtime_that_cannot_be_met_is_said_so_and_costs_no_more_than_usual() {
        let below = Cutover::DowntimeBelow(Duration::from_secs(2));
        let (begun, armed, told) = drive(vm(95, 100), below, None);
        assert_eq!(armed, None);
        assert!(begun.len() <= 30, "{} passes in a day", begun.len());
        assert!(
            told.contains("will not get below") && told.contains("a faster LUN"),
            "{told}"
        );
    }

    #[test]
    fn a_long_interval_does_not_keep_a_short_downtime_waiting() {
        let below = Cutover::DowntimeBelow(Duration::from_secs(600));
        let (begun, armed, _) = drive(vm(10, 100), below, None);
        // 20 GiB at 100 MiB/s, and then at once.
        assert!(begun[1] <= 206_000, "{begun:?}");
        assert!(armed.unwrap() < 600_000, "{armed:?}");
    }

    #[test]
    fn what_takes_long_to_be_proven_is_proven_before_the_last_passes() {
        let below = Cutover::DowntimeBelow(Duration::from_secs(8));
        let proving = Vm {
            steady: vm(10, 100),
            prove: Prove::BeforeCutover,
        };
        let (begun, armed, _) = drive(proving, below, None);
        // The proof of 20 GiB takes 200 s, in which 2 GiB change: an outage of 40 s.
        assert!(armed.unwrap() < 1_200_000, "{begun:?}");
        let asked = Vm {
            steady: vm(10, 100),
            prove: Prove::BeforeCutover,
        };
        let (begun, armed, _) = drive(asked, Cutover::Manual, Some(4_200_000));
        let after = begun.iter().filter(|moment| **moment >= 4_200_000).count();
        assert!(after >= 1 && armed.unwrap() < 5_400_000, "{begun:?}");
    }

    #[test]
    fn a_scheduled_cutover_has_a_pass_just_before_it() {
        let moment = 5 * 3600 + 1800;
        let (begun, armed, _) = drive(vm(10, 100), Cutover::At(moment), None);
        let armed = armed.unwrap() / 1000;
        assert!((moment..moment + 120).contains(&armed), "{armed}");
        let last = begun.last().unwrap() / 1000;
        assert!(last > moment - 1800, "{last} is long before {moment}");
    }
}
