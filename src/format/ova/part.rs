//! A part of a storage as a storage, and the members of a tar file by name.

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use crate::format::{AtHand, Files, Storage, read_range};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A member of a tar file.
#[derive(Debug)]
pub(super) struct Part {
    whole: Arc<dyn Storage>,
    range: ByteRange,
    name: String,
}

impl Part {
    /// The bytes of `range`, which lies in `whole`, under a name.
    pub(super) fn new(whole: Arc<dyn Storage>, range: ByteRange, name: &str) -> Self {
        let name = name.to_owned();
        Self { whole, range, name }
    }
}

#[async_trait]
impl Storage for Part {
    fn size(&self) -> u64 {
        self.range.len()
    }

    /// Any alignment: members begin where they begin.
    fn limits(&self) -> Limits {
        Limits {
            align: 1,
            ..self.whole.limits()
        }
    }

    fn identity(&self) -> Identity {
        let whole = self.whole.identity();
        Identity {
            id: format!("{}#{}", whole.id, self.name),
            size: self.size(),
            name: format!("{}:{}", whole.name, self.name),
        }
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        check_bounds("read", &self.name, range, self.size())?;
        let start = self.range.start.saturating_add(offset);
        let there = ByteRange::at(start, range.len());
        let bytes = read_range(self.whole.as_ref(), "member", there).await?;
        buffer.copy_from_slice(&bytes);
        Ok(buffer)
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        Ok(vec![Extent::data(range)])
    }

    fn at_hand(&self) -> Option<&dyn AtHand> {
        self.whole.at_hand().is_some().then_some(self)
    }
}

impl AtHand for Part {
    fn read_now(&self, offset: u64, space: &mut [u8]) -> Result<()> {
        let range = ByteRange::at(offset, u64::try_from(space.len()).unwrap_or(u64::MAX));
        check_bounds("read", &self.name, range, self.size())?;
        match self.whole.at_hand() {
            Some(whole) => whole.read_now(self.range.start.saturating_add(offset), space),
            None => Err(Error::new(
                Kind::Io,
                format!("{} is not at hand", self.name),
            )),
        }
    }
}

/// The members of a tar file, for an image in it that names others.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) whole: Arc<dyn Storage>,
    pub(super) found: Vec<(String, ByteRange)>,
}

impl Members {
    /// Where the member `name` is.
    pub(super) fn place(&self, name: &str) -> Option<ByteRange> {
        let found = self.found.iter().find(|(member, _)| member == name);
        found.map(|(_, range)| *range)
    }

    /// The member `name` as a storage.
    pub(super) fn part(&self, name: &str) -> Option<Part> {
        let range = self.place(name)?;
        Some(Part::new(Arc::clone(&self.whole), range, name))
    }
}

#[async_trait]
impl Files for Members {
    async fn open(&self, dir: &Path, name: &str) -> Result<(PathBuf, Arc<dyn Storage>)> {
        let path = dir.join(name);
        let part = path.to_str().and_then(|name| self.part(name));
        let part = part.ok_or_else(|| {
            let what = format!("open {name:?}, which the image names");
            let error = Error::new(Kind::Refused, what);
            error.because(format!("it is not in {}", self.whole.identity()))
        })?;
        Ok((path, Arc::new(part)))
    }
}
