//! vSphere against the rig's vCenter: what is asked, what is made on the VM, and what is left.
//!
//! ```text
//!  look.rs      inspect: how a VM is named, whose certificate is believed, where the password goes
//!  session.rs   sessions that end, and that are ended
//!  slow.rs      a vCenter that is slow, or falls silent
//!  plain.rs     the simulator as Debian has it
//!  changes.rs   changed areas, page by page, and a vCenter that lies
//!  written.rs   holes of a first pass
//!  guest.rs     points of a migration: snapshots made, found again and removed
//!  plan.rs      a migration by a plan
//!  warm.rs      the whole way, disk by disk and pass by pass, down to the last byte
//! ```

mod changes;
mod guest;
mod look;
mod plain;
mod plan;
mod session;
mod slow;
mod warm;
mod written;

use crate::rig::{PASSWORD, USER, Vcenter};
use diskferry::changes::vsphere::{Options, VsphereGuest};
use diskferry::vsphere::inventory::Machine;
use diskferry::vsphere::locator::Locator;
use diskferry::vsphere::session::Session;
use diskferry::vsphere::snapshots::{Patience, Quiescing};
use std::fs;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Builder;

/// Runs something that waits.
fn wait<T>(doing: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("start a runtime").block_on(doing)
}

/// The VM's address, its certificate pinned and its password in a file of `dir`.
fn address(vcenter: &Vcenter, dir: &Path) -> String {
    let file = dir.join("password");
    fs::write(&file, PASSWORD).expect("write the password");
    format!(
        "vsphere://{USER}@{}/moref={}?thumbprint={}&password-file={}",
        vcenter.address(),
        vcenter.moref(),
        vcenter.thumbprint(),
        file.display()
    )
}

/// A session, and the directory that its password is in.
async fn session(vcenter: &Vcenter) -> (Arc<Session>, TempDir) {
    let dir = tempfile::tempdir().expect("make a directory");
    let locator: Locator = address(vcenter, dir.path()).parse().expect("an address");
    let session = Session::open(&locator.server).await.expect("log in");
    (Arc::new(session), dir)
}

/// The VM.
async fn machine(vcenter: &Vcenter) -> (Machine, TempDir) {
    let (session, dir) = session(vcenter).await;
    let locator: Locator = address(vcenter, dir.path()).parse().expect("an address");
    let machine = Machine::find(session, &locator.vm)
        .await
        .expect("find the VM");
    (machine, dir)
}

/// Not as patient as for users.
fn patience() -> Patience {
    Patience {
        others: Duration::from_secs(20),
        removals: 4,
        pause: Duration::from_millis(20),
    }
}

/// What a migration called `m1` wants of the first disk.
fn options(vcenter: &Vcenter, dir: &Path) -> Options {
    let disk = &vcenter.disks()[0];
    Options {
        vm: address(vcenter, dir).parse().expect("an address"),
        migration: "m1".to_owned(),
        disks: vec![("root".to_owned(), disk.file.clone())],
        quiescing: Quiescing::Never,
        enable_tracking: false,
        reading: Vec::new(),
        patience: patience(),
    }
}

/// A guest of the migration `m1`, whose directory is `dir`.
async fn guest(vcenter: &Vcenter, dir: &Path) -> VsphereGuest {
    let options = options(vcenter, dir);
    VsphereGuest::connect(options, Some(dir))
        .await
        .expect("connect")
}
