//! `diskferry man`: a manual page for every command.

use super::output::Output;
use super::{Command, grammar};
use crate::error::{Error, Result};
use clap::Args;
use clap_mangen::generate_to;
use std::fs;
use std::path::PathBuf;

/// Write the manual pages of diskferry and its commands into a directory
#[derive(Args, Clone, Debug)]
pub(super) struct Man {
    /// The directory; made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Command for Man {
    const NAME: &'static str = "man";

    async fn run(self, _output: Output) -> Result<()> {
        let doing = || format!("write manual pages to {}", self.directory.display());
        fs::create_dir_all(&self.directory).map_err(|error| Error::io(doing(), error))?;
        generate_to(grammar(), &self.directory).map_err(|error| Error::io(doing(), error))
    }
}
