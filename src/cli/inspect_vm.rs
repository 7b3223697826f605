//! `diskferry inspect vsphere://…`: the disks of a VM, and whether it can be migrated while it runs.

use super::output::{self, Output};
use super::stop;
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::vsphere::disk::Disk;
use crate::vsphere::inventory::{Facts, Machine, Power};
use crate::vsphere::locator::Locator;
use crate::vsphere::session::Session;
use crate::vsphere::tracking::Outlook;
use crate::vsphere::tree::Snapshot;
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;

/// What was found out. This is the JSON that is printed; `docs/vsphere.md` has its fields.
#[derive(Debug, Serialize)]
struct Found {
    address: String,
    server: String,
    moref: String,
    instance_uuid: Option<String>,
    bios_uuid: Option<String>,
    name: String,
    hardware: String,
    power: Power,
    tools_running: bool,
    tracking: bool,
    disks: Vec<Disk>,
    snapshots: Vec<Seen>,
    /// Whether a warm migration will work.
    warm: bool,
    #[serde(flatten)]
    outlook: Outlook,
}

/// A snapshot, and whose it is.
#[derive(Debug, Serialize)]
struct Seen {
    moref: String,
    /// The migration that made it; none of ours made one without.
    migration: Option<String>,
    #[serde(flatten)]
    snapshot: Snapshot,
}

/// Looks at the VM and tells what it is. The session ends whatever happens.
pub(super) async fn run(locator: &Locator, output: &Output) -> Result<()> {
    let mut stop = stop::on_signals()?;
    let found = tokio::select! {
        found = look(locator) => found?,
        () = stop.requested() => {
            return Err(Error::new(Kind::Interrupted, "stopped by a signal"));
        }
    };
    let text = if output.json() {
        format!("{}\n", serde_json::json!(found))
    } else {
        found.text()
    };
    output::print(&text)
}

async fn look(locator: &Locator) -> Result<Found> {
    let session = Arc::new(Session::open(&locator.server).await?);
    let found = look_in(&session, locator).await;
    session.close().await;
    found
}

async fn look_in(session: &Arc<Session>, locator: &Locator) -> Result<Found> {
    let machine = Machine::find(session.clone(), &locator.vm).await?;
    let facts = machine.facts().await?;
    let outlook = Outlook::of(&facts, &facts.disks);
    let Facts {
        name,
        bios_uuid,
        hardware,
        power,
        tools_running,
        tracking,
        disks,
        snapshots,
        ..
    } = facts;
    let seen = snapshots.into_iter().map(|snapshot| Seen {
        moref: snapshot.on.value.clone(),
        migration: snapshot.tag.as_ref().map(|tag| tag.migration().to_owned()),
        snapshot,
    });
    Ok(Found {
        address: locator.to_string(),
        server: session.service().full_name.clone(),
        moref: machine.identity().moref.clone(),
        instance_uuid: machine.identity().instance_uuid.clone(),
        bios_uuid,
        name,
        hardware,
        power,
        tools_running,
        tracking,
        disks,
        snapshots: seen.collect(),
        warm: outlook.obstacles.is_empty(),
        outlook,
    })
}

impl Found {
    /// For people.
    fn text(&self) -> String {
        let mut rows = self.machine_rows();
        rows.extend(self.disks.iter().flat_map(disk_rows));
        for Seen {
            moref, snapshot, ..
        } in &self.snapshots
        {
            let whose = match snapshot.tag {
                Some(_) => "ours",
                None => "not ours",
            };
            let (name, created) = (&snapshot.name, &snapshot.created);
            rows.push((
                "snapshot",
                format!("{name:?} ({moref}) of {created}, {whose}"),
            ));
        }
        let warm = if self.warm {
            "will work"
        } else {
            "will not work"
        };
        rows.push(("warm", warm.to_owned()));
        let Outlook { obstacles, notes } = &self.outlook;
        rows.extend(obstacles.iter().map(|text| ("", text.clone())));
        rows.extend(notes.iter().map(|text| ("note", text.clone())));
        rows.into_iter()
            .fold(String::new(), |mut text, (key, value)| {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{key:<10} {value}");
                text
            })
    }

    fn machine_rows(&self) -> Vec<Row> {
        let power = match self.power {
            Power::On => "running",
            Power::Off => "off",
            Power::Suspended => "suspended",
        };
        let what = format!("{} ({}), {}, {power}", self.name, self.moref, self.hardware);
        let mut rows = vec![
            ("address", self.address.clone()),
            ("server", self.server.clone()),
            ("vm", what),
        ];
        for (word, uuid) in [("instance", &self.instance_uuid), ("BIOS", &self.bios_uuid)] {
            rows.extend(uuid.iter().map(|uuid| ("", format!("{word} UUID {uuid}"))));
        }
        let tracking = if self.tracking { "on" } else { "off" };
        rows.push(("tracking", tracking.to_owned()));
        rows
    }
}

/// A word, and what is said of it.
type Row = (&'static str, String);

fn disk_rows(disk: &Disk) -> Vec<Row> {
    let slot = disk.slot.as_deref().unwrap_or("no slot");
    let size = report::bytes(disk.capacity);
    let what = format!("{} ({slot}, key {}), {size}", disk.label, disk.key);
    let mut rows = vec![("disk", what), ("", disk.file.clone())];
    rows.extend(disk.parents.iter().map(|file| ("", format!("over {file}"))));
    rows
}
