//! Addresses to open endpoints.

use super::incoming;
use super::options::{Baseline, CopyOptions, ImageFormat, Making, Reading, Tuning};
use super::web;
use crate::address::Address;
use crate::changes::Tracker;
use crate::changes::nbd_bitmap::{self, NbdBitmap};
use crate::changes::vsphere::{Cbt, Written};
use crate::error::{Error, Kind, Result};
use crate::format::Image;
use crate::nbd::client::{Client, Endpoint, Options as ClientOptions, Retry};
use crate::nbd::uri::{Place, Uri};
use crate::pipeline::counters::Counters;
use crate::source::Source;
use crate::source::checked::Checked;
use crate::source::file::{FileSource, FileSourceOptions};
use crate::source::http;
use crate::source::image;
use crate::source::nbd::NbdSource;
use crate::source::vddk::{VddkAddress, VddkOptions, VddkSource};
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
use std::fs::{self, FileType, OpenOptions};
use std::io::ErrorKind::NotFound;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A source, and what tells its changes.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) source: Arc<dyn Source>,
    pub(super) tracker: Option<Arc<dyn Tracker>>,
    /// What the bytes under the source must add up to.
    pub(super) checked: Option<Arc<Checked>>,
    /// Local files that it is made of besides the one that was named.
    pub(super) files: Vec<PathBuf>,
}

/// Opens the disk that is read, and its tracker if only changes are wanted.
///
/// # Errors
/// Either cannot be opened, or this kind of source has no such tracker.
pub(super) async fn source(options: &CopyOptions, counters: &Counters) -> Result<Opened> {
    let client = client_options(&options.source, &options.tuning, counters.retries.clone());
    let bitmap = match &options.pass.changes_since {
        Some(Baseline::NbdBitmap(bitmap)) => bitmap,
        Some(Baseline::Cbt(since)) => {
            let Address::Vddk(text) = &options.source else {
                let what = format!("{} has no changed block tracking", options.source);
                return Err(Error::new(Kind::Refused, what).hint("cbt needs a vddk:// source"));
            };
            let tracker = Cbt::open(&text.parse()?, since.clone()).await?;
            let disk = open_source(&options.source, &options.reading, client).await?;
            return Ok(Opened {
                source: disk.source,
                tracker: Some(Arc::new(tracker)),
                checked: disk.checked,
                files: disk.files,
            });
        }
        since @ (None | Some(Baseline::Digest)) => {
            let disk = open_source(&options.source, &options.reading, client).await?;
            // Whoever compares doubts what the server tells of changes.
            let source = match (&options.source, since) {
                (Address::Vddk(text), None) if options.zeroes.extents => {
                    Written::over(disk.source, &text.parse()?).await
                }
                _ => disk.source,
            };
            return Ok(Opened {
                source,
                tracker: None,
                checked: disk.checked,
                files: disk.files,
            });
        }
    };
    let client = ClientOptions {
        contexts: vec![nbd_bitmap::context(bitmap)],
        ..client
    };
    let disk = open_source(&options.source, &options.reading, client).await?;
    let Some(client) = disk.client else {
        let what = format!("{} has no dirty bitmaps", options.source);
        return Err(Error::new(Kind::Refused, what).hint("nbd-bitmap needs an NBD source"));
    };
    let tracker = NbdBitmap::new(client, bitmap)?;
    Ok(Opened {
        source: disk.source,
        tracker: Some(Arc::new(tracker)),
        checked: disk.checked,
        files: disk.files,
    })
}

/// A disk that is open for reading, and what it is made of.
#[derive(Debug)]
pub struct Disk {
    /// The disk, as a guest sees it.
    pub source: Arc<dyn Source>,
    /// The NBD client, if it is on an export.
    pub client: Option<Client>,
    /// The image that it is, unless it is raw.
    pub image: Option<Arc<dyn Image>>,
    /// What its own bytes must add up to.
    pub(super) checked: Option<Arc<Checked>>,
    /// Local files that the image opened besides its own.
    pub(super) files: Vec<PathBuf>,
}

/// Opens any disk for reading.
///
/// # Errors
/// It cannot be opened, its address is not one of a disk, or it is not an image as `reading` says.
pub async fn any_source(
    address: &Address,
    reading: &Reading,
    tuning: &Tuning,
    contexts: Vec<String>,
) -> Result<Disk> {
    let client = ClientOptions {
        contexts,
        ..client_options(address, tuning, Arc::default())
    };
    open_source(address, reading, client).await
}

async fn open_source(address: &Address, reading: &Reading, options: ClientOptions) -> Result<Disk> {
    if let Some(opened) = incoming::from_scratch(address, reading, options.clone()).await? {
        return Ok(Disk {
            source: opened.source,
            client: None,
            image: opened.image,
            // It was added up as it came.
            checked: None,
            files: opened.files,
        });
    }
    let (mut storage, client) = open_storage(address, reading, options).await?;
    let checked = match &reading.checksum {
        None => None,
        Some(checksum) => {
            let checked = Arc::new(Checked::new(storage, checksum));
            storage = checked.clone();
            Some(checked)
        }
    };
    let path = match address {
        Address::Path(path) => Some(path.as_path()),
        _ => None,
    };
    let reading = match address {
        Address::Http(_) => web::as_a_file(&storage, reading).await?,
        _ => reading.clone(),
    };
    let opened = image::open(storage, path, &reading).await?;
    Ok(Disk {
        source: opened.source,
        client,
        image: opened.image,
        checked,
        files: opened.files,
    })
}

/// Opens what the disk is on, whatever its format.
async fn open_storage(
    address: &Address,
    reading: &Reading,
    options: ClientOptions,
) -> Result<(Arc<dyn Source>, Option<Client>)> {
    let endpoint = match address {
        Address::Path(path) => {
            let source = FileSource::open(path, FileSourceOptions::default()).await?;
            return Ok((Arc::new(source), None));
        }
        Address::Stdio | Address::Null => {
            let what = format!("{address} is not a disk that can be read");
            return Err(Error::new(Kind::Usage, what));
        }
        Address::Vddk(text) => {
            let options = VddkOptions {
                retry: options.retry,
                retried: options.retried,
                sessions: Some(options.connections),
            };
            let source = VddkSource::open(text.parse()?, options).await?;
            return Ok((Arc::new(source), None));
        }
        Address::Http(url) => {
            let source = match web::open(url, reading, options).await? {
                http::Opened::InParts(source) => source,
                http::Opened::Whole(whole) => return Err(web::only_whole(whole.name())),
            };
            return Ok((Arc::new(source), None));
        }
        Address::Nbd(uri) => Endpoint::Uri(uri.parse()?),
        Address::Child(command) => Endpoint::Child(command.clone()),
    };
    let options = ClientOptions {
        read_only: true,
        ..options
    };
    let client = Client::connect(endpoint, options).await?;
    let source = NbdSource::new(client.clone());
    Ok((Arc::new(source), Some(client)))
}

/// One to a server on this machine, where more only make it switch between threads; several over
/// TCP, where each is a stream of its own, and to VDDK, where each is a session of its own.
fn suitable_connections(address: &Address) -> usize {
    let uri = match address {
        Address::Nbd(uri) => uri.parse::<Uri>().ok(),
        _ => None,
    };
    match uri.as_ref().map(Uri::place) {
        _ if matches!(address, Address::Vddk(_)) => 4,
        _ if matches!(address, Address::Http(_)) => http::CONNECTIONS,
        Some(Place::Tcp { .. }) => 4,
        _ => 1,
    }
}

/// The machine that serves a disk; `None` if it is this one.
#[must_use]
pub fn host_of(address: &Address) -> Option<String> {
    match address {
        Address::Nbd(uri) => match uri.parse::<Uri>().ok()?.place() {
            Place::Tcp { host, .. } => Some(host.clone()),
            Place::Unix(_) => None,
        },
        Address::Vddk(text) => Some(text.parse::<VddkAddress>().ok()?.host),
        _ => None,
    }
}

/// How a server is talked to.
pub(super) fn client_options(
    address: &Address,
    tuning: &Tuning,
    retried: Arc<AtomicU64>,
) -> ClientOptions {
    ClientOptions {
        connections: tuning
            .connections
            .unwrap_or_else(|| suitable_connections(address))
            .min(tuning.connections_at_most.unwrap_or(usize::MAX)),
        force_multi_conn: tuning.force_connections,
        retry: Retry {
            deadline: tuning.retry,
            ..Retry::default()
        },
        retried,
        ..ClientOptions::default()
    }
}

/// How a target is opened.
#[derive(Clone, Debug, Default)]
pub(super) struct How {
    /// What is there now may be lost.
    pub(super) overwrite: bool,
    /// Bytes that will be written, if that is known.
    pub(super) size: Option<u64>,
    /// A journal shows that what is there was written by us.
    pub(super) resuming: bool,
    /// The whole disk is there, written by a pass before this one.
    pub(super) whole: bool,
    /// Bytes that an earlier run of this pass made durable.
    pub(super) done: u64,
    /// What an earlier run measured.
    pub(super) probe: Option<Value>,
    /// What it will be like.
    pub(super) making: Making,
}

/// Opens the disk that is written, after every check of it has passed.
///
/// # Errors
/// A check says no, or it cannot be opened.
pub(super) async fn target(
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
            let file = OpenOptions::new().write(true).open(path);
            let file =
                file.map_err(|error| Error::io(format!("open {}", path.display()), error))?;
            Ok(Arc::new(StreamTarget::new(
                file.into(),
                path.display().to_string(),
            )))
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
pub(super) fn leaves_nothing(options: &CopyOptions) -> bool {
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

/// Whether what has this type is read and written in order only.
pub(super) fn is_stream_type(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_socket()
}
