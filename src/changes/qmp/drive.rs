//! The loop: look, decide, do, look again, until it is as wanted.

use super::goal::{Goal, Known, Next, next};
use super::names::Tag;
use super::options::QmpOptions;
use super::scratch::Scratch;
use super::step::Step;
use super::survey::{Disk, Site, find};
use super::wire::Version;
use super::world::{QUERIES, World, backup_spares_the_guest};
use super::{client, server};
use crate::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// How long something that ends by itself is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How soon it is looked at again, if no event says so before.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks after which it will never come to an end: a goal takes about ten moves, and waiting for
/// one is over after [`PATIENCE`].
const LOOKS_MAX: u32 = 20_000;

/// The first version with `block-export-add`.
const OLDEST: Version = Version {
    major: 5,
    minor: 2,
    micro: 0,
};

/// The first version that reads disks in I/O threads over NBD in one piece. Before, the end of an
/// NBD connection may be noticed in the thread, where the server's books must not be touched: in
/// versions that got the fix of CVE-2024-7409 without the locks of 9.0 QEMU aborts (`Assertion
/// 'qemu_in_main_thread() && nbd_server' failed`; seen in 7.2.22), and so does the VM.
pub const IOTHREADS: Version = Version {
    major: 9,
    minor: 0,
    micro: 0,
};

/// A VM, as far as its disks go.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) options: QmpOptions,
    pub(super) tag: Tag,
    pub(super) client: client::Client,
    pub(super) scratch: Scratch,
    /// One goal at a time.
    turn: Mutex<()>,
    spares_guest: OnceCell<bool>,
}

/// What was found, and how the disks are called in it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) world: World,
    pub(super) disks: Vec<Disk>,
    tag: Tag,
}

impl View {
    pub(super) fn site(&self) -> Site<'_> {
        Site {
            world: &self.world,
            tag: &self.tag,
            disks: &self.disks,
        }
    }
}

impl Vm {
    pub(super) fn new(options: QmpOptions) -> Result<Self> {
        let tag = Tag::of(&options.migration);
        options.check(&tag)?;
        Ok(Self {
            client: client::Client::new(options.socket.clone(), options.patience),
            scratch: Scratch::new(options.scratch.clone(), tag.clone()),
            tag,
            options,
            turn: Mutex::default(),
            spares_guest: OnceCell::new(),
        })
    }

    /// All that exists.
    pub(super) async fn world(&self) -> Result<World> {
        let version = self.client.version().await?;
        if version < OLDEST {
            let what = format!("{} is QEMU {version}", self.options.socket.display());
            return Err(Error::new(Kind::Unsupported, what).hint("5.2 is the oldest that will do"));
        }
        let mut answers = [const { Value::Null }; QUERIES.len()];
        for (answer, (command, arguments)) in answers.iter_mut().zip(QUERIES) {
            *answer = self.client.ask(command, arguments()).await?;
        }
        let world = World::read(answers);
        let mut world =
            world.map_err(|wrong| Error::new(Kind::Corrupt, "look at QEMU").because(wrong))?;
        world.files = self.files().await?;
        Ok(world)
    }

    /// Refuses a VM that reading its disks could end: see [`IOTHREADS`].
    pub(super) async fn check_iothreads(&self) -> Result<()> {
        let version = self.client.version().await?;
        if version >= IOTHREADS || self.options.allow_iothreads {
            return Ok(());
        }
        let threads = self.client.call("query-iothreads", json!({})).await?;
        // A storage daemon does not know that command.
        let threads = threads.unwrap_or_default();
        let names = threads.as_array().into_iter().flatten();
        let names: Vec<_> = names.filter_map(|thread| thread["id"].as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let what = format!("QEMU {version} has I/O threads ({})", names.join(", "));
        Err(Error::new(Kind::Refused, what)
            .because(
                "it may abort, and its VM with it, when a disk in one of them is read over NBD",
            )
            .hint(
                "update QEMU to 9.0, start the VM without iothread=, or allow it if no disk of \
                   this migration is in one",
            ))
    }

    /// All that exists, with the disks found in it.
    pub(super) async fn look(&self) -> Result<View> {
        let world = self.world().await?;
        Ok(View {
            disks: find(&world, &self.options.disks)?,
            world,
            tag: self.tag.clone(),
        })
    }

    /// Gets there, and gives what was removed on the way and what it looks like then.
    pub(super) async fn reach(&self, goal: Goal) -> Result<(Vec<String>, View)> {
        let _turn = self.turn.lock().await;
        let mut known = Known::default();
        if matches!(goal, Goal::Frozen { .. }) {
            known.spares_guest = self.spares_guest().await?;
        }
        let mut removed = Vec::new();
        let mut before = Vec::new();
        let mut deadline = Instant::now() + PATIENCE;
        for _ in 0..LOOKS_MAX {
            let view = self.survey(goal).await?;
            let stuck = match next(view.site(), &known, goal) {
                Next::Done => return Ok((removed, view)),
                Next::Do(steps) => {
                    let refusal = self.take(&steps, &mut known, &mut removed).await?;
                    if before != steps {
                        before = steps;
                        deadline = Instant::now() + PATIENCE;
                        continue;
                    }
                    // It was done a moment ago, and does not show yet.
                    let slow = || Error::new(Kind::Transient, format!("{before:?} has no effect"));
                    refusal.unwrap_or_else(slow)
                }
                Next::Wait(what) => Error::new(Kind::Transient, what),
            };
            if Instant::now() > deadline {
                return Err(stuck.context("it does not come to an end"));
            }
            self.client.stirred(PAUSE).await;
        }
        Err(Error::new(
            Kind::Io,
            "somebody else undoes what is done to the VM",
        ))
    }

    /// As [`look`](Self::look). What only removes is not kept from it by a disk that is gone.
    async fn survey(&self, goal: Goal) -> Result<View> {
        match goal {
            Goal::Frozen { .. } | Goal::Still { .. } => self.look().await,
            Goal::Released { .. } | Goal::Forgotten { .. } | Goal::Nothing => {
                let mut world = self.world().await?;
                let own = self.options.own_server(&self.tag);
                if let (Goal::Nothing, Some(socket)) = (goal, own) {
                    world.serving = server::listens(&socket).await;
                }
                Ok(View {
                    world,
                    disks: Vec::new(),
                    tag: self.tag.clone(),
                })
            }
        }
    }

    /// Does all of `steps`; gives why one that only removes something was refused: what is there
    /// is looked at again, and it may just need a moment.
    async fn take(
        &self,
        steps: &[Step],
        known: &mut Known,
        removed: &mut Vec<String>,
    ) -> Result<Option<Error>> {
        let mut refusal = None;
        for step in steps {
            match self.perform(step, known).await {
                Ok(()) => removed.extend(step.removal()),
                Err(error) if step.removes() && error.kind() != Kind::Transient => {
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refusal)
    }

    async fn perform(&self, step: &Step, known: &mut Known) -> Result<()> {
        match step {
            Step::Unlink(name) => {
                let (scratch, name) = (self.scratch.clone(), name.clone());
                return blocking(move || scratch.remove(&name)).await;
            }
            Step::Serve => {
                server::serve(self).await?;
                known.served = true;
                return Ok(());
            }
            Step::Overlay { name, disk } => {
                let owner = self.client.owner().await?;
                let (scratch, name, size) = (self.scratch.clone(), name.clone(), disk.size);
                blocking(move || scratch.create(&name, size, owner)).await?;
            }
            _ => {}
        }
        if let Some((command, arguments)) = step.command(self.scratch.directory()) {
            self.client.ask(command, arguments).await?;
        }
        if let Step::Overlay { name, .. } = step {
            known.fresh.insert(name.clone());
        }
        Ok(())
    }

    /// Whether a failed copy of what is overwritten can be kept from the guest. See the
    /// [module](super).
    async fn spares_guest(&self) -> Result<bool> {
        let ask = || async {
            let schema = self.client.ask("query-qmp-schema", json!({})).await?;
            Ok(backup_spares_the_guest(&schema))
        };
        self.spares_guest.get_or_try_init(ask).await.copied()
    }

    async fn files(&self) -> Result<BTreeSet<String>> {
        let scratch = self.scratch.clone();
        blocking(move || scratch.files()).await
    }
}

/// File system calls, where they may take their time.
pub(super) async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(what).await.unwrap_or_else(|error| {
        Err(Error::new(Kind::Io, "look at the scratch directory").because(error))
    })
}
