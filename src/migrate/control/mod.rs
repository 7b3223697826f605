//! Steering a migration from outside its process: a unix socket in the job directory, one JSON
//! object a line each way.
//!
//! ```text
//!  wire.rs     what is asked and answered
//!  server.rs   in the process that drives
//!  client.rs   in `diskferry status`, `cutover` and so on
//! ```

mod client;
mod server;
mod wire;

pub use client::{Asked, ask};
pub(super) use server::serve;
pub use wire::{Answer, Request};

use crate::error::{Error, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The socket's name in the job directory.
const NAME: &str = "control";

/// A path to the socket that is short whatever the directory: an address has room for 107 bytes.
///
/// It is good for as long as the file that comes with it is open.
///
/// # Errors
/// There is no such directory.
fn short_path(directory: &Path) -> Result<(PathBuf, File)> {
    let opened = File::open(directory)
        .map_err(|error| Error::io(format!("open {}", directory.display()), error))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()));
    Ok((path, opened))
}
