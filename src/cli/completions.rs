//! `diskferry completions`: a script that completes command lines, for a shell.

use super::output::{Output, write};
use super::{Command, grammar};
use crate::error::Result;
use clap::Args;
use clap_complete::Shell;
use std::io;

/// Print a script that completes diskferry's command lines in a shell
#[derive(Args, Clone, Debug)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Command for Completions {
    const NAME: &'static str = "completions";

    async fn run(self, _output: Output) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut grammar(), "diskferry", &mut script);
        write(&mut io::stdout().lock(), &script)
    }
}
