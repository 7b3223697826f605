//! A VM in vSphere that is migrated: its points are snapshots, tracked by change ids.
//!
//! Tracking since a point needs nothing on the VM but the change id that its snapshot told; that is
//! kept in [`Memory`], durable before [`snapshot`](Guest::snapshot) returns and so before the
//! snapshot can be released. A point that nobody remembers is not tracked, whatever stands.

use super::judge::lost_since;
use super::memory::{Memory, NAME, Quiesced, Remembered};
use crate::address::Address;
use crate::changes::Baseline;
use crate::changes::guest::{DiskFacts, Guest, Point, Quiesce, Quiet, Shutdown, Standing};
use crate::error::{Error, Kind, Result};
use crate::secret::Place;
use crate::source::vddk::VddkAddress;
use crate::vsphere::disk::{self, Disk};
use crate::vsphere::inventory::{Facts, Machine, Power};
use crate::vsphere::limits::TimeLimits;
use crate::vsphere::locator::Locator;
use crate::vsphere::session::Session;
use crate::vsphere::snapshots::{Made, Patience, Quiescing};
use crate::vsphere::soap::Moref;
use crate::vsphere::tracking::Outlook;
use crate::vsphere::tree::{Purpose, Snapshot, Tag};
use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What may stand bare in an address of a disk, so that people can read it.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'/')
    .remove(b':')
    .remove(b'[')
    .remove(b']');

/// What a migration wants of a VM in vSphere.
#[derive(Clone, Debug)]
pub struct Options {
    /// The VM.
    pub vm: Locator,
    /// Tags what is made on it.
    pub migration: String,
    /// For each disk, how the migration names it and how the VM does.
    pub disks: Vec<(String, String)>,
    /// Whether the guest writes out its caches before a snapshot.
    pub quiescing: Quiescing,
    /// Turn change tracking on if it is off.
    pub enable_tracking: bool,
    /// How disks are read: further keys of their `vddk://` addresses.
    pub reading: Vec<(String, String)>,
    /// How long to go on when something is in the way.
    pub patience: Patience,
}

/// A VM in vSphere that is migrated.
#[derive(Debug)]
pub struct VsphereGuest {
    options: Options,
    machine: Machine,
    memory: Mutex<Memory>,
}

impl VsphereGuest {
    /// Logs in and finds the VM. `directory` is the migration's, and outlives this process; without
    /// one the VM can be looked at, and no point be made.
    ///
    /// # Errors
    /// The server or the VM cannot be reached, or the directory is that of another VM.
    pub async fn connect(options: Options, directory: Option<&Path>) -> Result<Self> {
        Tag::new(&options.migration, Purpose::Activation)?;
        let session = Arc::new(Session::open(&options.vm.server).await?);
        let machine = Machine::find(session, &options.vm.vm).await?;
        let path = directory.map(|directory| directory.join(NAME));
        let memory = Memory::open(path, machine.identity())?;
        Ok(Self {
            options,
            machine,
            memory: Mutex::new(memory),
        })
    }

    /// Refuses disks that are not those of the points before: an old disk's key may be another's now.
    async fn recognize(&self, disks: &[(String, Disk)]) -> Result<()> {
        let memory = self.memory.lock().await;
        let Some((number, then)) = memory.points().iter().next_back() else {
            return Ok(());
        };
        for (name, disk) in disks {
            let known = then.iter().find(|known| known.name == *name);
            if known.is_some_and(|known| !known.disk().is_the_same_as(disk)) {
                let what = format!(
                    "{} of {:?} is another disk than {name} was at point {number}",
                    disk.label,
                    self.machine.name()
                );
                return Err(Error::new(Kind::Refused, what)
                    .hint("a migration copies the disks that it began with: begin another one"));
            }
        }
        Ok(())
    }

    fn tag(&self, purpose: Purpose) -> Result<Tag> {
        Tag::new(&self.options.migration, purpose)
    }

    fn is_mine(&self, snapshot: &Snapshot) -> bool {
        let tag = snapshot.tag.as_ref();
        tag.is_some_and(|tag| tag.migration() == self.options.migration)
    }

    /// The disks of the migration, in its order, out of those of the VM.
    fn chosen<'a>(&'a self, all: &'a [Disk]) -> Result<Vec<(&'a str, &'a Disk)>> {
        let names = self.options.disks.iter();
        names
            .map(|(name, called)| Ok((&**name, disk::find(all, called)?)))
            .collect()
    }

    /// The same, each with the migration's name for it.
    fn now(&self, facts: &Facts) -> Result<Vec<(String, Disk)>> {
        let chosen = self.chosen(&facts.disks)?.into_iter();
        Ok(chosen
            .map(|(name, disk)| (name.to_owned(), disk.clone()))
            .collect())
    }

    /// What a snapshot holds of each disk, in the order of the migration.
    async fn frozen(&self, snapshot: &Moref, facts: &Facts) -> Result<Vec<(String, Disk)>> {
        let then = self.machine.disks_in(snapshot).await?;
        let chosen = self.chosen(&facts.disks)?;
        let of = |(name, now): (&str, &Disk)| {
            let found = then.iter().find(|disk| disk.is_the_same_as(now));
            match found {
                Some(found) => Ok((name.to_owned(), found.clone())),
                None => {
                    let what =
                        format!("{snapshot} of {:?} has no disk {name}", self.machine.name());
                    Err(Error::new(Kind::Refused, what))
                }
            }
        };
        chosen.into_iter().map(of).collect()
    }

    /// Makes a point, or finds it; the changes that it tells of are durable when this returns.
    async fn point(
        &self,
        number: u32,
        since: Option<u32>,
        quiescing: Quiescing,
    ) -> Result<Vec<Point>> {
        let tag = self.tag(Purpose::Point(number))?;
        let patience = self.options.patience;
        let before = self.machine.facts().await?;
        if self.options.enable_tracking && !before.tracking {
            self.machine
                .track(&self.options.migration, patience)
                .await?;
        }
        for other in before
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.tag.is_none())
        {
            let (name, vm) = (&other.name, self.machine.name());
            tracing::info!("{vm:?} has the snapshot {name:?} of somebody else: it stays");
        }
        self.recognize(&self.now(&before)?).await?;
        let mut made = self.machine.freeze(&tag, quiescing, patience).await?;
        let mut facts = self.machine.facts().await?;
        let mut disks = self.frozen(&made.on, &facts).await?;
        // Tracking that was turned on and never took effect begins with a snapshot that is removed.
        let silent = disks.iter().any(|(_, disk)| disk.change_id.is_none());
        if silent && since.is_none() && self.options.enable_tracking && facts.tracking {
            self.machine.thaw(&tag, patience).await?;
            made = self.machine.freeze(&tag, quiescing, patience).await?;
            facts = self.machine.facts().await?;
            disks = self.frozen(&made.on, &facts).await?;
        }
        self.tell(number, &made);
        let mut memory = self.memory.lock().await;
        let earlier = since.and_then(|since| memory.points().get(&since).cloned());
        let remembered = disks.iter().map(|(name, disk)| Remembered::of(name, disk));
        let remembered: Vec<Remembered> = remembered.collect();
        let quiesced = Quiesced {
            done: made.quiesced,
            why_not: made.why_not.clone(),
        };
        memory.remember(number, remembered, quiesced)?;
        let point = |(name, disk): (String, Disk)| {
            self.changes(name, &disk, &made.on, since, earlier.as_deref())
        };
        disks.into_iter().map(point).collect()
    }

    fn tell(&self, number: u32, made: &Made) {
        let vm = self.machine.name();
        match (&made.why_not, made.quiesced) {
            (Some(why), _) => {
                tracing::warn!("point {number} of {vm:?} is as after a power cut: {why}");
            }
            (None, quiesced) => {
                tracing::info!(snapshot = %made.on, quiesced, "point {number} of {vm:?}");
            }
        }
    }

    fn changes(
        &self,
        name: String,
        disk: &Disk,
        snapshot: &Moref,
        since: Option<u32>,
        earlier: Option<&[Remembered]>,
    ) -> Result<Point> {
        let then = earlier.and_then(|disks| disks.iter().find(|then| then.name == name));
        let (since, lost) = match (since, then) {
            (None, _) => (None, None),
            (Some(since), None) => {
                let why = format!("nobody remembers point {since}");
                (Some(Baseline::Digest), Some(why))
            }
            (Some(_), Some(then)) => match (lost_since(&then.disk(), disk), then.change_id()) {
                (None, Some(id)) => (Some(Baseline::Cbt(id.clone())), None),
                (lost, _) => (Some(Baseline::Digest), lost),
            },
        };
        Ok(Point {
            address: self.address(disk, snapshot)?,
            size: disk.capacity,
            name,
            since,
            lost,
        })
    }

    /// Where a disk is read as it is in a snapshot.
    ///
    /// VDDK pins the certificate that this session believed, whatever it was believed for.
    fn address(&self, disk: &Disk, snapshot: &Moref) -> Result<Address> {
        let server = &self.options.vm.server;
        let mut keys: Vec<(&str, String)> = vec![
            ("disk", disk.file.clone()),
            ("snapshot", snapshot.value.clone()),
        ];
        let thumbprint = self.machine.session().thumbprint();
        keys.extend(thumbprint.map(|thumbprint| ("thumbprint", thumbprint.to_string())));
        keys.push(match &server.password {
            Place::Environment(name) => ("password-env", name.clone()),
            Place::File(path) => ("password-file", path.display().to_string()),
            Place::Descriptor(number) => ("password-fd", number.to_string()),
        });
        if server.limits != TimeLimits::default() {
            keys.push(("timeout", server.limits.seconds().to_string()));
        }
        let further = self.options.reading.iter();
        keys.extend(further.map(|(key, value)| (&**key, value.clone())));
        let keys = keys
            .into_iter()
            .map(|(key, value)| format!("{key}={}", encoded(&value)));
        let text = format!(
            "vddk://{}@{}/moref={}?{}",
            encoded(&server.user),
            server.authority(),
            encoded(&self.machine.on().value),
            keys.collect::<Vec<_>>().join("&")
        );
        text.parse::<VddkAddress>()?;
        text.parse()
    }

    async fn off(&self, how: Shutdown) -> Result<Option<Quiet>> {
        let power = self.machine.power().await?;
        Ok((power == Power::Off).then(|| Quiet {
            how,
            evidence: format!("runtime.powerState of {}: poweredOff", self.machine.on()),
        }))
    }

    async fn stop(&self, how: Shutdown, quiesce: &Quiesce) -> Result<()> {
        match how {
            Shutdown::Guest => self.machine.shut_down(quiesce.timeout).await,
            Shutdown::PowerOff => self.machine.power_off().await,
            Shutdown::External => Ok(()),
            Shutdown::Pause => {
                let what = format!("pause {:?}", self.machine.name());
                Err(Error::new(Kind::Unsupported, what)
                    .because("a VM in vSphere cannot be paused, only suspended to disk")
                    .hint("use guest or power-off"))
            }
        }
    }
}

/// As it may stand in an address.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[async_trait]
impl Guest for VsphereGuest {
    async fn disks(&self) -> Result<Vec<DiskFacts>> {
        let facts = self.machine.facts().await?;
        let chosen = self.chosen(&facts.disks)?;
        let disks: Vec<Disk> = chosen.iter().map(|(_, disk)| (*disk).clone()).collect();
        let mut outlook = Outlook::of(&facts, &disks);
        if self.options.enable_tracking && !facts.tracking && facts.tracking_supported {
            // It will be on: what would be said of it being off is no obstacle.
            let on = Facts {
                tracking: true,
                ..facts.clone()
            };
            outlook = Outlook::of(&on, &disks);
        }
        for note in &outlook.notes {
            tracing::info!("{:?}: {note}", self.machine.name());
        }
        if !outlook.obstacles.is_empty() {
            let what = format!("{:?} cannot be migrated while it runs", self.machine.name());
            return Err(Error::new(Kind::Refused, what).because(outlook.obstacles.join("; ")));
        }
        let facts = chosen.into_iter().map(|(name, disk)| DiskFacts {
            name: name.to_owned(),
            size: disk.capacity,
            tracking: format!("changed block tracking of {} {}", disk.label, disk.file),
        });
        Ok(facts.collect())
    }

    async fn host(&self) -> Result<Option<String>> {
        self.machine.host().await.map(Some)
    }

    async fn points(&self) -> Result<Vec<Standing>> {
        let snapshots = self.machine.snapshots().await?;
        let mine = snapshots.iter().filter(|snapshot| self.is_mine(snapshot));
        let standing: Vec<u32> = mine
            .filter_map(|snapshot| match snapshot.tag.as_ref()?.purpose {
                Purpose::Point(number) => Some(number),
                Purpose::Activation => None,
            })
            .collect();
        let memory = self.memory.lock().await;
        let tracked = |number: &u32| {
            let disks = memory.points().get(number);
            disks.is_some_and(|disks| disks.iter().all(|disk| disk.change_id().is_some()))
        };
        let mut numbers: Vec<u32> = memory.points().keys().chain(&standing).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let standing = numbers.into_iter().map(|number| Standing {
            number,
            readable: standing.contains(&number),
            tracked: tracked(&number),
        });
        Ok(standing.collect())
    }

    async fn snapshot(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        self.point(number, since, self.options.quiescing).await
    }

    async fn release(&self, number: u32) -> Result<()> {
        let tag = self.tag(Purpose::Point(number))?;
        self.machine.thaw(&tag, self.options.patience).await
    }

    async fn forget_before(&self, number: u32) -> Result<()> {
        let mut memory = self.memory.lock().await;
        memory.change(|points| points.retain(|point, _| *point >= number))
    }

    async fn quiesce(&self, how: &Quiesce) -> Result<Quiet> {
        // The VM that is switched off must be the one that was copied, disk by disk.
        let facts = self.machine.facts().await?;
        self.recognize(&self.now(&facts)?).await?;
        if how.how != Shutdown::External && self.machine.power().await? == Power::On {
            // Before it is done: whoever wakes it may be another process.
            self.memory.lock().await.switch(true)?;
        }
        let mut tried = how.how;
        if let Err(error) = self.stop(tried, how).await {
            let Some(otherwise) = how.otherwise else {
                return Err(error);
            };
            tracing::warn!("{}; {otherwise:?} instead", error.line());
            tried = otherwise;
            self.stop(tried, how).await?;
        }
        self.off(tried).await?.ok_or_else(|| {
            let what = format!("{:?} still runs", self.machine.name());
            Error::new(Kind::Refused, what)
        })
    }

    async fn quiet(&self) -> Result<Option<Quiet>> {
        self.off(Shutdown::External).await
    }

    async fn last(&self, number: u32, since: Option<u32>) -> Result<Vec<Point>> {
        if self.machine.power().await? != Power::Off {
            let what = format!("copy the end of {:?}", self.machine.name());
            return Err(Error::new(Kind::Refused, what).because("it runs"));
        }
        self.point(number, since, Quiescing::Never).await
    }

    /// Powers on a VM that this migration shut down or powered off. One that was off before, or that
    /// somebody else made quiet, stays as it is.
    async fn wake(&self) -> Result<()> {
        let mut memory = self.memory.lock().await;
        if !memory.is_switched() {
            return Ok(());
        }
        self.machine.facts().await?;
        self.machine.power_on().await?;
        memory.switch(false)
    }

    async fn clean(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for snapshot in self.machine.snapshots().await? {
            if let Some(tag) = snapshot.tag.as_ref().filter(|_| self.is_mine(&snapshot)) {
                self.machine.thaw(tag, self.options.patience).await?;
                removed.push(format!("snapshot {tag:?}", tag = tag.to_string()));
            }
        }
        Ok(removed)
    }
}
