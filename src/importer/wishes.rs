//! What every import asks of the engine, wherever the disk is. Pure.

use super::place::Place;
use super::settings::Settings;
use crate::address::Address;
use crate::digest::Algorithm;
use crate::job::options::{CopyOptions, JournalPlace, Making, Pass, Reading, Tuning, Zeroes};

/// All of `source` onto the volume, proven only if that is asked for.
pub(super) fn options(
    settings: &Settings,
    source: Address,
    place: &Place,
    journal: JournalPlace,
) -> CopyOptions {
    CopyOptions {
        source,
        reading: Reading::default(),
        target: Address::Path(place.path.clone()),
        making: Making::default(),
        pass: Pass::default(),
        // The volume is the controller's to give; what an earlier pod left in it is ours.
        overwrite: true,
        adopt: false,
        restart: false,
        // As the original: whether a guest copes is decided by how its VM will be made.
        allow_sector_mismatch: true,
        verify: Some(settings.verify.unwrap_or(false)),
        distrust_ppm: 0,
        digest: Algorithm::default(),
        tuning: Tuning {
            connections: settings.sessions,
            retry: settings.retry,
            ..Tuning::default()
        },
        zeroes: Zeroes {
            allocated: settings.preallocation,
            ..Zeroes::default()
        },
        journal,
    }
}
