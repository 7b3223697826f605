//! A VM in vSphere, over the API of its vCenter or host; disks are read by VDDK.

use super::{Needs, Reach};
use crate::changes::guest::Guest;
use crate::changes::vsphere::{Options, VsphereGuest};
use crate::error::{Error, Kind, Result};
use crate::http::trust::Trust;
use crate::migrate::plan::Plan;
use crate::secret::Place;
use crate::vsphere::locator::Locator;
use crate::vsphere::snapshots::{Patience, Quiescing};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the plan says of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    /// `vsphere://USER@HOST/VM?KEY=VALUE`.
    address: String,
    /// Whether the guest writes out its caches before a snapshot.
    #[serde(default)]
    quiesce: Quiescing,
    /// Turn changed block tracking on if it is off.
    #[serde(default)]
    enable_tracking: bool,
    /// How disks are read: `libdir`, `sessions` and the other keys of `vddk://`.
    #[serde(default)]
    vddk: BTreeMap<String, String>,
}

/// The VM, its address checked.
#[derive(Debug)]
struct Vsphere {
    vm: Locator,
    written: Written,
}

pub(super) fn read(options: &Value) -> Result<Arc<dyn Reach>, String> {
    let written: Written = super::options(options)?;
    let vm = written.address.parse::<Locator>();
    let vm = vm.map_err(|error| format!("address: {}", error.line()))?;
    Ok(Arc::new(Vsphere { vm, written }))
}

#[async_trait]
impl Reach for Vsphere {
    fn describe(&self) -> String {
        self.vm.to_string()
    }

    fn needs(&self) -> Result<Needs> {
        let server = &self.vm.server;
        let mut needs = Needs {
            server: server.authority(),
            library: self.written.vddk.get("libdir").map(Into::into),
            ..Needs::default()
        };
        match &server.password {
            Place::File(path) => needs.files.push(path.clone()),
            Place::Environment(name) => needs.variables.push(name.clone()),
            Place::Descriptor(_) => {
                let what = format!("the password of {} comes from an open descriptor", self.vm);
                return Err(Error::new(Kind::Unsupported, what).hint("use password-file"));
            }
        }
        if let Trust::Authority(path) = &server.trust {
            needs.files.push(path.clone());
        }
        Ok(needs)
    }

    async fn connect(
        &self,
        plan: &Plan,
        id: &str,
        directory: Option<&Path>,
    ) -> Result<Arc<dyn Guest>> {
        let disks = plan.disks.iter();
        let options = Options {
            vm: self.vm.clone(),
            migration: id.to_owned(),
            disks: disks
                .map(|disk| (disk.name.clone(), disk.source.clone()))
                .collect(),
            quiescing: self.written.quiesce,
            enable_tracking: self.written.enable_tracking,
            reading: self.written.vddk.clone().into_iter().collect(),
            patience: Patience::default(),
        };
        let guest = VsphereGuest::connect(options, directory).await;
        let guest = guest.map_err(|error| error.context(format!("reach {}", plan.vm)))?;
        Ok(Arc::new(guest))
    }
}
