//! Between two passes: policy is asked until it wants something.

use super::scene::{Scene, interrupted};
use crate::error::Result;
use crate::migrate::book;
use crate::migrate::forecast::{Forecast, forecast};
use crate::migrate::phase::Event;
use crate::migrate::policy::{Decision, Facts, Next, decide};
use crate::migrate::record::Expected;
use crate::migrate::status::forecast_event;
use crate::pipeline::Stop;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Policy is asked again this often: a clock may be set, and what is expected grows.
const LOOK: Duration = Duration::from_secs(1);

/// Waits until a pass or a cutover should begin.
///
/// # Errors
/// `halt` came.
pub(super) async fn wait(scene: &Scene, mut halt: Stop) -> Result<Event> {
    let mut told = None;
    loop {
        let outlook = outlook(scene);
        scene.board.change(|live| live.forecast = outlook.clone());
        let Decision { next, advice } = ask(scene, &outlook);
        if told.as_ref() != Some(&advice) {
            scene.tell(&forecast_event(&outlook, advice.clone()));
            told = Some(advice.clone());
        }
        scene.board.change(|live| live.advice = advice);
        let time = match next {
            Next::Due => {
                scene.count_round(early(scene));
                return Ok(Event::Due);
            }
            Next::Arm => return Ok(Event::Arm),
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

fn ask(scene: &Scene, outlook: &Forecast) -> Decision {
    scene.book.look(|record| {
        decide(&Facts {
            interval: scene.plan.precopy_interval,
            cutover: scene.plan.cutover,
            asked: record.state.cutover,
            called_off: record.state.called_off.is_some(),
            first: record.state.durable == 0,
            since: since(record.frozen_at(record.state.durable)),
            now: book::now() / 1000,
            forecast: outlook,
            rounds: scene.rounds(),
            waited_for: &record.pass.waited_for,
        })
    })
}

/// Whether a pass that begins now begins before the interval is over.
fn early(scene: &Scene) -> bool {
    scene.book.look(|record| {
        let frozen = record.frozen_at(record.state.durable);
        frozen.is_some() && since(frozen) < scene.plan.precopy_interval
    })
}

/// What is expected, as of now.
pub(super) fn outlook(scene: &Scene) -> Forecast {
    scene.book.look(|record| {
        let since = since(record.frozen_at(record.state.durable));
        forecast(&record.passes, since, None)
    })
}

/// What is expected of a pass that begins now.
pub(super) fn expected(scene: &Scene) -> Option<Expected> {
    let next = outlook(scene).next?;
    Some(Expected {
        bytes: next.bytes,
        copying: next.millis,
    })
}

/// Time since a moment; none if it has not come yet, as the clock has it.
fn since(frozen: Option<u64>) -> Duration {
    let passed = frozen.and_then(|frozen| book::now().checked_sub(frozen));
    Duration::from_millis(passed.unwrap_or(0))
}
