//! What was written is read back past the cache and compared.

use super::progress::Progress;
use super::scene::{Scene, interrupted};
use crate::error::{Error, Kind, Result};
use crate::job::options::JournalPlace;
use crate::job::{self, Scope, VerifyOptions};
use crate::migrate::board::together;
use crate::migrate::phase::Event;
use crate::pipeline::{Stop, Stopper};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Proves every disk: what was written since it was proven last, or `all` of it. A disk that is not as
/// it must be is compared whole in the next pass.
///
/// # Errors
/// `Mismatch` with the disk and the offset; `Interrupted` if `halt` came; or a target cannot be
/// read.
pub(super) async fn prove(scene: &Scene, all: bool, mut halt: Stop) -> Result<Event> {
    let sizes = scene.book.look(|record| {
        let sizes = record.disks.iter().map(|disk| Some(disk.size));
        sizes.collect::<Vec<_>>()
    });
    let counters = scene.board.begin(sizes);
    let (stopper, stop) = Stopper::new();
    let scope = if all { Scope::All } else { Scope::Unproven };
    let began = Instant::now();
    let links = scene.links(&[]);
    let gate = Arc::new(Semaphore::new(links.at_once));
    let mut progress = Progress::new(scene);
    let mut proofs = JoinSet::new();
    for (i, (disk, counters)) in scene.plan.disks.iter().zip(&counters).enumerate() {
        let options = VerifyOptions {
            target: disk.target.clone(),
            journal: JournalPlace::Path(scene.book.store.journal(&disk.name)),
            tuning: scene.tuning(links),
        };
        let context = scene.context(&disk.name, &[&disk.target], counters, &stop);
        let (gate, name) = (gate.clone(), disk.name.clone());
        proofs.spawn(async move {
            let _turn = gate.acquire().await;
            let proven = job::prove(&options, scope, context).await;
            let proven = proven.map_err(|error| error.context(format!("prove disk {name}")));
            (i, proven)
        });
    }
    let mut failed: Option<Error> = None;
    while !proofs.is_empty() {
        tokio::select! {
            Some(ended) = proofs.join_next() => {
                let (i, proven) = ended
                    .map_err(|error| Error::new(Kind::Io, "prove a disk").because(error))?;
                if let Err(error) = proven {
                    stopper.stop();
                    // The blocks that differ are marked: a pass that compares writes them again.
                    if error.kind() == Kind::Mismatch {
                        let why = error.line();
                        scene.book.change(|record| record.lose_tracking(i, &why, false))?;
                    }
                    let keep = failed.is_some() && error.kind() == Kind::Interrupted;
                    failed = if keep { failed } else { Some(error) };
                }
            }
            () = halt.requested(), if !stop.is_requested() => {
                stopper.stop();
                failed = Some(interrupted());
            }
            () = progress.tick() => {}
        }
    }
    progress.end();
    let bytes = together(&scene.board.live()).verified;
    scene.board.end();
    match failed {
        Some(failed) => Err(failed),
        None => proven(scene, bytes, began),
    }
}

/// All is proven: how fast that went is remembered.
fn proven(scene: &Scene, bytes: u64, began: Instant) -> Result<Event> {
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    scene.book.change(|record| record.proven(bytes, millis))?;
    Ok(Event::Proven)
}
