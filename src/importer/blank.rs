//! An empty disk.

use super::End;
use super::message::{Message, failure};
use super::place::Place;
use super::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::pipeline::Stop;
use crate::target::block::{BlockOptions, BlockTarget};
use crate::target::preflight::Intent;
use crate::target::{Target, Zeroing};
use std::path::Path;

/// Bytes that are zeroed at once, so that a signal is heard.
const STEP: u64 = 64 << 20;

/// Makes the volume an empty disk.
pub(super) async fn import(settings: &Settings, root: &Path, stop: Stop) -> End {
    if settings.is_archive {
        return End::Failed("Cannot create empty disk with content type archive".to_owned());
    }
    match make(settings, root, stop).await {
        Ok(false) => End::Done(None),
        Ok(true) => End::Done(Some(Message::complete(settings.preallocation))),
        Err(error) => End::Failed(failure("Unable to create blank image", &error)),
    }
}

/// `false` if there was nothing to do: a volume that nobody wrote to is an empty disk.
async fn make(settings: &Settings, root: &Path, stop: Stop) -> Result<bool> {
    let place = Place::find(settings, root)?;
    if !place.is_block {
        place.grow(place.grown(settings.image_size, 0), settings.preallocation)?;
        return Ok(true);
    }
    if settings.preallocation {
        allocate(&place, stop).await?;
    }
    Ok(settings.preallocation)
}

/// Writes zeroes over all of a device, so that all of it takes up space.
async fn allocate(place: &Place, stop: Stop) -> Result<()> {
    let options = BlockOptions {
        intent: Intent {
            source_size: Some(place.room),
            overwrite: true,
            resuming: false,
        },
        ..BlockOptions::default()
    };
    let target = BlockTarget::open(&place.path, options).await?;
    let mut at = 0;
    while at < place.room {
        if stop.is_requested() {
            let what = format!("zero {}", place.path.display());
            return Err(Error::new(Kind::Interrupted, what).at(at));
        }
        let range = ByteRange::at(at, STEP.min(place.room.saturating_sub(at)));
        target.zero(range, Zeroing::Allocate).await?;
        at = range.end;
    }
    target.flush().await?;
    target.finalize().await
}
