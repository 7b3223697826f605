//! The tables of an image, read in pages of which the last ones are kept.
//!
//! However large the tables of an image are, no more of them than this is in memory.

use super::storage::{Storage, read_range};
use crate::error::Result;
use crate::extent::ByteRange;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Bytes of a page.
const PAGE: u64 = 64 << 10;

/// Pages that are kept: 4 MiB.
const KEPT: usize = 64;

/// A window onto the tables in a storage.
#[derive(Debug)]
pub struct Pages {
    storage: Arc<dyn Storage>,
    /// The page that was used last comes last.
    kept: Mutex<VecDeque<(u64, Page)>>,
}

/// A page that somebody reads once for all who want it.
type Page = Arc<OnceCell<Bytes>>;

impl Pages {
    /// Pages of `storage`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            kept: Mutex::default(),
        }
    }

    /// The storage.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The bytes of `range`, which are the `what` of the image.
    ///
    /// # Errors
    /// As for [`read_range`]: what is past the end is `Corrupt`.
    pub async fn read(&self, what: &str, range: ByteRange) -> Result<Bytes> {
        let size = self.storage.size();
        let whole = range.align_out(PAGE, size);
        if range.end > size || whole.len() > PAGE.saturating_mul(4) {
            return read_range(self.storage.as_ref(), what, range).await;
        }
        let (page, more) = whole.split(PAGE);
        if more.is_empty() {
            return Ok(part(&self.page(what, page).await?, page, range));
        }
        let mut all = BytesMut::new();
        let mut rest = whole;
        while !rest.is_empty() {
            let (page, after) = rest.split(PAGE);
            all.extend_from_slice(&part(&self.page(what, page).await?, page, range));
            rest = after;
        }
        Ok(all.freeze())
    }

    async fn page(&self, what: &str, page: ByteRange) -> Result<Bytes> {
        let cell = self.cell(page.start);
        let read = || read_range(self.storage.as_ref(), what, page);
        cell.get_or_try_init(read).await.cloned()
    }

    fn cell(&self, start: u64) -> Page {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rposition(|(at, _)| *at == start);
        let entry = found.and_then(|index| kept.remove(index));
        let entry = entry.unwrap_or_else(|| (start, Page::default()));
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let cell = Arc::clone(&entry.1);
        kept.push_back(entry);
        cell
    }
}

/// The part of `range` that lies in `page`, out of its `bytes`.
fn part(bytes: &Bytes, page: ByteRange, range: ByteRange) -> Bytes {
    let wanted = range.intersect(page);
    let inner = |at: u64| {
        let at = usize::try_from(at.saturating_sub(page.start)).unwrap_or(usize::MAX);
        at.min(bytes.len())
    };
    bytes.slice(inner(wanted.start)..inner(wanted.end))
}
