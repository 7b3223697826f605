//! Disks that are written.

use super::{client_options, is_stream_type};
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::job::context::Context;
use crate::job::options::{CopyOptions, ImageFormat, Making, Tuning};
use crate::nbd::client::{Client, Endpoint};
use crate::pipeline::counters::Counters;
use crate::sys::blocking;
use crate::target::Target;
use crate::target::block::{BlockOptions, BlockTarget};
use crate::target::file::{FileOptions, FileTarget};
use crate::target::nbd::NbdTarget;
use crate::target::null::NullTarget;
use crate::target::preflight::Intent;
use crate::target::qcow2::{Qcow2Options, Qcow2Target};
use crate::target::stdout::StreamTarget;
use crate::target::vhd::{VhdOptions, VhdTarget};
use crate::target::vhdx::{VhdxOptions, VhdxTarget};
use crate::target::vmdk::{VmdkOptions, VmdkTarget};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind::NotFound;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

/// How a target is opened.
#[derive(Clone, Debug, Default)]
pub(in crate::job) struct How {
    /// What is there now may be lost.
    pub(in crate::job) overwrite: bool,
    /// Bytes that will be written, if that is known.
    pub(in crate::job) size: Option<u64>,
    /// A journal shows that what is there was written by us.
    pub(in crate::job) resuming: bool,
    /// The whole disk is there, written by a pass before this one.
    pub(in crate::job) whole: bool,
    /// Bytes that an earlier run of this pass made durable.
    pub(in crate::job) done: u64,
    /// What an earlier run measured.
    pub(in crate::job) probe: Option<Value>,
    /// What it will be like.
    pub(in crate::job) making: Making,
}

/// Opens the disk that is written, after every check of it has passed.
///
/// # Errors
/// A check says no, or it cannot be opened; `Interrupted` if an end is asked for.
pub(in crate::job) async fn target(
    address: &Address,
    tuning: &Tuning,
    how: &How,
    context: &Context,
) -> Result<Arc<dyn Target>> {
    // A server that says nothing, or a FIFO that nobody reads, must not hold that up.
    let stop = context.stop.clone();
    stop.interrupts(opened(address, tuning, how, &context.counters))
        .await
}

async fn opened(
    address: &Address,
    tuning: &Tuning,
    how: &How,
    counters: &Counters,
) -> Result<Arc<dyn Target>> {
    if how.making.format != ImageFormat::Raw {
        return image_target(address, how).await;
    }
    let endpoint = match address {
        Address::Path(path) => return path_target(path, how).await,
        Address::Stdio => return Ok(Arc::new(StreamTarget::stdout()?)),
        Address::Null => return Ok(Arc::new(NullTarget)),
        Address::Vddk(_) | Address::Http(_) => {
            let what = format!("{address} can only be read");
            return Err(Error::new(Kind::Usage, what));
        }
        Address::Nbd(uri) => Endpoint::Uri(uri.parse()?),
        Address::Child(command) => Endpoint::Child(command.clone()),
    };
    let client = Client::connect(
        endpoint,
        client_options(address, tuning, counters.retries.clone()),
    )
    .await?;
    let target = NbdTarget::new(client)?;
    match (target.capacity(), how.size) {
        (Some(capacity), Some(size)) if capacity < size => {
            let what = format!(
                "{address} is too small: it has {capacity} bytes and the source has {size}"
            );
            Err(Error::new(Kind::Refused, what))
        }
        _ => Ok(Arc::new(target)),
    }
}

/// A new image, which only a regular file can be.
async fn image_target(address: &Address, how: &How) -> Result<Arc<dyn Target>> {
    let path = match address {
        Address::Path(path) if !fs::metadata(path).is_ok_and(|found| !found.is_file()) => path,
        _ => {
            let what = format!("{address} is no regular file, and images are written to those");
            return Err(Error::new(Kind::Unsupported, what));
        }
    };
    let (size, overwrite) = (how.size.unwrap_or(0), how.overwrite);
    Ok(match how.making.format {
        ImageFormat::Vmdk => {
            Arc::new(VmdkTarget::create(path, VmdkOptions { size, overwrite }).await?)
        }
        ImageFormat::Vhdx => {
            Arc::new(VhdxTarget::create(path, VhdxOptions { size, overwrite }).await?)
        }
        ImageFormat::Vhd => {
            Arc::new(VhdTarget::create(path, VhdOptions { size, overwrite }).await?)
        }
        ImageFormat::Raw | ImageFormat::Qcow2 => {
            let usual = Qcow2Options::default();
            let options = Qcow2Options {
                size,
                overwrite,
                cluster: how.making.cluster.unwrap_or(usual.cluster),
                compression: how.making.compression,
                preallocate: how.making.preallocate,
            };
            Arc::new(Qcow2Target::create(path, options).await?)
        }
    })
}

async fn path_target(path: &Path, how: &How) -> Result<Arc<dyn Target>> {
    let overwrite = how.overwrite;
    match fs::metadata(path).map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_block_device() => {
            let intent = Intent {
                source_size: how.size,
                overwrite,
                resuming: how.resuming,
            };
            let probe = how
                .probe
                .clone()
                .and_then(|report| serde_json::from_value(report).ok());
            let block = BlockOptions {
                intent,
                probe,
                ..BlockOptions::default()
            };
            Ok(Arc::new(BlockTarget::open(path, block).await?))
        }
        Ok(kind) if is_stream_type(kind) => {
            let (name, path) = (path.display().to_string(), path.to_owned());
            // A FIFO is open only once somebody reads it.
            let file = blocking(move || OpenOptions::new().write(true).open(path)).await;
            let file = file.map_err(|error| Error::io(format!("open {name}"), error))?;
            Ok(Arc::new(StreamTarget::new(file.into(), name)))
        }
        found => {
            let existing = how.making.existing;
            let size = how.size.unwrap_or(0);
            if existing {
                must_hold(path, found.is_ok(), size)?;
            }
            let file = FileOptions {
                size,
                grows: how.size.is_none() && !existing,
                overwrite,
                in_place: how.whole || existing,
                resuming: how.resuming && !how.whole,
                done: if how.whole { size } else { how.done },
                ..FileOptions::default()
            };
            Ok(Arc::new(FileTarget::open(path, file).await?))
        }
    }
}

/// Whether a target that never gets its name leaves nothing behind: it is a file, and a new one, whatever
/// has that name now.
pub(in crate::job) fn leaves_nothing(options: &CopyOptions) -> bool {
    let Address::Path(path) = &options.target else {
        return false;
    };
    let is_new = !options.making.existing;
    is_new && fs::metadata(path).map_or_else(|error| error.kind() == NotFound, |it| it.is_file())
}

/// Checks that the file that is to be written in place is there and large enough.
fn must_hold(path: &Path, is_there: bool, size: u64) -> Result<()> {
    let found = fs::metadata(path).map_or(0, |meta| meta.len());
    if is_there && found >= size {
        return Ok(());
    }
    let path = path.display();
    let what = match is_there {
        true => format!("{path} is too small: it has {found} bytes and the source has {size}"),
        false => format!("{path} is not there, and none is made"),
    };
    Err(Error::new(Kind::Refused, what).hint("leave out --no-create"))
}
