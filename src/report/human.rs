//! Events for people, on standard error: a bar on a terminal, plain lines elsewhere.

use super::{Event, Reporter, amount, pace, story};
use crate::endpoint::ServedBy;
use crate::pipeline::counters::{Bottleneck, Totals};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Seconds between two plain progress lines.
const LINE_EVERY: f64 = 5.0;

/// How much is shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Show {
    /// How progress is shown.
    pub progress: Progress,
    /// Nothing but warnings and failures.
    pub quiet: bool,
    /// Barriers and probes too.
    pub verbose: bool,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Progress {
    /// Not at all.
    #[default]
    Hidden,
    /// A bar that redraws itself.
    Bar,
    /// A line every few seconds.
    Lines,
}

/// Shows events to people.
pub struct Human<W> {
    show: Show,
    bar: ProgressBar,
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    last_line: f64,
    /// Bytes that are being read back, once that has begun.
    verifying: Option<u64>,
}

impl<W: Write + Send> Human<W> {
    /// Writes to `out`, which must be standard error if a bar is to be shown.
    pub fn new(show: Show, out: W) -> Self {
        let bar = if show.progress == Progress::Bar && !show.quiet {
            bar()
        } else {
            ProgressBar::hidden()
        };
        let state = Mutex::new(State {
            out,
            last_line: 0.0,
            verifying: None,
        });
        Self { show, bar, state }
    }

    /// Writes one line above the bar. What cannot be written is dropped: there is nobody to tell.
    fn line(&self, text: &str) {
        self.bar.suspend(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(state.out, "{text}");
        });
    }

    fn progress(&self, status: &Status) {
        let (done, of) = status.part();
        if self.show.progress == Progress::Bar {
            self.bar.set_length(of.max(1));
            self.bar.set_message(status.text());
            self.bar.set_position(done.min(of));
            return;
        }
        let due = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let due = status.elapsed >= state.last_line + LINE_EVERY;
            if due {
                state.last_line = status.elapsed;
            }
            due
        };
        if due && self.show.progress == Progress::Lines {
            self.line(&format!("{:>3}% {}", percent(done, of), status.text()));
        }
    }

    fn verifying(&self) -> Option<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.verifying
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(5));
    // The template is a constant; were it wrong, the plain bar would do.
    if let Ok(style) = ProgressStyle::with_template("{percent:>3}% [{bar:24}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

impl<W: Write + Send> Reporter for Human<W> {
    fn event(&self, event: &Event) {
        let chatty = !self.show.quiet;
        match event {
            Event::Progress {
                totals,
                size,
                elapsed,
                throughput,
                eta,
            } if chatty => {
                self.progress(&Status {
                    totals,
                    size: *size,
                    elapsed: *elapsed,
                    throughput: *throughput,
                    eta: *eta,
                    verifying: self.verifying(),
                });
            }
            Event::Verify { bytes } => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.verifying = Some(*bytes);
            }
            Event::Warning { message } => self.line(&format!("diskferry: warning: {message}")),
            // Also where little is told: it is a warning.
            Event::TrackingLost { .. } => {
                self.line(&format!("diskferry: warning: {}", sentence(event)));
            }
            Event::Failed { message, .. } => {
                self.bar.finish_and_clear();
                self.line(&format!("diskferry: {message}"));
            }
            Event::Done { .. } => {
                self.bar.finish_and_clear();
                if chatty {
                    self.line(&sentence(event));
                }
            }
            Event::Unpack { .. }
            | Event::Start { .. }
            | Event::Phase { .. }
            | Event::Pass { .. }
            | Event::Forecast { .. }
            | Event::Hook { .. }
            | Event::Migrated { .. }
                if chatty =>
            {
                self.line(&sentence(event));
            }
            Event::Barrier { .. } | Event::Probe { .. } | Event::ServedBy(_)
                if self.show.verbose =>
            {
                self.line(&sentence(event));
            }
            _ => {}
        }
    }

    /// Without its progress: that of all disks together is told by whoever drives them.
    fn disk_event(&self, disk: &str, event: &Event) {
        let chatty = !self.show.quiet;
        match event {
            Event::Warning { message } => {
                self.line(&format!("diskferry: warning: {disk}: {message}"));
            }
            Event::Unpack { .. } | Event::Start { .. } | Event::Done { .. } if chatty => {
                self.line(&format!("{disk}: {}", sentence(event)));
            }
            Event::Barrier { .. } | Event::Probe { .. } if self.show.verbose => {
                self.line(&format!("{disk}: {}", sentence(event)));
            }
            _ => {}
        }
    }
}

/// One event in one sentence.
fn sentence(event: &Event) -> String {
    if let Some(text) = story::sentence(event) {
        return text;
    }
    match event {
        Event::Unpack { source, scratch } => format!("{source} is unpacked into {scratch}"),
        Event::Start {
            source,
            target,
            size,
            pass,
            number,
            resumed,
        } => {
            let resumed = match resumed {
                0 => String::new(),
                done => format!(", {} of it done by an earlier run", amount::bytes(*done)),
            };
            let size = amount::bytes(*size);
            format!("{source} to {target}: pass {number}, {pass}, {size}{resumed}")
        }
        Event::Probe { report } => format!("probe: {report}"),
        Event::ServedBy(ServedBy { version, host }) => {
            format!("the source is served by {host}, software version {version}")
        }
        Event::Barrier { position, flush } => format!(
            "durable up to {} (flush took {flush:.3} s)",
            amount::bytes(*position)
        ),
        Event::Done {
            pass,
            totals,
            elapsed,
            proven,
            ..
        } => {
            let time = Duration::try_from_secs_f64(*elapsed).unwrap_or_default();
            let proof = if *proven {
                ", and proven by reading it back"
            } else {
                ""
            };
            format!(
                "{pass} pass done in {}: {}; durable{proof}",
                amount::seconds(time),
                by_kind(totals)
            )
        }
        other => format!("{other:?}"),
    }
}

/// What a progress event says, and what is being done.
struct Status<'a> {
    totals: &'a Totals,
    size: u64,
    elapsed: f64,
    throughput: u64,
    eta: Option<f64>,
    verifying: Option<u64>,
}

impl Status<'_> {
    /// How much of how much is done.
    fn part(&self) -> (u64, u64) {
        match self.verifying {
            Some(all) => (self.totals.verified, all),
            None => self.totals.part(self.size),
        }
    }

    /// Everything but the percentage.
    fn text(&self) -> String {
        let (done, of) = self.part();
        let left = match self.verifying {
            Some(_) => pace::time_for(of.saturating_sub(done), self.throughput),
            None => self
                .eta
                .and_then(|eta| Duration::try_from_secs_f64(eta).ok()),
        };
        let mut text = format!(
            "{} of {}, {}/s",
            amount::bytes(done),
            amount::bytes(of),
            amount::bytes(self.throughput)
        );
        if let Some(left) = left {
            text.push_str(&format!(", {} left", amount::seconds(left)));
        }
        text.push_str(&format!("; {}", by_kind(self.totals)));
        if self.verifying.is_some() {
            text.push_str("; verifying");
        } else if let Some(who) = waits_for(self.totals.bottleneck) {
            text.push_str(&format!("; waits for {who}"));
        }
        text
    }
}

/// Bytes by kind, without the kinds that there are none of.
fn by_kind(totals: &Totals) -> String {
    let kinds = [
        ("read", totals.read),
        ("written", totals.written),
        ("zeroed", totals.zeroed),
        ("skipped", totals.skipped),
        ("verified", totals.verified),
    ];
    let mut parts: Vec<String> = kinds
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{kind} {}", amount::bytes(count)))
        .collect();
    if totals.retries > 0 {
        parts.push(format!("{} retries", totals.retries));
    }
    if parts.is_empty() {
        return "nothing to move".to_owned();
    }
    parts.join(", ")
}

fn waits_for(bottleneck: Bottleneck) -> Option<&'static str> {
    match bottleneck {
        Bottleneck::None => None,
        Bottleneck::Source => Some("the source"),
        Bottleneck::Target => Some("the target"),
        Bottleneck::Cpu => Some("the CPU"),
        Bottleneck::Limit => Some("--rate"),
    }
}

/// Whole percents done, 100 only when all is; nothing of nothing is all of it.
fn percent(done: u64, of: u64) -> u64 {
    let share = (u128::from(done.min(of)) * 100).checked_div(u128::from(of));
    share.map_or(100, |share| u64::try_from(share).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::{Event, Human, Progress, Reporter, Show, Status, percent};
    use crate::pipeline::counters::{Bottleneck, Totals};

    fn progress(elapsed: f64) -> Event {
        Event::Progress {
            totals: Totals {
                read: 3 << 20,
                written: 1 << 20,
                zeroed: 2 << 20,
                position: 4 << 20,
                bottleneck: Bottleneck::Target,
                ..Totals::default()
            },
            size: 8 << 20,
            elapsed,
            throughput: 1 << 20,
            eta: Some(4.0),
        }
    }

    fn told(show: Show, events: &[Event]) -> String {
        let mut out = Vec::new();
        let human = Human::new(show, &mut out);
        events.iter().for_each(|event| human.event(event));
        drop(human);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_every_few_seconds_says_how_much_how_fast_how_long_and_why() {
        let show = Show {
            progress: Progress::Lines,
            ..Show::default()
        };
        let events = [1.0, 5.0, 6.0, 9.0, 10.0].map(progress);
        let line = " 50% 4.0 MiB of 8.0 MiB, 1.0 MiB/s, 4.0 s left; \
                    read 3.0 MiB, written 1.0 MiB, zeroed 2.0 MiB; waits for the target\n";
        assert_eq!(told(show, &events), line.repeat(2));
    }

    #[test]
    fn quiet_tells_warnings_and_failures_only() {
        let show = Show {
            quiet: true,
            progress: Progress::Lines,
            verbose: false,
        };
        let events = [
            progress(9.0),
            Event::Warning {
                message: "odd".to_owned(),
            },
            Event::Failed {
                message: "broken".to_owned(),
                code: 1,
            },
        ];
        assert_eq!(
            told(show, &events),
            "diskferry: warning: odd\ndiskferry: broken\n"
        );
    }

    #[test]
    fn done_is_told_with_what_was_proven() {
        let done = |proven| {
            told(
                Show::default(),
                &[Event::Done {
                    pass: "final",
                    totals: Totals {
                        skipped: 1 << 30,
                        ..Totals::default()
                    },
                    size: 1 << 30,
                    elapsed: 2.5,
                    proven,
                }],
            )
        };
        assert_eq!(
            done(false),
            "final pass done in 2.5 s: skipped 1.0 GiB; durable\n"
        );
        assert!(done(true).contains("proven"));
    }

    #[test]
    fn while_verifying_the_share_is_that_of_the_proof() {
        let totals = Totals {
            verified: 10,
            position: 100,
            ..Totals::default()
        };
        let status = Status {
            totals: &totals,
            size: 100,
            elapsed: 1.0,
            throughput: 10,
            eta: Some(0.0),
            verifying: Some(40),
        };
        assert_eq!(status.part(), (10, 40));
        assert!(status.text().contains("3.0 s left"), "{}", status.text());
    }

    #[test]
    fn a_hundred_percent_is_said_only_when_it_is_so() {
        for (done, of, share) in [(0, 0, 100), (0, 9, 0), (999, 1000, 99), (7, 7, 100)] {
            assert_eq!(percent(done, of), share);
        }
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }
}
