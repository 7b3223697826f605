//! The guest: a thread that keeps changing the disk, as a running machine does.

use super::LiveDisk;
use super::content::Noise;
use crate::extent::ByteRange;
use crate::nbd::server::Export;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// Rest between two bursts.
const REST: Duration = Duration::from_millis(10);

/// Writes of one burst. With the rest above some 20 MB/s, which is a busy guest.
const BURST: usize = 6;

/// A guest that writes until it is told to stop, or dropped.
#[derive(Debug)]
pub struct Guest {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Guest {
    /// Starts to write to `disk`.
    #[must_use]
    pub fn start(disk: LiveDisk, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = spawn(move || {
            let mut noise = Noise::new(seed);
            while !stopped.load(Ordering::Relaxed) {
                (0..BURST).try_for_each(|_| change(&disk, &mut noise))?;
                sleep(REST);
            }
            Ok(())
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops it: when this returns, its last write is on the disk.
    ///
    /// # Errors
    /// It could not write, at some time.
    pub fn stop(mut self) -> io::Result<()> {
        self.halt()
    }

    fn halt(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |end| {
            end.unwrap_or_else(|_| Err(io::Error::other("the guest crashed")))
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.halt();
    }
}

/// One write of 4 to 64 KiB, mostly to the busy sixteenth of the disk; now and then zeroes.
fn change(disk: &LiveDisk, noise: &mut Noise) -> io::Result<()> {
    const UNIT: u64 = 4096;
    let size = disk.size();
    let span = match noise.below(16) {
        0 => size,
        _ => size / 16,
    };
    let start = noise.below(span / UNIT).saturating_mul(UNIT);
    let len = noise.below(16).saturating_add(1).saturating_mul(UNIT);
    let range = ByteRange::at(start, len).intersect(ByteRange::new(0, size));
    if noise.below(12) == 0 {
        return disk.zero_at(range);
    }
    let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
    noise.fill(&mut bytes);
    disk.write_at(range.start, &bytes)
}
