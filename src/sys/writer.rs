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
            // Whoever gave up may write the same bytes anew: what was not begun must not come later.
            if !write.tell.is_closed() {
                let _ = write.tell.send(disk.write(write.offset, &write.data));
            }
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

#[cfg(test)]
mod tests {
    use super::{Disk, Write, Writer};
    use crate::sys::disk::Open;
    use bytes::Bytes;
    use std::fs;
    use tokio::sync::oneshot;

    #[test]
    fn what_nobody_waits_for_any_more_is_not_begun() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let how = Open {
            write: true,
            exclusive: false,
            direct: false,
        };
        let disk = Disk::open(file.path(), how).unwrap();
        let writer = Writer::default();
        let join = |offset, data: &'static [u8]| {
            let (tell, told) = oneshot::channel();
            let data = Bytes::from_static(data);
            let first = writer.join(Write { offset, data, tell });
            (first, told)
        };
        let (first, mut kept) = join(0, b"kept");
        let (second, given_up) = join(0, b"late");
        assert_eq!((first, second), (true, false));
        drop(given_up);
        writer.work(&disk);
        assert!(kept.try_recv().unwrap().is_ok());
        assert_eq!(fs::read(file.path()).unwrap(), b"kept");
        assert!(join(4, b"more").0, "a thread is needed anew");
    }
}
