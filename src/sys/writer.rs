//! One thread that writes to a file, as long as there is something to write.
//!
//! The kernel lets one writer at a time into a file's page cache. Those who wait there keep a
//! processor busy with looking whether it is their turn, and from one to the next it takes a wakeup.

use super::disk::Disk;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What waits to be written to one disk, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Writer(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Write>,
    /// A thread writes, and will look for more when it is done.
    busy: bool,
}

#[derive(Debug)]
struct Write {
    offset: u64,
    data: Bytes,
    tell: oneshot::Sender<io::Result<()>>,
}

impl Writer {
    /// Has `data` written to `disk`, and waits for it.
    ///
    /// # Errors
    /// Those of pwrite(2); or the runtime is shutting down.
    pub(super) async fn write(
        self: &Arc<Self>,
        disk: &Arc<Disk>,
        offset: u64,
        data: Bytes,
    ) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        if self.join(Write { offset, data, tell }) {
            let (writer, disk) = (Arc::clone(self), Arc::clone(disk));
            // It goes on for others when whoever began it is gone.
            drop(tokio::task::spawn_blocking(move || writer.work(&disk)));
        }
        told.await.map_err(io::Error::other)?
    }

    /// Whether a thread must be found for it.
    fn join(&self, write: Write) -> bool {
        let mut line = self.line();
        line.waiting.push_back(write);
        !std::mem::replace(&mut line.busy, true)
    }

    /// Blocks until nothing waits.
    fn work(&self, disk: &Disk) {
        while let Some(write) = self.next() {
            // Whoever waited may be gone.
            let _ = write.tell.send(disk.write(write.offset, &write.data));
        }
    }

    fn next(&self) -> Option<Write> {
        let mut line = self.line();
        let next = line.waiting.pop_front();
        line.busy = next.is_some();
        next
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
