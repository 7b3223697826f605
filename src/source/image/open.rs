//! Which format a disk is in, and what it may open.
//!
//! A file is probed. A block device or an export is what a guest sees, and what a guest writes into
//! its first sector must not decide how its disk is read: those are raw unless the user says so.

use super::{ImageSource, LocalFiles, SourceStorage};
use crate::digest::checksum::Checksum;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::{self, Format, Image, Opener, Policy, Storage, Wrapper, read_range};
use crate::source::Source;
use crate::source::http::Access;
use crate::source::registry::Layer;
use crate::source::scratch::{NeedsScratch, Scratch};
use crate::sys::blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How an image is read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Its format; probed if it is a file and none is given.
    pub format: Option<String>,
    /// Directories, besides its own, out of which it may open files.
    pub allow: Vec<PathBuf>,
    /// The snapshot inside that is read instead of its present state.
    pub snapshot: Option<String>,
    /// How a web server is asked, if it is on one.
    pub access: Access,
    /// The layers of a container image, lowest first, if the disk is a file in one.
    pub layers: Option<Arc<[Layer]>>,
    /// What its own bytes must add up to.
    pub checksum: Option<Checksum>,
    /// Which disk of an OVA.
    pub disk: Option<String>,
    /// Compare an OVA with its manifest before it is read.
    pub check_manifest: bool,
    /// Where it may be unpacked, if it cannot be read otherwise. For this one image only.
    pub scratch: Option<Arc<Scratch>>,
}

/// A disk that is open, and the image that it is if it is not raw.
#[derive(Debug)]
pub struct Opened {
    /// The disk, as the guest sees it.
    pub source: Arc<dyn Source>,
    /// The image.
    pub image: Option<Arc<dyn Image>>,
    /// Local files that it opened besides its own.
    pub files: Vec<PathBuf>,
}

/// Looks through `source` at the disk in it. `path` is where it is, if it is a local file or device.
///
/// # Errors
/// The format is unknown, or the image cannot be opened as one of it.
pub async fn open(
    source: Arc<dyn Source>,
    path: Option<&Path>,
    reading: &Reading,
) -> Result<Opened> {
    let storage: Arc<dyn Storage> = Arc::new(SourceStorage::new(Arc::clone(&source)));
    not_wrapped(storage.as_ref(), path, reading).await?;
    let format: &dyn Format = match (&reading.format, path) {
        (Some(name), _) => format::named(name)?,
        (None, Some(path)) if path.is_file() => format::probe(storage.as_ref()).await?,
        (None, _) => &format::raw::Raw,
    };
    if format.name() == format::raw::Raw.name() {
        if reading.disk.is_some() || reading.check_manifest {
            let what = format!("{} is raw: one disk, without a manifest", source.identity());
            return Err(Error::new(Kind::Usage, what));
        }
        if reading.snapshot.is_some() {
            let what = format!("{} is raw and has no snapshots inside", source.identity());
            return Err(Error::new(Kind::Usage, what));
        }
        return Ok(Opened {
            source,
            image: None,
            files: Vec::new(),
        });
    }
    let files = match path {
        Some(path) => Some(local_files(path, &reading.allow).await?),
        None => None,
    };
    let opener = match &files {
        Some((dir, files)) => Opener::within(dir.clone(), Arc::new(files.clone())),
        None => Opener::nowhere(),
    };
    let opener = opener
        .at_snapshot(reading.snapshot.clone())
        .of_disk(reading.disk.clone(), reading.check_manifest);
    let image = format::open(format, storage, &opener).await?;
    let mut identity = source.identity();
    if let Some(snapshot) = &reading.snapshot {
        // To a journal it is another disk than the present state.
        identity.id.push_str(&format!("@{snapshot}"));
    }
    if let Some(disk) = &reading.disk {
        identity.id.push_str(&format!("#{disk}"));
    }
    let source = Arc::new(ImageSource::new(Arc::clone(&image), identity));
    Ok(Opened {
        source,
        image: Some(image),
        files: files.map_or_else(Vec::new, |(_, files)| files.opened()),
    })
}

/// Refuses what is compressed as a whole: it can only be read forward.
async fn not_wrapped(storage: &dyn Storage, path: Option<&Path>, reading: &Reading) -> Result<()> {
    let wrapper = match (&reading.format, path) {
        (Some(name), _) => Wrapper::split(name).1,
        (None, Some(path)) if path.is_file() => {
            let head = ByteRange::new(0, storage.size().min(8));
            Wrapper::of(&read_range(storage, "first bytes", head).await?)
        }
        (None, _) => None,
    };
    let Some(wrapper) = wrapper else {
        return Ok(());
    };
    let what = format!(
        "{} is {wrapper} data, which can only be read forward",
        storage.identity()
    );
    let hint = "--scratch DIR unpacks it there; without, copy without --verify, checksum, compare, \
                inspect and map read a disk that can be read forward";
    let error = Error::new(Kind::Unsupported, what).because(NeedsScratch);
    Err(error.hint(hint))
}

/// The directory of an image at `path`, and what it may open.
async fn local_files(path: &Path, allow: &[PathBuf]) -> Result<(PathBuf, LocalFiles)> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new(".")).to_owned();
    let (own, allow) = (dir.clone(), allow.to_vec());
    let policy = blocking(move || Ok(Policy::new(Some(&own), &allow))).await;
    let policy = policy.map_err(|error| Error::io("look at directories", error))??;
    Ok((dir, LocalFiles::new(policy)))
}
