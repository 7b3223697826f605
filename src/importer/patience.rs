//! Does something again while it fails for a moment: whoever started the pod gives up after a few
//! restarts of it.

use super::log;
use crate::error::{Kind, Result};
use crate::pipeline::Stop;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Time before another try at something of which nothing has moved.
const PAUSE: Duration = Duration::from_secs(5);

/// Does `work` until it succeeds, fails for good, or `retry` is over.
///
/// # Errors
/// Those of the work; `Interrupted` if an end is asked for.
pub(super) async fn patiently<T, W, F>(retry: Duration, mut stop: Stop, mut work: W) -> Result<T>
where
    W: FnMut() -> F,
    F: Future<Output = Result<T>>,
{
    let ends = Instant::now().checked_add(retry);
    loop {
        let error = match work().await {
            Err(error) if error.kind() == Kind::Transient => error,
            done => return done,
        };
        if ends.is_none_or(|ends| Instant::now() + PAUSE > ends) {
            return Err(error);
        }
        log(&format!("{}; trying again", error.line()));
        tokio::select! {
            () = stop.requested() => return Err(error.with_kind(Kind::Interrupted)),
            () = sleep(PAUSE) => {}
        }
    }
}
