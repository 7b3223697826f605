//! The pod that runs one migration, by the "restricted" level of Pod Security. Pure.

use super::wish::{Goal, Migration, Wish, home};
use crate::error::{Error, Kind, Result};
use crate::migrate::guests::Needs;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the plan is, and where what must outlive the pod.
const PLAN: &str = "/plan";
const STATE: &str = "/state";

/// The variable that Kubernetes' index of a pod is put into.
const INDEX: &str = "DISKFERRY_INDEX";

/// A pod as it grows: volumes, and where they are in the container.
#[derive(Debug, Default)]
struct Parts {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    devices: Vec<Value>,
    variables: Vec<Value>,
    init: Vec<Value>,
}

impl Parts {
    fn volume(&mut self, name: &str, what: &str, how: &Value) {
        self.volumes.push(json!({"name": name, what: how}));
    }

    fn mount(&mut self, name: &str, path: &Path, read_only: bool) {
        let mut mount = json!({"name": name, "mountPath": shown(path)});
        if read_only && let Some(mount) = mount.as_object_mut() {
            mount.insert("readOnly".to_owned(), true.into());
        }
        self.mounts.push(mount);
    }

    /// What every migration has.
    fn common(&mut self, plans: &str) {
        self.volume(
            "plan",
            "configMap",
            &json!({"name": format!("{plans}-plan")}),
        );
        self.mount("plan", Path::new(PLAN), true);
        self.volume("tmp", "emptyDir", &json!({}));
        self.mount("tmp", Path::new("/tmp"), false);
    }

    /// What the guest is reached with.
    fn guest(&mut self, needs: &Needs, wish: &Wish) -> Result<()> {
        let mut directories: BTreeMap<&Path, Vec<&PathBuf>> = BTreeMap::new();
        for file in &needs.files {
            let directory = file
                .parent()
                .filter(|at| at.is_absolute() && at.parent().is_some());
            let bad = || {
                Error::new(
                    Kind::Usage,
                    format!("{} is in no directory of its own", shown(file)),
                )
            };
            directories
                .entry(directory.ok_or_else(bad)?)
                .or_default()
                .push(file);
        }
        for (number, (directory, files)) in directories.iter().enumerate() {
            let name = format!("secret-{number}");
            let key = |file: &&PathBuf| {
                file.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            };
            let items = files
                .iter()
                .filter_map(key)
                .map(|key| json!({"key": key, "path": key}));
            let items: Vec<Value> = items.collect();
            let secret = json!({"secretName": wish.secret, "defaultMode": 0o440, "items": items});
            self.volume(&name, "secret", &secret);
            self.mount(&name, directory, true);
        }
        for variable in &needs.variables {
            let key = variable.to_ascii_lowercase().replace('_', "-");
            let from = json!({"secretKeyRef": {"name": wish.secret, "key": key}});
            self.variables
                .push(json!({"name": variable, "valueFrom": from}));
        }
        self.library(needs, wish)
    }

    /// VMware's library, brought by the image that CDI's side car is started from.
    fn library(&mut self, needs: &Needs, wish: &Wish) -> Result<()> {
        let Some(image) = &wish.vddk_image else {
            return Ok(());
        };
        let parent = needs.library.as_deref().and_then(Path::parent);
        let parent = parent.ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "the plan does not say where VMware's library is",
            )
            .hint("set vddk: {libdir: /opt/vmware-vix-disklib-distrib} in it")
        })?;
        self.volume("vddk", "emptyDir", &json!({}));
        self.mount("vddk", parent, true);
        self.init.push(json!({
            "name": "vddk",
            "image": image,
            "volumeMounts": [{"name": "vddk", "mountPath": shown(parent)}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            "resources": resources(),
        }));
        Ok(())
    }

    fn claimed(&mut self, name: &str, claim: &str) {
        self.volume(name, "persistentVolumeClaim", &json!({"claimName": claim}));
    }

    fn files(&mut self, files: &[PathBuf], wish: &Wish) -> Result<Option<PathBuf>> {
        let Some(at) = home(files)? else {
            return Ok(None);
        };
        let claim = wish.files.as_deref().ok_or_else(|| {
            let what = format!(
                "{} is a file, and no claim is named that it is on",
                shown(&at)
            );
            Error::new(Kind::Usage, what).hint("name it with --files CLAIM")
        })?;
        self.claimed("files", claim);
        self.mount("files", &at, false);
        Ok(Some(at))
    }

    fn pod(self, wish: &Wish, words: &[&str], metrics: Option<u16>, restart: &str) -> Value {
        let mut container = Map::new();
        let mut set = |key: &str, value: Value| drop(container.insert(key.to_owned(), value));
        set("name", "diskferry".into());
        set("image", wish.image.clone().into());
        set("args", words.into());
        if !self.variables.is_empty() {
            set("env", self.variables.into());
        }
        if !self.devices.is_empty() {
            set("volumeDevices", self.devices.into());
        }
        if let Some(port) = metrics {
            set("ports", json!([{"name": "metrics", "containerPort": port}]));
        }
        set("volumeMounts", self.mounts.into());
        set("resources", resources());
        set(
            "securityContext",
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            }),
        );
        let mut spec = json!({
            "restartPolicy": restart,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            // A pass that is asked to end flushes, records, releases its snapshot and logs out.
            "terminationGracePeriodSeconds": 120,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 107, "runAsGroup": 107, "fsGroup": 107,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": self.volumes,
        });
        if let (false, Some(spec)) = (self.init.is_empty(), spec.as_object_mut()) {
            spec.insert("initContainers".to_owned(), self.init.into());
        }
        json!({"metadata": {"labels": labels()}, "spec": spec})
    }
}

/// The pod of one VM; its disks are block volumes, or files of the shared one.
pub(super) fn of_one(migration: &Migration, wish: &Wish) -> Result<Value> {
    let name = migration.name();
    let mut parts = Parts::default();
    parts.common(&name);
    parts.guest(&migration.needs()?, wish)?;
    parts.claimed("state", &migration.state_claim());
    parts.mount("state", Path::new(STATE), false);
    let mut files = Vec::new();
    for (number, (disk, goal)) in migration.goals()?.into_iter().enumerate() {
        match goal {
            Goal::Block(path) => {
                let volume = format!("disk-{number}");
                parts.claimed(&volume, &migration.claim(disk));
                let device = json!({"name": volume, "devicePath": shown(&path)});
                parts.devices.push(device);
            }
            Goal::File(path) => files.push(path),
            Goal::Elsewhere => {}
        }
    }
    parts.files(&files, wish)?;
    let words = ["migrate", "--json", "--state", STATE, "/plan/plan.yaml"];
    let metrics = migration.plan.metrics.map(|at| at.port());
    let mut pod = parts.pod(wish, &words, metrics, "OnFailure");
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    if let (Some(_), Some(spec)) = (wish.per_host, spec) {
        spec.insert("priorityClassName".to_owned(), migration.class()?.into());
    }
    Ok(pod)
}

/// The pod of one index; all of them have the same volumes.
pub(super) fn of_index(name: &str, migrations: &[&Migration], wish: &Wish) -> Result<Value> {
    let mut parts = Parts::default();
    parts.common(name);
    let mut all = Needs::default();
    let mut files = Vec::new();
    for migration in migrations {
        let needs = migration.needs()?;
        if all.library.is_some() && all.library != needs.library {
            let what = "plans of one host say different things of where VMware's library is";
            return Err(Error::new(Kind::Usage, what));
        }
        all.library = needs.library;
        all.files.extend(needs.files);
        all.variables.extend(needs.variables);
        for (disk, goal) in migration.goals()? {
            match goal {
                Goal::File(path) => files.push(path),
                Goal::Elsewhere => {}
                Goal::Block(path) => {
                    let (disk, path) = (&disk.name, shown(&path));
                    let what = format!(
                        "the target {path} of disk {disk} of {} is a device",
                        migration.plan.vm
                    );
                    return Err(Error::new(Kind::Unsupported, what)
                        .because("all pods of an Indexed Job have the same volumes")
                        .hint("write files of a shared volume, or leave out --indexed: --per-host counts without it, too"));
                }
            }
        }
    }
    all.variables.sort();
    all.variables.dedup();
    all.files.sort();
    all.files.dedup();
    parts.guest(&all, wish)?;
    // State outlives a pod there, and is found by the VM's name.
    let Some(at) = parts.files(&files, wish)? else {
        let what = "no target is a file, and there is no place for what must outlive a pod";
        return Err(Error::new(Kind::Unsupported, what).hint("leave out --indexed"));
    };
    let state = json!({"name": "XDG_STATE_HOME", "value": shown(&at.join(".state"))});
    parts.variables.push(state);
    let index = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
    parts.variables.push(json!({
        "name": INDEX, "valueFrom": {"fieldRef": {"fieldPath": index}},
    }));
    let plan = format!("{PLAN}/$({INDEX}).yaml");
    Ok(parts.pod(wish, &["migrate", "--json", &plan], None, "Never"))
}

pub(super) fn labels() -> Value {
    json!({"app.kubernetes.io/name": "diskferry"})
}

/// As CDI's importer pods have them.
fn resources() -> Value {
    json!({
        "requests": {"cpu": "100m", "memory": "60M"},
        "limits": {"cpu": "750m", "memory": "600M"},
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
