//! `diskferry importer`, also when called as `cdi-importer`: the pod's words and environment.

use super::output::{self, Output};
use super::{Command, stop};
use crate::error::{Error, Kind, Result};
use crate::importer::{self, Env};
use clap::Args;
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

/// The name of the program that this stands for.
pub(super) const PROGRAM: &str = "cdi-importer";

/// Be the importer pod of KubeVirt's CDI (also when called through a link named cdi-importer)
///
/// Takes what to do from the environment, as CDI's controller sets it: docs/kubernetes.md. The words
/// are klog's flags, and those of a volume populator.
#[derive(Args, Clone, Debug)]
pub(super) struct Importer {
    /// -v=N, -alsologtostderr, --pvc-size=BYTES, --owner-uid=UID, --volume-path=PATH
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Command for Importer {
    const NAME: &'static str = "importer";

    /// Reached only if other options stand before the name; else the words never see clap.
    async fn run(self, _output: Output) -> Result<()> {
        Err(
            Error::new(Kind::Usage, "importer takes flags of its own only")
                .hint("write nothing between diskferry and importer"),
        )
    }
}

/// A command line of the importer, without its name.
pub(super) struct Call(Vec<String>);

impl Call {
    /// Takes the words as they came, the program's name first.
    pub(super) fn new(words: Vec<OsString>) -> Self {
        let words = words.into_iter().skip(1);
        Self(
            words
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
        )
    }

    /// Does what the environment says; 0, 1, or 2 for a flag that is unknown.
    pub(super) async fn run(self) -> ExitCode {
        output::trace_at("diskferry=warn", None);
        let told = |(name, value): (OsString, OsString)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        };
        let env: Env = env::vars_os().map(told).collect();
        match stop::on_signals() {
            Ok(stop) => ExitCode::from(importer::run(&self.0, &env, stop).await),
            Err(error) => Output::default().failed(&error),
        }
    }
}
