//! The requests of one local disk, many under way at once.
//!
//! Direct requests go to the kernel as they are; what must pass through the page cache, and
//! everything where the kernel has no AIO, is done by threads. A request owns its memory until it
//! is done, whatever becomes of the future.

use super::aio::{Aio, Memory};
use super::blocking;
use super::disk::Disk;
use crate::buffer::Buffer;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// An open disk with the means to wait for it. Cloning shares both.
#[derive(Clone, Debug)]
pub struct Queue {
    // Dropped first: that waits for the requests under way.
    aio: Option<Arc<Aio>>,
    disk: Arc<Disk>,
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
            aio,
            disk: Arc::new(disk),
        }
    }

    /// Takes over `disk`, whose requests threads will do.
    #[must_use]
    pub fn with_threads(disk: Disk) -> Self {
        Self {
            aio: None,
            disk: Arc::new(disk),
        }
    }

    /// Whether every request takes a thread: the kernel does none of them by itself.
    #[must_use]
    pub fn needs_threads(&self) -> bool {
        self.aio.is_none()
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
        self.run(move |disk| {
            let rest = data.get(done..).unwrap_or_default();
            disk.write(offset.saturating_add(done as u64), rest)
        })
        .await
    }

    /// Does of a request what the kernel does by itself: all, nothing, or its first bytes.
    async fn start(&self, offset: u64, memory: Memory) -> io::Result<(Memory, usize)> {
        let bytes: &[u8] = match &memory {
            Memory::Read(buffer) => buffer,
            Memory::Write(data) => data,
        };
        let way = self.aio.as_ref().zip(self.disk.direct_for(offset, bytes));
        let Some((aio, fd)) = way else {
            return Ok((memory, 0));
        };
        let told = match aio.submit(fd, offset, memory) {
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
