//! `diskferry verify`: a target against the manifest of what was copied to it.

use super::copy::place;
use super::output::Output;
use super::speed::Speed;
use super::{Command, stop, words};
use crate::address::Address;
use crate::error::Result;
use crate::job::{self, Context, VerifyOptions};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Read a target back and compare every block with the digest kept when it was copied
///
/// Exit code 0 if every block is proven, 3 if one differs.
#[derive(Args, Clone, Debug)]
pub(super) struct Verify {
    /// The disk that was copied to
    #[arg(value_parser = words::address)]
    target: Address,

    /// Where the journal of the copy is, if it was put somewhere
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    #[command(flatten)]
    speed: Speed,
}

impl Command for Verify {
    const NAME: &'static str = "verify";

    async fn run(self, output: Output) -> Result<()> {
        let options = VerifyOptions {
            target: self.target,
            journal: place(self.journal, false),
            tuning: self.speed.tuning(),
        };
        let context = Context {
            reporter: output.reporter(),
            counters: Arc::default(),
            stop: stop::on_signals()?,
        };
        job::verify(&options, context).await.map(|_outcome| ())
    }
}
