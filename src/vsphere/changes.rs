//! `QueryChangedDiskAreas`, page by page and to the end.
//!
//! A server answers with as many areas as it likes, about 2,000, and says up to where they hold.
//! The rest is asked for from there; an answer without areas is not the end, only one that holds up
//! to the capacity is. Whoever stopped early lost data, so nothing here is taken on trust: areas out
//! of order, over each other, outside of what the page is about or past the end of the disk, and a
//! page that does not get anywhere, are errors that name the query.
//!
//! [`Areas`] decides and keeps a bounded number of pages; [`query`] asks.

use super::session::Session;
use super::soap::Moref;
use super::soap::answer::{BadAnswer, number};
use super::soap::calls;
use super::soap::xml::Node;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// Since when changes are asked for: `UUID/SEQUENCE`, or `*` for all that was ever written.
///
/// The UUID part changes when tracking was reset: what changed before that is lost.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChangeId(String);

/// Longer than any change id: 32 digits in pairs, a slash and a number have 68 characters.
const ID_MAX: usize = 200;

impl ChangeId {
    /// A change id; `None` if the text cannot be one.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let sound = !text.is_empty()
            && text.len() <= ID_MAX
            && text.trim() == text
            && !text.contains(char::is_control);
        sound.then_some(Self(text))
    }

    /// All that was ever written.
    #[must_use]
    pub fn everything() -> Self {
        Self("*".to_owned())
    }

    /// As the server has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stays the same for as long as tracking was not reset.
    #[must_use]
    pub fn epoch(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(epoch, _)| epoch)
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ChangeId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(text).ok_or_else(|| "not a change id".to_owned())
    }
}

impl From<ChangeId> for String {
    fn from(id: ChangeId) -> Self {
        id.0
    }
}

/// Which changes are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// The VM.
    pub vm: Moref,
    /// Up to this snapshot of it.
    pub snapshot: Moref,
    /// The disk's key.
    pub disk: i32,
    /// Since then.
    pub since: ChangeId,
    /// Bytes of the disk in the snapshot.
    pub capacity: u64,
}

impl Query {
    fn from(&self, start: u64) -> String {
        let Self {
            vm,
            snapshot,
            disk,
            since,
            capacity,
        } = self;
        format!(
            "changes of disk {disk} of {vm} from {start} of {capacity} on, since {since:?} up to {snapshot}",
            since = since.as_str()
        )
    }
}

/// A page, as a server sent it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// Where what it is about begins.
    pub start: u64,
    /// How far that goes.
    pub length: u64,
    /// Start and length of each area.
    pub areas: Vec<(u64, u64)>,
}

/// Reads a `DiskChangeInfo`.
///
/// # Errors
/// A number is missing, or is none.
pub fn page(values: &[Node]) -> Result<Page, BadAnswer> {
    let info = values.first().ok_or(BadAnswer::Missing("returnval"))?;
    let areas = info.all("changedArea");
    Ok(Page {
        start: number(info, "startOffset")?,
        length: number(info, "length")?,
        areas: areas
            .map(|area| Ok((number(area, "start")?, number(area, "length")?)))
            .collect::<Result<_, BadAnswer>>()?,
    })
}

/// How a page cannot be true.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPage {
    /// About something else than what was asked.
    #[error("the answer is about offset {0}")]
    Elsewhere(u64),
    /// Zero bytes: asking on would ask the same again.
    #[error("the answer is about no byte at all")]
    NoProgress,
    /// An area without a byte, or past the largest number.
    #[error("area {start}+{length} is none")]
    NoArea {
        /// As the server has it.
        start: u64,
        /// As the server has it.
        length: u64,
    },
    /// Before the end of the area before it.
    #[error("area {area} begins before {floor:#x}, where it may at the earliest")]
    OutOfOrder {
        /// The area.
        area: ByteRange,
        /// The end of the area before it, or where the page begins.
        floor: u64,
    },
    /// Past what the page is about, or past the end of the disk.
    #[error("area {area} ends after {ceiling:#x}, where the answer or the disk ends")]
    Overrun {
        /// The area.
        area: ByteRange,
        /// The end.
        ceiling: u64,
    },
}

/// A page that was checked: it holds for all of `known`.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Checked {
    known: ByteRange,
    areas: Vec<ByteRange>,
}

fn check(asked: u64, page: &Page, capacity: u64) -> Result<Checked, BadPage> {
    if page.start != asked {
        return Err(BadPage::Elsewhere(page.start));
    }
    // Granules need not divide the disk: the last page may be about a little more than there is.
    let known = ByteRange::new(asked, asked.saturating_add(page.length).min(capacity));
    if known.is_empty() {
        return Err(BadPage::NoProgress);
    }
    let mut floor = known.start;
    let mut areas: Vec<ByteRange> = Vec::new();
    for &(start, length) in &page.areas {
        let end = start.checked_add(length).filter(|end| *end > start);
        let end = end.ok_or(BadPage::NoArea { start, length })?;
        let area = ByteRange::new(start, end);
        if start < floor {
            return Err(BadPage::OutOfOrder { area, floor });
        }
        if end > known.end {
            let ceiling = known.end;
            return Err(BadPage::Overrun { area, ceiling });
        }
        floor = end;
        match areas.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => areas.push(area),
        }
    }
    Ok(Checked { known, areas })
}

/// Pages that are kept. Windows are asked for nearly in order, so the newest ones are wanted.
const PAGES_KEPT: usize = 4;

/// What is known of the changes of a disk: a few pages at a time.
#[derive(Debug, Default)]
pub struct Areas {
    capacity: u64,
    pages: VecDeque<Checked>,
}

/// What [`Areas`] knows of a window.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Known {
    /// Of a prefix of it, all.
    Changes {
        /// The prefix.
        known: ByteRange,
        /// What changed in it.
        changed: Vec<ByteRange>,
    },
    /// Nothing: ask from here on.
    Ask(u64),
}

impl Areas {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            pages: VecDeque::new(),
        }
    }

    /// What is known of `window`, which is not empty.
    #[must_use]
    pub fn look(&self, window: ByteRange) -> Known {
        let holds =
            |page: &&Checked| page.known.start <= window.start && window.start < page.known.end;
        let Some(page) = self.pages.iter().rev().find(holds) else {
            return Known::Ask(window.start);
        };
        let known = page.known.intersect(window);
        let first = page.areas.partition_point(|area| area.end <= known.start);
        let changed = page.areas.iter().skip(first);
        let changed = changed.take_while(|area| area.start < known.end);
        Known::Changes {
            known,
            changed: changed.map(|area| area.intersect(known)).collect(),
        }
    }

    /// Takes in the page that was asked for from `asked` on.
    ///
    /// # Errors
    /// It cannot be true; see [`BadPage`]. Nothing was taken in.
    pub fn take(&mut self, asked: u64, page: &Page) -> Result<(), BadPage> {
        let checked = check(asked, page, self.capacity)?;
        if self.pages.len() >= PAGES_KEPT {
            self.pages.pop_front();
        }
        self.pages.push_back(checked);
        Ok(())
    }
}

/// Asks for the page from `start` on, and takes it in.
///
/// # Errors
/// The server cannot tell, or tells what cannot be true. The line has the query.
pub async fn query(session: &Session, query: &Query, start: u64, areas: &mut Areas) -> Result<()> {
    let Query {
        vm,
        snapshot,
        disk,
        since,
        ..
    } = query;
    let request = calls::query_changed_disk_areas(vm, snapshot, *disk, start, since.as_str());
    let values = session.call(&request).await;
    let values = values.map_err(|error| error.context(query.from(start)))?;
    let bad = || Error::new(Kind::Corrupt, query.from(start));
    let page = page(&values).map_err(|error| bad().because(error))?;
    tracing::trace!(
        "{}: {} areas in {}",
        query.from(start),
        page.areas.len(),
        page.length
    );
    let taken = areas.take(start, &page);
    taken.map_err(|error| bad().because(error))
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
