//! What the operating system offers and no library wraps safely. With `buffer`, one of the two
//! rooms where `unsafe` may live.
//!
//! ```text
//!  disk.rs      one open file or block device: read, write, sync; blocks
//!  queue.rs     requests to a disk, many at once; does not block
//!  aio.rs       Linux AIO, for direct requests
//!  writer.rs    one thread for all that is written through the page cache
//!  inherited.rs descriptors that came with the process, by number
//!  blockdev.rs  the requests that only block devices know
//!  sysfs.rs     what the kernel tells about a block device; who it is, who holds it
//!  names.rs     where a path leads, and whether a file still has its name
//!  tables.rs    /proc/self/mountinfo and /proc/swaps, as text
//! ```
//!
//! Nothing here decides: callers get facts and `io::Error`s and make sense of them.

mod aio;
pub mod blockdev;
pub mod disk;
pub mod inherited;
pub mod names;
pub mod queue;
pub mod sysfs;
pub mod tables;
mod writer;

use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{self, Read};
use tokio::sync::oneshot;

/// Runs `work`, which computes, on the processors that are kept for that.
///
/// # Errors
/// The work ended without a result, which it only does if it panics.
pub async fn computing<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, result) = oneshot::channel();
    // Whoever asked may be gone.
    rayon::spawn(move || drop(done.send(work())));
    result
        .await
        .map_err(|gone| Error::new(Kind::Io, "compute").because(gone))
}

/// Random bytes, for names that nothing else has. Blocks for a moment.
///
/// # Errors
/// `/dev/urandom` is not there.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Runs `work`, which may block, away from the threads that wait for the network.
///
/// Dropping the future does not stop work that has begun; it owns all that it needs.
///
/// # Errors
/// Those of `work`; or the runtime is shutting down.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(gone) => Err(io::Error::other(gone)),
    }
}
