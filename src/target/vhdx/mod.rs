//! A dynamic VHDX as target, for Hyper-V.
//!
//! Writes come in any order; a block gets its place when its first data arrive, and the file only
//! grows. The block table is in memory, eight bytes a block (a few MiB for the largest disk), and
//! is written with the headers at the end. The file gets its name when it is durable; there is no
//! journal of it. `head.rs` is what is before the blocks; pure.

mod head;

use super::Zeroing;
use super::draft::Draft;
use super::drafted::Drafted;
use super::zeroing::{Method, Zeroer};
use crate::buffer::Buffer;
use crate::digest::is_zero;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::{blocking, random};
use bytes::Bytes;
use head::Shape;
use std::io;
use std::path::Path;
use tokio::sync::Mutex;

/// §2.1: the largest disk.
const SIZE_MAX: u64 = 64 << 40;

/// The file is made longer in steps of this many bytes.
const STEP: u64 = 256 << 20;

/// What the image will be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct VhdxOptions {
    /// Bytes of the disk.
    pub size: u64,
    /// A file of that name may be replaced.
    pub overwrite: bool,
}

/// A VHDX that is written. See the [module](self).
#[derive(Debug)]
pub struct VhdxTarget {
    draft: Draft,
    blocks: Mutex<Blocks>,
    zeroer: Zeroer,
    shape: Shape,
}

/// Where the blocks are.
#[derive(Debug)]
struct Blocks {
    /// Offset in the file; 0 is nowhere.
    places: Vec<u64>,
    /// The end of the last one.
    end: u64,
    /// Bytes that the file has been made long.
    length: u64,
}

impl VhdxTarget {
    /// Begins a new image at `path`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there that may not be replaced; the disk is larger than
    /// a VHDX can be; or the file cannot be made.
    pub async fn create(path: &Path, options: VhdxOptions) -> Result<Self> {
        if options.size > SIZE_MAX {
            let what = format!("{}: a VHDX holds 64 TiB at most", path.display());
            return Err(Error::new(Kind::Unsupported, what));
        }
        let draft = Draft::create(path, options.size, options.overwrite, true).await?;
        let shape = Shape::new(options.size);
        let blocks = Blocks {
            places: vec![0; usize::try_from(shape.blocks()).unwrap_or(0)],
            end: shape.payload(),
            length: 0,
        };
        Ok(Self {
            draft,
            blocks: Mutex::new(blocks),
            zeroer: Zeroer::new(),
            shape,
        })
    }

    /// The parts of `range` that lie in one block each: its number, the part, and what of the
    /// block is before it.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (usize, ByteRange, u64)> + use<> {
        let size = self.shape.block;
        let mut rest = range;
        std::iter::from_fn(move || {
            let block = rest.start / size;
            let skip = rest.start % size;
            let (part, after) = rest.split(size.saturating_sub(skip));
            rest = after;
            let number = usize::try_from(block).unwrap_or(usize::MAX);
            (!part.is_empty()).then_some((number, part, skip))
        })
    }

    /// Where `range` is in the file; blocks that are nowhere get a place if `wanted` says so.
    async fn place(
        &self,
        range: ByteRange,
        wanted: impl Fn(ByteRange) -> bool + Send,
    ) -> io::Result<Vec<(Option<u64>, ByteRange)>> {
        let mut found = Vec::new();
        let mut blocks = self.blocks.lock().await;
        for (number, part, skip) in self.parts(range) {
            let end = blocks.end;
            let past = || io::Error::other("a block past the end of the disk");
            let place = blocks.places.get_mut(number).ok_or_else(past)?;
            if *place == 0 && wanted(part) {
                *place = end;
            }
            let at = (*place != 0).then(|| place.saturating_add(skip));
            if at.is_some_and(|at| at >= end) {
                blocks.end = end.saturating_add(self.shape.block);
            }
            found.push((at, part));
        }
        if blocks.end > blocks.length {
            blocks.length = blocks.end.next_multiple_of(STEP);
            self.draft.set_length(blocks.length).await?;
        }
        Ok(found)
    }
}

/// Names that no other file has. Blocks.
fn ids() -> io::Result<[[u8; 16]; 3]> {
    Ok([random()?, random()?, random()?])
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Drafted for VhdxTarget {
    fn draft(&self) -> &Draft {
        &self.draft
    }

    async fn store(&self, range: ByteRange, data: Bytes) -> io::Result<()> {
        let slice = |part: ByteRange| {
            let at = |offset: u64| length(offset.saturating_sub(range.start)).min(data.len());
            data.slice(at(part.start)..at(part.end))
        };
        let placed = self.place(range, |part| !is_zero(&slice(part))).await?;
        for (at, part) in placed {
            if let Some(at) = at {
                self.draft.queue().write(at, slice(part)).await?;
            }
        }
        Ok(())
    }

    async fn clear(&self, range: ByteRange, zeroing: Zeroing) -> io::Result<()> {
        let keep = zeroing == Zeroing::Allocate;
        let (queue, methods) = (self.draft.queue(), Method::of_file(zeroing));
        for (at, part) in self.place(range, |_| keep).await? {
            if let Some(at) = at {
                let there = ByteRange::at(at, part.len());
                self.zeroer.zero(queue, there, &methods).await?;
            }
        }
        Ok(())
    }

    async fn load(&self, range: ByteRange, mut buffer: Buffer) -> Result<Buffer> {
        let failed = |error| self.draft.failed("read back", range.start, error);
        for (at, part) in self.place(range, |_| false).await.map_err(failed)? {
            let from = length(part.start.saturating_sub(range.start));
            let to = from.saturating_add(length(part.len()));
            let to = buffer.get_mut(from..to).unwrap_or_default();
            match at {
                None => to.fill(0),
                Some(at) => {
                    let there = ByteRange::at(at, part.len());
                    let bytes = Buffer::unbudgeted(to.len());
                    let bytes = super::read_back(self.draft.queue(), there, bytes).await;
                    to.copy_from_slice(&bytes.map_err(failed)?);
                }
            }
        }
        Ok(buffer)
    }

    /// The table first, what leads to it when that is durable.
    async fn complete(&self) -> Result<()> {
        let (queue, failed) = (self.draft.queue(), |error| self.draft.unfinished(error));
        let blocks = self.blocks.lock().await;
        let table = Bytes::from(self.shape.table_bytes(&blocks.places));
        let at = Shape::table_at();
        queue.write(at, table).await.map_err(failed)?;
        self.draft.set_length(blocks.end).await.map_err(failed)?;
        drop(blocks);
        self.draft.flush().await?;
        let ids = blocking(ids).await.map_err(failed)?;
        let head = Bytes::from(self.shape.head(ids));
        queue.write(0, head).await.map_err(failed)?;
        self.draft.flush().await
    }
}
