//! Sources that are read once, in order: pipes, files that are compressed as a whole, and what a web
//! server gives only as a whole.

use super::open::is_stream_type;
use super::options::{CopyOptions, ImageFormat, JournalPlace};
use super::web;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::format::Wrapper;
use crate::source::stdin::StreamSource;
use crate::source::stream::{Belief, ByteStream, Inside, Look, Summed, inside, is_wrapped};
use crate::sys::blocking;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What comes.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The bytes of a disk.
    Raw(Box<dyn ByteStream>),
    /// A VMDK that can be read forward.
    Vmdk(Box<dyn ByteStream>),
}

/// The source as something that is read forward; `None` if it is one that can be read anywhere.
///
/// # Errors
/// It cannot be opened; or it can only come forward, and is not what can be read so.
pub(super) async fn find(
    options: &CopyOptions,
    retried: Arc<AtomicU64>,
) -> Result<Option<Incoming>> {
    let format = options.reading.format.as_deref();
    let (stream, belief): (Box<dyn ByteStream>, _) = match &options.source {
        Address::Stdio => (Box::new(StreamSource::stdin()?), Belief::Disk),
        Address::Path(path) if is_stream(&options.source) => (file(path).await?, Belief::Disk),
        Address::Path(path) if is_enough(options) && is_packed(path, format).await? => {
            (file(path).await?, Belief::File)
        }
        Address::Http(url) if is_enough(options) => {
            match web::stream(url, options, retried).await? {
                Some(stream) => (stream, Belief::File),
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    let stream = match &options.reading.checksum {
        Some(checksum) => Box::new(Summed::new(stream, checksum)),
        None => stream,
    };
    let disk = options.reading.disk.as_deref();
    let look = Look {
        format,
        disk,
        belief,
    };
    match (inside(stream, look).await?, belief) {
        (Inside::Raw(stream), _) => Ok(Some(Incoming::Raw(stream))),
        (Inside::Vmdk(stream), _) => Ok(Some(Incoming::Vmdk(stream))),
        // It is a file: others can go back in it.
        (Inside::Seeking(_), Belief::File) => Ok(None),
        (Inside::Seeking(format), Belief::Disk) => {
            let source = &options.source;
            let what = format!("{source} is a stream, and {format} cannot be read from one");
            let error = Error::new(Kind::Unsupported, what);
            Err(error.hint("put it into a file first"))
        }
    }
}

/// Whether `address` can be read once only: standard input, a pipe, a character device.
pub(super) fn is_stream(address: &Address) -> bool {
    match address {
        Address::Stdio => true,
        Address::Path(path) => {
            fs::metadata(path).is_ok_and(|meta| is_stream_type(meta.file_type()))
        }
        _ => false,
    }
}

/// Whether a pass does nothing that a stream cannot do: no proof, no journal that was asked for, no
/// size to be known before.
fn is_enough(options: &CopyOptions) -> bool {
    options.pass.name() == "full"
        && options.verify != Some(true)
        && options.making.format == ImageFormat::Raw
        && !matches!(options.journal, JournalPlace::Path(_))
}

/// Whether the regular file at `path` is compressed as a whole.
async fn is_packed(path: &Path, format: Option<&str>) -> Result<bool> {
    let named = format.map(|format| Wrapper::split(format).1.is_some());
    let path = path.to_owned();
    let looked = blocking(move || Ok(path.is_file() && named.unwrap_or_else(|| is_wrapped(&path))));
    looked
        .await
        .map_err(|error| Error::io("look at the source", error))
}

async fn file(path: &Path) -> Result<Box<dyn ByteStream>> {
    let (name, path) = (path.display().to_string(), path.to_owned());
    let file = blocking(move || File::open(path)).await;
    let file = file.map_err(|error| Error::io(format!("open {name}"), error))?;
    Ok(Box::new(StreamSource::new(file.into(), name)))
}
