//! Throughput and time left, smoothed: a pure function of what was seen and when.

use crate::pipeline::counters::Totals;
use std::time::Duration;

/// How far back the smoothing looks. Shorter and the numbers dance, longer and they lag.
const MEMORY: Duration = Duration::from_secs(4);

/// Turns totals at moments into a [`Pace`]. One per pass, fed in order of time.
#[derive(Debug, Default)]
pub struct Meter {
    moved: Rate,
    advance: Rate,
    dealt: Rate,
}

/// How fast a pass is, and how long it will take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pace {
    /// Bytes read from the source, or read back to be verified, per second.
    pub throughput: u64,
    /// Time until all is dealt with. `None` while there is nothing to go by.
    pub left: Option<Duration>,
}

impl Meter {
    /// Takes in `totals` as of `elapsed` since the start, of a disk of `size` bytes.
    pub fn observe(&mut self, elapsed: Duration, totals: &Totals, size: u64) -> Pace {
        let moved = totals.read.saturating_add(totals.verified);
        let throughput = self.moved.observe(elapsed, moved);
        let position = self.advance.observe(elapsed, totals.position);
        let dealt = self.dealt.observe(elapsed, totals.dealt);
        let (done, of) = totals.part(size);
        let advance = if totals.goal == 0 { position } else { dealt };
        Pace {
            throughput,
            left: time_for(of.saturating_sub(done), advance),
        }
    }
}

/// How long `bytes` take at `rate` bytes per second; `None` if they would take for ever.
pub(super) fn time_for(bytes: u64, rate: u64) -> Option<Duration> {
    let nanos = (u128::from(bytes) * NANOS).checked_div(u128::from(rate))?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

const NANOS: u128 = 1_000_000_000;

/// A rate of change of one counter, in units per second.
#[derive(Debug, Default)]
struct Rate {
    last: Option<(Duration, u64)>,
    smoothed: Option<u64>,
}

impl Rate {
    /// Takes in the counter's `value` as of `elapsed`; a value that shrank counts as unchanged.
    ///
    /// The new rate is the mean of the old one, weighing [`MEMORY`], and of what happened since,
    /// weighing the time since. The first reading only says where the counter stood: an earlier
    /// run may have brought it there.
    fn observe(&mut self, elapsed: Duration, value: u64) -> u64 {
        let (then, before) = self.last.unwrap_or((elapsed, value));
        let value = value.max(before);
        let spent = elapsed.saturating_sub(then).as_nanos();
        if spent == 0 && self.last.is_some() {
            return self.smoothed.unwrap_or(0);
        }
        self.last = Some((elapsed, value));
        let gained = u128::from(value.saturating_sub(before)).saturating_mul(NANOS);
        let (old, weight) = match self.smoothed {
            Some(old) => (u128::from(old), MEMORY.as_nanos()),
            None => (0, 0),
        };
        let sum = old.saturating_mul(weight).saturating_add(gained);
        match sum.checked_div(weight.saturating_add(spent)) {
            Some(rate) => {
                let rate = u64::try_from(rate).unwrap_or(u64::MAX);
                self.smoothed = Some(rate);
                rate
            }
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, Pace};
    use crate::pipeline::counters::Totals;
    use std::time::Duration;

    fn totals(bytes: u64) -> Totals {
        Totals {
            read: bytes,
            position: bytes,
            ..Totals::default()
        }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_steady_copy_has_its_exact_rate_and_time_left() {
        let mut meter = Meter::default();
        meter.observe(at(0), &totals(0), 10_000);
        for tick in 1..=8 {
            let pace = meter.observe(at(tick * 500), &totals(tick * 500), 10_000);
            assert_eq!(pace.throughput, 1000);
            assert_eq!(pace.left, Some(at(10_000 - tick * 500)));
        }
    }

    #[test]
    fn a_delta_is_measured_by_what_changed_and_not_by_where_it_is() {
        let mut meter = Meter::default();
        let of_changes = |dealt, position| Totals {
            goal: 4000,
            dealt,
            position,
            ..Totals::default()
        };
        meter.observe(at(0), &of_changes(0, 0), 1 << 40);
        let pace = meter.observe(at(1000), &of_changes(1000, 1 << 39), 1 << 40);
        assert_eq!(pace.left, Some(at(3000)));
    }

    #[test]
    fn what_an_earlier_run_did_is_not_speed() {
        let mut meter = Meter::default();
        meter.observe(at(0), &totals(1 << 40), 2 << 40);
        let pace = meter.observe(at(1000), &totals((1 << 40) + 1000), 2 << 40);
        assert_eq!(pace.throughput, 1000);
    }

    #[test]
    fn a_stall_fades_the_rate_out_and_the_time_left_grows() {
        let mut meter = Meter::default();
        meter.observe(at(0), &totals(0), 100_000);
        let mut before = meter.observe(at(500), &totals(50_000), 100_000);
        for tick in 2..200 {
            let now = meter.observe(at(tick * 500), &totals(50_000), 100_000);
            assert!(now.throughput < before.throughput || now.throughput == 0);
            assert!(now.left.is_none_or(|left| Some(left) >= before.left));
            before = now;
        }
        assert_eq!(before, Pace::default(), "after minutes nothing is promised");
    }

    #[test]
    fn a_counter_that_goes_back_or_a_clock_that_stands_still_does_no_harm() {
        let mut meter = Meter::default();
        meter.observe(at(0), &totals(1000), 4000);
        let first = meter.observe(at(1000), &totals(2000), 4000);
        assert_eq!(
            meter.observe(at(1000), &totals(3000), 4000).throughput,
            1000
        );
        assert!(meter.observe(at(2000), &totals(500), 4000).throughput < first.throughput);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut meter = Meter::default();
        meter.observe(at(0), &totals(0), u64::MAX);
        let pace = meter.observe(Duration::from_nanos(1), &totals(u64::MAX), u64::MAX);
        assert_eq!(pace.throughput, u64::MAX);
    }
}
