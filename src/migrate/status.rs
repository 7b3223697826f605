//! The state of a migration as it is shown: JSON for scripts, a table for people. Pure.

use super::board::Live;
use super::forecast::Forecast;
use super::phase::Phase;
use super::record::{Outage, PassRecord, Record, Untracked};
use crate::report::{Event, bytes, seconds};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// Passes that are shown.
const PASSES: usize = 8;

/// What `status --json` prints. Documented in `docs/migrate.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The VM.
    pub vm: String,
    /// Whether a process drives it.
    pub running: bool,
    /// Where it is.
    pub phase: String,
    /// The same, and where it was when it stopped.
    pub reached: String,
    /// The point that is worked on.
    pub point: u32,
    /// The newest point that is durable on every disk.
    pub durable: u32,
    /// On hold.
    pub hold: bool,
    /// The cutover was asked for.
    pub cutover: bool,
    /// Why the last cutover came to nothing.
    pub called_off: Option<String>,
    /// Why it stopped.
    pub stopped: Option<String>,
    /// What is being tried again.
    pub trying: Option<String>,
    /// No process drives it, and a snapshot of the VM may stand.
    #[serde(default)]
    pub snapshot_stands: bool,
    /// How it is known that the source is quiet.
    pub quiet: Option<String>,
    /// Each disk.
    pub disks: Vec<DiskStatus>,
    /// What is expected, while it runs.
    pub forecast: serde_json::Value,
    /// What would help.
    pub advice: Option<String>,
    /// Seconds until it is decided again what comes next.
    pub next_in: Option<f64>,
    /// The last passes.
    pub passes: Vec<PassRecord>,
    /// The outage, from its beginning on.
    pub outage: Option<Outage>,
}

/// A disk, as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its name.
    pub name: String,
    /// Where it goes.
    pub target: String,
    /// Bytes.
    pub size: u64,
    /// The newest point that is complete on it.
    pub complete: u32,
    /// Bytes that what runs deals with.
    pub goal: Option<u64>,
    /// Of these, bytes that are read, or known to be zero.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Bytes zeroed.
    pub zeroed: u64,
    /// Bytes read back and proven.
    pub verified: u64,
    /// Everything below is dealt with.
    pub position: u64,
    /// Requests repeated.
    pub retries: u64,
    /// Bytes that change per second.
    pub dirty_rate: Option<u64>,
    /// Bytes that changed since the last point, where the guest can tell.
    pub changed: Option<u64>,
    /// It was asked between two passes, and nothing could tell.
    #[serde(default)]
    pub untold: bool,
    /// Why what tells its changes cannot be relied on, if so: all of it is compared.
    pub untracked: Option<Untracked>,
}

impl Status {
    /// Of what is recorded, and of what is live if a process drives it.
    #[must_use]
    pub(super) fn of(record: &Record, live: Option<&Live>) -> Self {
        let state = &record.state;
        let forecast = live.map(|live| live.forecast.clone()).unwrap_or_default();
        let disks = record.disks.iter().enumerate().map(|(i, disk)| {
            let totals = live.map(|live| live.running(i)).unwrap_or_default();
            DiskStatus {
                name: disk.name.clone(),
                target: disk.target.clone(),
                size: disk.size,
                complete: disk.complete,
                goal: live.and_then(|live| live.goals.get(i).copied().flatten()),
                read: totals.read,
                written: totals.written,
                zeroed: totals.zeroed,
                verified: totals.verified,
                position: totals.position,
                retries: totals.retries,
                dirty_rate: forecast.disks.get(i).and_then(|disk| disk.dirty_rate),
                changed: live.and_then(|live| live.changed(i)),
                untold: live.is_some_and(|live| live.is_untold(i)),
                untracked: disk.untracked.clone(),
            }
        });
        let passes = record.passes.len().saturating_sub(PASSES);
        Self {
            vm: record.vm.clone(),
            running: live.is_some(),
            phase: name(state.phase()),
            reached: name(state.reached()),
            point: state.point,
            durable: state.durable,
            hold: state.hold,
            cutover: state.cutover,
            called_off: state.called_off.clone(),
            stopped: state.stopped.clone(),
            trying: live.and_then(|live| live.trying.clone()),
            snapshot_stands: live.is_none() && state.may_be_frozen(),
            quiet: state.quiet.as_ref().map(|quiet| quiet.evidence.clone()),
            disks: disks.collect(),
            forecast: serde_json::to_value(&forecast).unwrap_or_default(),
            advice: live.and_then(|live| live.advice.clone()),
            next_in: live.and_then(|live| Some(live.until_due()?.as_secs_f64())),
            passes: record.passes.iter().skip(passes).cloned().collect(),
            outage: record.outage,
        }
    }

    /// Whether nothing more will happen without a user.
    #[must_use]
    pub fn is_over(&self) -> bool {
        ["done", "cancelled"].contains(&self.phase.as_str()) && !self.running
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let driven = if self.running {
            ""
        } else {
            " (no process drives it)"
        };
        let _ = writeln!(text, "{}: {}{driven}", self.vm, self.phase);
        self.pipeline(&mut text);
        self.disks(&mut text);
        self.passes(&mut text);
        self.outlook(&mut text);
        text
    }

    /// The phases in their order, and where it is.
    fn pipeline(&self, text: &mut String) {
        let order = [
            "preflight",
            "full",
            "delta",
            "armed",
            "quiesce",
            "final",
            "verify",
            "done",
        ];
        let here = order.iter().position(|name| *name == self.reached);
        let here = here.or(match (self.reached.as_str(), self.durable) {
            ("wait" | "hold", _) => Some(2),
            (_, 0) => Some(1),
            _ => Some(2),
        });
        let cells = order.iter().enumerate().map(|(i, name)| match here {
            Some(here) if i < here => format!("[x] {name}"),
            Some(here) if i == here && self.phase == "done" => format!("[x] {name}"),
            Some(here) if i == here => format!("[>] {name}"),
            _ => format!("[ ] {name}"),
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "  {}\n", cells.join("  "));
    }

    fn disks(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "  {:<12} {:>10} {:>6} {:>10} {:>10} {:>10} {:>10} {:>12}  target",
            "disk", "size", "point", "to do", "written", "verified", "changed", "changes"
        );
        for disk in &self.disks {
            let rate = disk.dirty_rate.map(|rate| format!("{}/s", bytes(rate)));
            let _ = writeln!(
                text,
                "  {:<12} {:>10} {:>6} {:>10} {:>10} {:>10} {:>10} {:>12}  {}",
                disk.name,
                bytes(disk.size),
                disk.complete,
                disk.goal.map_or_else(|| "-".to_owned(), bytes),
                bytes(disk.written.saturating_add(disk.zeroed)),
                bytes(disk.verified),
                disk.changed.map_or_else(|| "-".to_owned(), bytes),
                rate.unwrap_or_else(|| "-".to_owned()),
                disk.target
            );
        }
    }

    fn passes(&self, text: &mut String) {
        if self.passes.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n  {:<6} {:<6} {:>10} {:>12} {:>12}  waited for",
            "point", "pass", "moved", "time", "forecast"
        );
        for pass in &self.passes {
            let expected = pass.expected.map(|expected| span(expected.copying));
            let _ = writeln!(
                text,
                "  {:<6} {:<6} {:>10} {:>12} {:>12}  {}",
                pass.point,
                pass.kind,
                bytes(pass.moved()),
                span(pass.copying),
                expected.unwrap_or_else(|| "-".to_owned()),
                pass.waited_for
            );
        }
    }

    fn outlook(&self, text: &mut String) {
        text.push('\n');
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(text, "  {what:<10} {value}");
        };
        let outage = self.forecast.get("outage");
        let number = |key: &str| outage.and_then(|outage| outage.get(key)?.as_u64());
        if let (Some(millis), Some(margin)) = (number("millis"), number("margin")) {
            line(
                "outage",
                &format!("{} ± {margin} %, if cut over now", span(millis)),
            );
        }
        if let Some(outage) = &self.outage {
            let ended = outage.quiet.zip(outage.ended);
            match ended {
                Some((quiet, ended)) => {
                    line(
                        "outage",
                        &format!(
                            "{}, from quiet to proven",
                            span(ended.saturating_sub(quiet))
                        ),
                    );
                }
                None => line("outage", "has begun"),
            }
        }
        if let Some(next) = self.next_in {
            line(
                "next",
                &format!(
                    "in {}",
                    seconds(Duration::try_from_secs_f64(next).unwrap_or_default())
                ),
            );
        }
        self.notes(text);
    }

    /// What is out of the ordinary.
    fn notes(&self, text: &mut String) {
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(text, "  {what:<10} {value}");
        };
        for disk in &self.disks {
            // No pass comes any more that would compare.
            let over = self.phase == "done";
            let untracked = disk.untracked.as_ref();
            if let Some(Untracked { why, for_good }) = untracked.filter(|_| !over) {
                let long = if *for_good { "every pass" } else { "this pass" };
                let name = &disk.name;
                line(
                    "tracking",
                    &format!("LOST of {name}: {why}; {long} compares all of it"),
                );
            }
        }
        let untold = self.disks.iter().filter(|disk| disk.untold);
        let untold: Vec<&str> = untold.map(|disk| disk.name.as_str()).collect();
        if !untold.is_empty() {
            let names = untold.join(", ");
            let how = "not told between passes: forecasts go by the passes before";
            line("changed", &format!("{names}: {how}"));
        }
        let notes = [
            ("quiet", &self.quiet),
            ("advice", &self.advice),
            ("called off", &self.called_off),
            ("trying", &self.trying),
            ("stopped", &self.stopped),
        ];
        for (what, note) in notes {
            if let Some(note) = note {
                line(what, note);
            }
        }
        if self.snapshot_stands {
            let point = self.point;
            line(
                "snapshot",
                &format!("of point {point} may stand; what the VM overwrites is kept for it"),
            );
        }
        if self.hold {
            line("hold", "no pass and no cutover until: diskferry resume");
        }
        if self.cutover && self.phase != "done" {
            line("cutover", "asked for");
        }
    }
}

/// The name of a phase, as it is in events and JSON.
#[must_use]
pub(super) fn name(phase: Phase) -> String {
    format!("{phase:?}").to_lowercase()
}

fn span(millis: u64) -> String {
    seconds(Duration::from_millis(millis))
}

/// What is expected, for an event.
#[must_use]
pub(super) fn forecast_event(forecast: &Forecast, advice: Option<String>) -> Event {
    let outage = forecast.outage;
    Event::Forecast {
        dirty_rate: forecast.dirty_rate,
        throughput: forecast.throughput,
        outage: outage.map(|outage| outage.time().as_secs_f64()),
        margin: outage.map(|outage| outage.margin),
        advice,
    }
}
