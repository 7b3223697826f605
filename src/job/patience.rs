//! How long something is tried again that fails for a moment. Pure: time comes in as a value.

use std::time::{Duration, Instant};

/// Time before the next attempt: doubled each time that nothing moved.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// And no longer than this.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How long to go on: for as long as something moves, and then for as long as the user says.
#[derive(Debug, Default)]
pub(super) struct Patience {
    ends: Option<Instant>,
    delay: Duration,
}

impl Patience {
    /// What to wait before the next attempt; `None` if there should be none: nothing has moved for
    /// `retry`, or ever.
    pub(super) fn after(
        &mut self,
        progress: bool,
        now: Instant,
        retry: Duration,
    ) -> Option<Duration> {
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
