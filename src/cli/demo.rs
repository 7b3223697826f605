//! `diskferry demo`: the whole story on this machine.

use super::output::{self, Output};
use super::{Command, words};
use crate::demo::{self, DemoOptions};
use crate::error::{Error, Result};
use clap::Args;
use std::env;
use std::path::PathBuf;

/// Move a disk that is being written, with a crash in the middle, and prove every byte
///
/// Everything happens on this machine and in one directory that is gone afterwards.
#[derive(Args, Clone, Debug)]
pub(super) struct Demo {
    /// Size of the disk
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = words::size)]
    size: u64,

    /// Move it here, for example to an empty block device; by default to a file that goes again
    #[arg(long, value_name = "PATH")]
    target: Option<PathBuf>,

    /// Write over a target that holds something
    #[arg(long)]
    overwrite: bool,

    /// Where there is room for the disk and the file that it is moved to
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Determines what is on the disk and what is written to it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Command for Demo {
    const NAME: &'static str = "demo";

    async fn run(self, _output: Output) -> Result<()> {
        let options = DemoOptions {
            program: env::current_exe().map_err(|error| Error::io("find this program", error))?,
            size: self.size,
            target: self.target,
            overwrite: self.overwrite,
            directory: self.directory.unwrap_or_else(env::temp_dir),
            seed: self.seed,
        };
        demo::run(&options, &mut |line| output::print(&format!("{line}\n"))).await
    }
}
