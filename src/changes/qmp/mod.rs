//! A running VM driven over its QMP socket: QEMU, or `qemu-storage-daemon`.
//!
//! All disks are frozen by one `transaction`, which gives each of them a dirty bitmap that records
//! from that moment on, and a backup job (`sync: none`) that keeps in an overlay what the guest
//! overwrites. The overlay is exported over NBD, read-only, with the bitmap of the point before: a
//! view of the disk at that moment, and what changed up to it ([`nbd_bitmap`](super::nbd_bitmap)
//! reads that).
//!
//! ```text
//!  wire.rs     bytes → messages                                pure
//!  client.rs   commands, answers by id, a connection that is made anew
//!  names.rs    what is called how, so that it is found again    pure
//!  world.rs    QEMU's answers → what exists                     pure
//!  survey.rs   what of that is ours, and stands                 pure
//!  goal.rs     what exists, what is wanted → the next move      pure
//!  step.rs     a move → QMP                                     pure
//!  drive.rs    the loop: look, decide, do, look again
//!  scratch.rs  overlays: empty qcow2 files in a directory
//!  watch.rs    gives a snapshot up before its overlay runs out of room
//!  server.rs   QEMU's NBD server
//!  power.rs    quiet
//! ```
//!
//! # What is relied on
//!
//! * The state of a migration on a VM is in QEMU itself, in the names of what was made there
//!   ([`names`]); nothing is remembered here. A VM that QEMU was started anew for has lost its
//!   bitmaps, and is told so.
//! * The job's filter fails a guest's write if the overlay takes no more (before QEMU 10.1). See
//!   [`QmpOptions::keep_free`]; a virtio or SCSI disk with `werror` left alone pauses the VM then.
//! * An export shows the disk as it is *now* once its job is gone. A pass over a point counts only
//!   if the point [stands](crate::changes::guest::Standing::readable) after it was read.
//!
//! Not done here: anything to bitmaps, jobs, exports and nodes that do not bear this migration's
//! name; bitmaps that outlive QEMU.

pub mod client;
mod drive;
pub mod goal;
pub mod names;
mod options;
mod power;
mod scratch;
mod server;
pub mod step;
pub mod survey;
mod watch;
pub mod wire;
pub mod world;

#[cfg(test)]
mod tests;

pub use crate::nbd::uri::Place;
pub use drive::IOTHREADS;
pub use options::{At, DiskAt, QmpOptions};

use super::Baseline;
use super::guest::{DiskFacts, Guest, Point, Quiesce, Quiet, Shutdown, Standing};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use drive::{View, Vm};
use goal::Goal;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use watch::Watch;

/// A VM behind a QMP socket. See the [module](self).
#[derive(Debug)]
pub struct Qmp {
    vm: Arc<Vm>,
    /// Over the overlays of the snapshot that stands.
    watch: Mutex<Option<Watch>>,
}

impl Qmp {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// What `options` say cannot work.
    pub fn new(options: QmpOptions) -> Result<Self> {
        Ok(Self {
            vm: Arc::new(Vm::new(options)?),
            watch: Mutex::default(),
        })
    }

    fn set_watch(&self, watch: Option<Watch>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    /// Refuses a snapshot for which there is no room even now.
    async fn check_room(&self) -> Result<()> {
        let (scratch, keep_free) = (self.vm.scratch.clone(), self.vm.options.keep_free);
        let short = drive::blocking(move || watch::short(&scratch, &[], keep_free, None)).await?;
        match short {
            None => Ok(()),
            Some(why) => Err(Error::new(Kind::Refused, "freeze the disks").because(why)),
        }
    }

    /// A point that stands, for whoever copies it.
    async fn points_of(&self, view: &View, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        let site = view.site();
        let mut points = Vec::with_capacity(view.disks.len());
        for disk in &view.disks {
            let name = self.vm.tag.view(number, &disk.key);
            let tracked = since.map(|since| site.tracked_since(disk, since));
            let (since, lost) = match tracked {
                None => (None, None),
                Some(Ok(bitmap)) => (Some(Baseline::NbdBitmap(bitmap)), None),
                Some(Err(why)) => (Some(Baseline::Digest), Some(why)),
            };
            points.push(Point {
                name: disk.name.clone(),
                address: server::check(&self.vm, &name, disk.size).await?,
                size: disk.size,
                since,
                lost,
            });
        }
        Ok(points)
    }

    /// Files that a QEMU which is gone has left behind. What it had in memory went with it.
    async fn clean_up_after(&self) -> Result<Vec<String>> {
        let scratch = self.vm.scratch.clone();
        drive::blocking(move || {
            let files: BTreeSet<_> = scratch.files()?;
            for name in &files {
                scratch.remove(name)?;
            }
            Ok(files
                .into_iter()
                .map(|name| format!("file {name}"))
                .collect())
        })
        .await
    }
}

#[async_trait]
impl Guest for Qmp {
    async fn disks(&self) -> Result<Vec<DiskFacts>> {
        self.vm.check_iothreads().await?;
        let view = self.vm.look().await?;
        let fact = |disk: &survey::Disk| DiskFacts {
            name: disk.name.clone(),
            size: disk.size,
            tracking: format!("dirty bitmap of node {}", disk.node),
        };
        Ok(view.disks.iter().map(fact).collect())
    }

    async fn points(&self) -> Result<Vec<Standing>> {
        Ok(self.vm.look().await?.site().standing())
    }

    async fn snapshot(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        self.vm.check_iothreads().await?;
        self.check_room().await?;
        let (_, view) = self.vm.reach(Goal::Frozen { number, since }).await?;
        let overlay = |disk: &survey::Disk| self.vm.tag.view(number, &disk.key);
        let overlays = view.disks.iter().map(overlay).collect();
        self.set_watch(Some(watch::over(self.vm.clone(), number, overlays)));
        self.points_of(&view, number, since).await
    }

    async fn release(&self, number: u32) -> Result<()> {
        self.set_watch(None);
        self.vm.reach(Goal::Released { number }).await?;
        Ok(())
    }

    async fn forget_before(&self, number: u32) -> Result<()> {
        self.vm.reach(Goal::Forgotten { before: number }).await?;
        Ok(())
    }

    async fn changed_since(&self, point: u32) -> Result<Option<Vec<Option<u64>>>> {
        let view = self.vm.look().await?;
        let site = view.site();
        let count = |disk: &survey::Disk| {
            site.tracked_since(disk, point).ok()?;
            site.bitmap(disk, point).map(|bitmap| bitmap.count)
        };
        Ok(Some(view.disks.iter().map(count).collect()))
    }

    async fn check_shutdown(&self, how: Shutdown) -> Result<()> {
        self.vm.check_shutdown(how).await
    }

    async fn quiesce(&self, how: &Quiesce) -> Result<Quiet> {
        self.vm.quiesce(how).await
    }

    async fn quiet(&self) -> Result<Option<Quiet>> {
        Ok(self.vm.quiet().await?.ok())
    }

    async fn last(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        self.vm.check_iothreads().await?;
        if let Err(why) = self.vm.quiet().await? {
            return Err(Error::new(Kind::Refused, "the VM is not quiet").because(why));
        }
        self.set_watch(None);
        let (_, view) = self.vm.reach(Goal::Still { number, since }).await?;
        self.points_of(&view, number, since).await
    }

    async fn wake(&self) -> Result<()> {
        self.vm.wake().await
    }

    async fn clean(&self) -> Result<Vec<String>> {
        self.set_watch(None);
        let gone = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
        match self.vm.reach(Goal::Nothing).await {
            Ok((removed, _)) => Ok(removed),
            Err(error) if client::io_kind(&error).is_some_and(|kind| gone.contains(&kind)) => {
                self.clean_up_after().await
            }
            Err(error) => Err(error),
        }
    }
}
