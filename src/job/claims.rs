//! Says durably that blocks are about to be written, before they are.
//!
//! Many requests claim at once: whoever's turn it is writes the marks of all who wait and syncs
//! once for them together.

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::journal::{Mark, Marks, View};
use crate::pipeline::Known;
use async_trait::async_trait;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Mutex as Turn;
use tokio::task::spawn_blocking;

/// A pass onto a target that holds the whole disk: what is known of it, and what is about to change.
#[derive(Debug)]
pub(super) struct Claims {
    view: View,
    turn: Turn<()>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Claimed, and not yet marked.
    waiting: Vec<ByteRange>,
    /// The batch that `waiting` will be.
    batch: u64,
    /// Every batch before this one is durable.
    durable: u64,
    /// A batch was begun and did not end well: what the file says is not to be relied on.
    in_doubt: bool,
}

impl Claims {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            turn: Turn::default(),
            queue: Mutex::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that waits, now that it is our turn; `None` if another did it for us.
    fn take(&self, mine: u64) -> Result<Option<Vec<ByteRange>>> {
        let mut queue = self.queue();
        if queue.durable > mine {
            return Ok(None);
        }
        if mem::replace(&mut queue.in_doubt, true) {
            let what = "blocks could not be marked before they are written";
            return Err(Error::new(Kind::Io, what));
        }
        queue.batch = queue.batch.saturating_add(1);
        Ok(Some(mem::take(&mut queue.waiting)))
    }
}

/// Blocks until the marks are durable.
fn mark(marks: &Marks, ranges: &[ByteRange]) -> Result<()> {
    for range in ranges {
        marks.put(*range, Mark::Unsure)?;
    }
    marks.sync()
}

#[async_trait]
impl Known for Claims {
    fn digests(&self, range: ByteRange) -> Result<Vec<Option<Digest>>> {
        self.view.digests(range)
    }

    async fn claim(&self, ranges: &[ByteRange]) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let mine = {
            let mut queue = self.queue();
            queue.waiting.extend_from_slice(ranges);
            queue.batch
        };
        let _turn = self.turn.lock().await;
        let Some(batch) = self.take(mine)? else {
            return Ok(());
        };
        let marks = self.view.marks().clone();
        spawn_blocking(move || mark(&marks, &batch))
            .await
            .map_err(|error| Error::new(Kind::Io, "mark blocks").because(error))??;
        let mut queue = self.queue();
        queue.durable = queue.batch;
        queue.in_doubt = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Claims;
    use crate::digest::{Algorithm, BLOCK, Digest};
    use crate::extent::ByteRange;
    use crate::journal::{Manifest, Mark};
    use crate::pipeline::Known;
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    const SIZE: u64 = 64 * BLOCK;

    fn block(number: u64) -> ByteRange {
        ByteRange::at(number * BLOCK, BLOCK)
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().unwrap().block_on(work)
    }

    #[test]
    fn a_claim_is_marked_when_it_returns_however_many_claim_at_once() {
        let manifest = Manifest::temporary(Algorithm::Xxh3, SIZE).unwrap();
        let claims = Claims::new(manifest.view());
        block_on(join_all((0..64).map(|number| {
            let claims = &claims;
            async move {
                claims.claim(&[block(number)]).await.unwrap();
                assert_eq!(claims.digests(block(number)).unwrap(), [None]);
            }
        })));
        let batches = {
            let queue = claims.queue();
            assert_eq!(queue.batch, queue.durable);
            queue.batch
        };
        assert!(batches < 64, "each was synced by itself");
    }

    #[test]
    fn what_nobody_claimed_is_known() {
        let manifest = Manifest::temporary(Algorithm::Xxh3, SIZE).unwrap();
        let claims = Claims::new(manifest.view());
        block_on(claims.claim(&[block(3)])).unwrap();
        let marks = manifest.marks().of(ByteRange::new(0, SIZE)).unwrap();
        let unsure = |mark: &Mark| *mark == Mark::Unsure;
        assert_eq!(marks.iter().filter(|mark| unsure(mark)).count(), 1);
        assert_eq!(claims.digests(block(4)).unwrap(), [Some(Digest::ZERO)]);
    }

    #[test]
    fn a_claim_that_was_abandoned_half_way_lets_no_later_one_pass() {
        let manifest = Manifest::temporary(Algorithm::Xxh3, SIZE).unwrap();
        let claims = Claims::new(manifest.view());
        block_on(async {
            // Polled once: the batch was taken, and nobody hears whether it became durable.
            assert!(claims.claim(&[block(0)]).now_or_never().is_none());
            assert!(claims.claim(&[block(0)]).await.is_err());
        });
    }
}
