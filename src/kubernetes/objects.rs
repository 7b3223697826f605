//! Jobs, claims and ConfigMaps. Pure.

use super::pod;
use super::wish::{Goal, Migration, Wish};
use crate::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Claims are whole MiB, as storage gives them.
const UNIT: u64 = 1 << 20;

/// What a migration keeps: 17 bytes for each 64 KiB of disk, and a little more.
const STATE: &str = "1Gi";

/// How often a pod is started again: with waits that double, for more than an hour.
const RESTARTS: u32 = 12;

/// VMs of an Indexed Job that are migrated at once, unless the user says so: eight disks have 32 of
/// the about 52 sessions of a vCenter.
const AT_ONCE: u32 = 2;

fn metadata(name: &str, wish: &Wish) -> Value {
    let mut metadata = json!({"name": name, "labels": pod::labels()});
    if let (Some(namespace), Some(metadata)) = (&wish.namespace, metadata.as_object_mut()) {
        metadata.insert("namespace".to_owned(), namespace.clone().into());
    }
    metadata
}

/// The plans, as files of `/plan`.
pub(super) fn plan_map(name: &str, wish: &Wish, files: &BTreeMap<String, String>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(&format!("{name}-plan"), wish),
        "data": files,
    })
}

fn claim(name: &str, wish: &Wish, mode: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(name, wish),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": mode,
            "storageClassName": wish.storage_class,
            "resources": {"requests": {"storage": size}},
        },
    })
}

/// A block volume for each disk whose target is a device.
pub(super) fn claims(migration: &Migration, wish: &Wish) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for (at, (disk, goal)) in migration.goals()?.into_iter().enumerate() {
        if !matches!(goal, Goal::Block(_)) {
            continue;
        }
        let unknown = || {
            Error::new(
                Kind::Io,
                format!("the size of disk {} is not known", disk.name),
            )
        };
        let size = migration.sizes.get(at).ok_or_else(unknown)?;
        let size = size.div_ceil(UNIT);
        found.push(claim(
            &migration.claim(disk),
            wish,
            "Block",
            &format!("{size}Mi"),
        ));
    }
    Ok(found)
}

/// A file system for the journals, and what else must outlive a pod.
pub(super) fn state_claim(migration: &Migration, wish: &Wish) -> Value {
    claim(&migration.state_claim(), wish, "Filesystem", STATE)
}

/// What marks the pods of a host. It gives them no priority over any other pod, and is of no
/// namespace.
pub(super) fn class(name: &str) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name, "labels": pod::labels()},
        "value": 0,
        "preemptionPolicy": "Never",
        "description": "Counts the migrations of one host",
    })
}

/// How many pods of a host there are at once.
pub(super) fn quota(class: &str, most: u32, wish: &Wish) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": metadata(class, wish),
        "spec": {
            "hard": {"pods": most.to_string()},
            "scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": [class]},
            ]},
        },
    })
}

/// One VM.
pub(super) fn job(migration: &Migration, wish: &Wish) -> Result<Value> {
    Ok(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(&migration.name(), wish),
        "spec": {
            "backoffLimit": RESTARTS,
            "template": pod::of_one(migration, wish)?,
        },
    }))
}

/// All VMs of a host.
pub(super) fn indexed_job(name: &str, migrations: &[&Migration], wish: &Wish) -> Result<Value> {
    let count = migrations.len();
    let most = usize::try_from(wish.per_host.unwrap_or(AT_ONCE)).unwrap_or(usize::MAX);
    Ok(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(name, wish),
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": most.clamp(1, count.max(1)),
            "backoffLimitPerIndex": RESTARTS,
            "maxFailedIndexes": count,
            "template": pod::of_index(name, migrations, wish)?,
        },
    }))
}
