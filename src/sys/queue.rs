//! The requests of one local disk, many under way at once.
//!
//! A request owns its buffer until it is done, whatever becomes of the future: the kernel never
//! reads or writes memory that was given back.

use super::blocking;
use super::disk::Disk;
use crate::buffer::Buffer;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// An open disk with the means to wait for it. Cloning shares both.
#[derive(Clone, Debug)]
pub struct Queue {
    disk: Arc<Disk>,
}

impl Queue {
    /// Takes over `disk`.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self {
            disk: Arc::new(disk),
        }
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
    pub async fn read(&self, offset: u64, mut buffer: Buffer) -> io::Result<(Buffer, usize)> {
        self.run(move |disk| {
            let count = disk.read(offset, &mut buffer)?;
            Ok((buffer, count))
        })
        .await
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub async fn write(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.run(move |disk| disk.write(offset, &data)).await
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
