//! One pass over all disks of the VM at once.

use super::act::stands;
use super::pool::Links;
use super::progress::Progress;
use super::scene::{Scene, interrupted, raw};
use crate::changes::Baseline;
use crate::changes::guest::{Guest, Point};
use crate::error::{Error, Kind, Result};
use crate::job::options::{CopyOptions, JournalPlace, Making, Pass, Zeroes};
use crate::job::{self, Outcome, Untracked};
use crate::migrate::phase::{Event, PassKind};
use crate::migrate::record::waited_for;
use crate::pipeline::counters::Counters;
use crate::pipeline::{Stop, Stopper};
use crate::report;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Copies every disk up to the point `number`; says so once all of them are durable.
///
/// # Errors
/// `Interrupted` if `halt` came; or a disk failed for good. What is durable is not copied again.
pub(super) async fn run(scene: &Scene, number: u32, kind: PassKind, halt: Stop) -> Result<Event> {
    let began = Instant::now();
    let mut lost = Vec::new();
    let copied = copy_all(scene, number, kind, &mut lost, halt.clone()).await;
    let copying = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    scene.book.change(|record| {
        record.pass.copying = record.pass.copying.saturating_add(copying);
    })?;
    let failed = match copied {
        // What was read counts only if the point stood until the end of it.
        Ok(()) if stands(scene, number, halt.clone()).await? => {
            tell(scene);
            return Ok(Event::PassDone);
        }
        Ok(()) => Error::new(Kind::Io, "the snapshot was gone before the pass was over"),
        Err(error) if error.kind() == Kind::Interrupted => return Err(error),
        Err(error) => error,
    };
    if !stands(scene, number, halt.clone()).await? {
        return Ok(Event::PointLost(failed.line()));
    }
    if kind == PassKind::Final {
        let call = async |guest: &dyn Guest| guest.quiet().await;
        let quiet = scene.ask("ask whether the VM is quiet", halt, call).await?;
        if quiet.is_none() {
            return Ok(Event::NotQuiet(failed.line()));
        }
    }
    // Only of a point that stood: another moment's bytes say nothing against the list.
    let Some(Untold { why, .. }) = lost.first() else {
        return Err(failed);
    };
    let why = why.clone();
    for untold in lost {
        scene.lose_tracking(untold.disk, &untold.why, untold.for_good)?;
    }
    Ok(Event::TrackingLost(why))
}

/// A disk whose tracker was no use.
struct Untold {
    disk: usize,
    why: String,
    for_good: bool,
}

impl Untold {
    /// What made a disk's pass fail, if it was its tracker.
    fn of(disk: usize, error: &Error) -> Option<Self> {
        let found = Untracked::of(error)?;
        Some(Self {
            disk,
            why: found.to_string(),
            for_good: found.for_good(),
        })
    }
}

async fn copy_all(
    scene: &Scene,
    number: u32,
    kind: PassKind,
    lost: &mut Vec<Untold>,
    mut halt: Stop,
) -> Result<()> {
    let record = scene.book.record();
    let goals = record.pass.disks.iter().zip(&record.disks);
    let goals = goals.map(|(pass, disk)| pass.changed.or(Some(disk.size)));
    let counters = scene.board.begin(goals.collect());
    let (stopper, stop) = Stopper::new();
    let points = scene.points();
    let links = scene.links(&points);
    let gate = Arc::new(Semaphore::new(links.at_once));
    // The rate of this hour first, and then what goes by it.
    let mut progress = Progress::new(scene);
    let mut jobs = JoinSet::new();
    for (i, point) in points.iter().enumerate() {
        let Some(counters) = counters.get(i) else {
            continue;
        };
        if record
            .disks
            .get(i)
            .is_some_and(|disk| disk.complete >= number)
        {
            continue;
        }
        let options = options(scene, i, point, kind, links)?;
        begin(scene, i, number, &options)?;
        let ends = [&options.source, &options.target];
        let context = scene.context(&point.name, &ends, counters, &stop);
        let (gate, name, counters) = (gate.clone(), point.name.clone(), counters.clone());
        jobs.spawn(async move {
            let _turn = gate.acquire().await;
            let copied = job::copy(&options, context).await;
            let copied = copied.map_err(|error| error.context(format!("disk {name}")));
            (i, counters, copied)
        });
    }
    let mut failed: Option<Error> = None;
    while !jobs.is_empty() {
        tokio::select! {
            Some(ended) = jobs.join_next() => {
                let (i, counters, copied) =
                    ended.map_err(|error| Error::new(Kind::Io, "copy a disk").because(error))?;
                settle(scene, i, number, &counters, copied.as_ref().ok())?;
                if let Err(error) = copied {
                    lost.extend(Untold::of(i, &error));
                    // The others go on from where they are now, in the next attempt.
                    stopper.stop();
                    failed = Some(worse(failed, error));
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
    scene.board.end();
    failed.map_or(Ok(()), Err)
}

/// The one that says more: that a disk was stopped because another failed says nothing.
fn worse(one: Option<Error>, other: Error) -> Error {
    match one {
        Some(one) if other.kind() == Kind::Interrupted => one,
        _ => other,
    }
}

fn options(
    scene: &Scene,
    disk: usize,
    point: &Point,
    kind: PassKind,
    links: Links,
) -> Result<CopyOptions> {
    let unknown = || {
        Error::new(
            Kind::Refused,
            format!("the plan has no disk {}", point.name),
        )
    };
    let plan = scene.plan.disks.get(disk).ok_or_else(unknown)?;
    let begun = scene
        .book
        .look(|record| record.disks.get(disk).is_some_and(|disk| disk.begun > 0));
    Ok(CopyOptions {
        source: point.address.clone(),
        reading: raw(),
        target: plan.target.clone(),
        making: Making::default(),
        pass: Pass {
            changes_since: match point.since {
                Some(_) if scene.compares(disk) => Some(Baseline::Digest),
                _ => point.since.clone(),
            },
            is_final: kind == PassKind::Final,
        },
        journal: JournalPlace::Path(scene.book.store.journal(&plan.name)),
        adopt: false,
        restart: false,
        // What is there by now is ours.
        overwrite: scene.plan.overwrite || begun,
        allow_sector_mismatch: scene.plan.allow_sector_mismatch,
        // Proof is a step of its own.
        verify: Some(false),
        distrust_ppm: scene.plan.distrust_ppm,
        digest: scene.plan.digest,
        tuning: scene.tuning(links),
        zeroes: Zeroes::default(),
    })
}

/// Records that a disk's pass begins. What was copied of everything from another point is no use:
/// nothing tells what changed in between.
fn begin(scene: &Scene, disk: usize, number: u32, options: &CopyOptions) -> Result<()> {
    let found = scene.book.look(|record| record.disks.get(disk).cloned());
    let Some(found) = found.filter(|found| found.begun != number) else {
        return Ok(());
    };
    if options.pass.changes_since.is_none() {
        scene.book.store.forget_copy(&found.name)?;
    }
    scene.book.change(|record| {
        if let Some(disk) = record.disks.get_mut(disk) {
            disk.begun = number;
        }
    })
}

/// Records what a run did on a disk, and whether it is complete now.
fn settle(
    scene: &Scene,
    disk: usize,
    number: u32,
    counters: &Counters,
    complete: Option<&Outcome>,
) -> Result<()> {
    let totals = counters.snapshot();
    // A process before this one caught its tracker, and died before it could say so.
    if complete.is_some_and(|outcome| outcome.distrusted) {
        scene.lose_tracking(disk, "the tracker left out a change", true)?;
    }
    let complete = complete.is_some();
    scene.book.change(|record| {
        if let Some(pass) = record.pass.disks.get_mut(disk) {
            pass.add(&totals);
            pass.complete |= complete;
        }
        let written = totals.written.saturating_add(totals.zeroed);
        // After the first pass nothing is proven of a disk, what it skipped included.
        let first = number == 1;
        record.written(disk, if first { u64::MAX } else { written });
        if complete {
            record.complete(disk, number);
        }
        record.pass.waited_for = waited_for(totals.bottleneck).to_owned();
    })
}

fn tell(scene: &Scene) {
    let pass = scene.book.look(|record| record.pass.clone());
    let mut disks = pass.disks.iter();
    let changed = disks.try_fold(0u64, |sum, disk| Some(sum.saturating_add(disk.changed?)));
    let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
    let read = pass
        .disks
        .iter()
        .fold(0u64, |sum, disk| sum.saturating_add(disk.read));
    scene.tell(&report::Event::Pass {
        point: pass.point,
        pass: pass.kind,
        changed,
        read,
        copying: seconds(pass.copying),
        expected_bytes: pass.expected.map(|expected| expected.bytes),
        expected_copying: pass.expected.map(|expected| seconds(expected.copying)),
    });
}
