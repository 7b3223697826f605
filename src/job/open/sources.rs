//! Disks that are read.

use super::client_options;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::format::Image;
use crate::job::incoming;
use crate::job::options::{Reading, Tuning};
use crate::job::web;
use crate::nbd::client::{Client, Endpoint, Options as ClientOptions};
use crate::source::Source;
use crate::source::checked::Checked;
use crate::source::file::{FileSource, FileSourceOptions};
use crate::source::http;
use crate::source::image;
use crate::source::nbd::NbdSource;
use crate::source::vddk::{VddkOptions, VddkSource};
use std::path::PathBuf;
use std::sync::Arc;

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
    pub(in crate::job) checked: Option<Arc<Checked>>,
    /// Local files that the image opened besides its own.
    pub(in crate::job) files: Vec<PathBuf>,
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

/// The same, with the options of whoever serves it.
pub(super) async fn open_source(
    address: &Address,
    reading: &Reading,
    options: ClientOptions,
) -> Result<Disk> {
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
