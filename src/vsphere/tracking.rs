//! Changed block tracking: whether a VM can be migrated while it runs, and turning it on.
//!
//! Tracking is a setting of the VM that takes effect when its disks are opened anew, which making
//! and removing a snapshot does without a restart. It cannot be turned on while there are snapshots.

use super::disk::Disk;
use super::inventory::{Facts, Machine};
use super::snapshots::{Patience, Quiescing};
use super::soap::calls;
use super::tree::{Purpose, Snapshot, Tag};
use crate::error::{Error, Kind, Result};
use serde::Serialize;

/// The first virtual hardware that has change tracking.
const HARDWARE_MIN: u32 = 7;

/// Snapshots in a chain from which on it is slow; 32 are the end.
const SNAPSHOTS_MANY: usize = 24;

/// What stands in the way of a warm migration, and what should be known before one.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Outlook {
    /// Reasons why it will not work; none is good.
    pub obstacles: Vec<String>,
    /// What will work, but should be known.
    pub notes: Vec<String>,
}

impl Outlook {
    /// Whether the VM, and all of `disks`, can be migrated while it runs. Pure.
    #[must_use]
    pub fn of(facts: &Facts, disks: &[Disk]) -> Self {
        let mut outlook = Self::default();
        outlook.look_at_machine(facts);
        for disk in disks {
            outlook.look_at_disk(facts, disk);
        }
        outlook.look_at_snapshots(facts);
        outlook
    }

    fn look_at_machine(&mut self, facts: &Facts) {
        if hardware(&facts.hardware).is_some_and(|version| version < HARDWARE_MIN) {
            let what = format!(
                "its virtual hardware is {}, and change tracking needs vmx-0{HARDWARE_MIN}: upgrade it",
                facts.hardware
            );
            self.obstacles.push(what);
        } else if !facts.tracking_supported {
            self.obstacles
                .push("the host has no change tracking for this VM".to_owned());
        } else if !facts.tracking {
            self.obstacles.push(
                "changed block tracking is off: turn it on, which needs a moment without snapshots"
                    .to_owned(),
            );
        }
        if facts.template {
            self.obstacles
                .push("it is a template: there is nothing to migrate warm".to_owned());
        }
        if !facts.tools_running {
            self.notes.push(
                "VMware Tools do not run: the guest cannot be asked to shut down for the cutover"
                    .to_owned(),
            );
        }
        if facts.needs_consolidation {
            self.notes.push("its disks need to be consolidated: do that before, a cutover takes longer otherwise".to_owned());
        }
    }

    fn look_at_disk(&mut self, facts: &Facts, disk: &Disk) {
        let name = &disk.label;
        if let Some(obstacle) = disk.obstacle {
            self.obstacles.push(format!("{name}: {obstacle}"));
            return;
        }
        let off = disk
            .slot
            .as_ref()
            .is_some_and(|slot| facts.untracked_slots.contains(slot));
        if facts.tracking && off {
            let slot = disk.slot.as_deref().unwrap_or_default();
            self.obstacles.push(format!(
                "{name}: its tracking is turned off ({slot}.ctkEnabled)"
            ));
        }
    }

    fn look_at_snapshots(&mut self, facts: &Facts) {
        let foreign: Vec<&str> = facts
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.tag.is_none())
            .map(|snapshot| &*snapshot.name)
            .collect();
        if !foreign.is_empty() {
            let names = foreign.join(", ");
            let what = match facts.tracking {
                true => format!(
                    "it has snapshots of others ({names}): they stay, reading and merging are slower, and whoever reverts to one makes tracking begin anew"
                ),
                false => format!(
                    "it has snapshots of others ({names}): tracking can only be turned on without them"
                ),
            };
            self.notes.push(what);
        }
        let ours = facts
            .snapshots
            .iter()
            .filter_map(|snapshot| snapshot.tag.as_ref());
        for tag in ours {
            self.notes.push(format!(
                "it has a snapshot of the migration {} ({tag})",
                tag.migration()
            ));
        }
        let deepest = facts.snapshots.iter().map(|snapshot| snapshot.depth).max();
        if deepest.is_some_and(|deepest| deepest >= SNAPSHOTS_MANY) {
            self.obstacles.push(
                "its snapshots are nearly as many as it can have (32): remove some".to_owned(),
            );
        }
    }
}

/// The number in `vmx-13`.
fn hardware(version: &str) -> Option<u32> {
    version.strip_prefix("vmx-")?.parse().ok()
}

impl Machine {
    /// Turns change tracking on and makes it take effect. Does nothing where it is on.
    ///
    /// # Errors
    /// It is not on, and why.
    pub async fn track(&self, migration: &str, patience: Patience) -> Result<()> {
        let facts = self.facts().await?;
        if facts.tracking {
            return Ok(());
        }
        let doing = || format!("turn on change tracking of {:?}", self.name);
        let ours = |snapshot: &&Snapshot| {
            let tag = snapshot.tag.as_ref();
            tag.is_some_and(|tag| tag.purpose == Purpose::Activation)
        };
        if let Some(other) = facts.snapshots.iter().find(|snapshot| !ours(snapshot)) {
            let why = format!("it has the snapshot {:?}", other.name);
            return Err(Error::new(Kind::Refused, doing())
                .because(why)
                .hint("tracking begins only without snapshots: remove them first"));
        }
        {
            let _task = self.tasks.lock().await;
            let request = calls::set_change_tracking(&self.on, true);
            let set = self.session.run(&request).await;
            set.map_err(|error| error.context(doing()))?;
        }
        let tag = Tag::new(migration, Purpose::Activation)?;
        self.freeze(&tag, Quiescing::Never, patience).await?;
        self.thaw(&tag, patience).await?;
        match self.facts().await?.tracking {
            true => Ok(()),
            false => Err(Error::new(Kind::Io, doing()).because("it was set, and is still off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outlook;
    use crate::vsphere::disk::{Disk, Obstacle};
    use crate::vsphere::inventory::{Facts, Power};
    use crate::vsphere::soap::Moref;
    use crate::vsphere::tree::Snapshot;

    fn disk() -> Disk {
        Disk {
            key: 2000,
            label: "Hard disk 1".to_owned(),
            slot: Some("scsi0:0".to_owned()),
            file: "[d] v/v.vmdk".to_owned(),
            parents: Vec::new(),
            object_id: None,
            uuid: None,
            capacity: 1024,
            change_id: None,
            obstacle: None,
        }
    }

    fn snapshot(depth: usize) -> Snapshot {
        Snapshot {
            on: Moref::new("VirtualMachineSnapshot", format!("snapshot-{depth}")),
            name: format!("nightly {depth}"),
            created: String::new(),
            quiesced: false,
            depth,
            tag: None,
        }
    }

    /// A VM that can be migrated while it runs.
    fn facts() -> Facts {
        Facts {
            name: "v".to_owned(),
            bios_uuid: None,
            hardware: "vmx-19".to_owned(),
            power: Power::On,
            tools_running: true,
            tracking: true,
            tracking_supported: true,
            needs_consolidation: false,
            template: false,
            disks: vec![disk()],
            snapshots: Vec::new(),
            untracked_slots: Vec::new(),
        }
    }

    type Change = fn(&mut Facts);

    #[test]
    fn each_thing_that_stands_in_the_way_is_named_alone() {
        assert_eq!(Outlook::of(&facts(), &[disk()]), Outlook::default());
        let cases: [(Change, &str); 7] = [
            (|vm| vm.hardware = "vmx-04".to_owned(), "vmx-04"),
            (|vm| vm.tracking_supported = false, "no change tracking"),
            (|vm| vm.tracking = false, "tracking is off"),
            (|vm| vm.template = true, "a template"),
            (
                |vm| vm.untracked_slots = vec!["scsi0:0".to_owned()],
                "scsi0:0.ctkEnabled",
            ),
            (
                |vm| vm.snapshots = (1..=24).map(snapshot).collect(),
                "nearly as many",
            ),
            (
                |vm| vm.disks[0].obstacle = Some(Obstacle::Independent),
                "Hard disk 1: ",
            ),
        ];
        for (change, part) in cases {
            let mut vm = facts();
            change(&mut vm);
            let found = Outlook::of(&vm, &vm.disks).obstacles;
            assert_eq!(found.len(), 1, "{part}: {found:?}");
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
    }

    #[test]
    fn what_is_of_others_or_only_slow_is_a_note() {
        let cases: [(Change, &str); 4] = [
            (|vm| vm.hardware = "vmx-7x".to_owned(), ""),
            (|vm| vm.tools_running = false, "VMware Tools"),
            (|vm| vm.needs_consolidation = true, "consolidated"),
            (|vm| vm.snapshots = vec![snapshot(1)], "nightly 1"),
        ];
        for (change, part) in cases {
            let mut vm = facts();
            change(&mut vm);
            let found = Outlook::of(&vm, &vm.disks);
            assert_eq!(found.obstacles, Vec::<String>::new());
            assert!(found.notes.join("; ").contains(part), "{found:?}");
        }
        let mut other = facts();
        other.untracked_slots = vec!["scsi0:1".to_owned()];
        assert_eq!(Outlook::of(&other, &[disk()]), Outlook::default());
    }
}
