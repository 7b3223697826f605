//! Words → options → jobs, and what a person or a script gets to see of them.
//!
//! ```text
//!  words.rs     addresses, sizes and names, out of single words; pure
//!  speed.rs     the options of speed and memory that commands share
//!  open.rs      an address → a disk
//!  scan.rs      all of a disk in order, in pieces that are read many at a time
//!  stop.rs      signals → an orderly end
//!  output.rs    standard output and error, the reporter, tracing
//!  misuse.rs    a command line that makes no sense, told to people and to scripts
//!  <name>.rs    one command: its options, and how they become a job
//! ```
//!
//! A command is one file and one line in `COMMANDS`: `--help`, completions and man pages read
//! that table. `nbdcopy` and `importer` are exceptions: they have the grammar of the programs that
//! they stand for.

mod checksum;
mod compare;
mod completions;
mod copy;
mod demo;
mod importer;
mod inspect;
mod inspect_vm;
mod man;
mod making;
mod map;
mod migrate;
mod misuse;
mod nbdcopy;
mod open;
mod output;
mod plan;
mod scan;
mod sequence;
mod serve;
mod speed;
mod steer;
mod stop;
mod verify;
mod words;

use crate::error::{Error, Result};
use clap::{ArgMatches, Args, FromArgMatches};
use output::Output;
use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Every command, in the order in which `--help` shows them.
const COMMANDS: &[Entry] = &[
    Entry::of::<copy::Copy>(),
    Entry::of::<inspect::Inspect>(),
    Entry::of::<map::Map>(),
    Entry::of::<checksum::Checksum>(),
    Entry::of::<compare::Compare>(),
    Entry::of::<verify::Verify>(),
    Entry::of::<migrate::Migrate>(),
    Entry::of::<steer::Status>(),
    Entry::of::<steer::Cutover>(),
    Entry::of::<steer::Hold>(),
    Entry::of::<steer::Resume>(),
    Entry::of::<steer::Cancel>(),
    Entry::of::<plan::Plan>(),
    Entry::of::<serve::Serve>(),
    Entry::of::<demo::Demo>(),
    Entry::of::<importer::Importer>(),
    Entry::of::<nbdcopy::Passthrough>(),
    Entry::of::<completions::Completions>(),
    Entry::of::<man::Man>(),
];

/// How long what still runs after the end of a command may take to notice.
const GRACE: Duration = Duration::from_millis(500);

/// A command: options that can be parsed, and what they do.
trait Command: Args + 'static {
    /// What it is called.
    const NAME: &'static str;

    /// Whether `--help` leaves it out.
    const HIDDEN: bool = false;

    /// Does it.
    async fn run(self, output: Output) -> Result<()>;
}

type Running = Pin<Box<dyn Future<Output = Result<()>>>>;

/// One line of [`COMMANDS`].
struct Entry {
    name: &'static str,
    define: fn() -> clap::Command,
    start: fn(&ArgMatches, Output) -> Result<Running, clap::Error>,
}

impl Entry {
    const fn of<C: Command>() -> Self {
        Self {
            name: C::NAME,
            define: || C::augment_args(clap::Command::new(C::NAME)).hide(C::HIDDEN),
            start: |matches, output| {
                let command = C::from_arg_matches(matches)?;
                Ok(Box::pin(command.run(output)))
            },
        }
    }
}

/// The grammar of the whole program.
fn grammar() -> clap::Command {
    let program = clap::Command::new("diskferry")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help("Addresses, options and exit codes: docs/reference.md.");
    output::Options::augment_args(program)
        // After the options, which would put what they are for in the place of this.
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .subcommands(COMMANDS.iter().map(|entry| (entry.define)()))
}

/// A command line that makes sense and is ready to run.
pub struct Call(Kind);

enum Kind {
    Command(Running, Output),
    Nbdcopy(nbdcopy::Call),
    Importer(importer::Call),
}

/// Reads a command line: the program's name, and its words.
///
/// # Errors
/// There is nothing to run: help was printed, or the words make no sense and that was said. What
/// comes back is the exit code.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Call, ExitCode> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    if let Some(first) = begins(&words, nbdcopy::NAME, nbdcopy::NAME) {
        let words = words.split_off(first);
        return Ok(Call(Kind::Nbdcopy(nbdcopy::Call::new(words))));
    }
    if let Some(first) = begins(&words, importer::PROGRAM, importer::Importer::NAME) {
        let words = words.split_off(first);
        return Ok(Call(Kind::Importer(importer::Call::new(words))));
    }
    let words = words::fold_brackets(words);
    let json = misuse::wants_json(&words);
    command(words)
        .map(|(running, output)| Call(Kind::Command(running, output)))
        .map_err(|error| misuse::tell(&error, json))
}

fn command(words: Vec<OsString>) -> Result<(Running, Output), clap::Error> {
    let matches = grammar().try_get_matches_from(words)?;
    let output = Output::new(output::Options::from_arg_matches(&matches)?);
    let found = matches.subcommand().and_then(|(name, matches)| {
        let entry = COMMANDS.iter().find(|entry| entry.name == name)?;
        Some((entry.start)(matches, output.clone()))
    });
    match found {
        Some(started) => Ok((started?, output)),
        None => Err(grammar().error(clap::error::ErrorKind::MissingSubcommand, "no command")),
    }
}

/// Where the words of a program that is stood for begin, its name first, if that is what was called:
/// through a link of the name of `program`, or as `command`.
fn begins(words: &[OsString], program: &str, command: &str) -> Option<usize> {
    let called = words.first().and_then(|word| Path::new(word).file_name());
    if called.is_some_and(|name| name == program) {
        return Some(0);
    }
    words
        .get(1)
        .is_some_and(|word| word == command)
        .then_some(1)
}

impl Call {
    /// Does what the command line says, tells how it ended, and returns the exit code.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return Output::default().failed(&error),
        };
        let code = match self.0 {
            Kind::Nbdcopy(call) => runtime.block_on(call.run()),
            Kind::Importer(call) => runtime.block_on(call.run()),
            Kind::Command(running, output) => {
                output.trace();
                match runtime.block_on(running) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => output.failed(&error),
                }
            }
        };
        // A thread that hangs in a dead device must not keep the program from ending.
        runtime.shutdown_timeout(GRACE);
        code
    }
}

/// One thread where there are at most two cores: what is saved in handing data from core to core
/// is worth more than the second core, which the server or the kernel uses anyhow.
fn runtime() -> Result<Runtime> {
    let cores = available_parallelism().map_or(1, usize::from);
    let mut builder = if cores <= 2 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    builder
        .worker_threads(cores.min(4))
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))
}

#[cfg(test)]
mod tests {
    use super::{COMMANDS, begins, grammar};
    use std::ffi::OsString;

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_is_for() {
        for entry in COMMANDS {
            assert!((entry.define)().get_about().is_some(), "{}", entry.name);
        }
    }

    #[test]
    fn a_program_that_is_stood_for_is_a_name_and_a_command_and_not_a_file() {
        let importer = ["/usr/bin/cdi-importer -v=1", "diskferry importer -v=1"];
        for (first, text) in importer.into_iter().enumerate() {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            assert_eq!(
                begins(&words, "cdi-importer", "importer"),
                Some(first),
                "{text}"
            );
        }
        let begins = |text: &str| {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            begins(&words, "nbdcopy", "nbdcopy")
        };
        assert_eq!(begins("/usr/bin/nbdcopy a b"), Some(0));
        assert_eq!(begins("diskferry nbdcopy a b"), Some(1));
        assert_eq!(begins("diskferry copy nbdcopy b"), None);
        assert_eq!(begins("nbdcopy2 a b"), None);
        assert_eq!(begins(""), None);
    }
}
