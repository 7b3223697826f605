//! The certificate of all disks, once they are proven. `docs/certificate.md` has its fields.

use super::scene::Scene;
use crate::error::{Error, Kind, Result};
use crate::job::certificate::{Certificate, certify};
use crate::job::options::JournalPlace;
use crate::migrate::phase::Event;
use tokio::task::spawn_blocking;

/// Writes the certificate, durably.
///
/// # Errors
/// A disk cannot be certified, or the file is not durable.
pub(super) async fn write(scene: &Scene) -> Result<Event> {
    let mut disks = Vec::new();
    for disk in &scene.plan.disks {
        let place = JournalPlace::Path(scene.book.store.journal(&disk.name));
        let (name, target) = (disk.name.clone(), disk.target.clone());
        let certified = spawn_blocking(move || certify(&name, &target, &place)).await;
        let failed = |error| Error::new(Kind::Io, "read a manifest").because(error);
        let certified = certified.map_err(failed)?;
        disks
            .push(certified.map_err(|error| error.context(format!("certify disk {}", disk.name)))?);
    }
    let quiet = scene.book.state().quiet;
    let certificate = Certificate::new(Some(scene.plan.vm.clone()), quiet, disks);
    certificate.write(&scene.book.directory().join("certificate.json"))?;
    Ok(Event::Certified)
}
