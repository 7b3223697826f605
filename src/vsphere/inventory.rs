//! A VM and its disks: found by any of their names, identified, and looked at again.

use super::disk::{Disk, disks};
use super::locator::Wanted;
use super::session::{Session, nonsense};
use super::soap::Moref;
use super::soap::answer::{self, Properties, truth};
use super::soap::calls;
use super::soap::fault;
use super::soap::request::Request;
use super::soap::xml::Node;
use super::tree::{Snapshot, snapshots};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use tokio::sync::Mutex;

/// A VM of a session.
pub struct Machine {
    pub(super) session: Arc<Session>,
    pub(super) on: Moref,
    pub(super) name: String,
    pub(super) identity: Identity,
    /// Held while a task of ours runs on it: two at a time end in `TaskInProgress`.
    pub(super) tasks: Mutex<()>,
}

/// What tells a VM from every other, also from one that took its name or its place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Its managed object.
    pub moref: String,
    /// Its instance UUID, which vCenter keeps unique.
    pub instance_uuid: Option<String>,
}

/// What a VM is now.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// The UUID that its firmware shows. Copies of a VM share it.
    pub bios_uuid: Option<String>,
    /// `vmx-19`.
    pub hardware: String,
    /// Whether it runs.
    pub power: Power,
    /// Whether VMware Tools run in the guest, so that it can be asked to shut down.
    pub tools_running: bool,
    /// Changed block tracking is on, for the VM.
    pub tracking: bool,
    /// It can be.
    pub tracking_supported: bool,
    /// Disks that a removed snapshot left apart.
    pub needs_consolidation: bool,
    /// A template cannot run, and cannot be migrated warm.
    pub template: bool,
    /// Its disks, in the order of its device list.
    pub disks: Vec<Disk>,
    /// Its snapshots, parents first.
    pub snapshots: Vec<Snapshot>,
    /// Slots (`scsi0:1`) whose tracking is turned off one by one.
    pub untracked_slots: Vec<String>,
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It runs.
    On,
    /// It does not.
    Off,
    /// Its memory is on disk.
    Suspended,
}

impl Power {
    pub(super) fn of(properties: &Properties) -> Result<Self> {
        match properties.text("runtime.powerState") {
            Some("poweredOn") => Ok(Self::On),
            Some("poweredOff") => Ok(Self::Off),
            Some("suspended") => Ok(Self::Suspended),
            other => {
                let what = format!("the VM is said to be {other:?}");
                Err(Error::new(Kind::Corrupt, what))
            }
        }
    }
}

/// What is asked for to know [`Facts`].
const FACTS: &[&str] = &[
    "name",
    "config.uuid",
    "config.instanceUuid",
    "config.version",
    "config.template",
    "config.changeTrackingEnabled",
    "config.extraConfig",
    "config.hardware.device",
    "capability.changeTrackingSupported",
    "runtime.powerState",
    "runtime.consolidationNeeded",
    "guest.toolsRunningStatus",
    "snapshot",
];

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({} {:?})", self.on, self.name)
    }
}

impl Machine {
    /// Finds the VM that is wanted.
    ///
    /// # Errors
    /// There is none, or a BIOS UUID is shared by several.
    pub async fn find(session: Arc<Session>, wanted: &Wanted) -> Result<Self> {
        let on = match wanted {
            Wanted::Moref(value) => Moref::new("VirtualMachine", value.clone()),
            Wanted::Uuid(uuid) => by_uuid(&session, uuid).await?,
            Wanted::Path(path) => by_path(&session, path).await?,
        };
        let found = session
            .properties(&on, &["name", "config.instanceUuid"])
            .await;
        let found = found.map_err(|error| match fault::of(&error).is_some_and(|f| f.gone()) {
            true => none(&session, &wanted.to_string()),
            false => error.context(format!("find the VM {wanted}")),
        })?;
        let name = found.text("name").unwrap_or_default().to_owned();
        let instance_uuid = found.text("config.instanceUuid").map(str::to_owned);
        let moref = on.value.clone();
        Ok(Self {
            session,
            on,
            name,
            identity: Identity {
                moref,
                instance_uuid,
            },
            tasks: Mutex::default(),
        })
    }

    /// Its managed object.
    #[must_use]
    pub fn on(&self) -> &Moref {
        &self.on
    }

    /// Its name, as it was when it was found.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells it from every other.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The session it was found in.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// What it is now.
    ///
    /// # Errors
    /// It cannot be asked, or is not the VM any more that it was.
    pub async fn facts(&self) -> Result<Facts> {
        let found = self.ask(FACTS).await?;
        let uuid = found.text("config.instanceUuid");
        let known = self.identity.instance_uuid.as_deref();
        if uuid.zip(known).is_some_and(|(now, then)| now != then) {
            let what = format!("{} is not the VM {:?} any more", self.on, self.name);
            return Err(Error::new(Kind::Refused, what));
        }
        let mut all = match found.get("config.hardware.device") {
            Some(list) => disks(list).map_err(|error| self.bad(error))?,
            None => Vec::new(),
        };
        // A host that knows of no tracking leaves the property out.
        let tracking = found.is_true("config.changeTrackingEnabled");
        if !tracking {
            all.iter_mut().for_each(|disk| disk.change_id = None);
        }
        Ok(Facts {
            name: found.text("name").unwrap_or_default().to_owned(),
            bios_uuid: found.text("config.uuid").map(str::to_owned),
            hardware: found.text("config.version").unwrap_or_default().to_owned(),
            power: Power::of(&found)?,
            tools_running: found.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
            tracking,
            tracking_supported: found
                .text("capability.changeTrackingSupported")
                .is_none_or(truth),
            needs_consolidation: found.is_true("runtime.consolidationNeeded"),
            template: found.is_true("config.template"),
            disks: all,
            snapshots: snapshots(found.get("snapshot")).map_err(|error| self.bad(error))?,
            untracked_slots: untracked(found.get("config.extraConfig")),
        })
    }

    /// Its snapshots, parents first.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let found = self.ask(&["snapshot"]).await?;
        snapshots(found.get("snapshot")).map_err(|error| self.bad(error))
    }

    /// Its disks as they are in a snapshot.
    ///
    /// # Errors
    /// It cannot be asked, or the snapshot is gone.
    pub async fn disks_in(&self, snapshot: &Moref) -> Result<Vec<Disk>> {
        let path = "config.hardware.device";
        let found = self.session.properties(snapshot, &[path]).await;
        let found = found
            .map_err(|error| error.context(format!("look into {snapshot} of {:?}", self.name)))?;
        let list = found.get(path);
        let list = list.ok_or_else(|| self.bad(answer::BadAnswer::Missing("device")))?;
        disks(list).map_err(|error| self.bad(error))
    }

    /// The name of the ESXi host that it is on now.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn host(&self) -> Result<String> {
        let path = "runtime.host";
        let found = self.ask(&[path]).await?;
        let missing = || self.bad(answer::BadAnswer::Missing("host"));
        let host = found.get(path).ok_or_else(missing)?;
        let host = answer::reference(host).map_err(|error| self.bad(error))?;
        let found = self.session.properties(&host, &["name"]).await;
        let found = found.map_err(|error| {
            error.context(format!("look at {host}, the host of {:?}", self.name))
        })?;
        found.text("name").map(str::to_owned).ok_or_else(missing)
    }

    pub(super) async fn ask(&self, paths: &[&str]) -> Result<Properties> {
        let found = self.session.properties(&self.on, paths).await;
        found.map_err(|error| error.context(format!("look at the VM {:?}", self.name)))
    }

    fn bad(&self, error: answer::BadAnswer) -> Error {
        let what = format!(
            "read what {} says of {:?}",
            self.session.authority(),
            self.name
        );
        Error::new(Kind::Corrupt, what).because(error)
    }
}

/// Slots with `ctkEnabled` set to something else than true.
fn untracked(config: Option<&Node>) -> Vec<String> {
    let options = config.into_iter().flat_map(|config| &config.children);
    let off = options.filter_map(|option| {
        let (key, value) = (option.text_of("key")?, option.text_of("value")?);
        let slot = key.strip_suffix(".ctkEnabled")?;
        let on = value.eq_ignore_ascii_case("true") || value == "1";
        (!on).then(|| slot.to_owned())
    });
    off.collect()
}

async fn by_path(session: &Session, path: &str) -> Result<Moref> {
    let index = &session.service().search_index;
    let found = found(session, &calls::find_by_inventory_path(index, path)).await?;
    match found.into_iter().next() {
        Some(found) if found.kind == "VirtualMachine" => Ok(found),
        Some(found) => {
            let what = format!(
                "{path:?} at {} is a {}, not a VM",
                session.authority(),
                found.kind
            );
            Err(Error::new(Kind::Refused, what))
        }
        None => Err(none(session, path)),
    }
}

/// Instance UUIDs are unique at a vCenter. BIOS UUIDs are copied with a VM, and the wrong one of two
/// has been powered off before.
async fn by_uuid(session: &Session, uuid: &str) -> Result<Moref> {
    let index = &session.service().search_index;
    let instance = calls::find_by_uuid(index, uuid, true);
    if let Some(found) = found(session, &instance).await?.into_iter().next() {
        return Ok(found);
    }
    let all = found(session, &calls::find_all_by_uuid(index, uuid, false)).await?;
    match all.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(none(session, uuid)),
        several => {
            let names: Vec<&str> = several.iter().map(|found| &*found.value).collect();
            let what = format!(
                "{} VMs at {} have the BIOS UUID {uuid}",
                names.len(),
                session.authority()
            );
            Err(Error::new(Kind::Refused, what).hint(format!(
                "name one by moref= or its instance UUID: {}",
                names.join(", ")
            )))
        }
    }
}

async fn found(session: &Session, request: &Request) -> Result<Vec<Moref>> {
    let values = session.call(request).await?;
    let found: Result<_, _> = values.iter().map(answer::reference).collect();
    found.map_err(|error| nonsense(request, error))
}

fn none(session: &Session, wanted: &str) -> Error {
    let what = format!("there is no VM {wanted:?} at {}", session.authority());
    Error::new(Kind::Refused, what).hint(
        "an inventory path is DATACENTER/vm/FOLDER/NAME; the user may also lack System.View on it",
    )
}
