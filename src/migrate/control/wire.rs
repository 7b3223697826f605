//! What is asked over the control socket, and answered: one JSON object a line.

use crate::migrate::phase::Event;
use crate::migrate::status::Status;
use serde::{Deserialize, Serialize};

/// The longest line that is read, in bytes.
pub(super) const LONGEST: u64 = 1 << 20;

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How far it is.
    Status,
    /// The cutover should begin.
    Cutover,
    /// No new pass and no cutover.
    Hold,
    /// It should go on.
    Resume,
    /// It should be undone.
    Cancel,
}

impl Request {
    /// What the machine is told; `None` for one that only looks.
    #[must_use]
    pub fn event(self) -> Option<Event> {
        match self {
            Self::Status => None,
            Self::Cutover => Some(Event::Cutover),
            Self::Hold => Some(Event::Hold),
            Self::Resume => Some(Event::Resume),
            Self::Cancel => Some(Event::Cancel),
        }
    }
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is so recorded.
    Done,
    /// It cannot be now; why.
    Refused(String),
    /// How far it is.
    Status(Box<Status>),
}
