//! What a user asks for, and what a plan needs of its pod. Pure.

use super::names;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::migrate::guests::Needs;
use crate::migrate::plan::{Disk, Plan};
use std::path::{Path, PathBuf};

/// How the objects are to be.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The image with diskferry in it.
    pub image: String,
    /// The image that brings VMware's library, as CDI's side car does.
    pub vddk_image: Option<String>,
    /// The Secret whose keys are the files, or the variables in small letters, that the plans name.
    pub secret: String,
    /// The claim of a shared file system, for targets that are files.
    pub files: Option<String>,
    /// Claims are made too, of this class.
    pub storage_class: Option<String>,
    /// The namespace of all of it.
    pub namespace: Option<String>,
    /// One Indexed Job for all VMs of a host.
    pub indexed: bool,
    /// How many VMs of a host are migrated at once.
    pub per_host: Option<u32>,
}

/// A VM that is to be migrated.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Its plan.
    pub plan: Plan,
    /// Bytes of each disk, in the order of the plan, if somebody asked the VM.
    pub sizes: Vec<u64>,
    /// The host that the VM is on, if somebody asked.
    pub host: Option<String>,
}

/// What a target is to a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Goal {
    /// A block volume of its own, at this path.
    Block(PathBuf),
    /// A file of the shared volume.
    File(PathBuf),
    /// Over the network: the pod needs nothing for it.
    Elsewhere,
}

impl Migration {
    /// How its Job is called.
    pub(super) fn name(&self) -> String {
        names::name(&self.plan.vm)
    }

    /// What those have in common that are counted together: the host that the VM is on, else the
    /// server that the plan names. As a name in Kubernetes, so that two that differ only in what no
    /// name can hold are one.
    pub(super) fn group(&self) -> Result<String> {
        Ok(match &self.host {
            Some(host) => names::name(host),
            None => {
                let server = self.needs()?.server;
                names::name(server.strip_suffix(":443").unwrap_or(&server))
            }
        })
    }

    /// The priority class of its pod, by which a quota counts it.
    pub(super) fn class(&self) -> Result<String> {
        Ok(format!("diskferry-{}", self.group()?))
    }

    /// What must be in its pod.
    pub(super) fn needs(&self) -> Result<Needs> {
        let needs = self.plan.guest.needs();
        needs.map_err(|error| {
            error.context(format!("run the migration of {} in a pod", self.plan.vm))
        })
    }

    /// The claim of a disk.
    pub(super) fn claim(&self, disk: &Disk) -> String {
        names::claim(&format!("{}-{}", self.plan.vm, disk.name))
    }

    /// Every claim of its pod, and what is on it.
    pub(super) fn claims(&self) -> Result<Vec<(String, String)>> {
        let vm = &self.plan.vm;
        let on_block = |(disk, goal)| match goal {
            Goal::Block(_) => Some((self.claim(disk), format!("disk {} of {vm}", disk.name))),
            _ => None,
        };
        let mut claims: Vec<_> = self.goals()?.into_iter().filter_map(on_block).collect();
        claims.push((self.state_claim(), format!("the state of {vm}")));
        Ok(claims)
    }

    /// The claim of what must outlive the pod.
    pub(super) fn state_claim(&self) -> String {
        format!("{}-state", self.name())
    }

    /// What each target is to the pod.
    pub(super) fn goals(&self) -> Result<Vec<(&Disk, Goal)>> {
        let goal = |disk| Ok((disk, goal(disk)?));
        let goals = self.plan.disks.iter().map(goal);
        goals.collect::<Result<_>>().map_err(|error: Error| {
            error.context(format!("run the migration of {} in a pod", self.plan.vm))
        })
    }
}

fn goal(disk: &Disk) -> Result<Goal> {
    match &disk.target {
        Address::Path(path) if path.starts_with("/dev") => Ok(Goal::Block(path.clone())),
        Address::Path(path) => Ok(Goal::File(path.clone())),
        Address::Child(_) => {
            let what = format!(
                "the target of disk {} is a server that is started",
                disk.name
            );
            let error = Error::new(Kind::Unsupported, what);
            Err(error.hint("name a device, a file or the URI of a server that runs"))
        }
        _ => Ok(Goal::Elsewhere),
    }
}

/// The directory that all `files` are in: where the shared volume is mounted.
///
/// # Errors
/// They have only the root in common.
pub(super) fn home(files: &[PathBuf]) -> Result<Option<PathBuf>> {
    let mut directories = files.iter().filter_map(|file| file.parent());
    let Some(first) = directories.next() else {
        return Ok(None);
    };
    let both = |one: &Path, other: &Path| -> PathBuf {
        let pairs = one.components().zip(other.components());
        let same = pairs.take_while(|(one, other)| one == other);
        same.map(|(one, _)| one).collect()
    };
    let common = directories.fold(first.to_path_buf(), |common, next| both(&common, next));
    match common.components().count() {
        0 | 1 => {
            let what =
                "the targets have no directory in common, and one volume is mounted for them";
            Err(Error::new(Kind::Usage, what))
        }
        _ => Ok(Some(common)),
    }
}
