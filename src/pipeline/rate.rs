//! A limit on bytes per second: shared by any number of jobs, and changed while they run.

use super::counters::Counters;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as Turn, Notify};

/// Time that was not used is lost, but for this much.
const BURST: Duration = Duration::from_millis(100);

/// A limit on bytes per second. Cloning shares it: what one job takes, another cannot.
#[derive(Clone)]
pub struct RateLimit(Arc<Shared>);

struct Shared {
    meter: Mutex<Meter>,
    /// First come, first served.
    turn: Turn<()>,
    changed: Notify,
}

impl RateLimit {
    /// So many bytes per second; `None` is no limit for now.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self(Arc::new(Shared {
            meter: Mutex::new(Meter::new(rate, Instant::now())),
            turn: Turn::default(),
            changed: Notify::new(),
        }))
    }

    /// Changes the limit, also for those who wait now.
    pub fn set(&self, rate: Option<u64>) {
        self.meter().set(rate, Instant::now());
        // Only the first in the queue waits for time to pass; kept for it if there is none yet.
        self.0.changed.notify_one();
    }

    /// Bytes per second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.meter().rate
    }

    /// Bytes that went so far.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.meter().passed
    }

    /// Returns when `bytes` may go by each of `rates`, and counts how long that took.
    pub(crate) async fn pass_all(rates: &[Self], bytes: u64, counters: &Counters) {
        for rate in rates {
            let waited = rate.pass(bytes).await;
            Counters::spent(&counters.limit_wait, waited);
        }
    }

    /// Returns when `bytes` may go, and says how long that took.
    pub async fn pass(&self, bytes: u64) -> Duration {
        let asked = Instant::now();
        let _turn = self.0.turn.lock().await;
        loop {
            let now = Instant::now();
            let due = self.meter().take(bytes, now);
            let Some(due) = due else {
                return now.saturating_duration_since(asked);
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.0.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RateLimit({:?})", self.rate())
    }
}

/// What may go when. Pure: time comes in as a value.
#[derive(Debug)]
struct Meter {
    rate: Option<u64>,
    passed: u64,
    /// When the bytes that went so far are paid for.
    paid: Instant,
}

impl Meter {
    fn new(rate: Option<u64>, now: Instant) -> Self {
        Self {
            rate,
            passed: 0,
            paid: now,
        }
    }

    /// What was taken at the old rate is paid for: it was one request.
    fn set(&mut self, rate: Option<u64>, now: Instant) {
        (self.rate, self.paid) = (rate, now);
    }

    /// Takes `bytes` out, or says when that may be tried again.
    fn take(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let limited = self.rate.filter(|_| self.paid > now);
        if limited.is_some() {
            return Some(self.paid);
        }
        self.passed = self.passed.saturating_add(bytes);
        let rate = self.rate?;
        let nanos = u128::from(bytes).saturating_mul(1_000_000_000);
        let cost = nanos.checked_div(u128::from(rate.max(1))).unwrap_or(0);
        let cost = Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        let from = self.paid.max(now.checked_sub(BURST).unwrap_or(now));
        self.paid = from.checked_add(cost).unwrap_or(from);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, RateLimit};
    use futures_util::FutureExt;
    use std::time::{Duration, Instant};

    #[test]
    fn the_rate_holds_over_time_whatever_the_request_size() {
        for request in [1000, 50_000, 900_000] {
            let start = Instant::now();
            let mut now = start;
            let mut meter = Meter::new(Some(1_000_000), start);
            let mut sent = 0;
            while now < start + Duration::from_secs(10) {
                match meter.take(request, now) {
                    Some(due) => now = due,
                    None => sent += request,
                }
            }
            let fair = 9_000_000..=12_000_000;
            assert!(fair.contains(&sent), "{sent} in steps of {request}");
        }
    }

    #[test]
    fn an_idle_hour_does_not_buy_an_hour_of_full_speed() {
        let start = Instant::now();
        let mut meter = Meter::new(Some(1000), start);
        let now = start + Duration::from_secs(3600);
        assert_eq!(meter.take(1000, now), None);
        let due = meter.take(1000, now).unwrap();
        assert!(due >= now + Duration::from_millis(800));
    }

    #[test]
    fn whoever_waits_at_a_trickle_goes_on_when_the_limit_is_lifted() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = RateLimit::new(Some(1));
            let other = limit.clone();
            limit.pass(1 << 30).await;
            let waiting = limit.pass(1 << 30);
            tokio::pin!(waiting);
            assert!(
                (&mut waiting).now_or_never().is_none(),
                "34 years are not over"
            );
            other.set(None);
            let patience = tokio::time::timeout(Duration::from_secs(20), waiting);
            patience.await.expect("it went on");
            assert_eq!(limit.rate(), None);
        });
    }

    #[test]
    fn two_jobs_share_one_limit() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        let _inside = runtime.enter();
        let limit = RateLimit::new(Some(1000));
        let other = limit.clone();
        assert!(limit.pass(1 << 20).now_or_never().is_some());
        assert!(other.pass(1).now_or_never().is_none());
    }
}
