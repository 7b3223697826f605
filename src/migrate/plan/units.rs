//! Times, moments and hours of the day, out of words. Pure.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::time::Duration;

/// A time of at least one millisecond: `30s`, `1h 30m`, `PT5M`.
pub(super) fn time(word: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = word
        .parse()
        .map_err(|_| format!("{word:?} is no time such as 30s or 1h 30m"))?;
    let time = Duration::try_from(parsed).map_err(|_| format!("{word:?} is negative"))?;
    match time.as_millis() {
        0 => Err(format!("{word:?} is no time at all")),
        _ => Ok(time),
    }
}

/// A moment by RFC 3339, offset included, in seconds since 1970: `2026-12-01T22:00:00+01:00`.
///
/// # Errors
/// For people: it is not such a moment.
pub fn moment(word: &str) -> Result<u64, String> {
    let parsed: Timestamp = word.parse().map_err(|_| {
        format!("{word:?} is no moment with its offset, such as 2026-12-01T22:00:00+01:00")
    })?;
    u64::try_from(parsed.as_second()).map_err(|_| format!("{word:?} is before 1970"))
}

/// A moment as RFC 3339 has it, in the time zone of UTC.
#[must_use]
pub fn show_moment(seconds: u64) -> String {
    let second = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(second)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

/// An hour of the day to the second, in the time zone of the machine.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HourOfDay(Time);

impl HourOfDay {
    /// What the clock on the wall shows `seconds` after 1970.
    #[must_use]
    pub fn at(seconds: u64) -> Self {
        let second = i64::try_from(seconds).unwrap_or(i64::MAX);
        let moment = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        Self(moment.to_zoned_datetime(TimeZone::system()).time())
    }

    pub(super) fn parse(word: &str) -> Result<Self, String> {
        let parsed = word.parse().map(Self);
        parsed.map_err(|_| format!("{word:?} is no hour of the day such as 22:30"))
    }
}

impl fmt::Display for HourOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{HourOfDay, moment, show_moment, time};
    use std::time::Duration;

    #[test]
    fn times_have_units_and_are_longer_than_nothing() {
        assert_eq!(time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(time("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        for word in ["", "30", "-5s", "0s", "soon"] {
            assert!(time(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn a_moment_needs_its_offset() {
        assert_eq!(moment("1970-01-01T01:00:10+01:00"), Ok(10));
        assert_eq!(moment("1970-01-01T00:00:10Z"), Ok(10));
        assert_eq!(show_moment(10), "1970-01-01T00:00:10Z");
        for word in ["1970-01-01T00:00:10", "1969-12-31T00:00:00Z", "22:00"] {
            assert!(moment(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn hours_are_ordered_within_a_day() {
        let hour = |word| HourOfDay::parse(word).unwrap();
        assert!(hour("08:00") < hour("22:30"));
        assert!(HourOfDay::parse("24:30").is_err());
    }
}
