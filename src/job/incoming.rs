//! Sources that are read once, in order: pipes, files that are compressed as a whole, and what a web
//! server gives only as a whole.

use super::open::{client_options, is_stream_type};
use super::options::{CopyOptions, JournalPlace, Reading, Tuning};
use super::web;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::format::Wrapper;
use crate::nbd::client::Options as ClientOptions;
use crate::source::stdin::StreamSource;
use crate::source::stream::{Belief, ByteStream, Inside, Laid, Look, Summed, inside, is_wrapped};
use crate::sys::blocking;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

/// What comes.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The bytes of a disk.
    Raw(Box<dyn ByteStream>),
    /// A VMDK that can be read forward.
    Vmdk(Box<dyn ByteStream>),
}

/// What is looked for.
pub(super) struct Ask<'a> {
    pub(super) source: &'a Address,
    pub(super) reading: &'a Reading,
    pub(super) client: ClientOptions,
    /// Files and objects that can be read forward only count, too.
    pub(super) files: bool,
}

/// The source as something that is read forward; `None` if it is one that can be read anywhere.
///
/// # Errors
/// It cannot be opened; or it can only come forward, and is not what can be read so.
pub(super) async fn find(ask: Ask<'_>) -> Result<Option<Incoming>> {
    let (source, reading) = (ask.source, ask.reading);
    let format = reading.format.as_deref();
    let (stream, belief): (Box<dyn ByteStream>, _) = match source {
        Address::Stdio => (Box::new(StreamSource::stdin()?), Belief::Disk),
        Address::Path(path) if is_stream(source) => (file(path).await?, Belief::Disk),
        Address::Path(path) if ask.files && is_packed(path, format).await? => {
            (file(path).await?, Belief::File)
        }
        Address::Http(url) if ask.files => match web::stream(url, reading, ask.client).await? {
            Some(stream) => (stream, Belief::File),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let stream = match &reading.checksum {
        Some(checksum) => Box::new(Summed::new(stream, checksum)),
        None => stream,
    };
    let disk = reading.disk.as_deref();
    let look = Look {
        format,
        disk,
        belief,
    };
    match inside(stream, look).await? {
        Inside::Raw(stream) => Ok(Some(Incoming::Raw(stream))),
        Inside::Vmdk(stream) => Ok(Some(Incoming::Vmdk(stream))),
        Inside::Seeking(format) => Err(must_seek(source, format, belief)),
    }
}

/// An image that only those can read who can go back in it, where nobody can.
fn must_seek(source: &Address, format: &str, belief: Belief) -> Error {
    let (what, hint) = match (belief, source) {
        (Belief::Disk, _) => (
            format!("{source} is a stream, and {format} cannot be read from one"),
            "put it into a file first",
        ),
        (Belief::File, Address::Http(_)) => (
            format!(
                "{source} holds a {format} image, which cannot be read forward; the server gives \
                 no parts of it, or it is compressed"
            ),
            "a server that knows Range requests can, if it is not compressed; or unpack or \
             download it into a file first",
        ),
        (Belief::File, _) => (
            format!("{source} holds a {format} image, which cannot be read forward"),
            "unpack it into a file first",
        ),
    };
    Error::new(Kind::Unsupported, what).hint(hint)
}

/// The disk in the order of its bytes, if it can be read in no other.
///
/// # Errors
/// It cannot be opened; or it can only come forward, and is not what can be read so.
pub async fn in_order(
    source: &Address,
    reading: &Reading,
    tuning: &Tuning,
) -> Result<Option<Laid>> {
    let ask = Ask {
        source,
        reading,
        client: client_options(source, tuning, Arc::default()),
        files: true,
    };
    match find(ask).await? {
        None => Ok(None),
        Some(incoming) => incoming.laid().await.map(Some),
    }
}

impl Incoming {
    /// The disk in it.
    ///
    /// # Errors
    /// It is no VMDK, where it should be one.
    pub(super) async fn laid(self) -> Result<Laid> {
        match self {
            Self::Raw(stream) => Ok(Laid::Raw(stream)),
            Self::Vmdk(stream) => Laid::vmdk(stream).await,
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

/// Whether a pass does nothing that a stream cannot do: no proof, no journal that was asked for.
pub(super) fn is_enough(options: &CopyOptions) -> bool {
    options.pass.name() == "full"
        && options.verify != Some(true)
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
