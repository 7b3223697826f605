//! A stream-optimized VMDK as target: what OVF and OVA files hold, and what vSphere imports.
//!
//! Grains of 64 KiB are compressed by all processors as they come, and appended in the order of the
//! disk (`turn.rs`), so that the file can be read forward from its start. It gets its
//! name when it is whole and durable; there is no journal of it.
//! `stream.rs` turns grains into the bytes of an extent; pure.

mod stream;

use super::draft::{self, Draft};
use super::turn::Turns;
use super::{Target, Zeroing};
use crate::buffer::Buffer;
use crate::digest::is_zero;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::computing;
use async_trait::async_trait;
use bytes::Bytes;
use libdeflater::{CompressionLvl, Compressor};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use stream::{GRAIN, Stream};
use tokio::sync::Mutex;

/// Requests are of whole grains, in bytes.
const ALIGN: u32 = 64 << 10;

/// Bytes that are gathered before they are written.
const GATHER: usize = 1 << 20;

/// What the image will be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct VmdkOptions {
    /// Bytes of the disk.
    pub size: u64,
    /// A file of that name may be replaced.
    pub overwrite: bool,
}

/// A stream-optimized VMDK that is written. See the [module](self).
#[derive(Debug)]
pub struct VmdkTarget {
    draft: Draft,
    stream: Mutex<Stream>,
    turns: Turns,
    size: u64,
}

/// Smaller than what qemu's level 6 makes of text, of programs and of what is neither; level 6 of this
/// library takes a quarter less time, and source code became longer by one in 1,700.
const DEFLATE_LEVEL: i32 = 7;

thread_local! {
    /// Its tables are worth keeping.
    static DEFLATE: RefCell<Compressor> = {
        let level = CompressionLvl::new(DEFLATE_LEVEL).unwrap_or_default();
        RefCell::new(Compressor::new(level))
    };
}

impl VmdkTarget {
    /// Begins a new image at `path`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there that may not be replaced; or the file cannot be
    /// made.
    pub async fn create(path: &Path, options: VmdkOptions) -> Result<Self> {
        // Grains end at any sector: what is written is never whole pages.
        let draft = Draft::create(path, options.size, options.overwrite, false).await?;
        let stream = Stream::new(options.size, &draft.file_name(), content_id());
        Ok(Self {
            draft,
            stream: Mutex::new(stream),
            turns: Turns::new(),
            size: options.size,
        })
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        // What comes after it cannot be written any more.
        self.draft.failed(doing, offset, error).with_kind(Kind::Io)
    }

    /// Appends what `put` puts, when it is the turn of `range`.
    async fn append(
        &self,
        range: ByteRange,
        put: impl FnOnce(&mut Stream) -> io::Result<()> + Send,
    ) -> Result<()> {
        let doing = format!("write {}", self.draft.name());
        let turn = self.turns.wait(&doing, range.start).await?;
        let mut stream = self.stream.lock().await;
        let failed = |error| self.failed("write", range.start, error);
        put(&mut stream).map_err(failed)?;
        if stream.len() >= GATHER {
            let (at, bytes) = stream.take();
            let written = self.draft.queue().write(at, Bytes::from(bytes)).await;
            written.map_err(failed)?;
        }
        drop(stream);
        turn.done(range.end);
        Ok(())
    }

    async fn complete(&self) -> Result<()> {
        if self.turns.reached() != Some(self.size) {
            let name = self.draft.name();
            let why = format!("complete {name}: not all of the disk was written");
            return Err(Error::new(Kind::Io, why));
        }
        let mut stream = self.stream.lock().await;
        let failed = |error| self.draft.unfinished(error);
        stream.finish().map_err(failed)?;
        let (at, bytes) = stream.take();
        let end = at.saturating_add(bytes.len() as u64);
        let written = self.draft.queue().write(at, Bytes::from(bytes)).await;
        written.map_err(failed)?;
        self.draft.set_length(end).await.map_err(failed)?;
        self.draft.flush().await
    }
}

/// Tells one content from another, to those who compare it with the one that they know.
fn content_id() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(1, |now| now.as_nanos() & 0xffff_fffe);
    u32::try_from(nanos).unwrap_or(1)
}

/// The grains of `data`, which begin at the guest offset `at`: where each is, and compressed.
/// Those that are zero are left out; the last one may be short, and is filled up with zeroes.
fn pack(at: u64, data: &[u8]) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let grain = usize::try_from(GRAIN).map_err(io::Error::other)?;
    let mut packed = Vec::new();
    for (place, part) in (at..).step_by(grain).zip(data.chunks(grain)) {
        if is_zero(part) {
            continue;
        }
        let mut whole = part.to_vec();
        whole.resize(grain, 0);
        packed.push((place, compress(&whole)?));
    }
    Ok(packed)
}

fn compress(grain: &[u8]) -> io::Result<Vec<u8>> {
    DEFLATE.with_borrow_mut(|compressor| {
        let mut out = vec![0; compressor.zlib_compress_bound(grain.len())];
        let len = compressor.zlib_compress(grain, &mut out);
        out.truncate(len.map_err(io::Error::other)?);
        Ok(out)
    })
}

#[async_trait]
impl Target for VmdkTarget {
    fn capacity(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        draft::limits(ALIGN)
    }

    fn identity(&self) -> Identity {
        self.draft.identity()
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        self.draft.cut("write", range, ALIGN)?;
        let packed = computing(move || pack(offset, &data)).await?;
        let packed = packed.map_err(|error| self.failed("compress for", offset, error))?;
        self.append(range, move |stream| {
            let mut grains = packed.iter();
            grains.try_for_each(|(at, bytes)| stream.grain(*at, bytes))
        })
        .await
    }

    /// What is left out is zero, whatever is said of its space.
    async fn zero(&self, range: ByteRange, _zeroing: Zeroing) -> Result<()> {
        self.draft.cut("zero", range, ALIGN)?;
        self.append(range, |stream| stream.zero_until(range.end))
            .await
    }

    async fn flush(&self) -> Result<()> {
        self.draft.flush().await
    }

    fn can_read_back(&self) -> bool {
        false
    }

    async fn read_back(&self, offset: u64, _buffer: Buffer) -> Result<Buffer> {
        let why = format!("read back {}", self.draft.name());
        Err(Error::new(Kind::Unsupported, why).at(offset))
    }

    async fn finalize(&self) -> Result<()> {
        self.complete().await?;
        self.draft.give_name().await
    }
}
