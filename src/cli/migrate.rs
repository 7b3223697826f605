//! `diskferry migrate`: a VM's disks, warm, by a plan.

use super::output::{self, Output};
use super::{Command, stop};
use crate::error::{Error, Kind, Result};
use crate::migrate::control::Request;
use crate::migrate::plan::Plan;
use crate::migrate::{RunOptions, preview, run, store};
use clap::Args;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Migrate the disks of a running VM as a plan says: passes until cutover, then the proof
///
/// Exit code 0 means that the VM was quiet at the end and that the targets hold its disks, durable
/// and proven. After any failure, crash or interruption the same command goes on where it was.
/// SIGUSR1 asks for the cutover, SIGTERM for an end that can be resumed (docs/migrate.md).
#[derive(Args, Clone, Debug)]
pub(super) struct Migrate {
    /// The plan (docs/plan.md)
    plan: PathBuf,

    /// Check the plan, the VM and the targets, print what would happen, and do nothing
    #[arg(long)]
    check: bool,

    /// Where the migration's files are; by default under the user's state directory, by VM
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Begin another migration where an older one is over
    #[arg(long)]
    restart: bool,

    /// Serve Prometheus metrics here, as `metrics` in the plan
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

impl Command for Migrate {
    const NAME: &'static str = "migrate";

    async fn run(self, output: Output) -> Result<()> {
        let mut plan = Plan::read(&self.plan)?;
        plan.metrics = self.metrics.or(plan.metrics);
        let directory = match self.state {
            Some(directory) => directory,
            None => store::usual_directory(&plan.vm)?,
        };
        if self.check {
            let record = store::load(&directory)?.filter(|_| !self.restart);
            let begun = record.is_some_and(|record| record.has_begun());
            let preview = preview::preview(&plan, begun).await?;
            return output::print(&match output.json() {
                true => json_line(&preview)?,
                false => preview.table(),
            });
        }
        let options = RunOptions {
            directory,
            restart: self.restart,
            first: None,
            flight: output.flight().clone(),
        };
        let nudges = on_user_signal()?;
        run(
            plan,
            &options,
            output.reporter(),
            stop::on_signals()?,
            nudges,
        )
        .await
    }
}

/// SIGUSR1 → the cutover is asked for.
pub(super) fn on_user_signal() -> Result<mpsc::Receiver<Request>> {
    let failed = |error| Error::io("wait for signals", error);
    let mut signals = signal(SignalKind::user_defined1()).map_err(failed)?;
    let (sender, nudges) = mpsc::channel(4);
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            if sender.send(Request::Cutover).await.is_err() {
                return;
            }
        }
    });
    Ok(nudges)
}

/// One object on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|error| Error::new(Kind::Io, "write JSON").because(error))?;
    Ok(format!("{text}\n"))
}
