//! `nbdcopy`: its command line, its messages, its exit codes, on diskferry's pipeline.
//!
//! ```text
//!  getopt.rs    long, short and abbreviated options as GNU getopt_long takes them; pure
//!  options.rs   what the options mean; pure
//!  settle.rs    connections, threads and sizes, once both ends are known; pure
//!  text.rs      help, version, option listings; pure
//!  ends.rs      opens both ends
//!  progress.rs  the bar, or lines on a file descriptor
//!  run.rs       one copy
//! ```
//!
//! What nbdcopy promises is kept, its weaknesses are not: `docs/reference.md` lists where this
//! differs. There is no journal, no digest and no probe here, as scripts expect none.

mod ends;
mod getopt;
mod options;
mod progress;
mod run;
mod settle;
mod text;

use super::Command;
use super::output::{self, Output};
use crate::error::{Error, Kind, Result};
use clap::Args;
use options::{Complaint, Request};
use std::env;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

/// The name of the program that this stands for.
pub(super) const NAME: &str = "nbdcopy";

/// Be nbdcopy (also when called through a link of that name)
///
/// Takes nbdcopy's own command line and nothing else: see nbdcopy(1), or `diskferry nbdcopy
/// --help`.
#[derive(Args, Clone, Debug)]
pub(super) struct Passthrough {
    /// nbdcopy's options, SOURCE and DESTINATION
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Command for Passthrough {
    const NAME: &'static str = NAME;

    /// Reached only if other options stand before the name; else the words never see clap.
    async fn run(self, _output: Output) -> Result<()> {
        Err(
            Error::new(Kind::Usage, "nbdcopy takes its own options only")
                .hint("write nothing between diskferry and nbdcopy"),
        )
    }
}

/// A command line of nbdcopy: its name, and its words.
pub(super) struct Call {
    program: String,
    words: Vec<String>,
}

impl Call {
    /// Takes the words as they came, the program's name first.
    pub(super) fn new(words: Vec<OsString>) -> Self {
        let mut words = words
            .into_iter()
            .map(|word| word.to_string_lossy().into_owned());
        Self {
            program: words.next().unwrap_or_else(|| NAME.to_owned()),
            words: words.collect(),
        }
    }

    /// Does what the words say; 0 or 1, as nbdcopy has it.
    pub(super) async fn run(self) -> ExitCode {
        let posix = env::var_os("POSIXLY_CORRECT").is_some();
        let told = match options::parse(&self.program, &self.words, posix) {
            Ok(Request::Tell(text)) => output::print(&text),
            Ok(Request::Copy(options, ends)) => {
                if options.verbose {
                    output::trace_as(self.name(), "diskferry::nbd=trace");
                }
                run::copy(&options, &ends).await
            }
            Err(complaint) => {
                self.complain(&complaint);
                return ExitCode::FAILURE;
            }
        };
        match told {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                if let Some(code) = output::closed(&error) {
                    return code;
                }
                self.complain(&Complaint::line(format!(
                    "{}: {}",
                    self.name(),
                    text::without_numbers(&error.line())
                )));
                ExitCode::FAILURE
            }
        }
    }

    fn name(&self) -> &str {
        text::base_name(&self.program)
    }

    fn complain(&self, complaint: &Complaint) {
        // Who cannot be written to cannot be told so.
        let _ = output::write(&mut io::stderr().lock(), complaint.text().as_bytes());
    }
}
