//! What a virtual disk is, out of the device list of a VM or of a snapshot. Pure.
//!
//! Keys are whatever the VM gave them, not 2000 and up. A disk has another file in each snapshot;
//! the file names of its chain, its object id, its UUID and its key are what it is known by.

use super::changes::ChangeId;
use super::soap::answer::{BadAnswer, number};
use super::soap::xml::Node;
use crate::error::{Error, Kind, Result};
use serde::Serialize;

/// A virtual disk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Disk {
    /// Its key on this VM; the same in every snapshot.
    pub key: i32,
    /// `Hard disk 1`.
    pub label: String,
    /// Where it is plugged in: `scsi0:1`; as in the VM's extra configuration.
    pub slot: Option<String>,
    /// `[datastore] folder/name.vmdk`: the file that is written now, or was when frozen.
    pub file: String,
    /// The files below it, nearest first.
    pub parents: Vec<String>,
    /// `12-2000`: the VM and the key, for tools that name disks so.
    pub object_id: Option<String>,
    /// The UUID in the disk's descriptor.
    pub uuid: Option<String>,
    /// Bytes.
    pub capacity: u64,
    /// Since when its changes are known, if they are tracked.
    pub change_id: Option<ChangeId>,
    /// Why it cannot be copied while the VM runs.
    pub obstacle: Option<Obstacle>,
}

/// Why a disk cannot be copied while the VM runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Obstacle {
    /// `independent_…`.
    #[error("it is independent: snapshots do not cover it")]
    Independent,
    /// A physical raw device mapping.
    #[error("it is a raw device mapping in physical mode: snapshots do not cover it")]
    PhysicalRdm,
    /// `sharingMultiWriter`.
    #[error("it is shared with other VMs (multi-writer): snapshots are not allowed")]
    MultiWriter,
    /// A controller whose bus is shared.
    #[error("its controller shares its bus with other VMs: snapshots are not allowed")]
    SharedBus,
    /// Persistent memory.
    #[error("it is persistent memory, which has no changed block tracking")]
    PersistentMemory,
}

/// The disks of a device list, as the server has them.
///
/// # Errors
/// A disk lacks what every disk has.
pub fn disks(devices: &Node) -> Result<Vec<Disk>, BadAnswer> {
    let all = devices.children.iter();
    all.filter(|device| device.is_a("VirtualDisk"))
        .map(|device| disk(device, &devices.children))
        .collect()
}

fn disk(device: &Node, all: &[Node]) -> Result<Disk, BadAnswer> {
    let backing = device
        .child("backing")
        .ok_or(BadAnswer::Missing("backing"))?;
    let controller = device.text_of("controllerKey").and_then(|key| {
        let mut others = all.iter();
        others.find(|other| other.text_of("key") == Some(key))
    });
    let capacity = match device.text_of("capacityInBytes") {
        Some(_) => number(device, "capacityInBytes")?,
        None => number::<u64>(device, "capacityInKB")?
            .checked_mul(1024)
            .ok_or(BadAnswer::Missing("capacityInKB"))?,
    };
    let text = |node: &Node, name: &str| {
        let text = node.text_of(name).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    Ok(Disk {
        key: number(device, "key")?,
        label: device
            .at(&["deviceInfo", "label"])
            .map_or_else(String::new, |node| node.text.trim().to_owned()),
        slot: controller.and_then(|controller| slot(device, controller)),
        file: text(backing, "fileName").unwrap_or_default(),
        parents: parents(backing),
        object_id: text(device, "diskObjectId"),
        uuid: text(backing, "uuid"),
        capacity,
        change_id: match text(backing, "changeId") {
            Some(id) => Some(ChangeId::new(id).ok_or(BadAnswer::Missing("changeId"))?),
            None => None,
        },
        obstacle: obstacle(backing, controller),
    })
}

/// `scsi0:1`, `nvme0:0`, `sata1:2`, `ide0:1`.
fn slot(device: &Node, controller: &Node) -> Option<String> {
    let kind = controller.kind.as_deref()?;
    let family = match kind {
        "VirtualIDEController" => "ide",
        "VirtualNVMEController" => "nvme",
        kind if kind.contains("AHCI") || kind.contains("SATA") => "sata",
        kind if kind.contains("SCSI") || kind.contains("Logic") => "scsi",
        _ => return None,
    };
    let bus: u32 = number(controller, "busNumber").ok()?;
    let unit: u32 = number(device, "unitNumber").ok()?;
    Some(format!("{family}{bus}:{unit}"))
}

fn parents(backing: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = backing.child("parent");
    while let Some(parent) = next {
        found.extend(parent.text_of("fileName").map(str::to_owned));
        next = parent.child("parent");
    }
    found
}

fn obstacle(backing: &Node, controller: Option<&Node>) -> Option<Obstacle> {
    let text = |name| backing.text_of(name).unwrap_or_default();
    let bus = controller.and_then(|controller| controller.text_of("sharedBus"));
    if text("compatibilityMode") == "physicalMode" {
        return Some(Obstacle::PhysicalRdm);
    }
    if text("diskMode").starts_with("independent") {
        return Some(Obstacle::Independent);
    }
    if text("sharing") == "sharingMultiWriter" {
        return Some(Obstacle::MultiWriter);
    }
    if bus.is_some_and(|bus| bus != "noSharing") {
        return Some(Obstacle::SharedBus);
    }
    let memory = backing
        .kind
        .as_deref()
        .is_some_and(|kind| kind.contains("PMem"));
    memory.then_some(Obstacle::PersistentMemory)
}

impl Disk {
    /// Whether `name` is one of the names it is known by.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let files = [&self.file].into_iter().chain(&self.parents);
        self.key.to_string() == name
            || self.label == name
            || self.slot.as_deref() == Some(name)
            || self.object_id.as_deref() == Some(name)
            || self
                .uuid
                .as_deref()
                .is_some_and(|uuid| uuid.eq_ignore_ascii_case(name))
            || files.into_iter().any(|file| file == name)
    }

    /// Whether `other`, of another time, is this disk. What either does not tell, does not count.
    #[must_use]
    pub fn is_the_same_as(&self, other: &Self) -> bool {
        fn agree(one: Option<&String>, other: Option<&String>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        self.key == other.key
            && agree(self.object_id.as_ref(), other.object_id.as_ref())
            && agree(self.uuid.as_ref(), other.uuid.as_ref())
    }
}

/// The disk that is called `name`.
///
/// # Errors
/// There is none, or more than one.
pub fn find<'a>(disks: &'a [Disk], name: &str) -> Result<&'a Disk> {
    let mut called = disks.iter().filter(|disk| disk.is_called(name));
    let why = match (called.next(), called.next()) {
        (Some(found), None) => return Ok(found),
        (Some(_), Some(_)) => "more than one disk is",
        _ => "no disk is",
    };
    let known: Vec<String> = disks
        .iter()
        .map(|disk| format!("{} {:?}", disk.key, disk.file))
        .collect();
    Err(Error::new(Kind::Refused, format!("{why} called {name:?}"))
        .hint(format!("there are {}", known.join(", "))))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
