//! The moves towards goals, tried on a model of QEMU: whatever is interrupted where, no change is
//! left out, and nothing of others is touched.
//!
//! The model knows what the real thing does with bitmaps, jobs and exports, and which commands it
//! refuses; `tests/it/qmp.rs` tries the same against the real thing.

use super::names::{Key, Tag};
use super::options::DiskAt;
use super::step::{Act, Step};
use super::survey::{Disk, Site, find};
use super::world::{Bitmap, Device, Export, Job, Node, World};
use crate::error::Kind;
use std::collections::{BTreeMap, BTreeSet};

const SIZE: u64 = 1 << 20;
const NODES: [&str; 2] = ["disk0", "disk1"];

mod runs;

/// What was marked, by node and bitmap.
type Marks = BTreeMap<(String, String), BTreeSet<u8>>;

/// QEMU, as far as this goes.
#[derive(Clone, Debug)]
struct Model {
    world: World,
    marks: Marks,
    /// Which bitmap an export uses.
    uses: BTreeMap<String, (String, String)>,
    /// Everything that was ever written, in order.
    log: Vec<(usize, u8)>,
    /// For each point that was frozen, how long the log was.
    frozen: BTreeMap<u32, usize>,
}

fn tag() -> Tag {
    Tag::of("this migration")
}

impl Model {
    /// Two disks, and things of others.
    fn new() -> Self {
        let mut world = World::default();
        let node = |driver: &str| Node {
            driver: driver.to_owned(),
            size: SIZE,
            bitmaps: BTreeMap::new(),
        };
        for (index, name) in NODES.into_iter().enumerate() {
            world.nodes.insert(name.to_owned(), node("raw"));
            world.devices.push(Device {
                names: vec![format!("/machine/peripheral/v{index}/virtio-backend")],
                top: name.to_owned(),
                backing: BTreeSet::new(),
            });
        }
        let other = Tag::of("another migration");
        let theirs = other.view(1, &Key::of("root"));
        world.nodes.insert(theirs.clone(), node("qcow2"));
        world
            .nodes
            .insert("libvirt-1-format".to_owned(), node("qcow2"));
        world.jobs.insert(theirs.clone(), job("running"));
        world.jobs.insert("backup".to_owned(), job("running"));
        world.exports.insert(theirs.clone(), export(&theirs));
        world.exports.insert("guest".to_owned(), export("disk0"));
        world.files.insert(tag().socket());
        world.serving = true;
        let disk = world.nodes.get_mut("disk0").unwrap();
        for name in [other.bitmap(1, SIZE), "backup-1".to_owned()] {
            let bitmap = Bitmap {
                recording: true,
                ..Bitmap::default()
            };
            disk.bitmaps.insert(name, bitmap);
        }
        Self {
            world,
            marks: Marks::new(),
            uses: BTreeMap::new(),
            log: Vec::new(),
            frozen: BTreeMap::new(),
        }
    }

    fn disks(&self) -> Vec<Disk> {
        let wanted = [DiskAt::node("root", "disk0"), DiskAt::device("data", "v1")];
        find(&self.world, &wanted).unwrap()
    }

    /// What is not ours: it must never change.
    fn foreign(&self) -> BTreeSet<String> {
        let ours = |name: &str| name.starts_with(&format!("{}-", tag()));
        let World {
            nodes,
            jobs,
            exports,
            ..
        } = &self.world;
        let bitmaps = nodes.iter().flat_map(|(node, found)| {
            let names = found.bitmaps.iter().filter(|(name, _)| !ours(name));
            names.map(move |(name, bitmap)| format!("{node}/{name} {}", bitmap.recording))
        });
        let names = nodes.keys().chain(jobs.keys()).chain(exports.keys());
        let names = names.filter(|name| !ours(name)).cloned();
        bitmaps.chain(names).collect()
    }

    /// What is ours.
    fn left(&self) -> Vec<String> {
        let ours = |name: &&String| name.starts_with(&format!("{}-", tag()));
        let World {
            nodes,
            jobs,
            exports,
            files,
            ..
        } = &self.world;
        let bitmaps = nodes.values().flat_map(|node| node.bitmaps.keys());
        let names = nodes
            .keys()
            .chain(jobs.keys())
            .chain(exports.keys())
            .chain(files);
        names.chain(bitmaps).filter(ours).cloned().collect()
    }

    fn write(&mut self, disk: usize, block: u8) {
        self.log.push((disk, block));
        let node = NODES[disk];
        for (name, bitmap) in &mut self.world.nodes.get_mut(node).unwrap().bitmaps {
            if bitmap.recording {
                let key = (node.to_owned(), name.clone());
                self.marks.entry(key).or_default().insert(block);
                bitmap.count = bitmap.count.max(1);
            }
        }
    }

    /// What ends by itself has ended.
    fn tick(&mut self) {
        self.world.exports.retain(|_, export| !export.ending);
        self.world.jobs.retain(|_, job| job.status != "aborting");
        let uses = std::mem::take(&mut self.uses);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = uses
            .into_iter()
            .partition(|(id, _)| self.world.exports.contains_key(id));
        self.uses = kept;
        for (node, name) in gone.into_values() {
            self.bitmap(&node, &name).unwrap().busy = false;
        }
    }

    fn bitmap(&mut self, node: &str, name: &str) -> Option<&mut Bitmap> {
        self.world.nodes.get_mut(node)?.bitmaps.get_mut(name)
    }

    fn idle_bitmap(&mut self, node: &str, name: &str) -> Result<&mut Bitmap, String> {
        let found = self.bitmap(node, name).ok_or(format!("no bitmap {name}"))?;
        if found.busy {
            Err(format!("{name} is busy"))
        } else {
            Ok(found)
        }
    }

    /// Does a step as QEMU would, or refuses.
    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::DropExport(id) => {
                let found = self.world.exports.get_mut(id).ok_or("no export")?;
                found.ending = true;
            }
            Step::Cancel(id) | Step::Dismiss(id) => {
                self.world.jobs.get_mut(id).ok_or("no job")?.status = "aborting".to_owned();
            }
            Step::DropNode(name) => {
                let exported = self
                    .world
                    .exports
                    .values()
                    .any(|export| &export.node == name);
                if exported || self.world.jobs.contains_key(name) {
                    return Err(format!("{name} is in use"));
                }
                self.world.nodes.remove(name).ok_or("no node")?;
            }
            Step::DropBitmap { node, name } => {
                self.take_all(&[Act::Forget {
                    node: node.clone(),
                    name: name.clone(),
                }])?;
            }
            Step::Unlink(name) => {
                assert!(!self.world.nodes.contains_key(name), "{name} is open");
                self.world.files.remove(name);
            }
            Step::Overlay { name, disk } => {
                self.world.files.insert(name.clone());
                let overlay = Node {
                    driver: "qcow2".to_owned(),
                    size: disk.size,
                    bitmaps: BTreeMap::new(),
                };
                let before = self.world.nodes.insert(name.clone(), overlay);
                assert_eq!(before, None, "{name} twice");
            }
            Step::Transact(acts) => {
                let mut after = self.clone();
                after.take_all(acts)?;
                *self = after;
            }
            Step::Serve => self.world.serving = true,
            Step::StopServing => {
                self.world.serving = false;
                self.world.exports.retain(|_, export| export.kind != "nbd");
            }
            Step::Export { name, node, bitmap } => self.serve(name, node, bitmap.as_deref())?,
        }
        Ok(())
    }

    fn serve(&mut self, name: &str, node: &str, bitmap: Option<&str>) -> Result<(), String> {
        assert!(self.world.nodes.contains_key(node), "no node {node}");
        let before = self.world.exports.insert(name.to_owned(), export(node));
        assert_eq!(before, None, "{name} twice");
        let Some(bitmap) = bitmap else { return Ok(()) };
        // By name alone it is found on the disk below what is exported.
        let data = node == NODES[1] || node.ends_with(&Key::of("data").to_string());
        let owner = NODES[usize::from(data)].to_owned();
        let found = self.idle_bitmap(&owner, bitmap)?;
        assert!(
            !found.recording,
            "a read-only export of a bitmap that records"
        );
        found.busy = true;
        self.uses
            .insert(name.to_owned(), (owner, bitmap.to_owned()));
        Ok(())
    }

    fn take_all(&mut self, acts: &[Act]) -> Result<(), String> {
        for act in acts {
            match act {
                Act::Record { node, name } => {
                    let bitmap = Bitmap {
                        recording: true,
                        ..Bitmap::default()
                    };
                    let bitmaps = &mut self.world.nodes.get_mut(node).unwrap().bitmaps;
                    let before = bitmaps.insert(name.clone(), bitmap);
                    assert_eq!(before, None, "{name} twice");
                    self.marks.remove(&(node.clone(), name.clone()));
                    let (number, _) = tag().bitmap_parts(name).unwrap();
                    self.frozen.insert(number, self.log.len());
                }
                Act::Keep { node, view, .. } => {
                    assert!(self.world.nodes.contains_key(node));
                    assert!(self.world.nodes.contains_key(view), "no overlay {view}");
                    let before = self.world.jobs.insert(view.clone(), job("running"));
                    assert_eq!(before, None, "{view} twice");
                }
                Act::Stop { node, name } => self.idle_bitmap(node, name)?.recording = false,
                Act::Resume { node, name } => self.idle_bitmap(node, name)?.recording = true,
                Act::Merge { node, from, to } => {
                    let count = self.idle_bitmap(node, from)?.count;
                    let target = self.idle_bitmap(node, to)?;
                    target.count = target.count.max(count);
                    let key = |name: &String| (node.clone(), name.clone());
                    let marks = self.marks.get(&key(from)).cloned().unwrap_or_default();
                    self.marks.entry(key(to)).or_default().extend(marks);
                }
                Act::Forget { node, name } => {
                    self.idle_bitmap(node, name)?;
                    self.world.nodes.get_mut(node).unwrap().bitmaps.remove(name);
                }
            }
        }
        Ok(())
    }

    /// What was written to a disk between two points.
    fn written(&self, disk: usize, from: u32, to: u32) -> BTreeSet<u8> {
        let part = &self.log[self.frozen[&from]..self.frozen[&to]];
        let of = part.iter().filter(|(written, _)| *written == disk);
        of.map(|(_, block)| *block).collect()
    }
}

fn job(status: &str) -> Job {
    Job {
        status: status.to_owned(),
    }
}

fn export(node: &str) -> Export {
    Export {
        kind: "nbd".to_owned(),
        node: node.to_owned(),
        ending: false,
    }
}

#[test]
fn an_older_layer_is_refused_and_says_where_its_guest_writes_now() {
    let mut world = Model::new().world;
    let snap = world.nodes["disk0"].clone();
    world.nodes.insert("snap".to_owned(), snap);
    world.devices[0].top = "snap".to_owned();
    world.devices[0].backing.insert("disk0".to_owned());
    let error = find(&world, &[DiskAt::node("root", "disk0")]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("writes to node snap"), "{error:?}");
    let found = find(&world, &[DiskAt::device("root", "v0")]).unwrap();
    assert_eq!(found[0].node, "snap");
}

#[test]
fn a_disk_that_is_not_there_or_is_there_twice_is_named() {
    let world = Model::new().world;
    let node = DiskAt::node;
    for (wanted, words) in [
        (vec![node("root", "disk9")], ["\"root\"", "disk1"]),
        (vec![DiskAt::device("root", "v9")], ["\"root\"", "v0"]),
        (
            vec![DiskAt::device("root", "peripheral")],
            ["more than one", "whole path"],
        ),
        (
            vec![node("a", "disk0"), DiskAt::device("b", "v0")],
            ["\"b\"", "\"a\""],
        ),
    ] {
        let line = find(&world, &wanted).unwrap_err().line();
        for word in words {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

/// A migration with point 1 on both disks.
fn tracked() -> World {
    let mut model = Model::new();
    let acts = NODES.map(|node| Act::Record {
        node: node.to_owned(),
        name: tag().bitmap(1, SIZE),
    });
    model.take_all(&acts).unwrap();
    model.world
}

type Breakage = fn(&mut World);

#[test]
fn tracking_that_was_lost_is_never_taken_for_an_empty_list() {
    let broken: [(&str, Breakage); 5] = [
        ("started anew", |w| {
            w.nodes.get_mut("disk0").unwrap().bitmaps.clear();
        }),
        ("was 1048576 bytes and is", |w| {
            w.nodes.get_mut("disk0").unwrap().size = SIZE + 512;
        }),
        ("inconsistent", |w| bitmap(w).inconsistent = true),
        ("was stopped", |w| bitmap(w).recording = false),
        ("was node disk0 and is node snap", |w| {
            add_layer(w, 0, "snap");
        }),
    ];
    for (word, break_it) in broken {
        let mut world = tracked();
        break_it(&mut world);
        let wanted = [DiskAt::device("root", "v0"), DiskAt::node("data", "disk1")];
        let disks = find(&world, &wanted).unwrap();
        let tag = tag();
        let site = Site {
            world: &world,
            tag: &tag,
            disks: &disks,
        };
        let why = site.tracked_since(&disks[0], 1).unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
        assert!(site.standing().iter().all(|point| !point.tracked));
    }
}

/// Puts a layer on top of what a device has.
fn add_layer(world: &mut World, device: usize, layer: &str) {
    let device = &mut world.devices[device];
    let mut top = world.nodes[&device.top].clone();
    top.bitmaps.clear();
    world.nodes.insert(layer.to_owned(), top);
    device.top = layer.to_owned();
}

#[test]
fn where_two_disks_lost_their_bitmaps_neither_is_said_to_have_been_the_other() {
    let broken: [Breakage; 2] = [
        |world| add_layer(world, 1, "snap1"),
        |world| world.nodes.get_mut("disk1").unwrap().bitmaps.clear(),
    ];
    for break_it in broken {
        let mut world = tracked();
        add_layer(&mut world, 0, "snap0");
        break_it(&mut world);
        neither_was_the_other(&world);
    }
}

fn neither_was_the_other(world: &World) {
    let wanted = [DiskAt::device("root", "v0"), DiskAt::device("data", "v1")];
    let disks = find(world, &wanted).unwrap();
    let tag = tag();
    let site = Site {
        world,
        tag: &tag,
        disks: &disks,
    };
    for disk in &disks {
        let why = site.tracked_since(disk, 1).unwrap_err();
        let node = &disk.node;
        assert!(why.contains(&format!("node {node} has no bitmap")), "{why}");
    }
}

fn bitmap(world: &mut World) -> &mut Bitmap {
    let node = world.nodes.get_mut("disk0").unwrap();
    node.bitmaps.get_mut(&tag().bitmap(1, SIZE)).unwrap()
}
