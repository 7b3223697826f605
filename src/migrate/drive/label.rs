//! What a migration that was cancelled leaves to be read beside its targets.

use super::scene::Scene;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::job::label_incomplete;
use crate::job::options::JournalPlace;
use crate::migrate::phase::Event;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// Says of each target that it is not whole: in its journal, in the job directory, and beside a target that is a
/// file. A device has no place for a label that would not be taken for the disk's own content.
///
/// # Errors
/// A label could not be written.
pub(super) fn incomplete(scene: &Scene) -> Result<Event> {
    let record = scene.book.record();
    let mut text = format!(
        "The migration of {} was cancelled. These targets do not hold the whole disk:\n",
        record.vm
    );
    for disk in record.disks.iter().filter(|disk| disk.begun > 0) {
        text.push_str(&format!("{} (disk {})\n", disk.target, disk.name));
    }
    if record.has_begun() {
        scene.book.store.replace("INCOMPLETE", text.as_bytes())?;
    }
    for (disk, begun) in scene.plan.disks.iter().zip(&record.disks) {
        let place = JournalPlace::Path(scene.book.store.journal(&disk.name));
        // A target that is gone needs no label, and must not keep the source from being cleaned.
        if let Err(error) = label_incomplete(&disk.target, &place, "the migration was cancelled") {
            scene.warn(format!("disk {}: {}", disk.name, error.line()));
        }
        let Address::Path(path) = &disk.target else {
            continue;
        };
        if begun.begun > 0 && fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
            let mut name = OsString::from(path);
            name.push(".INCOMPLETE");
            let label = PathBuf::from(name);
            fs::write(&label, &text)
                .map_err(|error| Error::io(format!("write {}", label.display()), error))?;
        }
    }
    Ok(Event::Labelled)
}
