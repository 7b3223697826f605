//! What the operating system offers and no library wraps safely. With `buffer`, one of the two
//! rooms where `unsafe` may live.
//!
//! ```text
//!  disk.rs      one open file or block device: read, write, sync; blocks
//!  queue.rs     requests to a disk, many at once; does not block
//!  aio.rs       Linux AIO, for direct requests
//!  inherited.rs descriptors that came with the process, by number
//!  blockdev.rs  the requests that only block devices know
//!  sysfs.rs     what the kernel tells about a block device; who it is, who holds it
//!  tables.rs    /proc/self/mountinfo and /proc/swaps, as text
//! ```
//!
//! Nothing here decides: callers get facts and `io::Error`s and make sense of them.

mod aio;
pub mod blockdev;
pub mod disk;
pub mod inherited;
pub mod queue;
pub mod sysfs;
pub mod tables;

use std::io;

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
