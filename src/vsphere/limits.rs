//! How long calls may take. Pure.
//!
//! A limit is that of a whole call: connecting, TLS and sending it again are within it, so that a
//! server which takes connections and says nothing costs no more than one that is not there.

use std::time::Duration;

/// Seconds that an answer may take, if nobody says otherwise.
const ANSWER: u64 = 120;

/// Changes of a disk may take as much longer: the host reads the whole change file.
const CHANGES: u32 = 5;

/// A connection takes no longer than this, however long its answer may.
const CONNECTION: Duration = Duration::from_secs(30);

/// Nor does a logout, which holds up the end of the program.
const LOGOUT: Duration = Duration::from_secs(5);

/// Seconds that may be asked for.
const SENSIBLE: std::ops::RangeInclusive<u64> = 1..=3600;

/// How long the calls of a session may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeLimits {
    answer: Duration,
}

/// Which of the limits a call has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// That of most calls.
    Answer,
    /// That of a call for the changes of a disk.
    Changes,
    /// That of the end of a session.
    Logout,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(ANSWER),
        }
    }
}

impl TimeLimits {
    /// Those of a server whose answers may take that long; `None` if that makes no sense.
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Option<Self> {
        SENSIBLE.contains(&seconds).then(|| Self {
            answer: Duration::from_secs(seconds),
        })
    }

    /// The same, as a user writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().and_then(Self::of_seconds)
    }

    /// How it was written.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.answer.as_secs()
    }

    /// How long a call may take.
    #[must_use]
    pub fn of(self, wait: Wait) -> Duration {
        match wait {
            Wait::Answer => self.answer,
            Wait::Changes => self.answer.saturating_mul(CHANGES),
            Wait::Logout => self.answer.min(LOGOUT),
        }
    }

    /// How long a connection may take to come about, TLS and proxy included.
    #[must_use]
    pub fn connection(self) -> Duration {
        self.answer.min(CONNECTION)
    }
}

#[cfg(test)]
mod tests {
    use super::{TimeLimits, Wait};
    use std::time::Duration;

    #[test]
    fn the_limits_of_the_manual_hold_unless_somebody_says_otherwise() {
        let seconds = |limits: TimeLimits| {
            let of = |wait| limits.of(wait).as_secs();
            let calls = [Wait::Answer, Wait::Changes, Wait::Logout].map(of);
            (limits.connection().as_secs(), calls)
        };
        assert_eq!(seconds(TimeLimits::default()), (30, [120, 600, 5]));
        assert_eq!(
            seconds(TimeLimits::parse("2").unwrap()),
            (2, [2, 10, 2]),
            "nothing takes longer than an answer may"
        );
        let long = TimeLimits::of_seconds(3600).unwrap();
        assert_eq!(long.of(Wait::Logout), Duration::from_secs(5));
        for text in ["0", "3601", "", "1s", "-1"] {
            assert_eq!(TimeLimits::parse(text), None, "{text:?}");
        }
    }
}
