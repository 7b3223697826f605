//! What a user wants of a migration: the plan file. Described for users in `docs/plan.md`.
//!
//! ```text
//!  layout.rs   the file as YAML draws it          no logic
//!  check.rs    a layout → a plan that makes sense pure; every complaint names its place in the file
//!  units.rs    times, moments and hours of the day, out of words
//!  tests.rs
//! ```
//!
//! A plan says nothing of how far a migration is: that is `record`.

mod check;
mod layout;
mod units;

#[cfg(test)]
mod tests;

pub use units::{HourOfDay, moment, show_moment};

use super::guests::Reach;
use super::phase::{Hook, Prove, Rules};
use crate::address::Address;
use crate::changes::guest::Quiesce;
use crate::digest::Algorithm;
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// No plan is longer than this, in bytes.
const LONGEST: u64 = 1 << 20;

/// A plan that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The VM, as people and the state directory know it.
    pub vm: String,
    /// How the VM is reached.
    pub guest: Arc<dyn Reach>,
    /// Its disks, in the order of the file.
    pub disks: Vec<Disk>,
    /// Time between the beginnings of two passes, while nothing is urgent.
    pub precopy_interval: Duration,
    /// When the VM is made quiet.
    pub cutover: Cutover,
    /// How it is made quiet.
    pub shutdown: Quiesce,
    /// Memory, connections and speed.
    pub limits: Limits,
    /// When what was written is proven.
    pub prove: Prove,
    /// The user's commands.
    pub hooks: Vec<(Hook, Command)>,
    /// Disks that are copied at once.
    pub workers: usize,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Targets that hold something else may be written over.
    pub overwrite: bool,
    /// Targets may have other sectors than the source's partition table counts in.
    pub allow_sector_mismatch: bool,
    /// How blocks are digested.
    pub digest: Algorithm,
    /// How long what fails for a moment is tried again.
    pub retry: Duration,
    /// How many of a million blocks that a tracker calls unchanged are compared all the same, in
    /// each pass.
    pub distrust_ppm: u32,
    /// The plan as it was written.
    pub text: String,
}

/// A disk of the VM, and where it goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Disk {
    /// As it is called here and in files of the state directory.
    pub name: String,
    /// As the guest knows it: a node name, or an address.
    pub source: String,
    /// Where it goes.
    pub target: Address,
    /// Nobody is asked what changed: all is read, and what differs is written.
    pub digest_only: bool,
}

/// When the VM is made quiet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cutover {
    /// When somebody says so.
    Manual,
    /// At this moment, in seconds since 1970.
    At(u64),
    /// As soon as the forecast promises a shorter outage than this.
    DowntimeBelow(Duration),
}

/// Memory, connections and speed, for all disks together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of buffers.
    pub memory: u64,
    /// Connections to all servers together; `None` is what suits each address.
    pub connections: Option<usize>,
    /// Connections to any one host.
    pub connections_per_host: Option<usize>,
    /// Requests in flight.
    pub requests: usize,
    /// Bytes per second, while no window says otherwise.
    pub rate: Option<u64>,
    /// Bytes per second from or to any one host.
    pub rate_per_host: Option<u64>,
    /// Hours of the day with a rate of their own; the first that fits counts.
    pub windows: Vec<Window>,
}

/// Hours of every day in which another rate applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// From when on.
    pub from: HourOfDay,
    /// Until when; earlier than `from` is on the next day.
    pub to: HourOfDay,
    /// Bytes per second; `None` is as fast as it goes.
    pub rate: Option<u64>,
}

/// A command of the user, and how long it may take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command {
    /// Program and arguments; no shell is in between.
    pub words: Vec<String>,
    /// After it the command is killed, and the hook has failed.
    pub timeout: Duration,
}

impl Plan {
    /// Reads a plan file.
    ///
    /// # Errors
    /// It cannot be read, is no YAML, or makes no sense: each complaint with its place.
    pub fn read(path: &Path) -> Result<Self> {
        let name = || format!("read plan {}", path.display());
        let file = File::open(path).map_err(|error| Error::io(name(), error))?;
        let mut text = String::new();
        file.take(LONGEST.saturating_add(1))
            .read_to_string(&mut text)
            .map_err(|error| Error::io(name(), error))?;
        Self::parse(&text).map_err(|error| error.context(name()))
    }

    /// Reads a plan out of its text.
    ///
    /// # Errors
    /// `Usage`: it is no YAML, or makes no sense; each complaint with its place.
    pub fn parse(text: &str) -> Result<Self> {
        if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST) {
            let what = format!("a plan of more than {LONGEST} bytes");
            return Err(Error::new(Kind::Usage, what));
        }
        check::plan(layout::parse(text)?, text)
    }

    /// What the plan wants of the state machine.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            prove: self.prove,
            hooks: self.hooks.iter().map(|(hook, _)| *hook).collect(),
        }
    }

    /// The command of a hook.
    #[must_use]
    pub fn command(&self, hook: Hook) -> Option<&Command> {
        let found = self.hooks.iter().find(|(name, _)| *name == hook);
        found.map(|(_, command)| command)
    }
}

impl Limits {
    /// The rate that applies at an hour of the day.
    #[must_use]
    pub fn rate_at(&self, hour: HourOfDay) -> Option<u64> {
        let window = self.windows.iter().find(|window| window.holds(hour));
        window.map_or(self.rate, |window| window.rate)
    }
}

impl Window {
    /// Whether an hour of the day lies in it.
    #[must_use]
    pub fn holds(&self, hour: HourOfDay) -> bool {
        match self.from < self.to {
            true => self.from <= hour && hour < self.to,
            false => self.from <= hour || hour < self.to,
        }
    }
}
