//! Scratch space: room for images that must be read here and there, and come only in order.
//!
//! What comes is written to a file without a name, so nothing is left of it however this ends.
//! Zeroes are not written. What unpacks to more than there is room for is an error before the file
//! system is full: some of that stays free, for whoever else writes there.
//!
//! The disk is known by what was unpacked, so it is the same one for a journal when it is unpacked
//! again, wherever it comes from and however it is packed.

use super::Source;
use super::file::FileSource;
use super::stream::ByteStream;
use crate::buffer::Buffer;
use crate::digest::is_zero;
use crate::error::{Error, Kind, Result};
use crate::sys::disk::{Disk, Open};
use crate::sys::queue::Queue;
use crate::sys::{blocking, computing, random};
use blake3::Hasher;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::fs::{Mode, OFlags, fstatvfs, ftruncate};
use rustix::io::Errno;
use std::error::Error as StdError;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Bytes that are unpacked at once.
const PIECE: usize = 1 << 20;

/// Zeroes are left out in units of this: a block of nearly every file system.
const UNIT: usize = 4096;

/// Writes under way.
const WRITES: usize = 8;

/// Bytes of a file system that stay free: one in so many, and no more than that.
const FREE_SHARE: u64 = 64;
const FREE_MOST: u64 = 1 << 30;

/// The longest image, zeroes and all: nobody unpacks a longer one, and what unpacks to it is a bomb.
const LONGEST: u64 = 16 << 40;

/// An image can be read only if it is unpacked first, and nobody said where. Found in the chain of
/// causes of what opening it ended with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NeedsScratch;

impl fmt::Display for NeedsScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it must be unpacked into scratch space first")
    }
}

impl StdError for NeedsScratch {}

/// A place for one image, and that image once it was unpacked.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    limit: Option<u64>,
    held: OnceCell<Held>,
}

/// An image that was unpacked.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its bytes.
    pub source: Arc<dyn Source>,
    /// Name of its format.
    pub format: &'static str,
}

impl Scratch {
    /// Room in the directory `dir`, for `limit` bytes that are not zero at most.
    #[must_use]
    pub fn new(dir: PathBuf, limit: Option<u64>) -> Self {
        Self {
            dir,
            limit,
            held: OnceCell::new(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image, if it was unpacked.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.get()
    }

    /// Takes all of `stream`, an image of `format`, unless it has one already. `seen` is told how
    /// many bytes came.
    ///
    /// # Errors
    /// `Refused`: the image takes more than it may. Or the stream cannot be read to its end, or the
    /// file not be written.
    pub async fn hold(
        &self,
        format: &'static str,
        stream: Box<dyn ByteStream>,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<&Held> {
        let fill = || async {
            let source = self.fill(stream, seen).await?;
            Ok(Held { source, format })
        };
        self.held.get_or_try_init(fill).await
    }

    async fn fill(
        &self,
        mut stream: Box<dyn ByteStream>,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Arc<dyn Source>> {
        let name = stream.name().to_owned();
        let doing = format!("unpack {name} into {}", self.dir.display());
        let failed = |error: io::Error| Error::io(doing.clone(), error);
        let dir = self.dir.clone();
        let disk = blocking(move || nameless(&dir)).await.map_err(failed)?;
        let queue = Queue::new(disk);
        let mut hasher = Hasher::new();
        let mut writes = Writes::new(&queue);
        let (mut end, mut taken) = (0u64, 0u64);
        while let Some(piece) = stream.next(Buffer::unbudgeted(PIECE)).await? {
            let looked = computing(move || look(hasher, piece)).await?;
            let (bytes, runs);
            (hasher, bytes, runs) = looked;
            taken = taken.saturating_add(length(runs.iter().map(Range::len).sum()));
            self.check(end, taken)
                .map_err(|error| error.context(doing.clone()))?;
            if !runs.is_empty() {
                writes.leave_room().await.map_err(failed)?;
            }
            for run in runs {
                writes.push(end.saturating_add(length(run.start)), bytes.slice(run));
            }
            writes.begin().map_err(failed)?;
            writes.until(WRITES - 1).await.map_err(failed)?;
            end = end.saturating_add(length(bytes.len()));
            seen(length(bytes.len()));
        }
        writes.until(0).await.map_err(failed)?;
        drop(writes);
        let sized = queue.run(move |disk| Ok(ftruncate(disk.fd(), end)?)).await;
        sized.map_err(failed)?;
        let id = format!("unpacked:{}", hasher.finalize().to_hex());
        Ok(Arc::new(FileSource::over(queue, name, id, end)))
    }

    /// Whether `taken` bytes that are not zero, among `end` and some more, may be.
    fn check(&self, end: u64, taken: u64) -> Result<()> {
        if let Some(limit) = self.limit.filter(|limit| taken > *limit) {
            let what = format!("it has more than the {limit} bytes that it may have");
            return Err(Error::new(Kind::Refused, what).hint("--scratch-limit gives it more"));
        }
        if end > LONGEST {
            let what = format!("it goes on after {LONGEST} bytes, which no image has");
            return Err(Error::new(Kind::Refused, what));
        }
        Ok(())
    }
}

/// Digests a piece, and finds what of it is not zero.
fn look(mut hasher: Hasher, piece: Buffer) -> (Hasher, Bytes, Vec<Range<usize>>) {
    hasher.update(&piece);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, unit) in piece.chunks(UNIT).enumerate() {
        if is_zero(unit) {
            continue;
        }
        let start = number.saturating_mul(UNIT);
        let end = start.saturating_add(unit.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    (hasher, piece.freeze(), runs)
}

/// Writes under way, and the bytes for which they may yet take space.
struct Writes<'a> {
    queue: &'a Queue,
    under_way: FuturesUnordered<BoxFuture<'a, io::Result<u64>>>,
    bytes: u64,
}

impl<'a> Writes<'a> {
    fn new(queue: &'a Queue) -> Self {
        Self {
            queue,
            under_way: FuturesUnordered::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, at: u64, data: Bytes) {
        let (queue, count) = (self.queue, length(data.len()));
        let write = async move { queue.write(at, data).await.map(|()| count) };
        self.under_way.push(write.boxed());
        self.bytes = self.bytes.saturating_add(count);
    }

    /// Begins what was pushed, so that it goes on while the next bytes come.
    fn begin(&mut self) -> io::Result<()> {
        while let Some(Some(done)) = self.under_way.next().now_or_never() {
            self.bytes = self.bytes.saturating_sub(done?);
        }
        Ok(())
    }

    /// Waits until no more than `most` are under way.
    async fn until(&mut self, most: usize) -> io::Result<()> {
        while self.under_way.len() > most {
            let done = self.under_way.next().await.transpose()?;
            self.bytes = self.bytes.saturating_sub(done.unwrap_or(0));
        }
        Ok(())
    }

    /// Fails unless the file system has room for another piece besides them.
    async fn leave_room(&mut self) -> io::Result<()> {
        let bytes = self.bytes;
        if bytes > 0 && self.queue.run(move |disk| has_room(disk, bytes)).await? {
            return Ok(());
        }
        // Some have taken their space already and were counted twice.
        self.until(0).await?;
        match self.queue.run(|disk| has_room(disk, 0)).await? {
            true => Ok(()),
            false => Err(Errno::NOSPC.into()),
        }
    }
}

/// Whether the file system has room for `bytes` and another piece. Blocks for a moment.
fn has_room(disk: &Disk, bytes: u64) -> io::Result<bool> {
    let stat = fstatvfs(disk.fd())?;
    let of = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let share = of(stat.f_blocks).checked_div(FREE_SHARE).unwrap_or(0);
    let wanted = share.min(FREE_MOST).saturating_add(length(PIECE));
    // Some file systems do not tell.
    Ok(stat.f_blocks == 0 || of(stat.f_bavail) >= wanted.saturating_add(bytes))
}

/// A new file in `dir` that has no name, to be written and read. Blocks.
fn nameless(dir: &Path) -> io::Result<Disk> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        // Not every file system has files without a name from the start.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => unlinked(dir)?,
        opened => opened?,
    };
    // Where the kernel has it, for as long as it is open.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let how = Open {
        write: true,
        exclusive: false,
        direct: true,
    };
    Disk::from_fd(file, Path::new(&path), how)
}

/// The same, by a name that is gone at once.
fn unlinked(dir: &Path) -> io::Result<OwnedFd> {
    let name = format!(".diskferry-{:032x}", u128::from_le_bytes(random()?));
    let path = dir.join(name);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{PIECE, Scratch, UNIT, unlinked};
    use crate::buffer::Buffer;
    use crate::error::Kind;
    use crate::testkit::MemStream;
    use std::fs::{self, File};
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::MetadataExt;

    /// Three pieces and a bit: data, nothing, and a few bytes at the end of units.
    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; 3 * PIECE + 100];
        bytes[..UNIT + 1].fill(7);
        bytes[PIECE - 1] = 1;
        bytes[2 * PIECE + 5 * UNIT] = 2;
        bytes[3 * PIECE + 99] = 3;
        bytes
    }

    #[tokio::test]
    async fn what_came_is_there_without_a_name_and_without_its_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path().to_owned(), None);
        let held = scratch.hold("vdi", Box::new(MemStream::new(&bytes())), &|_| {});
        let held = held.await.unwrap();
        assert_eq!(held.source.size(), bytes().len() as u64);
        let read = held.source.read(0, Buffer::unbudgeted(bytes().len()));
        assert!(read.await.unwrap()[..] == bytes()[..]);
        let id = held.source.identity().id;
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let again = Scratch::new(dir.path().to_owned(), Some(4 * UNIT as u64));
        let again = again
            .hold("vdi", Box::new(MemStream::new(&bytes())), &|_| {})
            .await;
        let error = again.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.line().contains("16384 bytes"), "{}", error.line());
        let mut other = bytes();
        other[2 * PIECE] = 1;
        let scratch = Scratch::new(dir.path().to_owned(), None);
        let held = scratch.hold("vdi", Box::new(MemStream::new(&other)), &|_| {});
        assert_ne!(held.await.unwrap().source.identity().id, id);
    }

    #[test]
    fn a_file_whose_name_is_gone_is_written_and_read_like_any() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::from(unlinked(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        file.write_all(b"disk").unwrap();
        file.rewind().unwrap();
        let mut found = String::new();
        file.read_to_string(&mut found).unwrap();
        assert_eq!(
            (found.as_str(), file.metadata().unwrap().mode() & 0o777),
            ("disk", 0o600)
        );
    }
}
