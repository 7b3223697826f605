//! A tracker that is no use for a pass, told to a caller that knows what to do instead.
//!
//! A command that copies one disk compares all of it, by itself, once its tracker is caught. Whoever
//! drives many passes wants to know, before it goes on: see [`Context::steered`](super::Context).

use crate::changes::{Changes, Tracker};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Why a tracker is no use for a pass. Found in the chain of causes of what the pass ended with.
#[derive(Debug)]
pub enum Untracked {
    /// It left out a change at this offset: nothing that it says can be believed.
    LeftOut(u64),
    /// It cannot tell what changed, this time.
    CannotTell(Error),
}

impl Untracked {
    /// What made a pass fail, if it was its tracker.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        error.caused_by()
    }

    /// Whether no later word of it can be believed either.
    #[must_use]
    pub fn for_good(&self) -> bool {
        matches!(self, Self::LeftOut(_))
    }

    pub(super) fn into_error(self) -> Error {
        Error::new(Kind::Refused, "rely on tracking").because(self)
    }
}

impl fmt::Display for Untracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut(offset) => {
                write!(f, "the tracker left out a change at offset {offset:#x}")
            }
            Self::CannotTell(why) => {
                write!(f, "the tracker cannot tell what changed: {}", why.line())
            }
        }
    }
}

impl StdError for Untracked {}

/// The failure of a tracker that was asked. What may pass is tried again, and is no such failure.
pub(super) fn cannot_tell(error: Error) -> Error {
    match error.kind() {
        Kind::Refused | Kind::Unsupported | Kind::Corrupt => {
            Untracked::CannotTell(error).into_error()
        }
        _ => error,
    }
}

/// A tracker whose failures are told as its own.
#[derive(Debug)]
pub(super) struct Telling(pub(super) Arc<dyn Tracker>);

#[async_trait]
impl Tracker for Telling {
    async fn changes(&self, window: ByteRange) -> Result<Changes> {
        self.0.changes(window).await.map_err(cannot_tell)
    }
}
