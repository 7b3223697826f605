//! Writes that come in any order, done in the order of the disk.
//!
//! A write that is not next waits. So whoever writes must have the next bytes under way: a
//! pipeline that starts requests in order does, however they finish.

use crate::error::{Error, Kind, Result};
use tokio::sync::watch;

/// How far a stream is written, or that it has failed.
#[derive(Debug)]
pub(super) struct Turns(watch::Sender<Option<u64>>);

/// The right to write what is next. Dropped without [`done`](Self::done), it ends the stream: how
/// much was written is not known.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    then: Option<u64>,
}

impl Turns {
    /// Offset 0 is next.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Some(0)))
    }

    /// Waits until `offset` is next; `doing` is for messages.
    ///
    /// # Errors
    /// It was written before, or the stream has failed.
    pub(super) async fn wait(&self, doing: &str, offset: u64) -> Result<Turn<'_>> {
        let mut next = self.0.subscribe();
        let reached = next.wait_for(|next| next.is_none_or(|next| next >= offset));
        let now = reached.await.ok().and_then(|next| *next);
        let error = |why| Error::new(Kind::Io, doing.to_owned()).because(why);
        match now {
            Some(now) if now == offset => Ok(Turn {
                turns: self,
                then: None,
            }),
            Some(_) => Err(error("these bytes of the stream were written before").at(offset)),
            None => Err(error("an earlier write failed").at(offset)),
        }
    }

    /// How far it is written; `None` once it has failed.
    pub(super) fn reached(&self) -> Option<u64> {
        *self.0.borrow()
    }

    /// No turn comes any more.
    pub(super) fn fail(&self) {
        self.0.send_replace(None);
    }
}

impl Turn<'_> {
    /// What is before `end` is written.
    pub(super) fn done(mut self, end: u64) {
        self.then = Some(end);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.0.send_replace(self.then);
    }
}
