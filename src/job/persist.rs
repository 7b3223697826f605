//! Tries a pass again when something failed that may pass: a server that was restarted, a network
//! that was gone. Each attempt opens both ends anew and continues from the last barrier.

use super::context::Context;
use super::copy::Outcome;
use super::options::CopyOptions;
use super::patience::Patience;
use super::place::is_journaled;
use super::prepare::attempt;
use crate::error::{Error, Kind, Result};
use crate::source::http::BrokenOff;
use std::time::Instant;

/// Copies one disk, one pass.
///
/// A transient failure is tried again from the last barrier, for as long as something moves and
/// then for as long as the options say; not without a journal, and not if the first attempt moved
/// nothing: then an address is wrong rather than a network gone. A server that broke off is asked for
/// all of the disk, which needs no journal, and moves only if more comes than ever before.
///
/// # Errors
/// See [`Kind`]; nothing is lost, and the same command continues where this run stopped.
pub async fn copy(options: &CopyOptions, mut context: Context) -> Result<Outcome> {
    let mut patience = Patience::default();
    let mut restart = options.restart;
    let mut furthest = 0;
    loop {
        let before = moved(&context);
        let error = match attempt(options, context.clone(), restart).await {
            Err(error) if may_pass(options, &error) => error,
            outcome => return outcome,
        };
        restart = false;
        let broken = error.caused_by::<BrokenOff>();
        let (progress, how) = match broken {
            Some(broken) => (broken.came > furthest, "beginning anew"),
            None => (
                moved(&context) > before,
                "trying again from the last barrier",
            ),
        };
        furthest = broken.map_or(furthest, |broken| broken.came.max(furthest));
        let Some(delay) = patience.after(progress, Instant::now(), options.tuning.retry) else {
            return Err(error);
        };
        context.warn(format!("{}; {how}", error.line()));
        tokio::select! {
            () = context.stop.requested() => return Err(error.with_kind(Kind::Interrupted)),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

fn may_pass(options: &CopyOptions, error: &Error) -> bool {
    let has_where = is_journaled(&options.target, &options.journal);
    error.kind() == Kind::Transient && (has_where || error.caused_by::<BrokenOff>().is_some())
}

/// Bytes that went anywhere so far.
fn moved(context: &Context) -> u64 {
    let totals = context.counters.snapshot();
    [totals.read, totals.zeroed, totals.verified]
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
}
