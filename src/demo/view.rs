//! A disk as it was at one moment, and what had changed until then.

use super::bitmap::{Bitmap, GRAIN, blocks};
use super::disk::{BITMAP_CONTEXT, Live, allocated, blocking, changed, no_context};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::server::{BASE_ALLOCATION, BlockSizes, Export, Status, ZeroHow};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// A [`LiveDisk`](super::disk::LiveDisk) as it was at one moment. Clones are the same snapshot;
/// the live disk pays for it until the last one is gone.
#[derive(Clone)]
pub struct View {
    live: Arc<Live>,
    kept: Arc<Kept>,
    frozen: Option<(String, Arc<Bitmap>)>,
}

/// What the live disk has changed since, as it was.
pub(super) struct Kept {
    overlay: File,
    blocks: Bitmap,
    /// A block could not be kept: the snapshot is lost, the live disk goes on.
    broken: AtomicBool,
    /// Bytes that were read of the snapshot.
    served: AtomicU64,
}

impl View {
    pub(super) fn new(
        live: Arc<Live>,
        overlay: File,
        frozen: Option<(String, Arc<Bitmap>)>,
    ) -> (Self, Weak<Kept>) {
        let kept = Arc::new(Kept {
            overlay,
            blocks: Bitmap::new(live.size()),
            broken: AtomicBool::new(false),
            served: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&kept);
        (Self { live, kept, frozen }, weak)
    }

    /// Bytes that its frozen bitmap calls dirty; zero if it has none.
    #[must_use]
    pub fn dirty(&self) -> u64 {
        self.frozen.as_ref().map_or(0, |(_, bitmap)| bitmap.bytes())
    }

    /// Bytes of it that were read so far, by whomever.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.kept.served.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn frozen(&self) -> Option<&(String, Arc<Bitmap>)> {
        self.frozen.as_ref()
    }

    /// Fills `buffer` from `offset`, in the calling thread.
    ///
    /// # Errors
    /// The range is past the end, a file cannot be read, or the snapshot is lost.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        let len = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        self.kept.served.fetch_add(len, Ordering::Relaxed);
        for part in blocks(ByteRange::at(offset, len)) {
            let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(len.min(rest.len()));
            rest = later;
            let block = Bitmap::block_of(part.start);
            // Under the lock: between the question and the read the block cannot change.
            self.live
                .locked(block, || match self.kept.blocks.get(block) {
                    true => self.kept.overlay.read_exact_at(now, part.start),
                    false => self.live.read(part.start, now),
                })?;
        }
        if self.kept.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("the snapshot is lost, it ran out of room"));
        }
        Ok(())
    }

    /// Whether a block may hold something else than zeroes.
    fn holds(&self, block: u64) -> bool {
        // In this order: what makes a hole of a block on the live disk keeps it here first.
        self.live.holds(block) || self.kept.blocks.get(block)
    }
}

impl Kept {
    /// Keeps a block as it is now, unless it was kept before. Called under the block's lock.
    pub(super) fn keep(&self, live: &Live, block: u64) {
        if self.blocks.get(block) {
            return;
        }
        if live.holds(block) && self.copy(live, block).is_err() {
            self.broken.store(true, Ordering::SeqCst);
        }
        self.blocks.set(block);
    }

    fn copy(&self, live: &Live, block: u64) -> io::Result<()> {
        let start = block.saturating_mul(GRAIN);
        let len = GRAIN.min(live.size().saturating_sub(start));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        live.read(start, &mut bytes)?;
        self.overlay.write_all_at(&bytes, start)
    }
}

fn read_only<T>() -> Result<T> {
    Err(Error::new(Kind::Refused, "a snapshot cannot be changed"))
}

#[async_trait]
impl Export for View {
    fn size(&self) -> u64 {
        self.live.size()
    }

    fn block_sizes(&self) -> BlockSizes {
        BlockSizes {
            preferred: 256 << 10,
            ..BlockSizes::default()
        }
    }

    fn description(&self) -> String {
        "a snapshot of a disk".into()
    }

    fn sparse_reads(&self) -> bool {
        true
    }

    fn contexts(&self) -> Vec<String> {
        let context = |(name, _): &(String, _)| format!("{BITMAP_CONTEXT}{name}");
        self.frozen.iter().map(context).collect()
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let view = self.clone();
        blocking("read the snapshot", move || {
            view.read_at(offset, &mut buffer)?;
            Ok(buffer)
        })
        .await
    }

    async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        read_only()
    }

    async fn zero(&self, _range: ByteRange, _how: ZeroHow) -> Result<()> {
        read_only()
    }

    async fn trim(&self, _range: ByteRange) -> Result<()> {
        read_only()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn status(&self, context: &str, range: ByteRange) -> Result<Vec<Status>> {
        if context == BASE_ALLOCATION {
            let runs = self.kept.blocks.runs(range, |block| self.holds(block));
            return Ok(allocated(runs));
        }
        let name = context.strip_prefix(BITMAP_CONTEXT);
        match &self.frozen {
            Some((frozen, bitmap)) if name == Some(frozen) => Ok(changed(bitmap, range)),
            _ => Err(no_context(context)),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes)", self.live.size())
    }
}
