//! What a journal says of a target, for people; and the word that nobody goes on with it.

use super::copy::now;
use super::options::JournalPlace;
use super::place::find_target;
use crate::address::Address;
use crate::error::Result;
use crate::journal::{History, Journal, Record};
use serde::Serialize;
use std::fmt;

/// How far the copy on a target is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Standing {
    /// Number of the last pass.
    pub number: u32,
    /// `full`, `delta` or `final`.
    pub pass: String,
    /// Whether it is complete.
    pub complete: bool,
    /// Whether all of the target was read back and compared since.
    pub proven: bool,
    /// Why nobody goes on with it, if that is so.
    pub incomplete: Option<String>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.complete, self.proven) {
            (true, true) => "complete and proven",
            (true, false) => "complete",
            (false, _) => "not complete",
        };
        if let Some(why) = &self.incomplete {
            write!(f, "INCOMPLETE, {why}; ")?;
        }
        write!(f, "pass {}, {}, {state}", self.number, self.pass)
    }
}

/// What is known of the copy on `target`; `None` if no journal tells of one. Changes nothing.
///
/// # Errors
/// The journal is damaged.
pub fn standing(target: &Address, place: &JournalPlace) -> Result<Option<Standing>> {
    let found = find_target(target, 0)?;
    let path = found.journal(place)?;
    let history = match path {
        Some(path) => Journal::peek(&path)?,
        None => None,
    };
    Ok(history.and_then(|history| of(&history, &found.identity.id)))
}

fn of(history: &History, target: &str) -> Option<Standing> {
    let begin = history.begin.as_ref()?;
    let last = history.last.as_ref()?;
    (begin.target.id == target).then(|| Standing {
        number: last.begin.number,
        pass: last.begin.pass.clone(),
        complete: last.complete,
        proven: last.proven,
        incomplete: history.incomplete.clone(),
    })
}

/// Records that nobody goes on with `target`, and why. Until a later pass over it is complete,
/// it can be neither verified nor certified, and whoever looks at it is told.
///
/// A target that nothing was written to has nothing to be labelled.
///
/// # Errors
/// The journal is in use, or the record is not durable.
pub fn label_incomplete(target: &Address, place: &JournalPlace, why: &str) -> Result<()> {
    let found = find_target(target, 0)?;
    let path = found.journal(place)?;
    let Some(path) = path.filter(|path| path.exists()) else {
        return Ok(());
    };
    let mut journal = Journal::open(&path)?;
    if journal.history().begin.is_none() {
        return Ok(());
    }
    let (why, at) = (why.to_owned(), now());
    journal.append(&Record::Incomplete { why, at })
}
