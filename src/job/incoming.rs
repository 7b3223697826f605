//! Sources that are read once, in order: pipes, files that are compressed as a whole, and what a web
//! server gives only as a whole. Where that does not do, they are unpacked into scratch space.

use super::open::{client_options, is_stream_type};
use super::options::{CopyOptions, JournalPlace, Reading, Tuning};
use super::patience::Patience;
use super::throttle::Throttle;
use super::web;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::format::Wrapper;
use crate::nbd::client::Options as ClientOptions;
use crate::pipeline::counters::Counters;
use crate::report::{Event, Reporter, Ticker};
use crate::source::http::BrokenOff;
use crate::source::image;
use crate::source::scratch::{NeedsScratch, Scratch};
use crate::source::stdin::StreamSource;
use crate::source::stream::{
    Belief, ByteStream, Inside, Laid, Look, Summed, Tally, inside, is_wrapped,
};
use crate::sys::blocking;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::time::sleep;

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
    /// Who is told that an image is unpacked, and how far that is.
    pub(super) reporter: Option<&'a Arc<dyn Reporter>>,
    /// Counts what a server sends.
    pub(super) tally: Tally,
    /// How fast it may come.
    pub(super) throttle: Throttle,
}

/// The source as something that is read forward; `None` if it is one that can be read anywhere, also
/// because it was unpacked into scratch space.
///
/// # Errors
/// It cannot be opened; or it can only come forward, is not what can be read so, and there is no
/// scratch space for it.
pub(super) async fn find(ask: Ask<'_>) -> Result<Option<Incoming>> {
    patiently(&ask, false).await
}

/// Unpacks the source into its scratch space, if it has any and can only be read forward: for those
/// who must read it in any order.
///
/// # Errors
/// It cannot be opened, or not be unpacked.
pub(super) async fn hold(ask: Ask<'_>) -> Result<()> {
    match ask.reading.scratch {
        Some(_) => patiently(&ask, true).await.map(drop),
        None => Ok(()),
    }
}

/// Begins anew while the server breaks off, for as long as more comes than before and then for as
/// long as the user says. Nothing is written by then but into scratch space, and a file there that
/// did not get all is nobody's.
async fn patiently(ask: &Ask<'_>, all: bool) -> Result<Option<Incoming>> {
    let mut telling = Telling::new(ask);
    let mut patience = Patience::default();
    let mut furthest = 0;
    loop {
        let error = match once(ask, all, &mut telling).await {
            Err(error) => error,
            found => return found,
        };
        let Some(&BrokenOff { came, .. }) = error.caused_by() else {
            return Err(error);
        };
        let retry = ask.client.retry.deadline;
        let Some(delay) = patience.after(came > furthest, Instant::now(), retry) else {
            return Err(error);
        };
        furthest = came.max(furthest);
        ask.client.retried.fetch_add(1, Ordering::Relaxed);
        telling.warn(format!("{}; beginning anew", error.line()));
        sleep(delay).await;
    }
}

/// One attempt: what is read forward, unless `all` is unpacked.
async fn once(ask: &Ask<'_>, all: bool, telling: &mut Telling<'_>) -> Result<Option<Incoming>> {
    let scratch = ask.reading.scratch.as_deref();
    if scratch.is_some_and(|scratch| scratch.held().is_some()) {
        return Ok(None);
    }
    let Some((stream, belief)) = stream(ask).await? else {
        return Ok(None);
    };
    let slowly = |stream| ask.throttle.stream(stream);
    let (format, stream) = match look(stream, ask, belief).await? {
        Inside::Raw(stream) if !all => return Ok(Some(Incoming::Raw(slowly(stream)))),
        Inside::Vmdk(stream) if !all => return Ok(Some(Incoming::Vmdk(slowly(stream)))),
        Inside::Raw(stream) => ("raw", stream),
        Inside::Vmdk(stream) => ("vmdk", stream),
        Inside::Seeking(format, stream) => (format, stream),
    };
    let Some(scratch) = scratch else {
        return Err(must_seek(ask.source, format, belief));
    };
    telling.unpack(ask.source, scratch);
    let came = AtomicU64::new(0);
    let seen = |bytes| {
        let before = came.fetch_add(bytes, Ordering::Relaxed);
        telling.came(before.saturating_add(bytes));
    };
    let held = scratch.hold(format, slowly(stream), &seen).await;
    held.map(|_| None)
}

/// Tells how an image is unpacked, as one story: nothing is taken back when it begins anew.
struct Telling<'a> {
    reporter: Option<&'a Arc<dyn Reporter>>,
    /// Of its own: what is copied is counted later.
    counters: Arc<Counters>,
    ticker: Option<Ticker>,
}

impl<'a> Telling<'a> {
    fn new(ask: &Ask<'a>) -> Self {
        let counters = Counters {
            retries: Arc::clone(&ask.client.retried),
            ..Counters::default()
        };
        Self {
            reporter: ask.reporter,
            counters: Arc::new(counters),
            ticker: None,
        }
    }

    /// It is unpacked, for the first time or anew.
    fn unpack(&mut self, source: &Address, scratch: &Scratch) {
        let Some(reporter) = self.reporter.filter(|_| self.ticker.is_none()) else {
            return;
        };
        reporter.event(&Event::Unpack {
            source: source.to_string(),
            scratch: scratch.dir().display().to_string(),
        });
        self.ticker = Some(Ticker::start(reporter, Arc::clone(&self.counters), 0));
    }

    /// So many bytes came in this attempt.
    fn came(&self, bytes: u64) {
        self.counters.read.fetch_max(bytes, Ordering::Relaxed);
        self.counters.position.fetch_max(bytes, Ordering::Relaxed);
    }

    fn warn(&self, message: String) {
        match self.reporter {
            Some(reporter) => reporter.event(&Event::Warning { message }),
            None => tracing::warn!("{message}"),
        }
    }
}

/// The disk out of scratch space, if it has any and needs it.
///
/// # Errors
/// As for [`hold`]; or it is no image of its format.
pub(super) async fn from_scratch(
    source: &Address,
    reading: &Reading,
    client: ClientOptions,
) -> Result<Option<image::Opened>> {
    let ask = Ask {
        source,
        reading,
        client,
        files: true,
        reporter: None,
        tally: Tally::default(),
        throttle: Throttle::default(),
    };
    hold(ask).await?;
    let scratch = reading.scratch.as_deref();
    let Some(held) = scratch.and_then(Scratch::held) else {
        return Ok(None);
    };
    // It was taken out of its archive as it came; a file may still open what is beside it.
    let reading = Reading {
        format: Some(held.format.to_owned()),
        disk: None,
        check_manifest: false,
        ..reading.clone()
    };
    let path = match source {
        Address::Path(path) => Some(path.as_path()).filter(|path| path.is_file()),
        _ => None,
    };
    let opened = image::open(Arc::clone(&held.source), path, &reading).await?;
    Ok(Some(opened))
}

/// The bytes of the source, if they only come in order, and whether they are those of a file.
async fn stream(ask: &Ask<'_>) -> Result<Option<(Box<dyn ByteStream>, Belief)>> {
    let (source, reading) = (ask.source, ask.reading);
    let format = reading.format.as_deref();
    let (stream, belief): (Box<dyn ByteStream>, _) = match source {
        Address::Stdio => (Box::new(StreamSource::stdin()?), Belief::Disk),
        Address::Path(path) if is_stream(source) => (file(path).await?, Belief::Disk),
        Address::Path(path) if ask.files && is_packed(path, format).await? => {
            (file(path).await?, Belief::File)
        }
        Address::Http(_) if reading.layers.is_some() => {
            if !ask.files {
                let what =
                    format!("{source} comes in order only, and a proof or a journal is wanted");
                return Err(Error::new(Kind::Unsupported, what).because(NeedsScratch));
            }
            let layers = reading.layers.as_deref().unwrap_or_default();
            let client = ask.client.clone();
            let disk = web::contained(layers, reading, client, &ask.tally);
            (disk.await?, Belief::File)
        }
        Address::Http(url) if ask.files => {
            let stream = web::stream(url, reading, ask.client.clone(), &ask.tally);
            match stream.await? {
                Some(stream) => (stream, Belief::File),
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(match &reading.checksum {
        Some(checksum) => (Box::new(Summed::new(stream, checksum)), belief),
        None => (stream, belief),
    }))
}

async fn look(stream: Box<dyn ByteStream>, ask: &Ask<'_>, belief: Belief) -> Result<Inside> {
    let look = Look {
        format: ask.reading.format.as_deref(),
        disk: ask.reading.disk.as_deref(),
        belief,
    };
    inside(stream, look).await
}

/// An image that only those can read who can go back in it, where nobody can.
fn must_seek(source: &Address, format: &str, belief: Belief) -> Error {
    let (what, hint) = match (belief, source) {
        (Belief::Disk, _) => (
            format!("{source} is a stream, and {format} cannot be read from one"),
            "--scratch DIR unpacks it there",
        ),
        (Belief::File, Address::Http(_)) => (
            format!(
                "{source} holds a {format} image, which cannot be read forward; the server gives \
                 no parts of it, or it is compressed"
            ),
            "--scratch DIR unpacks it there; a server that knows Range requests needs no scratch \
             space, if the image is not compressed",
        ),
        (Belief::File, _) => (
            format!("{source} holds a {format} image, which cannot be read forward"),
            "--scratch DIR unpacks it there",
        ),
    };
    let error = Error::new(Kind::Unsupported, what).because(NeedsScratch);
    error.hint(hint)
}

/// The disk in the order of its bytes, if it can be read in no other.
///
/// # Errors
/// It cannot be opened; or it can only come forward, and is not what can be read so.
pub async fn in_order(
    source: &Address,
    reading: &Reading,
    tuning: &Tuning,
    throttle: &Throttle,
) -> Result<Option<Laid>> {
    let ask = Ask {
        source,
        reading,
        client: client_options(source, tuning, Arc::default()),
        files: true,
        reporter: None,
        tally: Tally::default(),
        throttle: throttle.clone(),
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
