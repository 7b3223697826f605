//! The handle of one connection: hands requests to its driver and counts them.

use super::driver::{Command, Driver, Failure, Refusal};
use super::request::Work;
use super::stream::Stream;
use super::transmission::Answer;
use crate::error::{Error, Kind};
use crate::nbd::handshake::Agreed;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// One connection. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    commands: mpsc::UnboundedSender<Command>,
    /// Requests under way.
    load: AtomicUsize,
    /// Those of them that change the export.
    changing: AtomicUsize,
    /// Why the connection ended, once it has.
    lost: Arc<OnceLock<Arc<Error>>>,
    /// Number and name of the contexts.
    contexts: Vec<(u32, String)>,
}

/// What became of a request: an answer, or the reason and, unless it is lost, the request itself.
pub(super) type Outcome = Result<Answer, (Failure, Option<Work>)>;

impl Connection {
    /// Starts the task that owns the connection.
    pub(super) fn start(stream: Stream, agreed: &Agreed, patience: Duration) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let numbers = agreed.contexts.iter().map(|(number, _)| *number).collect();
        let driver = Driver::new(stream, agreed.style, numbers, patience, inbox);
        let lost = Arc::new(OnceLock::new());
        tokio::spawn(driver.run(lost.clone()));
        Self {
            commands,
            load: AtomicUsize::new(0),
            changing: AtomicUsize::new(0),
            lost,
            contexts: agreed.contexts.clone(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.lost.get().is_none()
    }

    /// Requests under way.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether requests that change the export are under way, or answered and not yet noted.
    pub(super) fn is_changing(&self) -> bool {
        self.changing.load(Ordering::SeqCst) > 0
    }

    /// Counts a request that changes the export, until its answer was noted.
    pub(super) fn changing(&self) -> Count<'_> {
        Count::one(&self.changing)
    }

    /// The number of a context on this connection.
    pub(super) fn context(&self, name: &str) -> Option<u32> {
        let found = self.contexts.iter().find(|(_, known)| known == name);
        found.map(|(number, _)| *number)
    }

    /// Has one request done. Dropping the future abandons it; its memory is freed when the server
    /// answers.
    pub(super) async fn submit(&self, work: Work) -> Outcome {
        let _load = Count::one(&self.load);
        let range = work.range();
        tracing::trace!("{} {:#x} + {}", work.name(), range.start, range.len());
        let (reply, answer) = oneshot::channel();
        if let Err(refused) = self.commands.send(Command::Work(work, reply)) {
            return Err(match refused.0 {
                Command::Work(work, _) => (self.failure(), Some(work)),
                Command::Close(_) => (self.failure(), None),
            });
        }
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => {
                let refusal: Refusal = refusal;
                let (failure, work) = *refusal;
                Err((failure, Some(work)))
            }
            Err(_) => Err((self.failure(), None)),
        }
    }

    fn failure(&self) -> Failure {
        let gone = || Arc::new(Error::new(Kind::Transient, "the connection was closed"));
        Failure::Lost(self.lost.get().cloned().unwrap_or_else(gone))
    }

    /// Says goodbye once no request is under way.
    pub(super) async fn close(&self) {
        let (done, end) = oneshot::channel();
        if self.commands.send(Command::Close(done)).is_ok() {
            // An error says the same: the task is gone.
            end.await.ok();
        }
    }
}

/// Counts one for as long as it lives.
pub(super) struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn one(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
