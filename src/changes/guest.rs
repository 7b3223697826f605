//! A running VM, as far as a migration must steer it: points in time over all its disks, what
//! changed between them, and quiet at the end.
//!
//! A *point* is a moment at which all disks of the VM were frozen together. It has a number, counted
//! from 1, and two lives: its *snapshot* lets the disks be read as they were, and is released as
//! soon as the pass is over; its *tracking* tells what changed since, and is forgotten only when
//! the next pass is durable. Everything that a guest makes on the VM is tagged with the migration,
//! so that whoever comes after a crash finds it again and never touches what others made.

use super::Baseline;
use crate::address::Address;
use crate::error::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A VM that a migration copies while it runs.
///
/// # Contract
///
/// * Every method may be repeated, also by another process after a crash: what already is as asked
///   stays as it is. That is what makes each step of a migration safe to be killed in.
/// * [`snapshot`](Self::snapshot) freezes all disks at one instant, and tracking of what changes
///   from then on begins at the same instant.
/// * A change is never left out. Where tracking since a point was lost, the answer is
///   [`Baseline::Digest`] with the reason in [`Point::lost`], never a shorter list.
/// * A pass over a point counts only if the point is still [`readable`](Standing::readable) when the
///   pass is over: a snapshot that is lost meanwhile may go on to answer, with bytes of a later time.
/// * An error is [`Kind::Transient`](crate::error::Kind::Transient) only if the same call may
///   succeed when repeated.
#[async_trait]
pub trait Guest: fmt::Debug + Send + Sync {
    /// The disks, in the order in which the migration named them. Changes nothing.
    ///
    /// # Errors
    /// The VM cannot be reached, a disk is not there, or it cannot be tracked; the line says why
    /// and what would help.
    async fn disks(&self) -> Result<Vec<DiskFacts>>;

    /// The name of the machine that runs the VM now, where that can be told; it may be another one
    /// in a moment.
    ///
    /// # Errors
    /// The VM cannot be asked.
    async fn host(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Which points stand: made by this migration, here or in a process before this one.
    ///
    /// # Errors
    /// The VM cannot be asked.
    async fn points(&self) -> Result<Vec<Standing>>;

    /// Freezes point `number`, or gives it again if it stands, and tells for each disk how to read
    /// it and what changed since the point `since`; `None` is everything.
    ///
    /// # Errors
    /// The point could not be made. Nothing of it is left behind, or what is left is found by
    /// [`points`](Self::points) and removed by [`clean`](Self::clean).
    async fn snapshot(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>>;

    /// Ends the snapshot of a point; its tracking goes on.
    ///
    /// # Errors
    /// It may still stand.
    async fn release(&self, number: u32) -> Result<()>;

    /// Ends the tracking of every point before `number`. Called only once the pass up to `number`
    /// is durable.
    ///
    /// # Errors
    /// Some may still stand.
    async fn forget_before(&self, number: u32) -> Result<()>;

    /// Bytes of each disk that changed since a point, where that can be told without freezing
    /// anything; `None` if it never can.
    ///
    /// # Errors
    /// The VM cannot be asked.
    async fn changed_since(&self, _point: u32) -> Result<Option<Vec<Option<u64>>>> {
        Ok(None)
    }

    /// Whether the VM could be made quiet this way, as far as can be told now. Changes nothing.
    ///
    /// # Errors
    /// It never could; or the VM cannot be asked.
    async fn check_shutdown(&self, _how: Shutdown) -> Result<()> {
        Ok(())
    }

    /// Makes the VM quiet as `how` says, and returns when it is confirmed that nothing writes to
    /// its disks any more and that what it wrote has left its caches.
    ///
    /// # Errors
    /// It is not quiet. A guest that did not shut down in time is told so, and still runs.
    async fn quiesce(&self, how: &Quiesce) -> Result<Quiet>;

    /// Whether the VM is quiet now, and how that is known.
    ///
    /// # Errors
    /// The VM cannot be asked.
    async fn quiet(&self) -> Result<Option<Quiet>>;

    /// The quiet disks themselves as point `number`, and what changed since `since`. After it, a
    /// write to a disk is either refused or told by [`quiet`](Self::quiet).
    ///
    /// # Errors
    /// As for [`snapshot`](Self::snapshot); also if the VM is not quiet.
    async fn last(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>>;

    /// Lets a VM that was only paused run again, when a cutover is called off.
    ///
    /// # Errors
    /// It does not run.
    async fn wake(&self) -> Result<()>;

    /// Removes all that this migration ever made on the VM; tells what that was.
    ///
    /// # Errors
    /// Something may be left; it is named.
    async fn clean(&self) -> Result<Vec<String>>;
}

/// A disk of a VM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskFacts {
    /// As the migration named it.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What tells its changes, for people: `dirty bitmap of node disk0`.
    pub tracking: String,
}

/// A point that is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Its number.
    pub number: u32,
    /// Every disk of it can be read.
    pub readable: bool,
    /// Every disk of it is tracked since.
    pub tracked: bool,
}

/// One disk at one point in time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Point {
    /// The disk, as the migration named it.
    pub name: String,
    /// Where it can be read. The same for every attempt at the same point.
    pub address: Address,
    /// Bytes.
    pub size: u64,
    /// What tells the changes since the point before; `None` copies everything.
    pub since: Option<Baseline>,
    /// Why tracking was lost, if it was.
    pub lost: Option<String>,
}

/// How a VM is made quiet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quiesce {
    /// What is tried first.
    pub how: Shutdown,
    /// How long the guest may take to shut down.
    pub timeout: Duration,
    /// What is done when it took longer; `None` gives up, and the VM runs on.
    pub otherwise: Option<Shutdown>,
}

/// A way to make a VM quiet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// Ask the guest to shut down (ACPI power button) and wait.
    Guest,
    /// Stop its processors; memory is kept and its caches are not written back: as a power cut, but
    /// it can be woken.
    Pause,
    /// Pull the plug: the processors stop and do not run again.
    PowerOff,
    /// Somebody else makes it quiet (a hook, a person): only look.
    External,
}

/// A VM that is quiet, and how that is known.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// What made it so.
    pub how: Shutdown,
    /// How it was confirmed, for the certificate: `query-status: shutdown`.
    pub evidence: String,
}
