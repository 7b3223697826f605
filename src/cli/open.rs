//! An address → a disk that is open, with the options that say how an image is read.

use crate::address::Address;
use crate::error::Result;
use crate::job::options::{Reading, Tuning};
use crate::job::{Disk, any_source};
use crate::source::Source;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// How images are read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Image")]
pub(super) struct ImageOptions {
    /// Format of the source; a file is probed, all else is raw, unless this says what it is
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) source_format: Option<String>,

    /// A directory, besides its own, out of which an image may open its parents and parts
    #[arg(long, value_name = "DIR")]
    pub(super) allow_backing: Vec<PathBuf>,

    /// Read the disk as it was at this snapshot inside the image, by ID or name
    #[arg(long, value_name = "SNAPSHOT")]
    pub(super) snapshot: Option<String>,
}

impl ImageOptions {
    /// As the engine takes it.
    pub(super) fn reading(&self) -> Reading {
        Reading {
            format: self.source_format.clone(),
            allow: self.allow_backing.clone(),
            snapshot: self.snapshot.clone(),
        }
    }
}

/// Opens a disk to be read.
pub(super) async fn source(
    address: &Address,
    reading: &Reading,
    tuning: &Tuning,
) -> Result<Arc<dyn Source>> {
    Ok(disk(address, reading, tuning).await?.source)
}

/// Opens a disk to be read, and tells what it is made of.
pub(super) async fn disk(address: &Address, reading: &Reading, tuning: &Tuning) -> Result<Disk> {
    any_source(address, reading, tuning, Vec::new()).await
}
