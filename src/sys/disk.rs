//! One open file or block device: read, written and synced, past the page cache where that works.
//!
//! Two descriptors of one disk. *Direct* ones (`O_DIRECT`) take only requests whose offset, length
//! and address are aligned; all else goes through the page cache, from which it is dropped again,
//! so that a copy of a large disk does not evict what others need.
//!
//! The two must never write to one page at a time: the page cache would write back stale bytes
//! around its own. So the alignment of a file is at least a page, and only the last page of a file
//! is ever written through the cache. Block devices are written in whole blocks.

use crate::buffer::{ALIGN, Buffer};
use crate::extent::ByteRange;
use rustix::fs::{Advice, FallocateFlags, FileType, FsWord, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Bytes that go through the page cache before they are dropped from it.
const SWEEP: u64 = 16 << 20;

/// `f_type` of tmpfs (`linux/magic.h`): its files are page cache and nothing else. It takes O_DIRECT,
/// but then whoever submits a request copies the bytes, so no two are ever under way.
const TMPFS: FsWord = 0x0102_1994;

/// Longest request that takes the way through an aligned buffer, in bytes.
const DETOUR: usize = 1 << 20;

/// How a disk is opened.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// For writing as well as reading.
    pub write: bool,
    /// Of a block device: fail with EBUSY if it is mounted or held (`O_EXCL`).
    pub exclusive: bool,
    /// Go past the page cache where that works.
    pub direct: bool,
}

/// An open file or block device. All calls block.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    cached: OwnedFd,
    direct: Option<OwnedFd>,
    align: u32,
    stat: Stat,
    /// Errno of the first sync that failed; zero if none did.
    sync_failed: AtomicI32,
    /// Bytes that went through the page cache since the last sweep.
    unswept: AtomicU64,
}

impl Disk {
    /// Opens what is at `path`, which must exist.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path, how: Open) -> io::Result<Self> {
        let mut flags = access(how);
        flags.set(OFlags::EXCL, how.exclusive);
        let cached = rustix::fs::open(path, flags, Mode::empty())?;
        Self::from_fd(cached, path, how)
    }

    /// Takes over `cached`, an open descriptor of what is at `path`.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn from_fd(cached: OwnedFd, path: &Path, how: Open) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&cached)?;
        let mut disk = Self {
            path: path.to_owned(),
            cached,
            direct: None,
            align: 1,
            stat,
            sync_failed: AtomicI32::new(0),
            unswept: AtomicU64::new(0),
        };
        if how.direct {
            disk.go_direct(how);
        }
        Ok(disk)
    }

    /// Opens the disk a second time past the page cache, and keeps that if a read works.
    fn go_direct(&mut self, how: Open) {
        let in_memory = rustix::fs::fstatfs(&self.cached).is_ok_and(|fs| fs.f_type == TMPFS);
        if in_memory && !self.is_block_device() {
            return;
        }
        let flags = access(how) | OFlags::DIRECT;
        let Ok(direct) = rustix::fs::open(&self.path, flags, Mode::empty()) else {
            return;
        };
        if !rustix::fs::fstat(&direct).is_ok_and(|stat| same_disk(&stat, &self.stat)) {
            return;
        }
        let mut probe = Buffer::unbudgeted(ALIGN);
        let least = match super::blockdev::logical_block(self.cached.as_fd()) {
            Ok(block) => block,
            Err(_) => page_size(),
        };
        let Some(space) = usize::try_from(least)
            .ok()
            .and_then(|len| probe.get_mut(..len.min(ALIGN)))
        else {
            return;
        };
        if rustix::io::pread(&direct, space, 0).is_ok() {
            self.direct = Some(direct);
            self.align = least;
        }
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset, length and address of requests that go past the page cache are multiples of this,
    /// in bytes: the logical block of a device, a page of a file. 1 if all go through the cache.
    #[must_use]
    pub fn align(&self) -> u32 {
        self.align
    }

    /// Whether requests go past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// What stat(2) said when it was opened.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode).is_block_device()
    }

    /// Whether the kernel lets only one writer in at a time.
    pub(super) fn is_written_by_one(&self) -> bool {
        !self.is_direct() && !self.is_block_device()
    }

    /// A descriptor for ioctls.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.cached.as_fd()
    }

    /// Its size now, in bytes.
    ///
    /// # Errors
    /// It cannot be sought.
    pub fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.cached, SeekFrom::End(0))?)
    }

    /// Reads until `buffer` is full or the disk ends; gives the bytes read.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let whole = self.direct_part(offset, buffer.len());
        let mut done = 0;
        while let Some(space) = buffer.get_mut(done..).filter(|space| !space.is_empty()) {
            let at = offset.saturating_add(as_u64(done));
            let count = match &self.direct {
                // A short direct read leaves an unaligned rest; that is at the end of a file.
                Some(fd) if done < whole && self.is_aligned(at) => {
                    let left = whole.saturating_sub(done);
                    self.read_direct(fd, at, space.get_mut(..left).unwrap_or_default())
                }
                _ => rustix::io::pread(&self.cached, space, at),
            };
            match count {
                Ok(0) => break,
                Ok(count) => done = done.saturating_add(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.sweep(as_u64(done.saturating_sub(whole)));
        Ok(done)
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let whole = self.direct_part(offset, data.len());
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(as_u64(done));
            let count = match &self.direct {
                Some(fd) if done < whole => {
                    let left = whole.saturating_sub(done);
                    self.write_direct(fd, at, rest.get(..left).unwrap_or_default())
                }
                _ => rustix::io::pwrite(&self.cached, rest, at),
            };
            match count {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done = done.saturating_add(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.sweep(as_u64(data.len().saturating_sub(whole)));
        Ok(())
    }

    /// How many of the first bytes of a request can go past the page cache.
    fn direct_part(&self, offset: u64, len: usize) -> usize {
        match usize::try_from(self.align) {
            Ok(align) if self.is_direct() && self.is_aligned(offset) => {
                len.saturating_sub(len.checked_rem(align).unwrap_or(0))
            }
            _ => 0,
        }
    }

    /// Reads past the page cache, by way of an aligned buffer if `space` is not aligned.
    fn read_direct(&self, fd: &OwnedFd, at: u64, space: &mut [u8]) -> rustix::io::Result<usize> {
        if self.is_aligned_memory(space) {
            return rustix::io::pread(fd, space, at);
        }
        let mut aligned = Buffer::unbudgeted(space.len().min(DETOUR));
        let count = rustix::io::pread(fd, &mut *aligned, at)?;
        for (to, from) in space.iter_mut().zip(aligned.iter().take(count)) {
            *to = *from;
        }
        Ok(count)
    }

    /// Writes past the page cache, by way of an aligned buffer if `data` is not aligned.
    fn write_direct(&self, fd: &OwnedFd, at: u64, data: &[u8]) -> rustix::io::Result<usize> {
        if self.is_aligned_memory(data) {
            return rustix::io::pwrite(fd, data, at);
        }
        let data = data.get(..DETOUR).unwrap_or(data);
        let mut aligned = Buffer::unbudgeted(data.len());
        aligned.copy_from_slice(data);
        rustix::io::pwrite(fd, &aligned, at)
    }

    /// Whether the kernel can move these bytes without a copy: devices want at most a sector.
    fn is_aligned_memory(&self, bytes: &[u8]) -> bool {
        let sector = usize::try_from(self.align).map_or(ALIGN, |align| align.min(ALIGN));
        bytes.as_ptr().align_offset(sector) == 0
    }

    /// The descriptor for a request that goes past the page cache as it is.
    pub(super) fn direct_for(&self, offset: u64, memory: &[u8]) -> Option<BorrowedFd<'_>> {
        let whole = self.direct_part(offset, memory.len()) == memory.len();
        let fits = whole && !memory.is_empty() && self.is_aligned_memory(memory);
        self.direct.as_ref().filter(|_| fits).map(OwnedFd::as_fd)
    }

    fn is_aligned(&self, offset: u64) -> bool {
        offset.is_multiple_of(u64::from(self.align))
    }

    /// Makes every completed write durable. Once it has failed it fails for ever: the kernel
    /// reports a lost write once, and calls later ones good.
    ///
    /// # Errors
    /// Those of fdatasync(2), now or earlier.
    pub fn sync(&self) -> io::Result<()> {
        let earlier = self.sync_failed.load(Ordering::Acquire);
        if earlier != 0 {
            return Err(io::Error::from_raw_os_error(earlier));
        }
        rustix::fs::fdatasync(&self.cached).map_err(|error| {
            self.sync_failed
                .store(error.raw_os_error(), Ordering::Release);
            io::Error::from(error)
        })?;
        if self.unswept.swap(0, Ordering::Relaxed) > 0 || !self.is_direct() {
            self.forget();
        }
        Ok(())
    }

    /// Makes the next read see what the device holds, where the cache is in use.
    ///
    /// # Errors
    /// As for [`sync`](Self::sync).
    pub fn evict(&self) -> io::Result<()> {
        self.sync()?;
        self.forget();
        Ok(())
    }

    /// Changes the space under `range`: `PUNCH_HOLE`, `ZERO_RANGE` and the like.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn allocate(&self, mode: FallocateFlags, range: ByteRange) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.cached, mode, range.start, range.len()) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// The first byte at or after `offset` that may not be a hole; `None` if only holes follow.
    ///
    /// # Errors
    /// The file system does not know.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.cached, SeekFrom::Data(offset)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The first byte at or after `offset` that is in a hole; the end of a file is one.
    ///
    /// # Errors
    /// The file system does not know, or `offset` is past the end.
    pub fn next_hole(&self, offset: u64) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.cached, SeekFrom::Hole(offset))?)
    }

    /// Counts bytes that went through the page cache; now and then starts to write out those that
    /// are dirty and drops the rest. Waits for nothing: the kernel slows writers that are too fast.
    fn sweep(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.unswept.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) >= SWEEP {
            self.unswept.store(0, Ordering::Relaxed);
            self.forget();
        }
    }

    /// Drops clean pages from the page cache and starts to write the dirty ones. All of them: of a
    /// range, the kernel keeps every large folio that reaches out of it. What is refused costs
    /// only memory.
    fn forget(&self) {
        let _ = rustix::fs::fadvise(&self.cached, 0, None, Advice::DontNeed);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if *self.unswept.get_mut() > 0 {
            self.forget();
        }
    }
}

/// The flags of open(2) that both descriptors share.
fn access(how: Open) -> OFlags {
    let mode = if how.write {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    // NONBLOCK so that a FIFO at the path cannot hang the open; no meaning for disks.
    mode | OFlags::CLOEXEC | OFlags::NONBLOCK
}

/// Whether two descriptors are of one disk.
fn same_disk(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev)
}

/// Bytes of a page, at least 4096.
fn page_size() -> u32 {
    u32::try_from(rustix::param::page_size())
        .unwrap_or(4096)
        .max(4096)
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
