//! An address → a disk that is open, with the options that say how an image is read.

use super::words;
use crate::address::Address;
use crate::error::Result;
use crate::http::trust::Trust;
use crate::job::options::{Reading, Tuning};
use crate::job::{Disk, Throttle, any_source};
use crate::secret::Place;
use crate::source::Source;
use crate::source::http::{Access, Login, PASSWORD};
use crate::source::scratch::Scratch;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How images are read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Image")]
pub(super) struct ImageOptions {
    /// Format of the source; a file is probed, all else is raw, unless this says what it is. Of
    /// what is compressed as a whole: vmdk.gz, raw.xz, or gz, xz, zst alone
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) source_format: Option<String>,

    /// A directory, besides its own, out of which an image may open its parents and parts
    #[arg(long, value_name = "DIR")]
    pub(super) allow_backing: Vec<PathBuf>,

    /// Read the disk as it was at this snapshot inside the image, by ID or name
    #[arg(long, value_name = "SNAPSHOT")]
    pub(super) snapshot: Option<String>,

    /// Read this disk of an OVA, by the name of its file or its ID
    #[arg(long, value_name = "DISK")]
    pub(super) disk: Option<String>,

    /// Compare every file of an OVA with its manifest before anything is read
    #[arg(long)]
    pub(super) check_manifest: bool,

    #[command(flatten)]
    scratch: ScratchOptions,

    #[command(flatten)]
    web: WebOptions,
}

/// Where images are unpacked.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ScratchOptions {
    /// Unpack an image into this directory if it can be read in no other way: one that must be read
    /// in any order and is compressed as a whole, on a server without ranges, or a stream
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// And no more than so many bytes of it that are not zero
    #[arg(long, value_name = "SIZE", requires = "scratch", value_parser = words::size)]
    scratch_limit: Option<u64>,
}

impl ScratchOptions {
    /// Room for one image.
    pub(super) fn room(&self) -> Option<Arc<Scratch>> {
        let dir = self.scratch.clone();
        dir.map(|dir| Arc::new(Scratch::new(dir, self.scratch_limit)))
    }
}

/// How a web server is asked for an image.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "HTTP")]
pub(super) struct WebOptions {
    /// Believe servers whose certificate an authority in this PEM file signed, not those of the
    /// system
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,

    /// Who asks a web server; the password is in --http-password-file or DISKFERRY_HTTP_PASSWORD
    #[arg(long, value_name = "NAME")]
    http_user: Option<String>,

    /// A file that holds the password
    #[arg(long, value_name = "FILE", requires = "http_user")]
    http_password_file: Option<PathBuf>,

    /// A file of headers to send, one `Name: value` a line
    #[arg(long, value_name = "FILE")]
    http_header_file: Vec<PathBuf>,

    /// How long a web server may say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    http_timeout: u64,
}

impl WebOptions {
    /// As the engine takes it.
    pub(super) fn access(&self) -> Access {
        let password = match &self.http_password_file {
            Some(path) => Place::File(path.clone()),
            None => Place::Environment(PASSWORD.to_owned()),
        };
        Access {
            trust: match &self.cacert {
                Some(path) => Trust::Authority(path.clone()),
                None => Trust::System,
            },
            login: self.http_user.clone().map(|user| Login { user, password }),
            header_files: self.http_header_file.clone(),
            header_lines: Vec::new(),
            patience: Duration::from_secs(self.http_timeout),
            signer: None,
        }
    }
}

impl ImageOptions {
    /// As the engine takes it.
    pub(super) fn reading(&self) -> Reading {
        Reading {
            layers: None,
            format: self.source_format.clone(),
            allow: self.allow_backing.clone(),
            snapshot: self.snapshot.clone(),
            access: self.web.access(),
            checksum: None,
            disk: self.disk.clone(),
            check_manifest: self.check_manifest,
            scratch: self.scratch.room(),
        }
    }
}

/// Opens a disk to be read.
pub(super) async fn source(
    address: &Address,
    reading: &Reading,
    tuning: &Tuning,
    throttle: &Throttle,
) -> Result<Arc<dyn Source>> {
    Ok(disk(address, reading, tuning, throttle).await?.source)
}

/// Opens a disk to be read, and tells what it is made of.
pub(super) async fn disk(
    address: &Address,
    reading: &Reading,
    tuning: &Tuning,
    throttle: &Throttle,
) -> Result<Disk> {
    let mut disk = any_source(address, reading, tuning, Vec::new()).await?;
    disk.source = throttle.source(disk.source);
    Ok(disk)
}
