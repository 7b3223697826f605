//! Events as JSON, one object per line, flushed one by one.

use super::{Event, Reporter};
use serde::Serialize;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Writes each event as one line of JSON. `docs/events.md` has the fields.
///
/// A reader that went away does not stop a copy: what cannot be written is dropped.
pub struct Json<W>(Mutex<W>);

impl<W: Write + Send> Json<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self(Mutex::new(out))
    }
}

impl<W: Write + Send> Json<W> {
    fn line(&self, told: &impl Serialize) {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = match serde_json::to_string(told) {
            Ok(line) => writeln!(out, "{line}").and_then(|()| out.flush()),
            Err(_) => Ok(()),
        };
    }
}

/// An event, and the disk that it is about.
#[derive(Serialize)]
struct OfDisk<'a> {
    #[serde(flatten)]
    event: &'a Event,
    disk: &'a str,
}

impl<W: Write + Send> Reporter for Json<W> {
    fn event(&self, event: &Event) {
        self.line(event);
    }

    fn disk_event(&self, disk: &str, event: &Event) {
        self.line(&OfDisk { event, disk });
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Json, Reporter};
    use crate::pipeline::counters::Totals;

    #[test]
    fn an_event_is_one_line_with_its_name_and_flat_totals() {
        let mut out = Vec::new();
        let json = Json::new(&mut out);
        json.event(&Event::Progress {
            totals: Totals {
                read: 7,
                ..Totals::default()
            },
            size: 10,
            elapsed: 0.5,
            throughput: 14,
            eta: None,
        });
        json.event(&Event::Warning {
            message: "two\nlines".to_owned(),
        });
        json.disk_event("a", &Event::Verify { bytes: 1 });
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(
            (&lines[2]["event"], &lines[2]["disk"]),
            (&"verify".into(), &"a".into())
        );
        assert_eq!(lines[0]["event"], "progress");
        assert_eq!(lines[0]["read"], 7);
        assert_eq!(lines[0]["bottleneck"], "none");
        assert!(lines[0]["eta"].is_null());
        assert_eq!(lines[1]["message"], "two\nlines");
    }
}
