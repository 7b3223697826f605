//! A disk that lives: written while it is copied, with dirty bitmaps and snapshots, as QEMU has.
//!
//! The bytes are in a sparse file without a name, so that nothing is left of them whatever happens.
//! A block that a write is about to change is first copied into every snapshot that has not kept
//! it yet (QEMU calls this fleecing), so a snapshot costs what changes while it exists.
//!
//! Every step on a block happens under the lock of that block, and with the marks (which bitmaps
//! record, which snapshots exist) held still. So a checkpoint, which changes the marks, has every
//! write entirely before it, in the snapshot and the old bitmap, or entirely after it, in the new
//! bitmap only.

use super::bitmap::{Bitmap, GRAIN, blocks};
use super::view::View;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::nbd::server::{BASE_ALLOCATION, BlockSizes, Export, Status, ZeroHow};
use crate::nbd::wire::{DIRTY, allocation};
use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use tokio::task::spawn_blocking;

/// Locks for blocks: few enough to be small, more than there are threads.
const LOCKS: u64 = 64;

/// What starts the name of a dirty bitmap's context.
pub(super) const BITMAP_CONTEXT: &str = "qemu:dirty-bitmap:";

/// A disk that can be written, tracked and snapshotted at once. Clones are the same disk.
#[derive(Clone)]
pub struct LiveDisk(pub(super) Arc<Live>);

/// The disk itself.
pub(super) struct Live {
    file: File,
    size: u64,
    directory: PathBuf,
    /// Blocks that were written and not zeroed since.
    held: Bitmap,
    locks: Vec<Mutex<()>>,
    marks: RwLock<Marks>,
    written: AtomicU64,
}

/// Who has to know of a write.
#[derive(Default)]
struct Marks {
    recording: BTreeMap<String, Arc<Bitmap>>,
    views: Vec<Weak<super::view::Kept>>,
}

impl LiveDisk {
    /// A disk of `size` zeroes, in a file without a name in `directory`.
    ///
    /// # Errors
    /// The file cannot be made there.
    pub fn create(directory: &Path, size: u64) -> Result<Self> {
        let file = nameless(directory, size)
            .map_err(|error| Error::io(format!("make a disk in {}", directory.display()), error))?;
        Ok(Self(Arc::new(Live {
            file,
            size,
            directory: directory.to_owned(),
            held: Bitmap::new(size),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            marks: RwLock::default(),
            written: AtomicU64::new(0),
        })))
    }

    /// Bytes written so far, by whomever.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Starts to record changes under `name`, from nothing.
    pub fn start_bitmap(&self, name: &str) {
        self.0.start_bitmap(&mut self.0.marks_mut(), name);
    }

    /// In one moment: takes a snapshot, hands it the bitmap `freeze`, which records no more, and
    /// starts to record changes under `start`.
    ///
    /// # Errors
    /// There is no bitmap `freeze`, or there is no room for a snapshot.
    pub fn checkpoint(&self, freeze: Option<&str>, start: Option<&str>) -> Result<View> {
        let directory = &self.0.directory;
        let overlay = nameless(directory, self.0.size).map_err(|error| {
            Error::io(format!("make a snapshot in {}", directory.display()), error)
        })?;
        let mut marks = self.0.marks_mut();
        let frozen = match freeze {
            None => None,
            Some(name) => {
                let Some(bitmap) = marks.recording.remove(name) else {
                    return Err(Error::new(Kind::Usage, format!("no bitmap {name}")));
                };
                Some((name.to_owned(), bitmap))
            }
        };
        if let Some(name) = start {
            self.0.start_bitmap(&mut marks, name);
        }
        let (view, kept) = View::new(self.0.clone(), overlay, frozen);
        marks.views.retain(|view| view.strong_count() > 0);
        marks.views.push(kept);
        Ok(view)
    }

    /// Writes `data` at `offset`, in the calling thread.
    ///
    /// # Errors
    /// The range is past the end, or the file cannot be written.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    /// Makes `range` read as zeroes, in the calling thread.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    pub fn zero_at(&self, range: ByteRange) -> io::Result<()> {
        self.0.zero(range)
    }
}

impl Live {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether a block may hold something else than zeroes.
    pub(super) fn holds(&self, block: u64) -> bool {
        self.held.get(block)
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Does `work` while nothing changes `block`.
    pub(super) fn locked<T>(&self, block: u64, work: impl FnOnce() -> T) -> T {
        let lock = usize::try_from(block % LOCKS).ok();
        let lock = lock.and_then(|place| self.locks.get(place));
        let _guard = lock.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        work()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        for part in blocks(self.on_disk(offset, data.len())?) {
            let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(len.min(rest.len()));
            rest = later;
            self.change(part, |block| {
                self.held.set(block);
                self.file.write_all_at(now, part.start)
            })?;
        }
        Ok(())
    }

    fn zero(&self, range: ByteRange) -> io::Result<()> {
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        for part in blocks(self.on_disk(range.start, len)?) {
            self.change(part, |block| {
                if !self.held.get(block) {
                    return Ok(());
                }
                self.punch(part)?;
                if part.len() == GRAIN || part.end == self.size && part.start % GRAIN == 0 {
                    self.held.clear(block);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Gives the space back where the filesystem can, and writes zeroes where it cannot.
    fn punch(&self, part: ByteRange) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, flags, part.start, part.len()).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; usize::try_from(part.len()).unwrap_or(0)];
        self.file.write_all_at(&zeroes, part.start)
    }

    /// Does `work`, which changes `part` of one block, after all who must know of it do.
    fn change(&self, part: ByteRange, work: impl FnOnce(u64) -> io::Result<()>) -> io::Result<()> {
        let block = Bitmap::block_of(part.start);
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        self.locked(block, || {
            for view in marks.views.iter().filter_map(Weak::upgrade) {
                view.keep(self, block);
            }
            for bitmap in marks.recording.values() {
                bitmap.set(block);
            }
            self.written.fetch_add(part.len(), Ordering::Relaxed);
            work(block)
        })
    }

    fn start_bitmap(&self, marks: &mut Marks, name: &str) {
        let bitmap = Arc::new(Bitmap::new(self.size));
        marks.recording.insert(name.to_owned(), bitmap);
    }

    fn marks_mut(&self) -> std::sync::RwLockWriteGuard<'_, Marks> {
        self.marks.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn bitmap(&self, name: &str) -> Option<Arc<Bitmap>> {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        marks.recording.get(name).cloned()
    }

    fn on_disk(&self, offset: u64, len: usize) -> io::Result<ByteRange> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(ByteRange::new(offset, end)),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

/// A sparse file that has lost its name already: it is gone when it is closed, or its process is.
fn nameless(directory: &Path, size: u64) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("disk-{}-{number}", std::process::id()));
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(size)?;
    Ok(file)
}

/// Runs `work` where it may block, and says what it was if it fails.
pub(super) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = || Error::new(Kind::Interrupted, doing);
    let done = spawn_blocking(work).await.map_err(|_| stopped())?;
    done.map_err(|error| Error::io(doing, error))
}

/// The status of blocks as `base:allocation` tells it.
pub(super) fn allocated(runs: Vec<(ByteRange, bool)>) -> Vec<Status> {
    let status = |(run, held): (ByteRange, bool)| Status {
        len: run.len(),
        flags: match held {
            true => 0,
            false => allocation::HOLE | allocation::ZERO,
        },
    };
    runs.into_iter().map(status).collect()
}

/// The status of blocks as a dirty bitmap tells it.
pub(super) fn changed(bitmap: &Bitmap, range: ByteRange) -> Vec<Status> {
    let status = |(run, dirty): (ByteRange, bool)| Status {
        len: run.len(),
        flags: if dirty { DIRTY } else { 0 },
    };
    let runs = bitmap.runs(range, |block| bitmap.get(block));
    runs.into_iter().map(status).collect()
}

pub(super) fn no_context(context: &str) -> Error {
    Error::new(Kind::Usage, format!("no context {context}"))
}

#[async_trait]
impl Export for LiveDisk {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn block_sizes(&self) -> BlockSizes {
        BlockSizes {
            preferred: 256 << 10,
            ..BlockSizes::default()
        }
    }

    fn description(&self) -> String {
        "a disk that is being written".into()
    }

    fn can_trim(&self) -> bool {
        true
    }

    fn sparse_reads(&self) -> bool {
        true
    }

    fn contexts(&self) -> Vec<String> {
        let marks = self.0.marks.read();
        let marks = marks.unwrap_or_else(PoisonError::into_inner);
        let context = |name: &String| format!("{BITMAP_CONTEXT}{name}");
        marks.recording.keys().map(context).collect()
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let live = self.0.clone();
        blocking("read the live disk", move || {
            live.read(offset, &mut buffer)?;
            Ok(buffer)
        })
        .await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let live = self.0.clone();
        blocking("write the live disk", move || live.write(offset, &data)).await
    }

    async fn zero(&self, range: ByteRange, _how: ZeroHow) -> Result<()> {
        let live = self.0.clone();
        blocking("zero the live disk", move || live.zero(range)).await
    }

    async fn trim(&self, range: ByteRange) -> Result<()> {
        self.zero(range, ZeroHow::default()).await
    }

    async fn flush(&self) -> Result<()> {
        let live = self.0.clone();
        blocking("flush the live disk", move || live.file.sync_data()).await
    }

    async fn status(&self, context: &str, range: ByteRange) -> Result<Vec<Status>> {
        if context == BASE_ALLOCATION {
            let held = &self.0.held;
            return Ok(allocated(held.runs(range, |block| held.get(block))));
        }
        let name = context.strip_prefix(BITMAP_CONTEXT);
        let bitmap = name.and_then(|name| self.0.bitmap(name));
        let bitmap = bitmap.ok_or_else(|| no_context(context))?;
        Ok(changed(&bitmap, range))
    }
}

impl fmt::Debug for LiveDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveDisk({} bytes)", self.0.size)
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
