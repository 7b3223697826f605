//! Kinds of guests: how each is called in a plan, and how its VM is reached.
//!
//! A kind is one file and one line in `KINDS`.
//!
//! ```text
//!  qmp.rs       a running QEMU, over its QMP socket
//!  vsphere.rs   a VM in vSphere, over the API of its vCenter or host
//!  nbd.rs       points in time that somebody else makes, told or by a command of the user
//! ```

mod nbd;
mod qmp;
mod vsphere;

use super::plan::Plan;
use crate::changes::guest::Guest;
use crate::error::{Error, Kind as Failure, Result};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Every kind of guest.
const KINDS: &[Kind] = &[
    Kind::of("qmp", qmp::read),
    Kind::of("vsphere", vsphere::read),
    Kind::of("nbd", nbd::read),
];

/// A kind of guest: its name in the plan, and what it makes of the rest.
struct Kind {
    name: &'static str,
    read: fn(&Value) -> Result<Arc<dyn Reach>, String>,
}

impl Kind {
    const fn of(name: &'static str, read: fn(&Value) -> Result<Arc<dyn Reach>, String>) -> Self {
        Self { name, read }
    }
}

/// A VM that a plan names, not yet connected to.
#[async_trait]
pub trait Reach: fmt::Debug + Send + Sync {
    /// How it is reached, for people.
    fn describe(&self) -> String;

    /// What a pod must have to reach it.
    ///
    /// # Errors
    /// It cannot be reached from a pod.
    fn needs(&self) -> Result<Needs> {
        let what = format!("{} is not reached over a network", self.describe());
        Err(Error::new(Failure::Unsupported, what))
    }

    /// Connects. `id` tags what is made on the VM; it is the same for every process of a migration.
    /// `directory` is the migration's, for what must outlive this process; there is none for a look
    /// at the VM.
    ///
    /// # Errors
    /// The VM cannot be reached, or the plan asks of it what it cannot do.
    async fn connect(
        &self,
        plan: &Plan,
        id: &str,
        directory: Option<&Path>,
    ) -> Result<Arc<dyn Guest>>;
}

/// What a pod must have to reach a guest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// The server that is asked, and read from: `HOST:PORT`.
    pub server: String,
    /// Files with secrets and certificates.
    pub files: Vec<PathBuf>,
    /// Variables with secrets.
    pub variables: Vec<String>,
    /// Where VMware's library is.
    pub library: Option<PathBuf>,
}

/// The VM behind `options` of a kind.
///
/// # Errors
/// For people: there is no such kind, or the options are not its.
pub fn reach(kind: &str, options: &Value) -> Result<Arc<dyn Reach>, String> {
    let found = KINDS.iter().find(|one| one.name == kind);
    let found = found.ok_or_else(|| format!("no such kind of guest; there is {}", names()))?;
    (found.read)(options)
}

/// The kinds there are, for people.
#[must_use]
pub fn names() -> String {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    names.join(", ")
}

/// Options of a kind, out of what the plan has for it.
fn options<T: DeserializeOwned>(found: &Value) -> Result<T, String> {
    T::deserialize(found).map_err(|error| error.to_string())
}
