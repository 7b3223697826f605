//! `diskferry status`, `cutover`, `hold`, `resume` and `cancel`: a migration, looked at and steered.

use super::migrate::{json_line, on_user_signal};
use super::output::{self, Output};
use super::{Command, stop};
use crate::error::{Error, Kind, Result};
use crate::migrate::control::{Answer, Asked, Request, ask};
use crate::migrate::plan::Plan;
use crate::migrate::status::Status as Told;
use crate::migrate::store::directory_of;
use crate::migrate::{RunOptions, record_wish, run};
use clap::Args;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long a process may take to begin to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which migration.
#[derive(Args, Clone, Debug)]
struct Which {
    /// The plan, or the migration's directory
    migration: PathBuf,

    /// Where the migration's files are, if --state said so when it began
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Which {
    fn directory(&self) -> Result<PathBuf> {
        directory_of(&self.migration, self.state.as_deref())
    }

    fn ask(&self, request: Request) -> Result<Asked> {
        ask(&self.directory()?, request)
    }

    /// The plan: the file itself, or the copy that is kept in the directory.
    fn plan(&self) -> Result<Plan> {
        match self.migration.is_dir() {
            true => Plan::read(&self.migration.join("plan.yaml")),
            false => Plan::read(&self.migration),
        }
    }

    /// Asks the process that drives; if there is none, records the wish for the next one. One that
    /// has just begun, or is about to end, does not listen: it is asked again.
    async fn wish(&self, request: Request) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.wish_now(request) {
                Err(error) if error.kind() == Kind::Transient && began.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(50)).await;
                }
                wished => return wished,
            }
        }
    }

    fn wish_now(&self, request: Request) -> Result<()> {
        let status = match self.ask(request)? {
            Asked::Answer(answer) => return accept(answer),
            Asked::Nobody(status) => status,
        };
        refuse_if_over(&status)?;
        record_wish(&self.plan()?, &self.directory()?, request)?;
        output::print("recorded; no process drives the migration: diskferry migrate goes on\n")
    }
}

fn accept(answer: Answer) -> Result<()> {
    match answer {
        Answer::Refused(why) => Err(Error::new(Kind::Refused, why)),
        Answer::Done | Answer::Status(_) => Ok(()),
    }
}

fn refuse_if_over(status: &Told) -> Result<()> {
    match status.is_over() {
        true => Err(Error::new(
            Kind::Refused,
            format!("the migration is {}", status.phase),
        )),
        false => Ok(()),
    }
}

/// Show how far a migration is, and what is expected of it
#[derive(Args, Clone, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    which: Which,

    /// Again every second, until it is over
    #[arg(short, long)]
    watch: bool,
}

impl Command for Status {
    const NAME: &'static str = "status";

    async fn run(self, output: Output) -> Result<()> {
        loop {
            let status = match self.which.ask(Request::Status)? {
                Asked::Answer(Answer::Status(status)) | Asked::Nobody(status) => status,
                Asked::Answer(answer) => return accept(answer),
            };
            let redraws = self.watch && io::stdout().is_terminal();
            output::print(&match (output.json(), redraws) {
                (true, _) => json_line(&status)?,
                // Home, and what was there before is cleared.
                (false, true) => format!("\x1b[H\x1b[2J{}", status.table()),
                (false, false) => status.table(),
            })?;
            if !self.watch || !status.running {
                return Ok(());
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Make the VM quiet as soon as that is safe, and end the migration with the proof
#[derive(Args, Clone, Debug)]
pub(super) struct Cutover {
    #[command(flatten)]
    which: Which,
}

impl Command for Cutover {
    const NAME: &'static str = "cutover";

    async fn run(self, _output: Output) -> Result<()> {
        self.which.wish(Request::Cutover).await
    }
}

/// Begin no new pass and no cutover until told to resume
#[derive(Args, Clone, Debug)]
pub(super) struct Hold {
    #[command(flatten)]
    which: Which,
}

impl Command for Hold {
    const NAME: &'static str = "hold";

    async fn run(self, _output: Output) -> Result<()> {
        self.which.wish(Request::Hold).await
    }
}

/// Go on after a hold
#[derive(Args, Clone, Debug)]
pub(super) struct Resume {
    #[command(flatten)]
    which: Which,
}

impl Command for Resume {
    const NAME: &'static str = "resume";

    async fn run(self, _output: Output) -> Result<()> {
        self.which.wish(Request::Resume).await
    }
}

/// Give a migration up: what it made on the source is removed, the targets are left and labelled
#[derive(Args, Clone, Debug)]
pub(super) struct Cancel {
    #[command(flatten)]
    which: Which,
}

impl Command for Cancel {
    const NAME: &'static str = "cancel";

    async fn run(self, output: Output) -> Result<()> {
        let directory = self.which.directory()?;
        match self.which.ask(Request::Cancel)? {
            Asked::Answer(answer) => {
                accept(answer)?;
                until_over(&directory).await
            }
            Asked::Nobody(status) if status.phase == "cancelled" => Ok(()),
            Asked::Nobody(status) => {
                refuse_if_over(&status)?;
                let options = RunOptions {
                    directory,
                    restart: false,
                    first: Some(Request::Cancel),
                    flight: output.flight().clone(),
                };
                let plan = self.which.plan()?;
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
    }
}

/// Waits until the process that was told to cancel has done so.
async fn until_over(directory: &Path) -> Result<()> {
    loop {
        match ask(directory, Request::Status) {
            Ok(Asked::Answer(_)) => sleep(Duration::from_millis(200)).await,
            Ok(Asked::Nobody(status)) if status.phase == "cancelled" => return Ok(()),
            Ok(Asked::Nobody(status)) => {
                let why = status.stopped.unwrap_or(status.phase);
                return Err(Error::new(Kind::Io, "the migration was not cancelled")
                    .because(why)
                    .hint("the same command tries again"));
            }
            Err(error) if error.kind() == Kind::Transient => {}
            Err(error) => return Err(error),
        }
    }
}
