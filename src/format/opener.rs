//! How an image opens what it names: through the policy of the user, and never in circles.

use super::{Format, Image, Storage};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images that a chain may have. Real ones have a few dozen at most.
const DEPTH_MAX: usize = 256;

/// Whoever opens files for images, and knows what they may open.
#[async_trait]
pub trait Files: fmt::Debug + Send + Sync {
    /// Opens the file that an image in `dir` calls `name`; tells where it is as well.
    ///
    /// # Errors
    /// `Refused` if that image may not open it; else it cannot be opened.
    async fn open(&self, dir: &Path, name: &str) -> Result<(PathBuf, Arc<dyn Storage>)>;

    /// Names of files that an image in `dir` may perhaps open, and that end in `ending`, whatever its
    /// case; at most [`SIBLINGS_MAX`] of them. By default there are none.
    ///
    /// # Errors
    /// A directory cannot be read.
    async fn siblings(&self, _dir: &Path, _ending: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Files among which one is looked for by what it holds.
pub const SIBLINGS_MAX: usize = 1024;

/// Opens what one image names. Each image of a chain has its own.
#[derive(Clone, Debug)]
pub struct Opener {
    files: Option<Arc<dyn Files>>,
    /// Where relative names of this image begin.
    dir: PathBuf,
    /// Identities of the images from the top of the chain to this one.
    chain: Vec<String>,
    snapshot: Option<String>,
    disk: Option<String>,
    checks_manifest: bool,
}

/// A file that an image named, and what opens the names that are in it.
#[derive(Clone, Debug)]
pub struct Referenced {
    /// The file.
    pub storage: Arc<dyn Storage>,
    /// For an image in it.
    pub opener: Opener,
}

impl Opener {
    /// For an image that is in no directory, and so may open nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        Self {
            files: None,
            dir: PathBuf::new(),
            chain: Vec::new(),
            snapshot: None,
            disk: None,
            checks_manifest: false,
        }
    }

    /// For an image in the directory `dir`; what it names is opened by `files`.
    #[must_use]
    pub fn within(dir: PathBuf, files: Arc<dyn Files>) -> Self {
        Self {
            files: Some(files),
            dir,
            ..Self::nowhere()
        }
    }

    /// The image is to be read as it was at `snapshot`, by name or number.
    #[must_use]
    pub fn at_snapshot(mut self, snapshot: Option<String>) -> Self {
        self.snapshot = snapshot;
        self
    }

    /// The internal snapshot that is wanted of this image; never of those below it.
    #[must_use]
    pub fn snapshot(&self) -> Option<&str> {
        self.snapshot.as_deref()
    }

    /// Of several disks, the one called `disk` is wanted; and whether all that they are in is
    /// compared with its manifest first.
    #[must_use]
    pub fn of_disk(mut self, disk: Option<String>, checks_manifest: bool) -> Self {
        (self.disk, self.checks_manifest) = (disk, checks_manifest);
        self
    }

    /// The disk that is wanted of several.
    #[must_use]
    pub fn disk(&self) -> Option<&str> {
        self.disk.as_deref()
    }

    /// Whether a manifest is compared with what it lists.
    #[must_use]
    pub fn checks_manifest(&self) -> bool {
        self.checks_manifest
    }

    /// The same for an image that may open nothing but `files`.
    #[must_use]
    pub fn confined(&self, files: Arc<dyn Files>) -> Self {
        Self {
            files: Some(files),
            chain: self.chain.clone(),
            ..Self::nowhere()
        }
    }

    /// Opens the first file that one of `names` leads to, which are paths of some other machine:
    /// each as it is, else by its last part.
    ///
    /// # Errors
    /// Those of the first name: what the policy says of a path is worth more than that another is
    /// not there. `Corrupt` if there is no name.
    pub async fn any_file(&self, names: impl IntoIterator<Item = String>) -> Result<Referenced> {
        let mut failed = None;
        for name in names {
            let path = name.replace('\\', "/");
            let base = path.rsplit('/').next().unwrap_or(&path);
            for path in [path.as_str(), base] {
                match self.file(path).await {
                    Ok(found) => return Ok(found),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(Kind::Corrupt, "its parent has no name")))
    }

    /// Opens the file that the image calls `name`.
    ///
    /// # Errors
    /// `Refused` by the policy, or because the chain is too long or bites its own tail; else it
    /// cannot be opened.
    pub async fn file(&self, name: &str) -> Result<Referenced> {
        let Some(files) = &self.files else {
            let what = format!("open {name:?}, which the image names");
            let error = Error::new(Kind::Refused, what).because("the image is not in a directory");
            return Err(error.hint("only images in local files may have parts in other files"));
        };
        let (path, storage) = files.open(&self.dir, name).await?;
        let id = storage.identity().id;
        let shown = path.display();
        if self.chain.contains(&id) {
            let what = format!("{shown} is part of a chain of images that comes back to it");
            return Err(Error::new(Kind::Corrupt, what));
        }
        if self.chain.len() >= DEPTH_MAX {
            let what = format!("{shown} is in a chain of more than {DEPTH_MAX} images");
            return Err(Error::new(Kind::Refused, what));
        }
        let opener = Self {
            dir: path.parent().unwrap_or(Path::new("")).to_owned(),
            snapshot: None,
            ..self.clone()
        };
        Ok(Referenced { storage, opener })
    }

    /// Names that the image may perhaps open, of files that end in `ending`: for those who know their
    /// parent by what is in it, and not by a name.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub async fn siblings(&self, ending: &str) -> Result<Vec<String>> {
        match &self.files {
            Some(files) => files.siblings(&self.dir, ending).await,
            None => Ok(Vec::new()),
        }
    }

    /// Opens the image that this one calls `name`; of the format named, else of whichever it is.
    ///
    /// # Errors
    /// As for [`file`](Self::file), and those of the format.
    pub async fn image(&self, name: &str, format: Option<&str>) -> Result<Arc<dyn Image>> {
        let found = self.file(name).await?;
        let format: &dyn Format = match format {
            Some(format) => super::find(format).ok_or_else(|| {
                let what = format!("the format of {name:?} is {format:?}, which is not read here");
                Error::new(Kind::Unsupported, what)
            })?,
            None => super::probe(found.storage.as_ref()).await?,
        };
        super::open(format, found.storage, &found.opener).await
    }

    /// The same for an image on `storage`, which is now part of the chain.
    #[must_use]
    pub fn entered(&self, storage: &dyn Storage) -> Self {
        let mut opener = self.clone();
        opener.chain.push(storage.identity().id);
        opener
    }
}
