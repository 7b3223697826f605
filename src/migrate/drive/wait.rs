//! Between two passes: policy is asked until it wants something.

use super::scene::{Scene, interrupted};
use crate::error::Result;
use crate::migrate::book;
use crate::migrate::forecast::{Forecast, Now, Proofs, forecast};
use crate::migrate::phase::Event;
use crate::migrate::policy::{Decision, Facts, Next, decide};
use crate::migrate::record::Expected;
use crate::migrate::status::forecast_event;
use crate::pipeline::Stop;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Policy is asked again this often: a clock may be set, and what is expected grows.
const LOOK: Duration = Duration::from_secs(1);

/// The guest is asked what has changed this often,
const AGAIN: Duration = Duration::from_secs(2);

/// for so long at most,
const PATIENCE: Duration = Duration::from_secs(5);

/// and what it said is gone by for so long.
const FRESH: Duration = Duration::from_secs(5);

/// Waits until a pass or a cutover should begin.
///
/// # Errors
/// `halt` came.
pub(super) async fn wait(scene: &Scene, mut halt: Stop) -> Result<Event> {
    let mut told = None;
    loop {
        look_at_changes(scene, halt.clone()).await;
        let outlook = outlook(scene);
        scene.board.change(|live| live.forecast = outlook.clone());
        let (Decision { next, advice }, hurried) = ask(scene, &outlook);
        if told.as_ref() != Some(&advice) {
            scene.tell(&forecast_event(&outlook, advice.clone()));
            told = Some(advice.clone());
        }
        scene.board.change(|live| live.advice = advice);
        let time = match next {
            Next::Due => {
                scene.count_round(hurried);
                return Ok(Event::Due);
            }
            Next::Arm => return Ok(Event::Arm),
            Next::Prove => {
                scene.count_round(true);
                return Ok(Event::ProveDue);
            }
            Next::Wait(time) => time,
        };
        scene.board.change(|live| {
            live.due = Instant::now().checked_add(time);
        });
        let halted = tokio::select! {
            () = halt.requested() => true,
            () = sleep(time.min(LOOK)) => false,
        };
        scene.board.change(|live| live.due = None);
        if halted {
            return Err(interrupted());
        }
    }
}

/// What should happen now, and whether a pass would be a hurried one.
fn ask(scene: &Scene, outlook: &Forecast) -> (Decision, bool) {
    scene.book.look(|record| {
        let facts = Facts {
            interval: scene.plan.precopy_interval,
            cutover: scene.plan.cutover,
            asked: record.state.cutover,
            called_off: record.state.called_off.is_some(),
            first: record.state.durable == 0,
            since: since(scene, record.frozen_at(record.state.durable)),
            now: book::clock() / 1000,
            measured: record.passes.iter().any(|pass| !pass.is_full()),
            forecast: outlook,
            rounds: scene.rounds(),
            waited_for: &record.pass.waited_for,
        };
        (decide(&facts), facts.is_hurried())
    })
}

/// What is expected, as of now.
pub(super) fn outlook(scene: &Scene) -> Forecast {
    let (age, changed) = scene.board.changed(FRESH);
    let limit = scene.rate_now();
    scene.book.look(|record| {
        let now = Now {
            since: since(scene, record.frozen_at(record.state.durable)),
            changed: &changed,
            age,
            limit,
        };
        let disks = || record.disks.iter();
        let proofs = Proofs {
            when: scene.plan.prove,
            unproven: disks().fold(0, |sum, disk| disk.unproven.saturating_add(sum)),
            size: disks().fold(0, |sum, disk| disk.size.saturating_add(sum)),
            speed: record.proof_speed,
        };
        forecast(&record.passes, &now, &proofs)
    })
}

/// Asks what has changed since the last point. Where that cannot be told for the moment, nothing is
/// lost but a better forecast.
pub(super) async fn look_at_changes(scene: &Scene, mut halt: Stop) {
    let durable = scene.book.look(|record| record.state.durable);
    if durable == 0 || !scene.board.changes_are_older_than(AGAIN) {
        return;
    }
    let changed = tokio::select! {
        () = halt.requested() => return,
        changed = timeout(PATIENCE, scene.changed_since(durable)) => changed,
    };
    let changed = match changed {
        Ok(Ok(changed)) => changed.unwrap_or_default(),
        Ok(Err(error)) => {
            tracing::debug!("what has changed is not known: {}", error.line());
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    scene
        .board
        .change(|live| live.changed = Some((Instant::now(), changed)));
}

/// What is expected of a pass that begins now.
pub(super) fn expected(scene: &Scene) -> Option<Expected> {
    let next = outlook(scene).next?;
    Some(Expected {
        bytes: next.bytes,
        copying: next.millis,
    })
}

/// Time since a point was frozen. If that has not come yet, as the clock has it, then the clock was
/// turned back between two processes; that a whole interval has passed is on the safe side: a pass
/// is due, and the outage is not taken for a short one.
fn since(scene: &Scene, frozen: Option<u64>) -> Duration {
    let Some(frozen) = frozen else {
        return Duration::ZERO;
    };
    let passed = book::now().checked_sub(frozen);
    passed.map_or(scene.plan.precopy_interval, Duration::from_millis)
}
