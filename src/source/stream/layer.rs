//! The disk in a layer of a container image: the only file below one directory.
//!
//! The layer is read to its end, behind the disk too: only there shows whether it is the only one, and
//! whether the bytes of the layer are those that the image names.

use super::ByteStream;
use super::tar::{Entry, Tar};
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::format::ova::{Member, Walk, padded};
use async_trait::async_trait;

/// Marks something of a lower layer that is gone in this one.
const GONE: &str = ".wh.";

/// A file of a layer, as it comes.
#[derive(Debug)]
pub struct LayerFile {
    tar: Tar,
    folder: &'static str,
    file: Member,
    /// Bytes that were not given yet.
    left: u64,
    ended: bool,
}

impl LayerFile {
    /// Reads `layer`, which is not compressed, as far as the first file below `folder`; to its end if
    /// there is none.
    ///
    /// # Errors
    /// It cannot be read, is no tar file, or holds something in `folder` that is no regular file.
    pub async fn find(layer: Box<dyn ByteStream>, folder: &'static str) -> Result<Option<Self>> {
        let mut tar = Tar::new(layer, Walk::of_layer(), "a layer of an image");
        let Some(file) = next_in(&mut tar, folder).await? else {
            tar.rest().await?;
            return Ok(None);
        };
        tracing::info!("{} holds /{}, {} bytes", tar.name(), file.name, file.size);
        Ok(Some(Self {
            left: file.size,
            tar,
            folder,
            file,
            ended: false,
        }))
    }

    /// Reads what is after the file: there must be no other.
    async fn settle(&mut self) -> Result<()> {
        let padding = padded(self.file.size).saturating_sub(self.file.size);
        self.tar.pass(padding).await?;
        if let Some(other) = next_in(&mut self.tar, self.folder).await? {
            let (name, folder) = (self.tar.name(), self.folder);
            let what = format!("{name} holds several files below /{folder}");
            let why = format!(
                "which of {:?} and {:?} is the disk?",
                self.file.name, other.name
            );
            return Err(Error::new(Kind::Refused, what).because(why));
        }
        self.tar.rest().await
    }
}

/// The next file below `folder`; its content comes next.
async fn next_in(tar: &mut Tar, folder: &str) -> Result<Option<Member>> {
    let below = |name: &str| {
        let rest = name.strip_prefix(folder);
        let rest = rest.and_then(|rest| rest.strip_prefix('/'));
        rest.is_some_and(|rest| !rest.rsplit('/').next().unwrap_or(rest).starts_with(GONE))
    };
    while let Some(entry) = tar.next().await? {
        match entry {
            Entry::File(file) if below(&file.name) => return Ok(Some(file)),
            Entry::File(file) => tar.pass(padded(file.size)).await?,
            Entry::Other(other) if below(&other.name) => {
                let what = format!("{} holds /{}", tar.name(), other.name);
                return Err(Error::new(Kind::Refused, what).because("it is no regular file"));
            }
            Entry::Other(_) => {}
        }
    }
    Ok(None)
}

#[async_trait]
impl ByteStream for LayerFile {
    fn name(&self) -> &str {
        self.tar.name()
    }

    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>> {
        if self.left == 0 {
            if !self.ended {
                self.settle().await?;
                self.ended = true;
            }
            return Ok(None);
        }
        let bytes = self.tar.content(&mut self.left, buffer).await?;
        Ok(Some(bytes))
    }
}
