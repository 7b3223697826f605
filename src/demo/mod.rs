//! The whole story on one machine with nothing to install: a disk that is written while it is
//! copied, passes over its changes, a crash in the middle, cutover, proof.
//!
//! The disk is served by the server of this crate, and the passes are run by executing this very
//! program as a user would. So what is shown is what a user gets. Nothing is left behind.
//!
//! ```text
//!  story.rs    the order of things, and how it is told
//!  pass.rs     one `copy`, as a child process
//!  guest.rs    who keeps writing
//!  proof.rs    byte for byte, by nothing that the copy used
//!  content.rs  what is on the disk
//!  scratch.rs  a directory that goes
//!
//!  disk.rs     LiveDisk: written, tracked and snapshotted at once
//!  view.rs     View: the disk as it was at one moment, served to a pass
//!  bitmap.rs   one bit per 64 KiB
//! ```

pub mod bitmap;
pub mod content;
pub mod disk;
pub mod guest;
mod pass;
pub mod proof;
pub mod scratch;
mod story;
pub mod view;

pub use disk::LiveDisk;
pub use view::View;

use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// The smallest disk that a story can be told of, in bytes.
pub const SMALLEST: u64 = 16 << 20;

/// What a user can choose.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// This program.
    pub program: PathBuf,
    /// Bytes of the disk, at least [`SMALLEST`].
    pub size: u64,
    /// Where the disk is moved to; a file of our own if not given.
    pub target: Option<PathBuf>,
    /// Write over a target that holds something.
    pub overwrite: bool,
    /// Where there is room for disk and target, for as long as it takes.
    pub directory: PathBuf,
    /// Determines the content of the disk and what the guest does.
    pub seed: u64,
}

/// Tells the story to its end; `tell` gets one line after the other.
///
/// # Errors
/// Something failed, a byte was not proven, or a signal came. Nothing is left behind then, either.
pub async fn run(
    options: &DemoOptions,
    tell: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<()> {
    if options.size < SMALLEST {
        let doing = format!("a demo with a disk of {} bytes", options.size);
        let hint = format!("--size takes at least {} MiB", SMALLEST >> 20);
        return Err(Error::new(Kind::Usage, doing).hint(hint));
    }
    let failed = |error| Error::io("wait for signals", error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let stopped = || Err(Error::new(Kind::Interrupted, "the demo was stopped"));
    // What is dropped half-way stops its guest and its child and removes its directory.
    tokio::select! {
        told = story::tell(options, tell) => told,
        _ = interrupt.recv() => stopped(),
        _ = terminate.recv() => stopped(),
        _ = hangup.recv() => stopped(),
    }
}
