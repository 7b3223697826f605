//! Changes of one disk up to a snapshot, by changed block tracking.

use super::judge::{lost, unbelieved};
use crate::changes::{Changes, Tracker};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::http::trust::Trust;
use crate::source::vddk::VddkAddress;
use crate::vsphere::changes::{Areas, ChangeId, Known, Query, query};
use crate::vsphere::disk;
use crate::vsphere::inventory::Machine;
use crate::vsphere::limits::TimeLimits;
use crate::vsphere::locator::{Server, Wanted};
use crate::vsphere::session::Session;
use crate::vsphere::soap::Moref;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Changes of one disk since a change id, up to a snapshot.
#[derive(Debug)]
pub struct Cbt {
    session: Arc<Session>,
    query: Query,
    areas: Mutex<Areas>,
}

impl Cbt {
    /// Logs in, finds the disk that `address` names, and gets ready to tell its changes.
    ///
    /// # Errors
    /// The server, the VM, its snapshot or the disk is not there; no snapshot is named; or tracking
    /// was reset since.
    pub async fn open(address: &VddkAddress, since: ChangeId) -> Result<Self> {
        let Some(snapshot) = &address.snapshot else {
            let what = format!("tell the changes of {}", address.file);
            return Err(Error::new(Kind::Usage, what)
                .because("they are told up to a snapshot")
                .hint("add &snapshot=MOREF; diskferry inspect vsphere://… lists them"));
        };
        let server = Server {
            host: address.host.clone(),
            port: address.port.unwrap_or(443),
            user: address.user.clone(),
            password: address.password.clone(),
            trust: match &address.thumbprint {
                Some(thumbprint) => Trust::Pinned(thumbprint.parse()?),
                None => Trust::System,
            },
            limits: limits(address)?,
        };
        let session = Arc::new(Session::open(&server).await?);
        let vm = Wanted::Moref(address.vm.clone());
        let machine = Machine::find(session.clone(), &vm).await?;
        let snapshot = Moref::new("VirtualMachineSnapshot", snapshot.clone());
        let then = machine.disks_in(&snapshot).await?;
        // In the snapshot the file may have another name than the one that the VM writes now.
        let found = match disk::find(&then, &address.file) {
            Ok(found) => found,
            Err(error) => {
                let now = machine.facts().await?.disks;
                let known = disk::find(&now, &address.file).map_err(|_| error)?;
                let same = then.iter().find(|other| other.is_the_same_as(known));
                same.ok_or_else(|| {
                    let what = format!("{snapshot} has no disk {}", address.file);
                    Error::new(Kind::Refused, what)
                })?
            }
        };
        if let Some(why) = lost(&since, found) {
            let what = format!("tell the changes of {} since {since}", address.file);
            return Err(Error::new(Kind::Refused, what).because(why));
        }
        let query = Query {
            vm: machine.on().clone(),
            snapshot,
            disk: found.key,
            since,
            capacity: found.capacity,
        };
        Ok(Self::new(session, query))
    }

    /// Tells what `query` asks, in a session that is open.
    #[must_use]
    pub fn new(session: Arc<Session>, query: Query) -> Self {
        Self {
            session,
            areas: Mutex::new(Areas::new(query.capacity)),
            query,
        }
    }
}

fn limits(address: &VddkAddress) -> Result<TimeLimits> {
    let Some(seconds) = address.timeout else {
        return Ok(TimeLimits::default());
    };
    TimeLimits::of_seconds(seconds).ok_or_else(|| {
        let what = format!("timeout={seconds} is not from 1 to 3600 seconds");
        Error::new(Kind::Usage, what)
    })
}

/// A list that the host cannot tell is no failure of the way to it: who can, goes on without.
fn of_the_list(error: Error) -> Error {
    match unbelieved(&error) && error.kind() == Kind::Io {
        true => error.with_kind(Kind::Refused),
        false => error,
    }
}

#[async_trait]
impl Tracker for Cbt {
    async fn changes(&self, window: ByteRange) -> Result<Changes> {
        // Held while asking: several windows are looked at together, and one page has them all.
        let mut areas = self.areas.lock().await;
        loop {
            match areas.look(window) {
                Known::Changes { known, changed } => return Ok(Changes { known, changed }),
                Known::Ask(start) => query(&self.session, &self.query, start, &mut areas)
                    .await
                    .map_err(of_the_list)?,
            }
        }
    }
}
