//! The loop that does what the machine says: one action at a time, its state durable before it.
//!
//! ```text
//!  scene.rs     all that actions work with; calls to the guest, repeated as the plan allows
//!  act.rs       an action, done
//!  pool.rs      what all disks share: memory, requests, connections, bytes per second
//!  measure.rs   how much changed up to a point
//!  pass.rs      all disks copied at once
//!  proof.rs     what was written, read back
//!  certificate.rs  what was proven, of what, and how it is known
//!  wait.rs      policy, asked until it wants something
//!  hook.rs      the user's commands
//!  label.rs     what a cancelled migration leaves beside its targets
//!  progress.rs  how far all disks are together
//! ```

mod act;
mod certificate;
mod hook;
mod label;
mod measure;
mod pass;
mod pool;
mod progress;
mod proof;
mod scene;
mod wait;

pub(super) use scene::{Scene, raw};

use scene::{FIRST_DELAY, LONGEST_DELAY};

use super::phase::{Action, Event, Refusal, State};
use super::status;
use crate::changes::guest::Guest;
use crate::error::{Error, Kind, Result};
use crate::pipeline::{Stop, Stopper};
use crate::report;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// How long an action that cannot be stopped may go on after the process was told to end. What it
/// does is repeated by the next process, so that nothing is lost by leaving it.
const GRACE: Duration = Duration::from_secs(10);

/// Points that may be lost one after the other before it is called a failure.
const LOST_MAX: u32 = 5;

/// What a user wants, and who is told what came of it.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) event: Event,
    pub(super) answer: Option<oneshot::Sender<std::result::Result<(), String>>>,
}

/// Drives a migration to its end, from wherever it is.
///
/// # Errors
/// `Interrupted` if `stop` came; or an action failed for good, and the migration is stopped.
/// Everything is kept, and the next process goes on.
pub(super) async fn drive(
    scene: &Scene,
    wishes: &mut mpsc::Receiver<Wish>,
    mut stop: Stop,
) -> Result<()> {
    // Also after the end: the hooks and the guest have nothing to do then.
    turn(scene, Event::Started)?;
    while let Ok(wish) = wishes.try_recv() {
        grant(scene, wish)?;
    }
    let mut lost = 0;
    let mut trouble = Trouble::default();
    loop {
        let state = scene.book.state();
        let action = state.action(&scene.rules);
        match action {
            Action::Finish => return Ok(()),
            Action::Stop => {
                let why = state.stopped.unwrap_or_default();
                return Err(Error::new(Kind::Io, why));
            }
            _ => {}
        }
        tracing::debug!(?action, "begins");
        let began = Instant::now();
        let event = match one(scene, &state, &action, wishes, &mut stop).await? {
            Some(Ok(event)) => event,
            Some(Err(error)) if error.kind() == Kind::Interrupted => return Err(error),
            Some(Err(error)) => match trouble.delay(&error, began, scene.plan.retry) {
                Some(delay) => {
                    scene.warn(format!("{}; trying again", error.line()));
                    tokio::select! {
                        () = stop.requested() => return Err(scene::interrupted()),
                        () = sleep(delay) => continue,
                    }
                }
                None => return Err(fail(scene, error).await?),
            },
            None => continue,
        };
        trouble = Trouble::default();
        lost = match &event {
            Event::PointLost(_) => lost + 1,
            Event::PassDone => 0,
            _ => lost,
        };
        if let (Event::PointLost(why), true) = (&event, lost >= LOST_MAX) {
            let what = format!("{lost} points were lost one after the other, the last one");
            let error = Error::new(Kind::Io, what).because(why.clone());
            return Err(fail(scene, error).await?);
        }
        if let Event::PointLost(why) = &event {
            scene.warn(format!("point {}: {why}; another one is made", state.point));
        }
        turn(scene, event)?;
    }
}

/// Actions that failed one after the other by what may pass: a server that hangs up on whoever
/// connects to it, for one. What is lost later is made anew further down.
#[derive(Debug, Default)]
struct Trouble {
    /// When the first of them began.
    since: Option<Instant>,
    last: Option<Duration>,
}

impl Trouble {
    /// Time until an action that began at `began` is repeated; none if it has failed for good, or
    /// as long as the plan allows.
    fn delay(&mut self, error: &Error, began: Instant, retry: Duration) -> Option<Duration> {
        let since = *self.since.get_or_insert(began);
        let next = self.last.map(|last| last.saturating_mul(2));
        let delay = next.unwrap_or(FIRST_DELAY).min(LONGEST_DELAY);
        self.last = Some(delay);
        let late = since.elapsed().saturating_add(delay) > retry;
        (error.kind() == Kind::Transient && !late).then_some(delay)
    }
}

/// Does one action, or as much of it as users let it do; `None` if they want something else.
async fn one(
    scene: &Scene,
    state: &State,
    action: &Action,
    wishes: &mut mpsc::Receiver<Wish>,
    stop: &mut Stop,
) -> Result<Option<Result<Event>>> {
    let (stopper, halt) = Stopper::new();
    let mut running = pin!(act::act(scene, state, action, halt));
    loop {
        let wish = tokio::select! {
            ended = &mut running => return Ok(Some(ended)),
            wish = wishes.recv() => wish,
            () = stop.requested() => {
                stopper.stop();
                let ended = timeout(GRACE, &mut running).await;
                // What has ended need not be done again.
                if let Ok(Ok(event)) = ended {
                    turn(scene, event)?;
                }
                return Ok(Some(Err(scene::interrupted())));
            }
        };
        let Some(wish) = wish else {
            return Ok(Some(running.await));
        };
        grant(scene, wish)?;
        let other = scene.book.state().action(&scene.rules) != *action;
        // Policy looks again at what it waits for, whatever was wished.
        if other || matches!(action, Action::Wait) {
            stopper.stop();
            let _stale = running.await;
            return Ok(None);
        }
    }
}

/// Tells the machine of a wish, and whoever wished what came of it.
fn grant(scene: &Scene, wish: Wish) -> Result<()> {
    let granted = scene.turn(wish.event)?;
    match (granted, wish.answer) {
        (granted, Some(answer)) => {
            // Whoever asked may be gone.
            let _ = answer.send(granted.map(|_| ()).map_err(|refusal| refusal.to_string()));
        }
        (Err(refusal), None) => scene.warn(format!("not done: {refusal}")),
        (Ok(_), None) => {}
    }
    Ok(())
}

/// An answer to the action under way; one that came too late changes nothing.
fn turn(scene: &Scene, event: Event) -> Result<()> {
    match scene.turn(event)? {
        Ok(_) | Err(Refusal::Stale | Refusal::NotNow(_)) => Ok(()),
    }
}

/// Gives back a snapshot that nobody will watch: what the VM overwrites is kept for it, until there is
/// no room and the VM stands still. Another one takes its place when somebody goes on.
async fn give_back(scene: &Scene, why: &str) -> Result<()> {
    let number = scene.book.state().point;
    turn(scene, Event::PointLost(why.to_owned()))?;
    let call = async |guest: &dyn Guest| guest.release(number).await;
    match timeout(GRACE, scene.ask_once(call)).await {
        Ok(Ok(())) => turn(scene, Event::Released),
        // Then whoever goes on begins with it.
        Ok(Err(error)) => {
            tracing::warn!(number, "not given back: {}", error.line());
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

/// Records a failure; gives it back for whoever called.
async fn fail(scene: &Scene, error: Error) -> Result<Error> {
    let why = error.line();
    if scene.book.state().may_be_given_back() {
        give_back(scene, &why).await?;
    }
    turn(
        scene,
        match error.kind() {
            Kind::Mismatch => Event::Unproven(why),
            _ => Event::Failed(why),
        },
    )?;
    tracing::error!("{}", error.line());
    let state = scene.book.state();
    let phase = status::name(state.reached());
    let standing = if state.may_be_frozen() {
        format!(
            "; until then the snapshot of point {} may stand, and what the VM overwrites is kept \
             for it: do not wait long, or cancel",
            state.point
        )
    } else {
        String::new()
    };
    scene.tell(&report::Event::Warning {
        message: format!("stopped in phase {phase}; the same command goes on there{standing}"),
    });
    Ok(error)
}
