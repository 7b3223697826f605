//! A flight recorder: the last seconds of the log, kept in memory whether or not anybody reads it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is older is dropped, as soon as something new comes.
const SECONDS: Duration = Duration::from_secs(60);

/// And the oldest, when there are more lines than this.
const LINES: usize = 2000;

/// The last lines of a log. Clones are the same recorder; each is a writer that takes whole lines.
#[derive(Clone, Debug, Default)]
pub struct Flight(Arc<Mutex<VecDeque<(Instant, String)>>>);

impl Flight {
    fn lines(&self) -> MutexGuard<'_, VecDeque<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered, oldest first.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().iter().map(|(_, line)| line.as_str()).collect()
    }

    fn push(&self, line: String, now: Instant) {
        let mut lines = self.lines();
        lines.push_back((now, line));
        let old = |(then, _): &(Instant, String)| now.saturating_duration_since(*then) > SECONDS;
        while lines.len() > LINES || lines.front().is_some_and(old) {
            lines.pop_front();
        }
    }
}

impl io::Write for Flight {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(String::from_utf8_lossy(bytes).into_owned(), Instant::now());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Flight, Instant, LINES, SECONDS};
    use std::time::Duration;

    #[test]
    fn old_lines_go_and_so_do_too_many() {
        let flight = Flight::default();
        let start = Instant::now();
        flight.push("old\n".to_owned(), start);
        flight.push("new\n".to_owned(), start + SECONDS);
        assert_eq!(flight.text(), "old\nnew\n");
        flight.push(
            "newer\n".to_owned(),
            start + SECONDS + Duration::from_secs(1),
        );
        assert_eq!(flight.text(), "new\nnewer\n");
        for _ in 0..LINES {
            flight.push("x".to_owned(), start + SECONDS);
        }
        assert!(!flight.text().contains("new"));
    }
}
