//! Disk images on web servers: files that cannot be looked at as files.

use super::open::client_options;
use super::options::{CopyOptions, Reading};
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::{self, Storage, Wrapper};
use crate::nbd::client::Options as ClientOptions;
use crate::pipeline::counters::Counters;
use crate::source::Source;
use crate::source::http::{self, HttpOptions};
use crate::source::image::SourceStorage;
use crate::source::registry::Layer;
use crate::source::scratch::NeedsScratch;
use crate::source::stream::{self, Ahead, ByteStream, Counted, LayerFile, Summed, Tally};
use std::sync::Arc;

/// Where a container image has its disk.
const DISK_FOLDER: &str = "disk";

/// What is on a web server is a file: it is what it looks like, unless the user says what it is.
///
/// # Errors
/// It cannot be read.
pub(super) async fn as_a_file(storage: &Arc<dyn Source>, reading: &Reading) -> Result<Reading> {
    let mut reading = reading.clone();
    if reading.format.is_none() {
        reading.format = Some(match wrapper(storage).await? {
            // What only comes forward is refused by who opens it.
            Some(wrapper) => wrapper.to_string(),
            None => {
                let storage = SourceStorage::new(Arc::clone(storage));
                format::probe(&storage).await?.name().to_owned()
            }
        });
    }
    Ok(reading)
}

/// How the object is compressed as a whole, if its first bytes say that it is.
async fn wrapper(source: &Arc<dyn Source>) -> Result<Option<Wrapper>> {
    let storage = SourceStorage::new(Arc::clone(source));
    let head = ByteRange::new(0, storage.size().min(8));
    let head = format::read_range(&storage, "first bytes", head).await?;
    Ok(Wrapper::of(&head))
}

/// The object as something that is read forward, if it has to be: it is compressed as a whole, or
/// the server gives no parts of it.
///
/// # Errors
/// As for [`open`].
pub(super) async fn stream(
    url: &str,
    reading: &Reading,
    client: ClientOptions,
    tally: &Tally,
) -> Result<Option<Box<dyn ByteStream>>> {
    let source: Arc<dyn Source> = match open(url, reading, client).await? {
        http::Opened::Whole(found) => return Ok(Some(whole(found, tally, 0))),
        http::Opened::InParts(source) => Arc::new(source),
    };
    let is_wrapped = match &reading.format {
        Some(format) => Wrapper::split(format).1.is_some(),
        None => wrapper(&source).await?.is_some(),
    };
    Ok(is_wrapped.then(|| ahead(source, tally, 0)))
}

/// What was found, in order: counted, after `before` bytes of others.
fn in_order(found: http::Opened, tally: &Tally, before: u64) -> Box<dyn ByteStream> {
    match found {
        http::Opened::Whole(found) => whole(found, tally, before),
        http::Opened::InParts(source) => ahead(Arc::new(source), tally, before),
    }
}

fn whole(found: http::Whole, tally: &Tally, before: u64) -> Box<dyn ByteStream> {
    let size = found.size();
    Box::new(Counted::new(Box::new(found), size, tally, before))
}

fn ahead(source: Arc<dyn Source>, tally: &Tally, before: u64) -> Box<dyn ByteStream> {
    let size = Some(source.size());
    let stream = Box::new(Ahead::new(source));
    Box::new(Counted::new(stream, size, tally, before))
}

/// The bytes of an object on a web server, in order and whatever they are, unpacked if they are
/// compressed as a whole.
///
/// # Errors
/// It cannot be opened, or the source is on no web server.
pub async fn unpacked(options: &CopyOptions, counters: &Counters) -> Result<Box<dyn ByteStream>> {
    let Address::Http(url) = &options.source else {
        let what = format!("{} is on no web server", options.source);
        return Err(Error::new(Kind::Usage, what));
    };
    let retried = Arc::clone(&counters.retries);
    let client = client_options(&options.source, &options.tuning, retried);
    let found = open(url, &options.reading, client).await?;
    let stream = in_order(found, &counters.tally, 0);
    stream::unpacked(match &options.reading.checksum {
        Some(checksum) => Box::new(Summed::new(stream, checksum)),
        None => stream,
    })
    .await
}

/// The disk in a container image: the only file below `/disk` of the first layer that has one. Layers
/// are read in order until there is one.
///
/// # Errors
/// A layer cannot be read, or none holds a disk.
pub(super) async fn contained(
    layers: &[Layer],
    reading: &Reading,
    client: ClientOptions,
    tally: &Tally,
) -> Result<Box<dyn ByteStream>> {
    let mut before = 0;
    for layer in layers {
        let options = http_options(reading, client.clone());
        let found = http::open(layer.sign.clone(), &options).await?;
        let stream = in_order(found, tally, before);
        before = tally.coming();
        let stream = stream::unpacked(Box::new(Summed::new(stream, &layer.checksum))).await?;
        if let Some(disk) = LayerFile::find(stream, DISK_FOLDER).await? {
            return Ok(Box::new(disk));
        }
    }
    let what = format!(
        "none of {} layers holds a file below /{DISK_FOLDER}",
        layers.len()
    );
    Err(Error::new(Kind::Refused, what).hint("is it a containerDisk?"))
}

fn http_options(reading: &Reading, options: ClientOptions) -> HttpOptions {
    HttpOptions {
        access: reading.access.clone(),
        connections: options.connections,
        retry: options.retry,
        retried: options.retried,
    }
}

/// Looks at an object on a web server.
///
/// # Errors
/// As for [`http::open`]; or the URL makes no sense.
pub(super) async fn open(
    url: &str,
    reading: &Reading,
    options: ClientOptions,
) -> Result<http::Opened> {
    let sign: Arc<dyn http::Sign> = match &reading.access.signer {
        Some(signer) => Arc::clone(signer),
        None => Arc::new(http::AsItIs(http::parse_url(url)?)),
    };
    http::open(sign, &http_options(reading, options)).await
}

/// An object that cannot be read by ranges where that is needed.
pub(super) fn only_whole(name: &str) -> Error {
    let what =
        format!("{name}: the server gives no parts of it, so it cannot be read in any order");
    let error = Error::new(Kind::Unsupported, what).because(NeedsScratch);
    error.hint("--scratch DIR holds it there; a server that knows Range requests needs none")
}
