//! How many bytes may be in flight. Pure: it is told what happened and answers with a number.
//!
//! Too few and a distant source idles; too many only fall out of the cache, and make servers that
//! take fresh memory for each request pay for it. What a link holds is its rate times the time
//! that one request takes when it does not queue (Little's law), so that is measured: the quickest
//! request of each period stands for one that did not queue.

use std::time::Duration;

/// Bytes in flight that keep any link busy that a disk near by is likely to be behind: measured on
/// a loop device, 32 MiB in flight took the time of 8 and more CPU.
const LEAST: u64 = 8 << 20;

/// More than this is never in flight for one disk. The budget may allow less.
const MOST: u64 = 64 << 20;

/// A period lasts this many bytes, so that one slow moment says little.
const PERIOD: u64 = 32 << 20;

/// Measures, and says how many bytes are enough.
#[derive(Debug)]
pub(super) struct Flight {
    enough: u64,
    began: Duration,
    bytes: u64,
    quickest: Duration,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self {
            enough: LEAST,
            began: Duration::ZERO,
            bytes: 0,
            quickest: Duration::MAX,
        }
    }

    /// Bytes in flight beyond which more would only queue.
    pub(super) fn enough(&self) -> u64 {
        self.enough
    }

    /// A request of `bytes` ended at `now`, a time since the pass began, having taken `took`.
    pub(super) fn completed(&mut self, bytes: u64, took: Duration, now: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.quickest = self.quickest.min(took);
        if self.bytes < PERIOD {
            return;
        }
        let period = now.saturating_sub(self.began);
        self.enough = held(self.bytes, period, self.quickest)
            .saturating_mul(2)
            .clamp(LEAST, MOST);
        self.began = now;
        self.bytes = 0;
        self.quickest = Duration::MAX;
    }
}

/// The bytes that are under way at any moment, if `bytes` pass in `period` and each takes `took`.
fn held(bytes: u64, period: Duration, took: Duration) -> u64 {
    let nanos = u128::from(bytes).saturating_mul(took.as_nanos());
    let held = nanos.checked_div(period.as_nanos()).unwrap_or(0);
    u64::try_from(held).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Flight, LEAST, MOST};
    use std::time::Duration;

    /// 4 GiB, a mebibyte at a time, at 2 GiB/s or what `enough` allows if that is less, each request
    /// taking `latency`.
    fn settle(latency: Duration) -> u64 {
        let mut flight = Flight::new();
        let mut now = Duration::ZERO;
        for _ in 0..4096 {
            let at_most = flight.enough() as f64 / latency.as_secs_f64();
            let rate = at_most.min(2.0 * 1024.0 * 1024.0 * 1024.0);
            now += Duration::from_secs_f64(1048576.0 / rate);
            flight.completed(1 << 20, latency, now);
        }
        flight.enough()
    }

    #[test]
    fn a_disk_near_by_gets_the_least_and_a_distant_one_what_the_way_holds() {
        assert_eq!(settle(Duration::from_micros(300)), LEAST);
        let way = (2u64 << 30) / 100;
        let enough = settle(Duration::from_millis(10));
        assert!((way..way * 3).contains(&enough), "{enough}");
        assert_eq!(settle(Duration::from_secs(1)), MOST);
    }

    #[test]
    fn a_pass_that_is_held_up_goes_back_to_the_least() {
        let mut flight = Flight::new();
        let slow = Duration::from_millis(10);
        for _ in 0..32 {
            flight.completed(1 << 20, slow, Duration::from_millis(1));
        }
        assert_eq!(flight.enough(), MOST);
        for second in 1..40 {
            flight.completed(1 << 20, slow, Duration::from_secs(second));
        }
        assert_eq!(flight.enough(), LEAST);
    }
}
