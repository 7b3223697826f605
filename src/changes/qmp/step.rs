//! One thing that is done to a VM, and the QMP command that does it. Pure.

use super::survey::Disk;
use serde_json::{Value, json};
use std::path::Path;

/// Bytes that one bit of a bitmap stands for, and that are copied before a write: the cluster of a
/// qcow2 overlay.
const GRANULARITY: u32 = 64 << 10;

/// One thing that is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Remove an export, whoever reads from it.
    DropExport(String),
    /// End a job.
    Cancel(String),
    /// Put away a job that ended.
    Dismiss(String),
    /// Remove an overlay's node.
    DropNode(String),
    /// Remove a bitmap.
    DropBitmap {
        /// The disk's node.
        node: String,
        /// The bitmap.
        name: String,
    },
    /// Remove a file from the scratch directory.
    Unlink(String),
    /// Make a new overlay, file and node of this name, over a disk.
    Overlay {
        /// Its name.
        name: String,
        /// The disk.
        disk: Disk,
    },
    /// Do all of this at one instant, or nothing.
    Transact(Vec<Act>),
    /// See to it that the NBD server runs.
    Serve,
    /// Serve a node read-only.
    Export {
        /// The export's name.
        name: String,
        /// The node.
        node: String,
        /// The bitmap that is served with it.
        bitmap: Option<String>,
    },
    /// Stop the NBD server.
    StopServing,
}

/// A part of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Act {
    /// Begin to record changes.
    Record {
        /// The disk's node.
        node: String,
        /// The new bitmap.
        name: String,
    },
    /// Keep what is overwritten from now on.
    Keep {
        /// The disk's node.
        node: String,
        /// The job, and the overlay that takes it.
        view: String,
        /// The filter above the disk.
        filter: String,
        /// Rather lose the snapshot than fail a write of the guest.
        spare_guest: bool,
    },
    /// Stop recording.
    Stop {
        /// The disk's node.
        node: String,
        /// The bitmap.
        name: String,
    },
    /// Record again.
    Resume {
        /// The disk's node.
        node: String,
        /// The bitmap.
        name: String,
    },
    /// Add what one bitmap marks to another.
    Merge {
        /// The disk's node.
        node: String,
        /// What is added.
        from: String,
        /// What it is added to.
        to: String,
    },
    /// Remove a bitmap.
    Forget {
        /// The disk's node.
        node: String,
        /// The bitmap.
        name: String,
    },
}

impl Step {
    /// Whether it only takes something away, so that "it is not there" is as good.
    #[must_use]
    pub fn removes(&self) -> bool {
        !matches!(
            self,
            Self::Overlay { .. } | Self::Transact(_) | Self::Serve | Self::Export { .. }
        )
    }

    /// What it does, for people, if that removes something that had been made on the VM.
    #[must_use]
    pub fn removal(&self) -> Option<String> {
        match self {
            Self::DropExport(id) => Some(format!("export {id}")),
            Self::Cancel(id) | Self::Dismiss(id) => Some(format!("job {id}")),
            Self::DropNode(name) => Some(format!("overlay {name}")),
            Self::DropBitmap { node, name } => Some(format!("bitmap {name} of node {node}")),
            Self::Unlink(name) => Some(format!("file {name}")),
            Self::StopServing => Some("the NBD server".to_owned()),
            Self::Overlay { .. } | Self::Transact(_) | Self::Serve | Self::Export { .. } => None,
        }
    }

    /// The QMP command, with `scratch` for the directory of overlays; none if there is more to it
    /// than that, or nothing for QEMU to do.
    #[must_use]
    pub fn command(&self, scratch: &Path) -> Option<(&'static str, Value)> {
        Some(match self {
            // Hard: its reader is gone or must go.
            Self::DropExport(id) => ("block-export-del", json!({"id": id, "mode": "hard"})),
            Self::Cancel(id) => ("job-cancel", json!({"id": id})),
            Self::Dismiss(id) => ("job-dismiss", json!({"id": id})),
            Self::DropNode(name) => ("blockdev-del", json!({"node-name": name})),
            Self::DropBitmap { node, name } => (
                "block-dirty-bitmap-remove",
                json!({"node": node, "name": name}),
            ),
            Self::Overlay { name, disk } => ("blockdev-add", overlay(name, &disk.node, scratch)),
            Self::Transact(acts) => {
                let actions: Vec<Value> = acts.iter().map(Act::action).collect();
                ("transaction", json!({"actions": actions}))
            }
            Self::Export { name, node, bitmap } => {
                let mut export = json!({
                    "type": "nbd", "id": name, "name": name, "node-name": node, "writable": false,
                });
                if let Some(bitmap) = bitmap {
                    // By its name alone it is found below the overlay, in all versions.
                    export["bitmaps"] = json!([bitmap]);
                }
                ("block-export-add", export)
            }
            Self::StopServing => ("nbd-server-stop", json!({})),
            Self::Unlink(_) | Self::Serve => return None,
        })
    }
}

/// An overlay is worth nothing after a crash, so nothing is ever flushed.
fn overlay(name: &str, disk: &str, scratch: &Path) -> Value {
    let cache = json!({"direct": false, "no-flush": true});
    json!({
        "driver": "qcow2", "node-name": name, "backing": disk, "cache": cache, "discard": "unmap",
        "file": {
            "driver": "file", "filename": scratch.join(name), "cache": cache, "discard": "unmap",
        },
    })
}

impl Act {
    fn action(&self) -> Value {
        let (kind, data) = match self {
            Self::Record { node, name } => (
                "block-dirty-bitmap-add",
                json!({"node": node, "name": name, "granularity": GRANULARITY}),
            ),
            Self::Keep {
                node,
                view,
                filter,
                spare_guest,
            } => {
                let mut data = json!({
                    "job-id": view, "device": node, "target": view, "sync": "none",
                    "filter-node-name": filter,
                });
                if *spare_guest {
                    data["on-cbw-error"] = json!("break-snapshot");
                }
                ("blockdev-backup", data)
            }
            Self::Stop { node, name } => (
                "block-dirty-bitmap-disable",
                json!({"node": node, "name": name}),
            ),
            Self::Resume { node, name } => (
                "block-dirty-bitmap-enable",
                json!({"node": node, "name": name}),
            ),
            Self::Merge { node, from, to } => (
                "block-dirty-bitmap-merge",
                json!({"node": node, "target": to, "bitmaps": [from]}),
            ),
            Self::Forget { node, name } => (
                "block-dirty-bitmap-remove",
                json!({"node": node, "name": name}),
            ),
        };
        json!({"type": kind, "data": data})
    }
}
