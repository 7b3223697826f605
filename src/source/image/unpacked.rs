//! The last compressed units that were wanted in part, so that they are unpacked once.

use crate::error::Result;
use crate::format::Packed;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Bytes that are kept, though never less than one unit.
const KEPT: usize = 4 << 20;

/// A unit that somebody unpacks once for all who want it.
type Unit = Arc<OnceCell<Bytes>>;

/// The storage, by its address in memory, and the offset of a run.
type Key = (usize, u64);

/// Units, the last one that was used at the end.
#[derive(Debug, Default)]
pub(super) struct Unpacked(Mutex<VecDeque<(Key, usize, Unit)>>);

impl Unpacked {
    /// The unit that `run` is; `unpack` is awaited if it is not here.
    pub(super) async fn get(
        &self,
        run: &Packed,
        unpack: impl Future<Output = Result<Bytes>>,
    ) -> Result<Bytes> {
        let unit = self.unit(run);
        unit.get_or_try_init(|| unpack).await.cloned()
    }

    fn unit(&self, run: &Packed) -> Unit {
        // The image holds its storages for as long as this lives, so no address is used again.
        let key = (Arc::as_ptr(&run.storage).cast::<()>().addr(), run.offset);
        let size = usize::try_from(run.unpacked).unwrap_or(usize::MAX);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rposition(|(at, ..)| *at == key);
        let entry = found.and_then(|index| kept.remove(index));
        let entry = entry.unwrap_or_else(|| (key, size, Unit::default()));
        let unit = Arc::clone(&entry.2);
        kept.push_back(entry);
        let mut total: usize = kept.iter().map(|(_, size, _)| *size).sum();
        while total > KEPT && kept.len() > 1 {
            if let Some((_, size, _)) = kept.pop_front() {
                total = total.saturating_sub(size);
            }
        }
        unit
    }
}
