//! One action, done: what the machine is told of it.

use super::scene::{Scene, interrupted};
use super::{certificate, hook, label, measure, pass, proof, wait};
use crate::changes::Baseline;
use crate::changes::guest::{Guest, Point};
use crate::error::{Error, Kind, Result};
use crate::migrate::book;
use crate::migrate::phase::{Action, Event, PassKind, State, Step};
use crate::migrate::preview;
use crate::migrate::record::Expected;
use crate::pipeline::Stop;

/// Does `action`, which may be stopped through `halt`.
///
/// # Errors
/// `Interrupted` if it was stopped; else it failed for good, or for too long.
pub(super) async fn act(
    scene: &Scene,
    state: &State,
    action: &Action,
    halt: Stop,
) -> Result<Event> {
    match *action {
        Action::Inspect => inspect(scene, state, halt).await,
        Action::RunHook(hook) => hook::run(scene, state, hook, halt).await,
        Action::Snapshot {
            number,
            since,
            again,
        } => {
            if again && !stands(scene, number, halt.clone()).await? {
                return Ok(Event::PointLost("its snapshot is gone".to_owned()));
            }
            let expected = wait::expected(scene);
            let call = async |guest: &dyn Guest| guest.snapshot(number, since).await;
            let points = scene.ask("freeze the disks", halt.clone(), call).await?;
            frozen(scene, state, points, expected, halt).await
        }
        Action::Last {
            number,
            since,
            again,
        } => last(scene, state, (number, since, again), halt).await,
        // Which lists are not relied on is recorded disk by disk.
        Action::Pass { number, kind, .. } => pass::run(scene, number, kind, halt).await,
        Action::Release { number } => {
            let call = async |guest: &dyn Guest| guest.release(number).await;
            scene.ask("release the snapshot", halt, call).await?;
            Ok(Event::Released)
        }
        Action::ForgetBefore { number } => {
            let call = async |guest: &dyn Guest| guest.forget_before(number).await;
            scene.ask("drop older tracking", halt, call).await?;
            Ok(Event::Forgotten)
        }
        Action::Wait => wait::wait(scene, halt).await,
        Action::Hold | Action::Stop | Action::Finish => pause(halt).await,
        Action::Prove { all } => proof::prove(scene, all, halt).await,
        Action::Quiesce => quiesce(scene, halt).await,
        Action::CheckQuiet => {
            let call = async |guest: &dyn Guest| guest.quiet().await;
            let quiet = scene.ask("ask whether the VM is quiet", halt, call).await?;
            Ok(quiet.map_or_else(|| Event::NotQuiet(RUNS.to_owned()), Event::Quiet))
        }
        Action::WriteCertificate => certificate::write(scene).await,
        Action::Clean => clean(scene, halt).await,
        Action::Wake => {
            let call = async |guest: &dyn Guest| guest.wake().await;
            scene.ask("let the VM run again", halt, call).await?;
            Ok(Event::Woken)
        }
        Action::LabelIncomplete => label::incomplete(scene),
    }
}

const RUNS: &str = "the VM runs";

/// Until somebody wants something.
async fn pause(mut halt: Stop) -> Result<Event> {
    halt.requested().await;
    Err(interrupted())
}

/// The VM is there, and its disks are those that the migration began with.
async fn inspect(scene: &Scene, state: &State, halt: Stop) -> Result<Event> {
    let call = async |guest: &dyn Guest| guest.disks().await;
    let facts = scene.ask("look at the VM", halt.clone(), call).await?;
    let refused = |what: String| Err(Error::new(Kind::Refused, what));
    let disks = scene.book.look(|record| record.disks.clone());
    for disk in &disks {
        let Some(fact) = facts.iter().find(|fact| fact.name == disk.name) else {
            return refused(format!("the VM has no disk {}", disk.name));
        };
        if disk.size != 0 && disk.size != fact.size {
            let (was, is) = (disk.size, fact.size);
            return refused(format!(
                "disk {} had {was} bytes when the migration began, and has {is} now",
                disk.name
            ));
        }
        tracing::info!(disk = disk.name, size = fact.size, tracking = fact.tracking);
    }
    scene.book.change(|record| {
        for disk in &mut record.disks {
            if let Some(fact) = facts.iter().find(|fact| fact.name == disk.name) {
                disk.size = fact.size;
            }
        }
    })?;
    if state.step == Step::Preflight {
        preview::check_targets(scene).await?;
        check_shutdown(scene, halt).await?;
    }
    Ok(Event::Inspected)
}

/// The VM can be made quiet as the plan says: to learn in the cutover that it cannot is late.
async fn check_shutdown(scene: &Scene, halt: Stop) -> Result<()> {
    let call = async |guest: &dyn Guest| preview::check_shutdown(&scene.plan, guest).await;
    scene
        .ask("look how the VM can be made quiet", halt, call)
        .await
}

/// Whether every disk of a point can be read.
pub(super) async fn stands(scene: &Scene, number: u32, halt: Stop) -> Result<bool> {
    let call = async |guest: &dyn Guest| guest.points().await;
    let points = scene.ask("ask which points stand", halt, call).await?;
    let found = points.iter().find(|point| point.number == number);
    Ok(found.is_some_and(|point| point.readable))
}

/// The quiet disks, and what changed up to the end.
async fn last(
    scene: &Scene,
    state: &State,
    (number, since, again): (u32, Option<u32>, bool),
    halt: Stop,
) -> Result<Event> {
    let call = async |guest: &dyn Guest| guest.quiet().await;
    let quiet = scene
        .ask("ask whether the VM is quiet", halt.clone(), call)
        .await?;
    if quiet.is_none() {
        return Ok(Event::NotQuiet(RUNS.to_owned()));
    }
    if again && !stands(scene, number, halt.clone()).await? {
        return Ok(Event::PointLost(
            "the export of the quiet disks is gone".to_owned(),
        ));
    }
    let expected = wait::expected(scene);
    let call = async |guest: &dyn Guest| guest.last(number, since).await;
    let points = scene
        .ask("read the quiet disks", halt.clone(), call)
        .await?;
    frozen(scene, state, points, expected, halt).await
}

/// A point stands: where it is read, and what changed up to it.
async fn frozen(
    scene: &Scene,
    state: &State,
    mut points: Vec<Point>,
    expected: Option<Expected>,
    halt: Stop,
) -> Result<Event> {
    let now = book::now();
    let expected = expected.filter(|_| state.kind != PassKind::Full);
    scene
        .book
        .change(|record| record.freeze(state.point, state.kind, now, expected))?;
    compare(scene, &mut points)?;
    let changed = measure::changed(scene, &mut points, halt).await?;
    compare(scene, &mut points)?;
    scene.book.change(|record| {
        for (disk, changed) in record.pass.disks.iter_mut().zip(&changed) {
            disk.changed = *changed;
        }
    })?;
    let answer = scene.book.look(|record| {
        let same = |disk: usize| record.found_same(disk, state.since());
        measure::verdict(&points, &changed, same)
    });
    scene.set_points(points);
    Ok(Event::Snapshotted(answer))
}

/// Has all of a disk compared where what tells its changes cannot be relied on.
fn compare(scene: &Scene, points: &mut [Point]) -> Result<()> {
    for (i, point) in points.iter_mut().enumerate() {
        let planned = scene.plan.disks.get(i);
        // Nobody relies on it.
        if planned.is_some_and(|disk| disk.digest_only) {
            point.lost = None;
        }
        if let Some(lost) = &point.lost {
            scene.lose_tracking(i, lost, false)?;
        }
        if point.since.is_some() && scene.compares(i) {
            point.since = Some(Baseline::Digest);
        }
    }
    Ok(())
}

async fn quiesce(scene: &Scene, halt: Stop) -> Result<Event> {
    wait::look_at_changes(scene, halt.clone()).await;
    let promised = wait::outlook(scene).outage.map(|outage| outage.millis);
    scene.book.change(|record| {
        if let Some(outage) = &mut record.outage {
            outage.expected = promised;
        }
    })?;
    let how = &scene.plan.shutdown;
    let call = async |guest: &dyn Guest| guest.quiesce(how).await;
    match scene.ask("make the VM quiet", halt.clone(), call).await {
        Ok(quiet) => Ok(Event::Quiet(quiet)),
        Err(error) if [Kind::Transient, Kind::Interrupted].contains(&error.kind()) => Err(error),
        Err(error) => {
            // Half of it may have been done: a VM that is paused must run again.
            let call = async |guest: &dyn Guest| guest.wake().await;
            scene.ask("let the VM run again", halt, call).await?;
            Ok(Event::NotQuiet(error.line()))
        }
    }
}

async fn clean(scene: &Scene, halt: Stop) -> Result<Event> {
    let call = async |guest: &dyn Guest| guest.clean().await;
    let removed = scene.ask("clean up on the VM", halt, call).await?;
    tracing::info!(?removed, "cleaned up");
    Ok(Event::Cleaned)
}
