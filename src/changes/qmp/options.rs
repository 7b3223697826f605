//! Which VM, which disks, and where what is kept for a point in time may lie.

use super::names::{Key, Tag};
use crate::error::{Error, Kind, Result};
use crate::nbd::uri::Place;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `sizeof(sockaddr_un::sun_path) - 1`.
const SOCKET_PATH_MAX: usize = 107;

/// What [`Qmp`](super::Qmp) is told.
///
/// ```
/// use diskferry::changes::qmp::{DiskAt, Place, Qmp, QmpOptions};
///
/// let disks = vec![DiskAt::node("root", "disk0"), DiskAt::device("data", "virtio-disk1")];
/// let mut options = QmpOptions::new("/run/vm.qmp", "0b9a…", "/var/tmp", disks);
/// options.nbd = Some(Place::Unix("/run/vm.nbd".into())); // It runs already.
/// let vm = Qmp::new(options)?;
/// # Ok::<(), diskferry::error::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct QmpOptions {
    /// The QMP socket. QEMU talks to one client at a time on it.
    pub socket: PathBuf,
    /// What tells this migration from any other, also after a crash.
    pub migration: String,
    /// Where overlays are put, and the socket of the NBD server if one is started: a directory that
    /// has the same absolute path for QEMU.
    pub scratch: PathBuf,
    /// Bytes that the overlays leave free on the file system of `scratch`. Where they do not, the
    /// snapshot is given up, because a full file system would fail the guest's own writes.
    pub keep_free: u64,
    /// Bytes that one overlay may take; without, as many as the disk has.
    pub overlay_max: Option<u64>,
    /// The disks.
    pub disks: Vec<DiskAt>,
    /// Where QEMU's NBD server listens, if one runs already: QEMU has one at most, and does not
    /// tell. Without, one is started in `scratch`.
    pub nbd: Option<Place>,
    /// None of the disks is in an I/O thread, whatever [`IOTHREADS`](super::IOTHREADS) says.
    pub allow_iothreads: bool,
    /// How long QEMU may take to answer a command.
    pub patience: Duration,
}

impl QmpOptions {
    /// With what most want for the rest.
    pub fn new(
        socket: impl Into<PathBuf>,
        migration: impl Into<String>,
        scratch: impl Into<PathBuf>,
        disks: Vec<DiskAt>,
    ) -> Self {
        Self {
            socket: socket.into(),
            migration: migration.into(),
            scratch: scratch.into(),
            keep_free: 256 << 20,
            overlay_max: None,
            disks,
            nbd: None,
            allow_iothreads: false,
            patience: Duration::from_secs(60),
        }
    }

    /// The socket of the server that is started, if one is.
    #[must_use]
    pub(super) fn own_server(&self, tag: &Tag) -> Option<PathBuf> {
        self.nbd.is_none().then(|| self.scratch.join(tag.socket()))
    }

    /// Where the exports are.
    #[must_use]
    pub(super) fn place(&self, tag: &Tag) -> Place {
        let own = || Place::Unix(self.scratch.join(tag.socket()));
        self.nbd.clone().unwrap_or_else(own)
    }

    /// Refuses what cannot work whatever the VM is.
    pub(super) fn check(&self, tag: &Tag) -> Result<()> {
        let usage = |what: String| Error::new(Kind::Usage, what);
        if self.migration.is_empty() {
            return Err(usage("the migration has no id".to_owned()));
        }
        if self.disks.is_empty() {
            return Err(usage("the VM has no disks to track".to_owned()));
        }
        let names: BTreeSet<_> = self.disks.iter().map(|disk| &disk.name).collect();
        let keys: BTreeSet<_> = self.disks.iter().map(|disk| Key::of(&disk.name)).collect();
        if names.len() < self.disks.len() || keys.len() < self.disks.len() {
            let names: Vec<_> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
            let names = names.join(", ");
            return Err(usage(format!(
                "two disks cannot be told apart by name: {names}"
            )));
        }
        let scratch = self.scratch.display();
        if !self.scratch.is_absolute() || self.scratch.to_str().is_none() {
            return Err(usage(format!(
                "the scratch directory {scratch} is no absolute path"
            )));
        }
        let socket = self.own_server(tag);
        let length = socket.as_deref().map_or(0, |p: &Path| p.as_os_str().len());
        if length > SOCKET_PATH_MAX {
            let what = format!("the path of the scratch directory {scratch} is too long");
            return Err(usage(what).hint("a socket's path has at most 107 bytes"));
        }
        Ok(())
    }
}

/// A disk of the VM, as a user names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskAt {
    /// The migration's name for it.
    pub name: String,
    /// Where it is in QEMU.
    pub at: At,
}

/// What a disk is called in QEMU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum At {
    /// A block node: `-blockdev node-name=…`.
    Node(String),
    /// A device (`-device virtio-blk-pci,id=…`) or an old-style drive (`-drive id=…`): its topmost
    /// node at the time.
    Device(String),
}

impl DiskAt {
    /// The disk of a block node.
    pub fn node(name: impl Into<String>, node: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            at: At::Node(node.into()),
        }
    }

    /// The disk of a device.
    pub fn device(name: impl Into<String>, device: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            at: At::Device(device.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskAt, QmpOptions};
    use crate::changes::qmp::Qmp;
    use crate::error::Kind;

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_connected() {
        let disks = |names: &[&str]| {
            names
                .iter()
                .map(|n| DiskAt::node(*n, *n))
                .collect::<Vec<_>>()
        };
        let long = format!("/{}", "x".repeat(100));
        for (migration, scratch, names, word) in [
            ("", "/s", &["a"][..], "id"),
            ("m", "/s", &[], "no disks"),
            ("m", "/s", &["a", "b", "a"], "a, b, a"),
            ("m", "s", &["a"], "absolute"),
            ("m", &long, &["a"], "107"),
        ] {
            let options = QmpOptions::new("/qmp", migration, scratch, disks(names));
            let error = Qmp::new(options).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.line().contains(word), "{error:?}");
        }
        assert!(Qmp::new(QmpOptions::new("/qmp", "m", "/s", disks(&["a", "b"]))).is_ok());
    }
}
