//! Standard output and error: results, events, failures, tracing.

use crate::error::{Error, Kind, Result};
use crate::pipeline::counters::Counters;
use crate::report::{Event, Flight, Human, Json, Progress, Reporter, Show, Ticker};
use crate::target::stdout::Closed;
use clap::{ArgAction, Args};
use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{FromEnvError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// Exit code when whoever read our output went away: that of a program killed by SIGPIPE.
const CLOSED: u8 = 128 + 13;

/// What to log, as a filter of tracing.
const LOG: &str = "DISKFERRY_LOG";

/// How results, progress and errors are told; every command takes these.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Output")]
pub(super) struct Options {
    /// Print JSON on standard output: events one per line (docs/events.md), or the result
    #[arg(long, global = true)]
    json: bool,

    /// Show progress also where standard error is not a terminal
    #[arg(short, long, global = true)]
    progress: bool,

    /// Show nothing but the result, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "progress")]
    quiet: bool,

    /// Log what is done to standard error; twice logs every request
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// Where a command tells what it has to tell.
#[derive(Clone, Default)]
pub(super) struct Output {
    options: Options,
    flight: Flight,
}

impl Output {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            flight: Flight::default(),
        }
    }

    /// For scripts, before there is a command.
    pub(super) fn of_json() -> Self {
        Self::new(Options {
            json: true,
            ..Options::default()
        })
    }

    /// The last seconds of the log.
    pub(super) fn flight(&self) -> &Flight {
        &self.flight
    }

    /// Whether results are wanted as JSON.
    pub(super) fn json(&self) -> bool {
        self.options.json
    }

    /// Who hears of the events of a job.
    pub(super) fn reporter(&self) -> Arc<dyn Reporter> {
        if self.options.json {
            return Arc::new(Json::new(io::stdout()));
        }
        let progress = match (io::stderr().is_terminal(), self.options.progress) {
            (true, _) => Progress::Bar,
            (false, true) => Progress::Lines,
            (false, false) => Progress::Hidden,
        };
        let show = Show {
            progress,
            quiet: self.options.quiet,
            verbose: self.options.verbose > 0,
        };
        Arc::new(Human::new(show, io::stderr()))
    }

    /// Shows how far a command is that only reads, until what comes back is dropped.
    ///
    /// Not with `--json`: then the result is all that there is on standard output.
    pub(super) fn progress(&self, counters: &Arc<Counters>, size: u64) -> Option<Ticker> {
        let shown = !self.options.json && !self.options.quiet;
        shown.then(|| Ticker::start(&self.reporter(), counters.clone(), size))
    }

    /// Tells a failure and returns its exit code.
    pub(super) fn failed(&self, error: &Error) -> ExitCode {
        if let Some(code) = closed(error) {
            return code;
        }
        let code = error.kind().exit_code();
        self.reporter().event(&Event::Failed {
            message: error.line(),
            code,
        });
        ExitCode::from(code)
    }

    /// Sends tracing to standard error, as much of it as `--verbose` or `DISKFERRY_LOG` asks for,
    /// and to the flight recorder.
    pub(super) fn trace(&self) {
        let level = match self.options.verbose {
            0 => "off",
            1 => "diskferry=debug",
            _ => "diskferry=trace",
        };
        trace_at(level, Some(self.flight.clone()));
    }
}

/// Sends tracing to standard error, as much of it as `level` or `DISKFERRY_LOG` asks for, and more
/// of it to a flight recorder.
pub(super) fn trace_at(level: &str, flight: Option<Flight>) {
    let (filter, unread) = filter_of(level);
    let told = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_filter(filter);
    let kept = flight.map(|flight| {
        fmt::layer()
            .with_writer(move || flight.clone())
            .with_ansi(false)
            .with_filter(Targets::new().with_target("diskferry", Level::DEBUG))
    });
    // Fails only if somebody set a subscriber before: then that one is wanted.
    let _ = registry().with(told).with(kept).try_init();
    if let Some(why) = unread {
        tracing::warn!("{LOG} is not a filter, and nothing more is logged: {why}");
    }
}

/// What `DISKFERRY_LOG` or else `level` lets through, and why the former cannot be read: nothing fails
/// for that.
fn filter_of(level: &str) -> (EnvFilter, Option<FromEnvError>) {
    match EnvFilter::try_from_env(LOG) {
        Ok(filter) => (filter, None),
        Err(why) if env::var_os(LOG).is_some() => (EnvFilter::new("diskferry=warn"), Some(why)),
        Err(_) => (EnvFilter::new(level), None),
    }
}

/// Sends what `filter` lets through of tracing to standard error, one line each, as `program` tells it.
pub(super) fn trace_as(program: &str, filter: &str) {
    let told = fmt::layer()
        .event_format(Plain(program.to_owned()))
        .with_writer(io::stderr)
        .with_filter(EnvFilter::new(filter));
    // As above.
    let _ = registry().with(told).try_init();
}

/// What happened, after a program's name, and nothing else.
struct Plain(String);

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "{}: debug: ", self.0)?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written. If that is because nobody reads it any more, the program ends quietly.
pub(super) fn print(text: &str) -> Result<()> {
    write(&mut io::stdout().lock(), text.as_bytes())
}

/// Writes all of `bytes` and flushes, as [`print`] does.
pub(super) fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    write_only(out, bytes)?;
    out.flush().map_err(failed)
}

/// Writes all of `bytes`, and fails as [`print`] does.
pub(super) fn write_only(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(failed)
}

/// The failure to write to standard output.
pub(super) fn failed(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe => {
            Error::new(Kind::Interrupted, "write to standard output").because(Closed)
        }
        _ => Error::io("write to standard output", error),
    }
}

/// The exit code, if whoever read our output went away: reason to stop, and nothing to complain about.
pub(super) fn closed(error: &Error) -> Option<ExitCode> {
    error.caused_by::<Closed>().map(|_| ExitCode::from(CLOSED))
}

#[cfg(test)]
mod tests {
    use super::{closed, write};
    use crate::error::Kind;
    use std::io::{Error, ErrorKind, Result, Write};

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> Result<usize> {
            Err(Error::from(self.0))
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_told_from_a_full_disk() {
        let gone = write(&mut Broken(ErrorKind::BrokenPipe), b"x").unwrap_err();
        assert!(closed(&gone).is_some());
        assert!(closed(&gone.context("copy")).is_some());
        let full = write(&mut Broken(ErrorKind::StorageFull), b"x").unwrap_err();
        assert!(closed(&full).is_none());
        assert_eq!(full.kind(), Kind::Io);
    }
}
