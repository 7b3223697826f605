//! What exists on a VM: QEMU's answers, checked and put in order. Pure.
//!
//! Field names are those of QEMU's `qapi/block-core.json`, `job.json` and `block-export.json`; what
//! is not needed is not read, so that any version from 5.2 on fits.

use super::wire::Wrong;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A command that changes nothing, and its arguments.
pub type Query = (&'static str, fn() -> Value);

/// What is asked.
pub const QUERIES: [Query; 5] = [
    ("query-named-block-nodes", || json!({"flat": true})),
    ("query-blockstats", || json!({"query-nodes": true})),
    ("query-blockstats", || json!({})),
    ("query-jobs", || json!({})),
    ("query-block-exports", || json!({})),
];

/// Block nodes that QEMU puts above a disk for as long as a job runs.
const FILTERS: [&str; 1] = ["copy-before-write"];

/// What exists.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct World {
    /// Block nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Which node is just below a node: the file of an image, the disk of a filter. Not its backing
    /// file.
    pub below: BTreeMap<String, String>,
    /// What guests see.
    pub devices: Vec<Device>,
    /// Jobs by id.
    pub jobs: BTreeMap<String, Job>,
    /// Exports by id.
    pub exports: BTreeMap<String, Export>,
    /// Files in the scratch directory that are named as this migration names them.
    pub files: BTreeSet<String>,
    /// The NBD server of this migration listens.
    pub serving: bool,
}

/// A block node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// `raw`, `qcow2`, `copy-before-write` …
    pub driver: String,
    /// Bytes.
    pub size: u64,
    /// Dirty bitmaps by name.
    pub bitmaps: BTreeMap<String, Bitmap>,
}

/// A dirty bitmap.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Bitmap {
    /// Writes are recorded.
    pub recording: bool,
    /// An export or a job uses it: it can be neither changed nor removed.
    pub busy: bool,
    /// It was not stored when QEMU last ended, and nobody knows what is missing.
    #[serde(default)]
    pub inconsistent: bool,
    /// Bytes that it marks as changed.
    pub count: u64,
}

/// A disk as a guest sees it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// Names it goes by: the old-style drive's id, the path in QEMU's object tree.
    pub names: Vec<String>,
    /// Its topmost node.
    pub top: String,
    /// Nodes that hold older layers of it: what is written now does not go there.
    pub backing: BTreeSet<String>,
}

/// A job.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Job {
    /// `running`, `aborting`, `concluded` …
    pub status: String,
}

/// An export.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Export {
    /// `nbd`, `fuse`, `vhost-user-blk` …
    #[serde(rename = "type")]
    pub kind: String,
    /// What is exported.
    #[serde(rename = "node-name")]
    pub node: String,
    /// It is being removed.
    #[serde(rename = "shutting-down", default)]
    pub ending: bool,
}

impl World {
    /// From the answers to [`QUERIES`], in that order.
    ///
    /// # Errors
    /// An answer is not as QEMU's schema has it.
    pub fn read(answers: [Value; 5]) -> Result<Self, Wrong> {
        let [nodes, node_stats, device_stats, jobs, exports] = answers;
        let nodes: Vec<RawNode> = typed("query-named-block-nodes", nodes)?;
        let node_stats: Vec<RawStats> = typed("query-blockstats", node_stats)?;
        let device_stats: Vec<RawStats> = typed("query-blockstats", device_stats)?;
        let jobs: Vec<Named<Job>> = typed("query-jobs", jobs)?;
        let exports: Vec<Named<Export>> = typed("query-block-exports", exports)?;
        let mut below = BTreeMap::new();
        for stats in &node_stats {
            stats.collect_below(&mut below);
        }
        let drivers: BTreeMap<&str, &str> = nodes
            .iter()
            .map(|node| (node.name.as_str(), node.drv.as_str()))
            .collect();
        let devices = device_stats
            .iter()
            .filter_map(|stats| stats.device(&drivers));
        Ok(Self {
            devices: devices.collect(),
            below,
            nodes: nodes.into_iter().map(RawNode::named).collect(),
            jobs: jobs.into_iter().map(Named::pair).collect(),
            exports: exports.into_iter().map(Named::pair).collect(),
            files: BTreeSet::new(),
            serving: false,
        })
    }

    /// Whether it is libvirt that runs it: every disk it gives a VM is below a node of such a name.
    #[must_use]
    pub fn is_of_libvirt(&self) -> bool {
        self.nodes.keys().any(|name| name.starts_with("libvirt-"))
    }

    /// The node that a device writes to, below the filters of jobs.
    #[must_use]
    pub fn written(&self, top: &str) -> String {
        let mut node = top.to_owned();
        // A bound, should the answers ever name a circle.
        for _ in 0..self.below.len() {
            let filter = |found: &Node| FILTERS.contains(&found.driver.as_str());
            match self.below.get(&node) {
                Some(next) if self.nodes.get(&node).is_some_and(filter) => node.clone_from(next),
                _ => break,
            }
        }
        node
    }

    /// Whether what is written to `node` goes to `disk`: it is that, or lies above it.
    #[must_use]
    pub fn leads_to(&self, node: &str, disk: &str) -> bool {
        let mut at = Some(node);
        for _ in 0..=self.below.len() {
            match at {
                Some(found) if found == disk => return true,
                Some(found) => at = self.below.get(found).map(String::as_str),
                None => break,
            }
        }
        false
    }
}

fn typed<T: DeserializeOwned>(command: &'static str, value: Value) -> Result<T, Wrong> {
    serde_json::from_value(value).map_err(|error| Wrong::NotAsDescribed {
        command,
        why: error.to_string(),
    })
}

#[derive(Deserialize)]
struct Named<T> {
    id: String,
    #[serde(flatten)]
    what: T,
}

impl<T> Named<T> {
    fn pair(self) -> (String, T) {
        (self.id, self.what)
    }
}

#[derive(Deserialize)]
struct RawNode {
    #[serde(rename = "node-name", default)]
    name: String,
    drv: String,
    image: RawImage,
    #[serde(rename = "dirty-bitmaps", default)]
    bitmaps: Vec<RawBitmap>,
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(rename = "virtual-size")]
    size: u64,
}

/// Those that jobs keep for themselves have no name.
#[derive(Deserialize)]
struct RawBitmap {
    name: Option<String>,
    #[serde(flatten)]
    what: Bitmap,
}

impl RawNode {
    fn named(self) -> (String, Node) {
        let bitmaps = self.bitmaps.into_iter();
        let bitmaps = bitmaps.filter_map(|bitmap| Some((bitmap.name?, bitmap.what)));
        let node = Node {
            driver: self.drv,
            size: self.image.size,
            bitmaps: bitmaps.collect(),
        };
        (self.name, node)
    }
}

#[derive(Deserialize)]
struct RawStats {
    #[serde(rename = "node-name")]
    node: Option<String>,
    device: Option<String>,
    qdev: Option<String>,
    /// What is below, in spite of the name.
    parent: Option<Box<RawStats>>,
    backing: Option<Box<RawStats>>,
}

impl RawStats {
    fn collect_below(&self, below: &mut BTreeMap<String, String>) {
        let Some(next) = &self.parent else { return };
        if let (Some(node), Some(next)) = (&self.node, &next.node) {
            below.insert(node.clone(), next.clone());
        }
        next.collect_below(below);
    }

    fn device(&self, drivers: &BTreeMap<&str, &str>) -> Option<Device> {
        let names = [&self.device, &self.qdev].into_iter().flatten();
        let mut backing = BTreeSet::new();
        self.collect_backing(drivers, &mut backing);
        Some(Device {
            names: names.filter(|name| !name.is_empty()).cloned().collect(),
            top: self.node.clone()?,
            backing,
        })
    }

    /// A filter names the disk twice, as what is below it and as what backs it.
    fn collect_backing(&self, drivers: &BTreeMap<&str, &str>, found: &mut BTreeSet<String>) {
        let driver = self.node.as_deref().and_then(|node| drivers.get(node));
        let filter = driver.is_some_and(|driver| FILTERS.contains(driver));
        if let Some(below) = &self.parent {
            below.collect_backing(drivers, found);
        }
        if let Some(backing) = self.backing.as_ref().filter(|_| !filter) {
            backing.collect_all(found);
        }
    }

    fn collect_all(&self, found: &mut BTreeSet<String>) {
        found.extend(self.node.clone());
        for next in [&self.parent, &self.backing].into_iter().flatten() {
            next.collect_all(found);
        }
    }
}

/// Whether `blockdev-backup` can be told to give up the snapshot rather than fail the guest's write,
/// by QEMU's own description of itself (`query-qmp-schema`). QEMU has it from 10.1 on.
#[must_use]
pub fn backup_spares_the_guest(schema: &Value) -> bool {
    let entries = || schema.as_array().into_iter().flatten();
    let entry = |name: &str| entries().find(|entry| entry["name"] == name);
    let arguments = entry("blockdev-backup").and_then(|command| command["arg-type"].as_str());
    let members = arguments
        .and_then(entry)
        .and_then(|object| object["members"].as_array());
    let mut members = members.into_iter().flatten();
    members.any(|member| member["name"] == "on-cbw-error")
}

#[cfg(test)]
mod tests {
    use super::{World, backup_spares_the_guest};
    use serde_json::{Value, json};

    /// What QEMU 7.2 answers for one disk, `disk0`, while the job of a point runs.
    fn answers() -> [Value; 5] {
        let image = json!({"virtual-size": 67_108_864, "filename": "d0", "format": "raw"});
        let below = json!({"node-name": "disk0", "stats": {}, "parent": {"node-name": "f0"}});
        [
            json!([
                {"node-name": "filter", "drv": "copy-before-write", "ro": false, "image": image},
                {"node-name": "disk0", "drv": "raw", "ro": false, "image": image, "dirty-bitmaps": [
                    {"recording": false, "persistent": false, "busy": false,
                     "granularity": 65536, "count": 67_108_864},
                    {"name": "n", "recording": true, "persistent": false, "busy": false,
                     "granularity": 65536, "count": 0},
                ]},
            ]),
            json!([{"node-name": "filter", "parent": below}, below]),
            json!([{
                "device": "", "qdev": "/machine/peripheral/v0/virtio-backend",
                "node-name": "filter", "parent": below, "backing": below,
            }, {"device": "floppy0", "stats": {}}]),
            json!([{"id": "j0", "type": "backup", "status": "running",
                "current-progress": 0, "total-progress": 67_108_864}]),
            json!([{"id": "e", "type": "nbd", "node-name": "filter", "shutting-down": false}]),
        ]
    }

    #[test]
    fn a_device_is_followed_through_the_filter_of_a_job_to_its_disk() {
        let world = World::read(answers()).unwrap();
        let [device] = &world.devices[..] else {
            panic!("a drive without a medium is no disk: {:?}", world.devices)
        };
        assert_eq!(world.written(&device.top), "disk0");
        assert!(
            device.backing.is_empty(),
            "a filter's disk is no older layer"
        );
        assert!(world.leads_to("filter", "disk0") && !world.leads_to("f0", "disk0"));
        let bitmaps: Vec<_> = world.nodes["disk0"].bitmaps.keys().collect();
        assert_eq!(bitmaps, ["n"], "what has no name is a job's own");
    }

    #[test]
    fn the_layers_below_an_external_snapshot_are_known_as_older() {
        let [nodes, stats, _, jobs, exports] = answers();
        let old = json!({"node-name": "disk0", "parent": {"node-name": "f0"}});
        let device = json!([{
            "device": "d", "node-name": "snap", "parent": {"node-name": "f1"}, "backing": old,
        }]);
        let world = World::read([nodes, stats, device, jobs, exports]).unwrap();
        let older: Vec<_> = world.devices[0].backing.iter().collect();
        assert_eq!(older, ["disk0", "f0"]);
        assert_eq!(world.written("snap"), "snap");
    }

    #[test]
    fn an_answer_of_another_shape_is_named() {
        let [nodes, stats, devices, _, exports] = answers();
        let wrong = World::read([nodes, stats, devices, json!({"x": 1}), exports]).unwrap_err();
        assert!(wrong.to_string().contains("query-jobs"), "{wrong}");
    }

    #[test]
    fn a_circle_in_the_answers_ends() {
        let mut world = World::read(answers()).unwrap();
        world.below.insert("disk0".to_owned(), "filter".to_owned());
        world.nodes.get_mut("disk0").unwrap().driver = "copy-before-write".to_owned();
        let _ = world.written("filter");
        assert!(!world.leads_to("filter", "nowhere"));
    }

    #[test]
    fn whether_a_failed_copy_spares_the_guest_is_read_off_the_schema() {
        let schema = |member: &str| {
            json!([
                {"name": "blockdev-backup", "meta-type": "command", "arg-type": "17"},
                {"name": "17", "meta-type": "object", "members": [{"name": member, "type": "3"}]},
            ])
        };
        assert!(backup_spares_the_guest(&schema("on-cbw-error")));
        assert!(!backup_spares_the_guest(&schema("filter-node-name")));
        assert!(!backup_spares_the_guest(&json!({})));
    }
}
