//! Any source as the storage of an image, and local files by name.

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Result};
use crate::extent::{ByteRange, Extent};
use crate::format::{AtHand, Files, Policy, SIBLINGS_MAX, Storage};
use crate::source::Source;
use crate::source::file::{FileSource, FileSourceOptions};
use crate::sys::blocking;
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A source as storage.
#[derive(Clone, Debug)]
pub struct SourceStorage(Arc<dyn Source>);

impl SourceStorage {
    /// Lays images over `source`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self(source)
    }
}

#[async_trait]
impl Storage for SourceStorage {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn identity(&self) -> Identity {
        self.0.identity()
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        self.0.read(offset, buffer).await
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        self.0.extents(range).await
    }

    fn at_hand(&self) -> Option<&dyn AtHand> {
        self.0.at_hand()
    }
}

/// Opens the files that images name, if a policy allows it.
#[derive(Clone, Debug)]
pub struct LocalFiles {
    policy: Arc<Policy>,
    opened: Arc<Mutex<Vec<PathBuf>>>,
}

impl LocalFiles {
    /// Opens what `policy` allows.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            opened: Arc::default(),
        }
    }

    /// What was opened so far.
    #[must_use]
    pub fn opened(&self) -> Vec<PathBuf> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.clone()
    }
}

#[async_trait]
impl Files for LocalFiles {
    async fn open(&self, dir: &Path, name: &str) -> Result<(PathBuf, Arc<dyn Storage>)> {
        let (policy, from, owned) = (Arc::clone(&self.policy), dir.to_owned(), name.to_owned());
        let found = blocking(move || Ok(policy.find(&from, &owned))).await;
        let path = found.map_err(|error| Error::io(format!("find {name:?}"), error))??;
        let source = FileSource::open(&path, FileSourceOptions::default()).await?;
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path.clone());
        Ok((path, Arc::new(SourceStorage::new(Arc::new(source)))))
    }

    async fn siblings(&self, dir: &Path, ending: &str) -> Result<Vec<String>> {
        let (policy, from, ending) = (Arc::clone(&self.policy), dir.to_owned(), ending.to_owned());
        let found = blocking(move || policy.siblings(&from, &ending, SIBLINGS_MAX)).await;
        found.map_err(|error| Error::io(format!("look into {}", dir.display()), error))
    }
}
