//! Opens the ends of a copy as nbdcopy does: what is there decides how it is opened.

use super::options::{Ends, Options};
use super::settle::Side;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::nbd::client::{Client, Endpoint, Options as ClientOptions, Retry};
use crate::source::Source;
use crate::source::file::{FileSource, FileSourceOptions};
use crate::source::nbd::NbdSource;
use crate::source::stdin::StreamSource;
use crate::target::Target;
use crate::target::block::{BlockOptions, BlockTarget};
use crate::target::file::{FileOptions, FileTarget};
use crate::target::nbd::NbdTarget;
use crate::target::null::NullTarget;
use crate::target::preflight::Intent;
use crate::target::stdout::StreamTarget;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Preferred request size of what has no opinion, in bytes.
const PREFERRED: u32 = 4096;

/// One end of a copy, as `--verbose` tells of it.
#[derive(Debug)]
pub(super) struct About {
    /// What nbdcopy calls such an end: `nbd_ops`, `file_ops`, `pipe_ops`, `null_ops`.
    pub(super) ops: &'static str,
    pub(super) name: String,
    /// Bytes; `None` if that is not known before the end.
    pub(super) size: Option<u64>,
    pub(super) side: Side,
}

/// What is read.
#[derive(Debug)]
pub(super) enum From {
    /// A disk, of which any part can be read.
    Disk(Arc<dyn Source>),
    /// A stream, read once.
    Stream(StreamSource),
}

/// What is written, before anything is known of the source.
#[derive(Debug)]
pub(super) enum To {
    /// An NBD export.
    Nbd(Client),
    /// A regular file, open and made sure to be ours.
    File(File, PathBuf),
    /// A block device.
    Block(PathBuf),
    /// Standard output.
    Stdout(OwnedFd),
    /// A pipe, a character device.
    Stream(OwnedFd),
    /// Nowhere.
    Null,
}

/// Connections that may be opened before both ends are known.
///
/// A server that was started for this copy gets one, and so does whoever is on the other side of
/// it or of a stream.
fn connections(options: &Options, ends: &Ends, cores: u32) -> usize {
    let threads = if options.threads == 0 {
        cores
    } else {
        options.threads
    };
    let single = |end: &Address| matches!(end, Address::Child(_) | Address::Stdio);
    if options.synchronous || single(&ends.source) || single(&ends.target) {
        return 1;
    }
    usize::try_from(options.connections.min(threads).max(1)).unwrap_or(1)
}

/// Opens what is read.
///
/// # Errors
/// It cannot be opened.
pub(super) async fn source(options: &Options, ends: &Ends, cores: u32) -> Result<(From, About)> {
    let path = match &ends.source {
        Address::Stdio => return Ok(stream(StreamSource::stdin()?, "-")),
        Address::Path(path) => path,
        other => {
            let wanted = ClientOptions {
                connections: connections(options, ends, cores),
                extents: options.extents,
                read_only: true,
                ..client_options()
            };
            let client = connect(other, wanted).await?;
            let about = about_nbd(&client, other);
            return Ok((From::Disk(Arc::new(NbdSource::new(client))), about));
        }
    };
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| plain(&name, error))?;
    let meta = file.metadata().map_err(|error| plain(&name, error))?;
    if !meta.is_file() && !meta.file_type().is_block_device() {
        return Ok(stream(StreamSource::new(file.into(), name.clone()), &name));
    }
    let disk = FileSource::open(path, FileSourceOptions::default()).await?;
    let about = about_file(name, &meta, Some(disk.size()));
    Ok((From::Disk(Arc::new(disk)), about))
}

fn stream(stream: StreamSource, name: &str) -> (From, About) {
    (From::Stream(stream), about_stream(name))
}

/// Finds out what is written and opens it, so far as that changes nothing but creates a file.
///
/// # Errors
/// It cannot be opened, is a terminal, or is read-only.
pub(super) async fn target(options: &Options, ends: &Ends, cores: u32) -> Result<(To, About)> {
    match &ends.target {
        Address::Null => Ok((To::Null, about_null())),
        Address::Stdio => {
            if io::stdout().is_terminal() {
                return Err(Error::new(Kind::Refused, "refusing to write to tty"));
            }
            let fd = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)
                .map_err(|error| Error::io("-", error))?;
            Ok((To::Stdout(fd), about_stream("-")))
        }
        Address::Path(path) => path_target(path),
        other => {
            let wanted = ClientOptions {
                connections: connections(options, ends, cores),
                extents: false,
                ..client_options()
            };
            let client = connect(other, wanted).await?;
            let about = about_nbd(&client, other);
            if client.export().flags.read_only() {
                return Err(Error::new(Kind::Refused, about.name)
                    .because("the destination is read-only, cannot write to it"));
            }
            Ok((To::Nbd(client), about))
        }
    }
}

/// Without `O_CREAT` first, so that a device that is missing is not replaced by a file of its name
/// while it is there.
fn path_target(path: &Path) -> Result<(To, About)> {
    let name = path.display().to_string();
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path),
        opened => opened,
    };
    let file = file.map_err(|error| plain(&name, error))?;
    let meta = file.metadata().map_err(|error| plain(&name, error))?;
    if meta.is_file() {
        return Ok((
            To::File(file, path.to_owned()),
            about_file(name, &meta, Some(meta.len())),
        ));
    }
    if meta.file_type().is_block_device() {
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
            .map_err(|error| plain(&name, error.into()))?;
        return Ok((
            To::Block(path.to_owned()),
            about_file(name, &meta, Some(size)),
        ));
    }
    Ok((To::Stream(file.into()), about_stream(&name)))
}

impl To {
    /// Opens it for a source of `size` bytes, if that is known: from here on it changes.
    ///
    /// A regular file is emptied first, so it reads as zeroes. Says whether the target does.
    ///
    /// # Errors
    /// It cannot be opened, or made as long as the source.
    pub(super) async fn open(
        self,
        about: &About,
        size: Option<u64>,
    ) -> Result<(Arc<dyn Target>, bool)> {
        let name = about.name.clone();
        let (target, zero): (Arc<dyn Target>, bool) = match (self, size) {
            // The original makes the file as long as the source before it copies.
            (Self::File(..), None) => return Err(no_size(&name)),
            (Self::Stdout(fd), None) if is_file(&fd) => return Err(no_size(&name)),
            (Self::Null, _) => (Arc::new(NullTarget), true),
            (Self::Nbd(client), _) => (Arc::new(NbdTarget::new(client)?), false),
            (Self::Stdout(fd), _) => (Arc::new(StreamTarget::of_stdout(fd, name)), false),
            (Self::Stream(fd), _) => (Arc::new(StreamTarget::new(fd, name)), false),
            (Self::File(file, path), Some(size)) => {
                empty(&file, &name)?;
                let options = FileOptions {
                    size,
                    overwrite: true,
                    in_place: true,
                    ..FileOptions::default()
                };
                (Arc::new(FileTarget::open(&path, options).await?), true)
            }
            (Self::Block(path), size) => {
                let intent = Intent {
                    source_size: size,
                    overwrite: true,
                    resuming: false,
                };
                let options = BlockOptions {
                    intent,
                    ..BlockOptions::default()
                };
                (Arc::new(BlockTarget::open(&path, options).await?), false)
            }
        };
        Ok((target, zero))
    }
}

fn is_file(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
}

fn no_size(name: &str) -> Error {
    plain(&format!("{name}: truncate"), Errno::INVAL.into()).hint("diskferry copy can do it")
}

fn empty(file: &File, name: &str) -> Result<()> {
    let emptied = file.set_len(0);
    emptied.map_err(|error| Error::io(format!("truncate {name}"), error))
}

/// Never tries again: a script that calls nbdcopy expects its failure.
fn client_options() -> ClientOptions {
    ClientOptions {
        retry: Retry::never(),
        ..ClientOptions::default()
    }
}

async fn connect(address: &Address, options: ClientOptions) -> Result<Client> {
    let endpoint = match address {
        Address::Child(command) => Endpoint::Child(command.clone()),
        other => Endpoint::Uri(other.to_string().parse()?),
    };
    Client::connect(endpoint, options).await
}

fn plain(name: &str, error: io::Error) -> Error {
    Error::io(name.to_owned(), error)
}

fn about_nbd(client: &Client, address: &Address) -> About {
    let export = client.export();
    let name = match address {
        Address::Child(command) => command.first().cloned().unwrap_or_default(),
        _ => client.name().to_owned(),
    };
    About {
        ops: "nbd_ops",
        name,
        size: Some(export.size),
        side: Side {
            multi_conn: export.flags.can_multi_conn() && !matches!(address, Address::Child(_)),
            preferred: power_of_two(export.block_size.preferred.into()),
            stream: false,
        },
    }
}

fn about_file(name: String, meta: &Metadata, size: Option<u64>) -> About {
    let preferred = if meta.is_file() {
        power_of_two(meta.blksize())
    } else {
        PREFERRED
    };
    About {
        ops: "file_ops",
        name,
        size,
        side: Side {
            multi_conn: true,
            preferred,
            stream: false,
        },
    }
}

fn about_stream(name: &str) -> About {
    About {
        ops: "pipe_ops",
        name: name.to_owned(),
        size: None,
        side: Side {
            multi_conn: false,
            preferred: PREFERRED,
            stream: true,
        },
    }
}

fn about_null() -> About {
    About {
        ops: "null_ops",
        name: "null:".to_owned(),
        size: Some(u64::try_from(i64::MAX).unwrap_or(u64::MAX)),
        side: Side {
            multi_conn: true,
            preferred: PREFERRED,
            stream: false,
        },
    }
}

/// A preferred size that can be used: a power of two that fits, else the usual one.
fn power_of_two(size: u64) -> u32 {
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() => size,
        _ => PREFERRED,
    }
}
