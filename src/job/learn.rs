//! What a target holds that somebody else copied: read off it, so that a pass by digests writes
//! only what differs.
//!
//! Such a target is adopted: its journal begins with every block marked as unsure. A pass that
//! tells changes needs no more than that; one that compares reads the target first, and what it
//! finds is known from then on. A run that is cut short goes on with the blocks that are left.

use super::copy::Job;
use super::prove::{digests, held, marked};
use crate::digest::{BLOCK, Digest};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, RangeSet};
use crate::journal::{Manifest, Mark};
use crate::plan::{Shape, windows};
use futures_util::stream::{self, StreamExt};
use std::mem;
use tokio::task::spawn_blocking;

/// Marks are looked at for so many bytes of the disk at a time.
const WINDOW: u64 = 1 << 30;

/// Requests at once: the target is a device that streams.
const TOGETHER: usize = 16;

/// Manifest pages that wait before they are written.
const PAGES_MAX: usize = 2048;

impl Job<'_> {
    /// Reads every block of the target that is unsure, and records what it holds.
    ///
    /// # Errors
    /// The target cannot be read, the manifest not be written, or an end was asked for.
    pub(super) async fn learn(&self, manifest: &mut Manifest) -> Result<()> {
        let marks = manifest.marks();
        let shape = Shape {
            size: self.size(),
            grain: BLOCK,
            window: WINDOW,
            coalesce: 0,
        };
        let unsure = |window| stream::iter(marked(&marks, window, |mark| mark == Mark::Unsure));
        let mut looks = stream::iter(windows(shape))
            .flat_map(unsure)
            .map(|piece| async { self.look(piece?).await })
            .buffer_unordered(TOGETHER);
        let mut stop = self.context.stop.clone();
        let mut learnt = RangeSet::default();
        loop {
            let next = tokio::select! {
                biased;
                () = stop.requested() => {
                    let what = "stopped while the target was read";
                    return Err(Error::new(Kind::Interrupted, what).hint("run the same command again"));
                }
                next = looks.next() => next,
            };
            let Some(next) = next else { break };
            let (range, digests) = next?;
            manifest.record(range.start, &digests)?;
            learnt.insert(range);
            if manifest.pending() > PAGES_MAX {
                keep(manifest, &mut learnt).await?;
            }
        }
        keep(manifest, &mut learnt).await
    }

    async fn look(&self, range: ByteRange) -> Result<(ByteRange, Vec<Digest>)> {
        let data = held(&self.target, &self.budget, range).await?;
        Ok((range, digests(self.options.digest, &data)))
    }
}

/// Makes what was learnt durable: first the digests, then that they can be relied on.
async fn keep(manifest: &mut Manifest, learnt: &mut RangeSet) -> Result<()> {
    let digests = manifest.checkpoint();
    let (marks, learnt) = (manifest.marks(), mem::take(learnt));
    let kept = spawn_blocking(move || {
        digests.write()?;
        for range in learnt.iter() {
            marks.put(range, Mark::Known)?;
        }
        marks.sync()
    });
    kept.await
        .map_err(|error| Error::new(Kind::Io, "record what the target holds").because(error))?
}
