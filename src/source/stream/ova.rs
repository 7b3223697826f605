//! The disk of an OVA that comes as a stream: the descriptor first, then files, one of which it is.
//!
//! All of it is read to its end, so a manifest is always compared with the disk, wherever it comes.

use super::ByteStream;
use super::tar::{Entry, Tar};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::format::ova::{
    self, Digests, Fault, Member, Sum, TEXT_MAX, Walk, is_descriptor, is_manifest, padded,
};
use async_trait::async_trait;

/// The bytes of one file of an OVA.
#[derive(Debug)]
pub(super) struct OvaStream {
    tar: Tar,
    name: String,
    /// Bytes of the file.
    size: u64,
    /// Those that were not given yet.
    left: u64,
    digests: Option<Digests>,
    sums: Option<Vec<Sum>>,
}

impl OvaStream {
    /// Reads as far as the disk that is wanted; the only one, if none is named.
    pub(super) async fn open(input: Box<dyn ByteStream>, wanted: Option<&str>) -> Result<Self> {
        let mut tar = Tar::new(input, Walk::default(), "an OVA");
        let first = tar.file().await?;
        let first = first.filter(|member| is_descriptor(&member.name));
        let first = first.ok_or_else(|| tar.failed(Fault::NoDescriptor))?;
        let text = tar.text(first.size).await?;
        let disks = ova::disks(&text).map_err(|fault| tar.failed(fault))?;
        let disk = ova::choose(&disks, wanted).map_err(|fault| tar.failed(fault))?;
        let file = disk.file.clone().unwrap_or_default();
        if file.chunked {
            return Err(tar.failed(Fault::Chunked(file.href)));
        }
        let mut sums = None;
        loop {
            let Some(member) = tar.file().await? else {
                return Err(tar.failed(Fault::Missing(file.href)));
            };
            if member.name == file.href {
                let sum = find(sums.as_deref(), &file.href);
                return Ok(Self {
                    digests: Some(Digests::of(sum)),
                    tar,
                    name: file.href,
                    size: member.size,
                    left: member.size,
                    sums,
                });
            }
            match is_manifest(&member.name) {
                true => sums = Some(tar.manifest(member.size).await?),
                false => tar.pass(padded(member.size)).await?,
            }
        }
    }

    /// Reads what is after the disk, and compares it with the manifest.
    async fn settle(&mut self, digests: Digests) -> Result<()> {
        let padding = padded(self.size).saturating_sub(self.size);
        self.tar.pass(padding).await?;
        while let Some(member) = self.tar.file().await? {
            match is_manifest(&member.name) && self.sums.is_none() {
                true => self.sums = Some(self.tar.manifest(member.size).await?),
                false => self.tar.pass(padded(member.size)).await?,
            }
        }
        self.tar.rest().await?;
        match find(self.sums.as_deref(), &self.name) {
            Some(sum) => digests.check(sum).map_err(|fault| self.tar.failed(fault)),
            None => Ok(()),
        }
    }
}

fn find<'a>(sums: Option<&'a [Sum]>, name: &str) -> Option<&'a Sum> {
    sums.and_then(|sums| sums.iter().find(|sum| sum.name == name))
}

impl Tar {
    /// The next member: an OVA holds files and nothing else.
    async fn file(&mut self) -> Result<Option<Member>> {
        let next = self.next().await?;
        Ok(next.map(|(Entry::File(member) | Entry::Other(member))| member))
    }

    /// The content of a small member, and what fills it up.
    async fn text(&mut self, size: u64) -> Result<Buffer> {
        if size > TEXT_MAX {
            return Err(self.failed(Fault::Descriptor(format!("{size} bytes"))));
        }
        let bytes = self.exactly(size).await?;
        self.pass(padded(size).saturating_sub(size)).await?;
        Ok(bytes)
    }

    async fn manifest(&mut self, size: u64) -> Result<Vec<Sum>> {
        let text = self.text(size).await?;
        ova::manifest(&text).map_err(|fault| self.failed(fault))
    }
}

#[async_trait]
impl ByteStream for OvaStream {
    fn name(&self) -> &str {
        self.tar.name()
    }

    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>> {
        if self.left == 0 {
            if let Some(digests) = self.digests.take() {
                self.settle(digests).await?;
            }
            return Ok(None);
        }
        let bytes = self.tar.content(&mut self.left, buffer).await?;
        if let Some(digests) = &mut self.digests {
            digests.update(&bytes);
        }
        Ok(Some(bytes))
    }
}
