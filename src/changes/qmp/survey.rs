//! Whose is what: the disks of a migration in what exists, what stands of each of its points, and
//! whether changes since a point are known. Pure.

use super::names::{Key, Tag};
use super::options::{At, DiskAt};
use super::world::{Bitmap, Export, Job, World};
use crate::changes::guest::Standing;
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;

/// A disk, found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Disk {
    /// The migration's name for it.
    pub name: String,
    /// What stands for it in names.
    pub key: Key,
    /// The node that is written to.
    pub node: String,
    /// Bytes.
    pub size: u64,
}

/// Finds the disks that a user named.
///
/// # Errors
/// One is not there, or is not what is written to now, or two are the same.
pub fn find(world: &World, wanted: &[DiskAt]) -> Result<Vec<Disk>> {
    let mut found: Vec<Disk> = Vec::with_capacity(wanted.len());
    for disk in wanted {
        let node = match &disk.at {
            At::Node(node) => by_node(world, node),
            At::Device(device) => by_device(world, device),
        };
        let doing = || format!("find disk {:?}", disk.name);
        let node = node.map_err(|error| error.context(doing()))?;
        if let Some(same) = found.iter().find(|other| other.node == node) {
            let why = format!("it is node {node}, and so is disk {:?}", same.name);
            return Err(Error::new(Kind::Usage, doing()).because(why));
        }
        let size = world.nodes.get(&node).map_or(0, |node| node.size);
        if size == 0 {
            let why = format!("node {node} is empty");
            return Err(Error::new(Kind::Refused, doing()).because(why));
        }
        found.push(Disk {
            name: disk.name.clone(),
            key: Key::of(&disk.name),
            node,
            size,
        });
    }
    Ok(found)
}

fn by_node(world: &World, node: &str) -> Result<String> {
    if !world.nodes.contains_key(node) {
        let names: Vec<_> = world.nodes.keys().map(String::as_str).collect();
        let what = format!("QEMU has no block node {node:?}");
        let hint = format!("there are: {}", names.join(", "));
        return Err(Error::new(Kind::Refused, what).hint(hint));
    }
    // After an external snapshot the guest writes elsewhere, and nothing changes here ever again.
    let above = world.devices.iter().find(|d| d.backing.contains(node));
    if let Some(device) = above {
        let name = device.names.last().map_or("", String::as_str);
        let now = world.written(&device.top);
        let what = format!("node {node} is an older layer of {name}, which writes to node {now}");
        return Err(Error::new(Kind::Refused, what).hint("name the disk by its device instead"));
    }
    Ok(world.written(node))
}

fn by_device(world: &World, device: &str) -> Result<String> {
    let is = |name: &String| name == device || name.split('/').any(|part| part == device);
    let mut found = world.devices.iter().filter(|d| d.names.iter().any(is));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(world.written(&one.top)),
        (Some(_), Some(_)) => {
            let what = format!("more than one device is called {device:?}");
            Err(Error::new(Kind::Usage, what).hint("give its whole path, from query-block"))
        }
        (None, _) => {
            let names = world.devices.iter().flat_map(|d| &d.names);
            let names: Vec<_> = names.map(String::as_str).collect();
            let what = format!("QEMU has no device {device:?} with a medium");
            let hint = format!("there are: {}", names.join(", "));
            Err(Error::new(Kind::Refused, what).hint(hint))
        }
    }
}

/// What exists, and whose it is to be told.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// What exists.
    pub world: &'a World,
    /// The migration.
    pub tag: &'a Tag,
    /// Its disks.
    pub disks: &'a [Disk],
}

impl<'a> Site<'a> {
    /// The points of which anything is left, in order.
    #[must_use]
    pub fn numbers(&self) -> BTreeSet<u32> {
        let world = self.world;
        let names = world.nodes.keys().chain(world.jobs.keys());
        let names = names.chain(world.exports.keys()).chain(&world.files);
        let views = names.filter_map(|name| self.tag.view_number(name));
        views
            .chain(self.bitmaps().map(|ours| ours.number))
            .collect()
    }

    /// All bitmaps of this migration.
    pub fn bitmaps(&self) -> impl Iterator<Item = Ours<'a>> + use<'a> {
        let (world, tag) = (self.world, self.tag);
        world.nodes.iter().flat_map(move |(node, found)| {
            found.bitmaps.iter().filter_map(move |(name, bitmap)| {
                let (number, size) = tag.bitmap_parts(name)?;
                Some(Ours {
                    node,
                    name,
                    number,
                    size,
                    bitmap,
                })
            })
        })
    }

    /// The bitmaps of this migration on a disk, oldest first.
    #[must_use]
    pub fn bitmaps_of(&self, disk: &Disk) -> Vec<Ours<'a>> {
        let mut found: Vec<_> = self.bitmaps().filter(|b| b.node == disk.node).collect();
        found.sort_by_key(|ours| ours.number);
        found
    }

    /// The bitmap of a point on a disk, as that was when it was frozen.
    #[must_use]
    pub fn bitmap(&self, disk: &Disk, number: u32) -> Option<&'a Bitmap> {
        let node = self.world.nodes.get(&disk.node)?;
        node.bitmaps.get(&self.tag.bitmap(number, disk.size))
    }

    /// The job that keeps what is overwritten.
    #[must_use]
    pub fn job(&self, disk: &Disk, number: u32) -> Option<&'a Job> {
        self.world.jobs.get(&self.tag.view(number, &disk.key))
    }

    /// The export of a disk at a point.
    #[must_use]
    pub fn export(&self, disk: &Disk, number: u32) -> Option<&'a Export> {
        self.world.exports.get(&self.tag.view(number, &disk.key))
    }

    /// Whether a disk is held as it was at a point.
    #[must_use]
    pub fn is_frozen(&self, disk: &Disk, number: u32) -> bool {
        let overlay = self.tag.view(number, &disk.key);
        let holds = |job: &Job| !matches!(job.status.as_str(), "aborting" | "concluded" | "null");
        self.world.nodes.contains_key(&overlay)
            && self.job(disk, number).is_some_and(holds)
            && self.bitmap(disk, number).is_some()
    }

    /// Whether a disk, which is quiet, has not changed since a point.
    #[must_use]
    pub fn is_still(&self, disk: &Disk, number: u32) -> bool {
        let clean = |bitmap: &Bitmap| bitmap.recording && !bitmap.inconsistent && bitmap.count == 0;
        self.bitmap(disk, number).is_some_and(clean)
    }

    /// The name of the bitmap that holds what changed on a disk since a point, or why there is none.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn tracked_since(&self, disk: &Disk, number: u32) -> Result<String, String> {
        let name = self.tag.bitmap(number, disk.size);
        let Some(bitmap) = self.bitmap(disk, number) else {
            return Err(self.why_untracked(disk, number));
        };
        if bitmap.inconsistent {
            return Err(format!(
                "bitmap {name} of node {} is inconsistent",
                disk.node
            ));
        }
        // A bitmap is stopped at the moment at which the next one begins.
        let last = self.bitmaps_of(disk).into_iter().next_back();
        match last.filter(|last| last.bitmap.recording && !last.bitmap.inconsistent) {
            Some(_) => Ok(name),
            None => Err(format!("bitmap {name} of node {} was stopped", disk.node)),
        }
    }

    fn why_untracked(&self, disk: &Disk, number: u32) -> String {
        let now = &disk.node;
        let of_point = |ours: &Ours<'_>| ours.number == number;
        let left: Vec<_> = self.bitmaps().filter(of_point).collect();
        if let Some(old) = left.iter().find(|ours| ours.node == now) {
            return format!("its size was {} bytes and is {}", old.size, disk.size);
        }
        match self.moved(disk, number, &left) {
            Some(old) => format!("it was node {old} and is node {now} now"),
            None => format!(
                "node {now} has no bitmap since point {number}: QEMU was started anew, or somebody \
                 removed it"
            ),
        }
    }

    /// The node that `disk` was, if of the bitmaps that are `left` only one can be its own.
    fn moved<'b>(&self, disk: &Disk, number: u32, left: &'b [Ours<'_>]) -> Option<&'b str> {
        let without = |disk: &&Disk| self.bitmap(disk, number).is_none();
        let known = |node: &str| self.disks.iter().any(|disk| disk.node == node);
        let its_own = |ours: &&Ours<'_>| ours.size == disk.size && !known(ours.node);
        let mut candidates = left.iter().filter(its_own);
        let old = candidates.next()?;
        let alone = self.disks.iter().filter(without).count() == 1;
        (alone && candidates.next().is_none()).then_some(old.node)
    }

    /// Which points stand.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        let all = |is: &dyn Fn(&Disk) -> bool| self.disks.iter().all(is);
        let of = |number| Standing {
            number,
            readable: all(&|disk| self.is_frozen(disk, number)) || self.is_served_still(number),
            tracked: all(&|disk| self.tracked_since(disk, number).is_ok()),
        };
        self.numbers().into_iter().map(of).collect()
    }

    /// Whether the quiet disks themselves are exported as a point.
    fn is_served_still(&self, number: u32) -> bool {
        self.disks.iter().all(|disk| {
            let served = |export: &Export| export.node == disk.node && !export.ending;
            self.is_still(disk, number) && self.export(disk, number).is_some_and(served)
        })
    }

    /// An export through which somebody else may write to a disk.
    #[must_use]
    pub fn foreign_export(&self) -> Option<(&'a str, &'a Disk)> {
        let ours = |id: &str| self.tag.view_number(id).is_some();
        let others = self.world.exports.iter().filter(|(id, _)| !ours(id));
        let disks = self.disks;
        let mut found = others.filter_map(|(id, export)| {
            let disk = disks
                .iter()
                .find(|d| self.world.leads_to(&export.node, &d.node))?;
            Some((id.as_str(), disk))
        });
        found.next()
    }
}

/// A bitmap of this migration.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// Whose it is.
    pub node: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The point that it counts from.
    pub number: u32,
    /// The disk's bytes at that point.
    pub size: u64,
    /// Its state.
    pub bitmap: &'a Bitmap,
}
