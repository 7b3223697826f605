//! The VM, the disk and the snapshot that are meant, asked of the vCenter.
//!
//! A disk is named by the file that it had when the migration began. While a snapshot stands, the VM
//! writes to another file whose chain leads back to that one; what a snapshot holds is recognised by
//! the disk, not by its file.

use super::settings::{Checkpoint, PASSWORD, VmDisk};
use crate::changes::Baseline;
use crate::changes::vsphere::lost;
use crate::error::{Error, Kind, Result};
use crate::http::trust::Trust;
use crate::secret::Place;
use crate::vsphere::changes::ChangeId;
use crate::vsphere::disk::{self, Disk};
use crate::vsphere::inventory::Machine;
use crate::vsphere::locator::{Server, Wanted};
use crate::vsphere::session::Session;
use crate::vsphere::soap::Moref;
use crate::vsphere::tree::Snapshot;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be copied.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The VM's managed object.
    pub(super) vm: String,
    /// The disk's file, in the snapshot if there is one.
    pub(super) file: String,
    /// The snapshot's managed object.
    pub(super) snapshot: Option<String>,
    /// Since when changes count; everything without it.
    pub(super) since: Option<Baseline>,
    /// Why nobody can tell changes since then, if nobody can: all is compared.
    pub(super) lost: Option<String>,
    /// Bytes.
    pub(super) size: u64,
}

/// Logs in, looks, and logs out.
///
/// # Errors
/// The vCenter lets nobody in, or something that is named is not there.
pub(super) async fn find(wanted: &VmDisk) -> Result<Found> {
    let password = Place::Environment(PASSWORD.to_owned()).read()?;
    let session = Arc::new(Session::open_with(&server(wanted)?, password).await?);
    let found = look(wanted, &session).await;
    session.close().await;
    found
}

/// The vCenter, and whom it is believed to be.
pub(super) fn server(wanted: &VmDisk) -> Result<Server> {
    let trust = match (&*wanted.thumbprint, &wanted.certificates) {
        ("", Some(directory)) => Trust::Authority(first_certificate(directory)?),
        ("", None) => Trust::System,
        (thumbprint, _) => Trust::Pinned(thumbprint.parse()?),
    };
    Ok(Server {
        host: wanted.host.clone(),
        port: wanted.port,
        user: wanted.user.clone(),
        password: Place::Environment(PASSWORD.to_owned()),
        trust,
        limits: wanted.limits,
    })
}

/// The first file of a directory that is not hidden; a ConfigMap mounts hidden links besides.
fn first_certificate(directory: &Path) -> Result<PathBuf> {
    let doing = || format!("read {}", directory.display());
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .map_err(|error| Error::io(doing(), error))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .filter(|path| {
            !path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        })
        .collect();
    files.sort();
    let first = files.into_iter().next();
    first.ok_or_else(|| Error::new(Kind::Usage, doing()).because("it holds no certificate"))
}

async fn look(wanted: &VmDisk, session: &Arc<Session>) -> Result<Found> {
    let machine = Machine::find(session.clone(), &Wanted::Uuid(wanted.uuid.clone()))
        .await
        .map_err(|error| match error.kind() {
            Kind::Refused => error.context("unable to locate VM in any datacenter"),
            _ => error,
        })?;
    let facts = machine.facts().await?;
    let now = by_file(
        &machine,
        &facts.disks,
        &facts.snapshots,
        &wanted.backing_file,
    )
    .await?;
    let found = |file: &Disk, snapshot: Option<&Moref>| Found {
        vm: machine.on().value.clone(),
        file: file.file.clone(),
        snapshot: snapshot.map(|snapshot| snapshot.value.clone()),
        since: None,
        lost: None,
        size: file.capacity,
    };
    let (current, previous) = match &wanted.checkpoint {
        Checkpoint::Cold => return Ok(found(&now, None)),
        Checkpoint::First { current } => (current, None),
        Checkpoint::Delta { current, previous } => (current, Some(previous)),
    };
    let snapshot = snapshot(&facts.snapshots, current)?;
    let then = in_snapshot(&machine, snapshot, &now).await?;
    let all = found(&then, Some(snapshot));
    let id = match previous {
        None => return Ok(all),
        Some(id) if is_change_id(id) => ChangeId::new(id.clone()),
        Some(name) => {
            let base = self::snapshot(&facts.snapshots, name)?;
            in_snapshot(&machine, base, &now).await?.change_id
        }
    };
    let lost = match &id {
        Some(id) => lost(id, &then),
        None => Some(format!("CBT is not enabled on disk {}", then.key)),
    };
    let told = id.map(Baseline::Cbt).filter(|_| lost.is_none());
    Ok(Found {
        since: Some(told.unwrap_or(Baseline::Digest)),
        lost,
        ..all
    })
}

/// The disk that has, or had, this file: now, in a snapshot, or as a parent of what it has now.
async fn by_file(
    machine: &Machine,
    now: &[Disk],
    snapshots: &[Snapshot],
    file: &str,
) -> Result<Disk> {
    if let Some(exact) = now.iter().find(|disk| disk.file == file) {
        return Ok(exact.clone());
    }
    for snapshot in snapshots {
        let then = machine.disks_in(&snapshot.on).await?;
        if let Some(found) = then.iter().find(|disk| disk.file == file) {
            let same = now.iter().find(|disk| disk.is_the_same_as(found));
            return Ok(same.unwrap_or(found).clone());
        }
    }
    disk::find(now, file).cloned().map_err(|error| {
        let what = format!("disk '{file}' is not present in VM hardware config or snapshot list");
        error.context(what)
    })
}

async fn in_snapshot(machine: &Machine, snapshot: &Moref, disk: &Disk) -> Result<Disk> {
    let then = machine.disks_in(snapshot).await?;
    let found = then.into_iter().find(|other| other.is_the_same_as(disk));
    found.ok_or_else(|| {
        let id = disk
            .object_id
            .clone()
            .unwrap_or_else(|| disk.key.to_string());
        let what = format!(
            "Could not find disk image with ID {id} in snapshot {}",
            snapshot.value
        );
        Error::new(Kind::Refused, what)
    })
}

/// A snapshot by its managed object, else by a name that only one has.
fn snapshot<'a>(all: &'a [Snapshot], name: &str) -> Result<&'a Moref> {
    if all.is_empty() {
        return Err(Error::new(Kind::Refused, "no snapshots for this VM"));
    }
    if let Some(exact) = all.iter().find(|snapshot| snapshot.on.value == name) {
        return Ok(&exact.on);
    }
    let named: Vec<_> = all
        .iter()
        .filter(|snapshot| snapshot.name == name)
        .collect();
    match named.as_slice() {
        [one] => Ok(&one.on),
        [] => Err(Error::new(
            Kind::Refused,
            format!("snapshot {name:?} not found"),
        )),
        several => {
            let what = format!("{name:?} resolves to {} snapshots", several.len());
            Err(Error::new(Kind::Refused, what))
        }
    }
}

/// `52 de …-61 d5 …/81`, which no snapshot's managed object looks like.
fn is_change_id(text: &str) -> bool {
    let Some((era, serial)) = text.split_once('/') else {
        return false;
    };
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let halves: Vec<&str> = era.split('-').collect();
    halves.len() > 1
        && halves.iter().all(|half| half.split(' ').all(hexadecimal))
        && hexadecimal(serial)
}

#[cfg(test)]
mod tests {
    use super::is_change_id;

    #[test]
    fn a_change_id_is_told_from_a_snapshot() {
        for id in [
            "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81",
            "52de-61d5/1F",
        ] {
            assert!(is_change_id(id), "{id}");
        }
        for name in [
            "snapshot-7",
            "7",
            "a/b",
            "",
            "52 de-61 d5",
            "forklift-migration/1",
        ] {
            assert!(!is_change_id(name), "{name}");
        }
    }
}
