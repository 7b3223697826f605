//! What a user can choose about a client, and the rule by which it tries again. Pure.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// What a user can choose about a client.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many connections are wanted. More than one are made only if the server says that it
    /// can, or if [`force_multi_conn`](Self::force_multi_conn) is set.
    pub connections: usize,
    /// Make several connections even if the server does not promise that they agree: right for a
    /// snapshot that nobody writes to.
    pub force_multi_conn: bool,
    /// Meta contexts to ask for besides `base:allocation`.
    pub contexts: Vec<String>,
    /// Whether to ask for `base:allocation`.
    pub extents: bool,
    /// Refuse to change the export, whatever the server allows.
    pub read_only: bool,
    /// Ask a server that is near for a long read in several parts.
    pub cut_reads: bool,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Whether and how long to try again.
    pub retry: Retry,
    /// Counts what is tried again. Several clients may count together.
    pub retried: Arc<AtomicU64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 1,
            force_multi_conn: false,
            contexts: Vec::new(),
            extents: true,
            read_only: false,
            cut_reads: false,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            retried: Arc::default(),
        }
    }
}

impl Options {
    /// The contexts to ask for, without repetition.
    pub(super) fn all_contexts(&self) -> Vec<String> {
        let base = self.extents.then(|| super::BASE_ALLOCATION.to_owned());
        let mut all: Vec<String> = Vec::new();
        for context in base.into_iter().chain(self.contexts.iter().cloned()) {
            if !all.contains(&context) {
                all.push(context);
            }
        }
        all
    }
}

/// How long to wait for a server.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, its handshake and TLS, together.
    pub connect: Duration,
    /// For a sign of life while requests are under way. Flush, trim and write-zeroes may take ten
    /// times as long, and so may a single request while others are answered.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            request: Duration::from_secs(60),
        }
    }
}

/// How a request that failed for now is tried again: after 0.1 s, 0.2 s, 0.4 s… up to 5 s.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How long after its first failure a request is still tried. Zero: never.
    pub deadline: Duration,
    /// The first pause; each is twice as long as the one before.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// Never tries again.
    #[must_use]
    pub fn never() -> Self {
        Self {
            deadline: Duration::ZERO,
            ..Self::default()
        }
    }

    /// How long to pause before attempt number `attempt` (the first repetition is 0), when the
    /// first failure was `since` ago. `None`: it is over.
    #[must_use]
    pub fn pause(&self, attempt: u32, since: Duration) -> Option<Duration> {
        let left = self.deadline.checked_sub(since)?;
        if left.is_zero() {
            return None;
        }
        let factor = 2u32.saturating_pow(attempt);
        let pause = self.first.saturating_mul(factor).min(self.longest);
        Some(pause.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, Retry};
    use std::time::Duration;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_at_the_deadline() {
        let retry = Retry {
            deadline: Duration::from_secs(10),
            first: Duration::from_millis(100),
            longest: Duration::from_secs(1),
        };
        let ms = |attempt, since| {
            retry
                .pause(attempt, Duration::from_millis(since))
                .map(|pause| pause.as_millis())
        };
        assert_eq!(ms(0, 0), Some(100));
        assert_eq!(ms(2, 0), Some(400));
        assert_eq!(ms(40, 0), Some(1000));
        assert_eq!(ms(40, 9_900), Some(100));
        assert_eq!(ms(0, 10_000), None);
        assert_eq!(ms(0, 99_000), None);
        assert_eq!(Retry::never().pause(0, Duration::ZERO), None);
    }

    #[test]
    fn a_context_is_asked_for_once() {
        let options = Options {
            contexts: vec!["x".to_owned(), "base:allocation".to_owned(), "x".to_owned()],
            ..Options::default()
        };
        assert_eq!(options.all_contexts(), ["base:allocation", "x"]);
    }
}
