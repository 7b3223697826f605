//! `diskferry verify`: a target against the manifest of what was copied to it, or a certificate.

use super::copy::place;
use super::output::Output;
use super::speed::Speed;
use super::{Command, stop, words};
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::job::certificate::{self, CheckOptions};
use crate::job::{self, Context, VerifyOptions};
use clap::Args;
use std::path::PathBuf;

/// Read a target back and compare every block with the digest kept when it was copied
///
/// With --certificate, read the disks that it names, or those given in its order, and compare each
/// with what it certifies; no journal is needed. Exit code 0 if all is proven, 3 if something
/// differs.
#[derive(Args, Clone, Debug)]
pub(super) struct Verify {
    /// The disk that was copied to; with --certificate where its disks are now, if not where they
    /// were
    #[arg(value_parser = words::address, required_unless_present = "certificate", value_name = "TARGET")]
    targets: Vec<Address>,

    /// Where the journal of the copy is, if it was put somewhere
    #[arg(long, value_name = "PATH", conflicts_with = "certificate")]
    journal: Option<PathBuf>,

    /// Check this certificate
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    #[command(flatten)]
    speed: Speed,
}

impl Command for Verify {
    const NAME: &'static str = "verify";

    async fn run(self, output: Output) -> Result<()> {
        let tuning = self.speed.tuning();
        let context = Context::new(output.reporter(), stop::on_signals()?);
        if let Some(certificate) = self.certificate {
            let options = CheckOptions {
                certificate,
                targets: self.targets,
                tuning,
            };
            return certificate::check(&options, context).await.map(|_| ());
        }
        let [target] = self.targets.as_slice() else {
            let what = "one target is verified at a time";
            return Err(Error::new(Kind::Usage, what).hint("or several with --certificate"));
        };
        let options = VerifyOptions {
            target: target.clone(),
            journal: place(self.journal, false),
            tuning,
        };
        job::verify(&options, context).await.map(|_| ())
    }
}
