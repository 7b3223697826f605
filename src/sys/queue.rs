//! The requests of one local disk, many under way at once.
//!
//! Direct requests go to the kernel as they are; what must pass through the page cache, and
//! everything where the kernel has no AIO, is done by threads. A request owns its memory until it
//! is done, whatever becomes of the future.

use super::aio::{Aio, Memory};
use super::blocking;
use super::disk::Disk;
use super::writer::Writer;
use crate::buffer::Buffer;
use bytes::Bytes;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open disk with the means to wait for it. Cloning shares both.
#[derive(Clone, Debug)]
pub struct Queue {
    // Dropped first: that waits for the requests under way.
    aio: Arc<Mutex<Option<Arc<Aio>>>>,
    disk: Arc<Disk>,
    writer: Arc<Writer>,
}

impl Queue {
    /// Takes over `disk`. Its requests are tied to the runtime that this is called in.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        let aio = disk.is_direct().then(Aio::new).and_then(|aio| {
            aio.inspect_err(|error| tracing::debug!(%error, "no AIO: threads do it"))
                .ok()
        });
        Self {
            aio: Arc::new(Mutex::new(aio)),
            ..Self::with_threads(disk)
        }
    }

    /// Takes over `disk`, whose requests threads will do.
    #[must_use]
    pub fn with_threads(disk: Disk) -> Self {
        Self {
            aio: Arc::default(),
            disk: Arc::new(disk),
            writer: Arc::default(),
        }
    }

    /// From now on threads do what comes, so that what the kernel needs 30 ms to take down is down
    /// by the time that the last of it is done.
    pub fn ending(&self) {
        // Those who wait for a request have it too: whoever is last drops it.
        drop(self.aio().take());
    }

    fn aio(&self) -> MutexGuard<'_, Option<Arc<Aio>>> {
        self.aio.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every request takes a thread: the kernel does none of them by itself.
    #[must_use]
    pub fn needs_threads(&self) -> bool {
        self.aio().is_none()
    }

    /// The disk itself, for calls that block.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Reads until `buffer` is full or the disk ends; gives the bytes read.
    ///
    /// # Errors
    /// Those of pread(2).
    pub async fn read(&self, offset: u64, buffer: Buffer) -> io::Result<(Buffer, usize)> {
        let (mut buffer, done) = match self.start(offset, Memory::Read(buffer)).await? {
            (Memory::Read(buffer), done) => (buffer, done),
            (Memory::Write(_), _) => return Err(io::Error::other("a read gave back a write")),
        };
        if done == buffer.len() {
            return Ok((buffer, done));
        }
        self.run(move |disk| {
            let rest = buffer.get_mut(done..).unwrap_or_default();
            let more = disk.read(offset.saturating_add(done as u64), rest)?;
            Ok((buffer, done.saturating_add(more)))
        })
        .await
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub async fn write(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let (data, done) = match self.start(offset, Memory::Write(data)).await? {
            (Memory::Write(data), done) => (data, done),
            (Memory::Read(_), _) => return Err(io::Error::other("a write gave back a read")),
        };
        if done == data.len() {
            return Ok(());
        }
        let (offset, rest) = (offset.saturating_add(done as u64), data.slice(done..));
        if self.disk.is_written_by_one() {
            return self.writer.write(&self.disk, offset, rest).await;
        }
        self.run(move |disk| disk.write(offset, &rest)).await
    }

    /// Does of a request what the kernel does by itself: all, nothing, or its first bytes.
    async fn start(&self, offset: u64, memory: Memory) -> io::Result<(Memory, usize)> {
        let bytes: &[u8] = match &memory {
            Memory::Read(buffer) => buffer,
            Memory::Write(data) => data,
        };
        // Kept until it is done: a context does not go while it has a request.
        let aio = self.aio().clone();
        let way = aio.as_ref().zip(self.disk.direct_for(offset, bytes));
        let Some((context, fd)) = way else {
            return Ok((memory, 0));
        };
        let told = match context.submit(fd, offset, memory) {
            Ok(told) => told,
            Err(memory) => return Ok((memory, 0)),
        };
        let lost = |_| io::Error::other("the kernel lost a request");
        let (memory, result) = told.await.map_err(lost)?;
        let done = result?;
        // What a short request leaves may be unaligned, or the end: the slow way knows.
        let align = usize::try_from(self.disk.align()).unwrap_or(1);
        Ok((
            memory,
            done.saturating_sub(done.checked_rem(align).unwrap_or(0)),
        ))
    }

    /// Does `work`, which blocks, and waits for it.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = Arc::clone(&self.disk);
        blocking(move || work(&disk)).await
    }
}

#[cfg(test)]
mod tests {
    use super::{Disk, Queue};
    use crate::buffer::Buffer;
    use crate::sys::disk::Open;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use futures_util::future::maybe_done;
    use std::fs::File;
    use std::path::Path;

    const PIECE: usize = 64 << 10;
    const PIECES: u8 = 40;

    fn queue(dir: &Path) -> Queue {
        let path = dir.join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(u64::from(PIECES) * PIECE as u64).unwrap();
        let how = Open {
            write: true,
            exclusive: false,
            direct: true,
        };
        Queue::new(Disk::open(&path, how).unwrap())
    }

    fn data(number: u8) -> Bytes {
        let mut buffer = Buffer::unbudgeted(PIECE);
        buffer.fill(number);
        buffer.freeze()
    }

    fn offset(number: u8) -> u64 {
        u64::from(number) * PIECE as u64
    }

    async fn holds(queue: &Queue, number: u8) {
        let buffer = Buffer::unbudgeted(PIECE);
        let (found, count) = queue.read(offset(number), buffer).await.unwrap();
        assert_eq!(count, PIECE);
        assert!(found.iter().all(|byte| *byte == number), "piece {number}");
    }

    /// On a disk with AIO, and in memory, where one thread writes.
    async fn on_both(test: impl AsyncFn(Queue)) {
        for place in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"] {
            let dir = tempfile::tempdir_in(Path::new(place).join("target"))
                .or_else(|_| tempfile::tempdir_in(place))
                .unwrap();
            test(queue(dir.path())).await;
        }
    }

    #[tokio::test]
    async fn a_file_in_memory_is_for_threads_however_it_is_opened() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let queue = queue(dir.path());
        assert!(!queue.disk().is_direct() && queue.needs_threads());
    }

    #[tokio::test]
    async fn requests_are_served_while_and_after_it_ends() {
        on_both(async |queue| {
            let writes = (0..PIECES).map(|number| {
                let (offset, data) = (offset(number), data(number));
                maybe_done(queue.write(offset, data))
            });
            let mut writes: Vec<_> = writes.map(Box::pin).collect();
            for write in writes.iter_mut().take(20) {
                let _begun = write.now_or_never();
            }
            queue.ending();
            for write in &mut writes {
                write.as_mut().await;
                write.as_mut().take_output().unwrap().unwrap();
            }
            for number in 0..PIECES {
                holds(&queue, number).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_does_not_keep_others_from_being_served() {
        on_both(async |queue| {
            for number in 0..PIECES - 1 {
                let mut write = Box::pin(queue.write(offset(number), data(number)));
                let _begun = (&mut write).now_or_never();
            }
            let last = PIECES - 1;
            queue.write(offset(last), data(last)).await.unwrap();
            holds(&queue, last).await;
        })
        .await;
    }
}
