//! The watch over overlays: before one of them runs out of room, its snapshot is given up.
//!
//! QEMU copies what a guest is about to overwrite into the overlay. If that fails, it fails the
//! guest's write (before 10.1 always; after, it is told to lose the snapshot instead). So room is
//! looked at several times a second, from outside, where it costs QEMU nothing.

use super::drive::{Vm, blocking};
use super::goal::Goal;
use super::scratch::Scratch;
use crate::error::Result;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(100);

/// A watch, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches over the overlays of point `number` that have these names.
pub(super) fn over(vm: Arc<Vm>, number: u32, overlays: Vec<String>) -> Watch {
    Watch(tokio::spawn(async move {
        let why = loop {
            sleep(INTERVAL).await;
            let (scratch, overlays) = (vm.scratch.clone(), overlays.clone());
            let (keep_free, max) = (vm.options.keep_free, vm.options.overlay_max);
            let looked = blocking(move || short(&scratch, &overlays, keep_free, max)).await;
            match looked {
                Ok(None) => {}
                Ok(Some(why)) => break why,
                Err(error) => break error.line(),
            }
        };
        tracing::warn!("the snapshot of point {number} is given up: {why}");
        // Whatever stands in the way, the guest's writes are at stake.
        while let Err(error) = vm.reach(Goal::Released { number }).await {
            tracing::warn!("it still stands: {}", error.line());
            sleep(INTERVAL).await;
        }
    }))
}

/// What is short, if something is.
pub(super) fn short(
    scratch: &Scratch,
    overlays: &[String],
    keep_free: u64,
    max: Option<u64>,
) -> Result<Option<String>> {
    let free = scratch.free()?;
    if free < keep_free {
        let directory = scratch.directory().display();
        return Ok(Some(format!(
            "{} MiB are free in {directory}, and {} MiB must stay so",
            free >> 20,
            keep_free >> 20
        )));
    }
    let over = |name: &&String| max.is_some_and(|max| scratch.taken(name) > max);
    let found = overlays.iter().find(over);
    Ok(found.map(|name| {
        format!(
            "overlay {name} takes more than the {} MiB it may",
            max.unwrap_or_default() >> 20
        )
    }))
}
