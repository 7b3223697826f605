//! Tries a pass again when something failed that may pass: a server that was restarted, a network
//! that was gone. Each attempt opens both ends anew and continues from the last barrier.

use super::context::Context;
use super::copy::Outcome;
use super::options::{CopyOptions, JournalPlace};
use super::prepare::attempt;
use crate::error::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// Time before the next attempt: doubled each time that nothing moved.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// And no longer than this.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Copies one disk, one pass.
///
/// A transient failure is tried again from the last barrier, for as long as something moves and
/// then for as long as the options say; not without a journal, and not if the first attempt moved
/// nothing: then an address is wrong rather than a network gone.
///
/// # Errors
/// See [`Kind`]; nothing is lost, and the same command continues where this run stopped.
pub async fn copy(options: &CopyOptions, mut context: Context) -> Result<Outcome> {
    let mut patience = Patience::default();
    let mut restart = options.restart;
    loop {
        let before = moved(&context);
        let error = match attempt(options, context.clone(), restart).await {
            Err(error) if may_pass(options, &error) => error,
            outcome => return outcome,
        };
        restart = false;
        let progress = moved(&context) > before;
        let Some(delay) = patience.after(progress, Instant::now(), options.tuning.retry) else {
            return Err(error);
        };
        context.warn(format!(
            "{}; trying again from the last barrier",
            error.line()
        ));
        tokio::select! {
            () = context.stop.requested() => return Err(error.with_kind(Kind::Interrupted)),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

fn may_pass(options: &CopyOptions, error: &Error) -> bool {
    error.kind() == Kind::Transient && options.journal != JournalPlace::None
}

/// Bytes that went anywhere so far.
fn moved(context: &Context) -> u64 {
    let totals = context.counters.snapshot();
    [totals.read, totals.zeroed, totals.verified]
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
}

/// How long to go on. Pure: time comes in as a value.
#[derive(Debug, Default)]
struct Patience {
    ends: Option<Instant>,
    delay: Duration,
}

impl Patience {
    /// What to wait before the next attempt; `None` if there should be none.
    fn after(&mut self, progress: bool, now: Instant, retry: Duration) -> Option<Duration> {
        if progress {
            self.ends = now.checked_add(retry);
            self.delay = FIRST_DELAY;
        } else {
            self.delay = self.delay.saturating_mul(2).min(LONGEST_DELAY);
        }
        let left = self.ends?.saturating_duration_since(now);
        (!left.is_zero()).then(|| self.delay.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_DELAY, Patience};
    use std::time::{Duration, Instant};

    const RETRY: Duration = Duration::from_secs(60);

    #[test]
    fn what_never_worked_is_not_tried_again() {
        assert_eq!(
            Patience::default().after(false, Instant::now(), RETRY),
            None
        );
    }

    #[test]
    fn patience_ends_a_minute_after_the_last_progress() {
        let start = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.after(true, start, RETRY), Some(FIRST_DELAY));
        assert_eq!(
            patience.after(false, start + RETRY / 2, RETRY),
            Some(FIRST_DELAY * 2)
        );
        assert_eq!(patience.after(false, start + RETRY, RETRY), None);
        assert!(
            patience.after(true, start + RETRY, RETRY).is_some(),
            "it moved again"
        );
    }

    #[test]
    fn no_retry_means_none() {
        assert_eq!(
            Patience::default().after(true, Instant::now(), Duration::ZERO),
            None
        );
    }
}
