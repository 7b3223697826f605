//! Disks that are read, and what tells their changes.

use super::client_options;
use super::sources::{Disk, open_source};
use crate::address::Address;
use crate::changes::Tracker;
use crate::changes::nbd_bitmap::{self, NbdBitmap};
use crate::changes::vsphere::{Cbt, Written};
use crate::error::{Error, Kind, Result};
use crate::job::options::{Baseline, CopyOptions};
use crate::nbd::client::Options as ClientOptions;
use crate::pipeline::counters::Counters;
use crate::source::Source;
use crate::source::checked::Checked;
use crate::source::vddk::VddkAddress;
use std::path::PathBuf;
use std::sync::Arc;

/// A source, and what tells its changes.
#[derive(Debug)]
pub(in crate::job) struct Opened {
    pub(in crate::job) source: Arc<dyn Source>,
    pub(in crate::job) tracker: Option<Arc<dyn Tracker>>,
    /// What the bytes under the source must add up to.
    pub(in crate::job) checked: Option<Arc<Checked>>,
    /// Local files that it is made of besides the one that was named.
    pub(in crate::job) files: Vec<PathBuf>,
}

impl Opened {
    fn new(disk: Disk, tracker: Option<Arc<dyn Tracker>>) -> Self {
        Self {
            source: disk.source,
            tracker,
            checked: disk.checked,
            files: disk.files,
        }
    }
}

/// Opens the disk that is read, and its tracker if only changes are wanted.
///
/// # Errors
/// Either cannot be opened, or this kind of source has no such tracker.
pub(in crate::job) async fn source(options: &CopyOptions, counters: &Counters) -> Result<Opened> {
    let client = client_options(&options.source, &options.tuning, counters.retries.clone());
    match &options.pass.changes_since {
        None => written(options, client).await,
        Some(Baseline::Digest) => {
            // Whoever compares doubts what the server tells of changes.
            let disk = open_source(&options.source, &options.reading, client).await?;
            Ok(Opened::new(disk, None))
        }
        Some(Baseline::NbdBitmap(bitmap)) => with_bitmap(bitmap, options, client).await,
        Some(Baseline::Cbt(since)) => {
            let tracker = Cbt::open(&vddk(options)?, since.clone()).await?;
            with_tracker(tracker, options, client).await
        }
    }
}

/// All of the disk; a server that knows what was never written to it is asked.
async fn written(options: &CopyOptions, client: ClientOptions) -> Result<Opened> {
    let mut disk = open_source(&options.source, &options.reading, client).await?;
    if let (Address::Vddk(text), true) = (&options.source, options.zeroes.extents) {
        disk.source = Written::over(disk.source, &text.parse()?).await;
    }
    Ok(Opened::new(disk, None))
}

async fn with_bitmap(bitmap: &str, options: &CopyOptions, client: ClientOptions) -> Result<Opened> {
    let client = ClientOptions {
        contexts: vec![nbd_bitmap::context(bitmap)],
        ..client
    };
    let disk = open_source(&options.source, &options.reading, client).await?;
    let Some(client) = disk.client.clone() else {
        let what = format!("{} has no dirty bitmaps", options.source);
        return Err(Error::new(Kind::Refused, what).hint("nbd-bitmap needs an NBD source"));
    };
    let tracker = NbdBitmap::new(client, bitmap)?;
    Ok(Opened::new(disk, Some(Arc::new(tracker))))
}

async fn with_tracker(
    tracker: impl Tracker + 'static,
    options: &CopyOptions,
    client: ClientOptions,
) -> Result<Opened> {
    let disk = open_source(&options.source, &options.reading, client).await?;
    Ok(Opened::new(disk, Some(Arc::new(tracker))))
}

/// The disk of vSphere that is read.
fn vddk(options: &CopyOptions) -> Result<VddkAddress> {
    let Address::Vddk(text) = &options.source else {
        let what = format!("{} has no changed block tracking", options.source);
        return Err(Error::new(Kind::Refused, what).hint("cbt needs a vddk:// source"));
    };
    text.parse()
}
