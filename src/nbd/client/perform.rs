//! One request from the first attempt to the last: what is tried again, and what an error means.

use super::BASE_ALLOCATION;
use super::barrier::Broken;
use super::connection::Outcome;
use super::driver::Failure;
use super::pool::Pool;
use super::request::Work;
use super::transmission::Answer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::client::assembly::ServerError;
use crate::nbd::wire::errno;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl Failure {
    /// Whether the same request may succeed when repeated.
    fn may_pass(&self) -> bool {
        match self {
            // A disk behind the server may recover; a server that has no memory or shuts down
            // may have more, or a successor, in a moment.
            Self::Answer(error) => {
                matches!(error.code, errno::EIO | errno::ENOMEM | errno::ESHUTDOWN)
            }
            Self::Lost(error) => error.kind() == Kind::Transient,
        }
    }

    /// The failure for people.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Answer(error) => answer_error(&error),
            Self::Lost(shared) => Error::new(shared.kind(), shared.line()),
        }
    }
}

fn answer_error(answer: &ServerError) -> Error {
    let kind = match answer.code {
        errno::ESHUTDOWN => Kind::Transient,
        errno::ENOTSUP => Kind::Unsupported,
        _ => Kind::Io,
    };
    // A number that the specification does not know counts as EINVAL.
    let code = i32::try_from(answer.code).unwrap_or(22);
    let doing = if answer.text.is_empty() {
        "the server answers".to_owned()
    } else {
        format!("the server answers {:?}", answer.text)
    };
    let error = Error::new(kind, doing).because(io::Error::from_raw_os_error(code));
    match answer.offset {
        Some(offset) => error.at(offset),
        None => error,
    }
}

/// How often and since when a request has failed.
#[derive(Default)]
struct Failures {
    attempts: u32,
    since: Option<Instant>,
}

impl Failures {
    /// How long to pause before the next attempt; `None` if there is none.
    fn pause(&mut self, pool: &Pool) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let pause = pool.retry().pause(self.attempts, since.elapsed());
        self.attempts = self.attempts.saturating_add(1);
        pause
    }
}

/// Has a request done on whatever connection, again and again within the deadline.
///
/// Every request here may be repeated: it either reads or makes a range what it would be anyway.
pub(super) async fn perform(pool: &Arc<Pool>, mut work: Work) -> Result<Answer> {
    let mut failures = Failures::default();
    loop {
        let (may_pass, error, again) = match pool.take().await {
            Err(error) => (error.kind() == Kind::Transient, error, Some(work)),
            Ok(connection) => {
                // Held until the answer is noted: whoever makes a connection again in between
                // must see the one or the other.
                let changing = work.changes().then(|| connection.changing());
                match connection.submit(work).await {
                    Ok(answer) => {
                        if changing.is_some() {
                            pool.barrier().wrote();
                        }
                        return Ok(answer);
                    }
                    Err((failure, again)) => (failure.may_pass(), failure.into_error(), again),
                }
            }
        };
        let pause = if may_pass { failures.pause(pool) } else { None };
        let (Some(pause), Some(again)) = (pause, again) else {
            return Err(error);
        };
        pool.count_retry();
        tracing::warn!(
            "{} at {:#x} is tried again in {} ms: {}",
            again.name(),
            again.range().start,
            pause.as_millis(),
            error.line()
        );
        sleep(pause).await;
        work = again;
    }
}

/// How often a server is asked what is zero before it is read instead. What changed, which no read
/// can tell, is asked for until the deadline.
const ASK_WHAT_IS_ZERO: u32 = 3;

/// Asks for the status of a range, for whose context each connection has its own number.
pub(super) async fn status(pool: &Arc<Pool>, name: &str, range: ByteRange) -> Result<Answer> {
    let mut failures = Failures::default();
    loop {
        let (may_pass, error) = match pool.take().await {
            Err(error) => (error.kind() == Kind::Transient, error),
            Ok(connection) => {
                let context = connection.context(name).ok_or_else(|| {
                    Error::new(
                        Kind::Unsupported,
                        format!("the server has no context {name:?}"),
                    )
                })?;
                let outcome: Outcome = connection.submit(Work::Status { range, context }).await;
                match outcome {
                    Ok(answer) => return Ok(answer),
                    Err((failure, _)) => (failure.may_pass(), failure.into_error()),
                }
            }
        };
        let pause = may_pass.then(|| failures.pause(pool)).flatten();
        let enough = name == BASE_ALLOCATION && failures.attempts >= ASK_WHAT_IS_ZERO;
        let Some(pause) = pause.filter(|_| !enough) else {
            return Err(error);
        };
        pool.count_retry();
        tracing::warn!(
            "block status at {:#x} is tried again in {} ms: {}",
            range.start,
            pause.as_millis(),
            error.line()
        );
        sleep(pause).await;
    }
}

/// Makes all answered writes durable, or says that this cannot be promised.
///
/// A flush that the server reports as failed is never repeated: the next one would succeed
/// without having written what the first one could not.
pub(super) async fn flush(pool: &Arc<Pool>) -> Result<()> {
    let mut failures = Failures::default();
    loop {
        let mark = pool.barrier().begin().map_err(broken)?;
        let failure = match flush_once(pool).await {
            Ok(()) => return pool.barrier().succeeded(mark).map_err(broken),
            Err(error) => error,
        };
        let (may_pass, error) = match failure {
            FlushFailure::Server(error) => {
                pool.barrier().failed();
                (false, error)
            }
            FlushFailure::Connection(error) => (error.kind() == Kind::Transient, error),
        };
        let Some(pause) = may_pass.then(|| failures.pause(pool)).flatten() else {
            return Err(error);
        };
        pool.count_retry();
        tracing::warn!(
            "flush is tried again in {} ms: {}",
            pause.as_millis(),
            error.line()
        );
        sleep(pause).await;
    }
}

enum FlushFailure {
    Server(Error),
    Connection(Error),
}

/// Flushes on one connection if the server says that this covers all, else on each.
async fn flush_once(pool: &Arc<Pool>) -> Result<(), FlushFailure> {
    let connections = if pool.export().flags.can_multi_conn() {
        pool.take().await.map(|connection| vec![connection])
    } else {
        pool.take_all().await
    };
    for connection in connections.map_err(FlushFailure::Connection)? {
        match connection.submit(Work::Flush).await {
            Ok(_) => {}
            Err((failure @ Failure::Answer(_), _)) => {
                return Err(FlushFailure::Server(failure.into_error()));
            }
            Err((failure @ Failure::Lost(_), _)) => {
                return Err(FlushFailure::Connection(failure.into_error()));
            }
        }
    }
    Ok(())
}

fn broken(broken: Broken) -> Error {
    match broken {
        Broken::Reconnected => Error::new(
            Kind::Transient,
            "writes before the reconnect may be lost, if the server crashed",
        )
        .hint("go on from the last barrier with the target opened again"),
        Broken::FlushFailed => Error::new(Kind::Io, "an earlier flush of this export failed"),
    }
}
