//! OVA: a tar file with an OVF descriptor and the disks that it names, read where they lie.
//!
//! DSP0243 2.1.1 ("Open Virtualization Format Specification"). Nothing is unpacked: a disk is a
//! part of the tar file, and an image in it maps to offsets of that. What an image in an OVA names
//! can only be another file of the same OVA.
//!
//! ```text
//!  tar.rs         headers → members                    pure
//!  descriptor.rs  OVF → disks                          pure
//!  manifest.rs    names → digests                      pure
//!  part.rs        a member as a storage
//!  open.rs        a tar file → the disk that is wanted
//! ```
//!
//! Not read: files in pieces (`ovf:chunkSize`), disks that are compressed once more, and differences
//! between the disks of an OVA (`ovf:parentRef`).

mod descriptor;
mod manifest;
mod open;
mod part;
mod tar;

pub use descriptor::{OvfDisk, OvfFile, choose, disks};
pub use manifest::{Digests, Sum, manifest};
pub use tar::{BLOCK, Member, Next, Walk, padded};

use super::{Ends, Facts, Format, Image, Mapped, Opener, Storage, To};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::sync::Arc;

/// Longest descriptor and longest manifest.
pub const TEXT_MAX: u64 = 4 << 20;

/// The format.
#[derive(Debug)]
pub struct Ova;

#[async_trait]
impl Format for Ova {
    fn name(&self) -> &'static str {
        "ova"
    }

    /// A tar file whose first member is an OVF descriptor: the specification wants it there, and
    /// other tar files are no disks.
    fn probe(&self, ends: &Ends<'_>) -> bool {
        let block = ends.head.get(..512).unwrap_or_default();
        match Walk::default().header(block) {
            Ok(Next::File(member)) => is_descriptor(&member.name),
            _ => false,
        }
    }

    fn has_disks(&self) -> bool {
        true
    }

    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(open::disk(storage, opener).await?))
    }
}

/// Whether a member of this name is the descriptor.
#[must_use]
pub fn is_descriptor(name: &str) -> bool {
    has_ending(name, ".ovf")
}

/// Whether a member of this name is the manifest.
#[must_use]
pub fn is_manifest(name: &str) -> bool {
    has_ending(name, ".mf")
}

fn has_ending(name: &str, ending: &str) -> bool {
    let start = name.len().saturating_sub(ending.len());
    let found = name.get(start..).unwrap_or_default();
    found.eq_ignore_ascii_case(ending)
}

/// A disk in an OVA.
#[derive(Debug)]
struct OvaImage {
    inner: Arc<dyn Image>,
    /// The member that it is in.
    part: Arc<dyn Storage>,
    /// The tar file, and where in it the member begins.
    whole: Arc<dyn Storage>,
    start: u64,
    facts: Facts,
}

#[async_trait]
impl Image for OvaImage {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn unit(&self) -> u64 {
        self.inner.unit()
    }

    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Of the tar file, so that bytes are read from there as if nothing were in between.
    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let mut parts = self.inner.map(range).await?;
        for part in &mut parts {
            match &mut part.to {
                To::Raw { storage, offset } if Arc::ptr_eq(storage, &self.part) => {
                    *storage = Arc::clone(&self.whole);
                    *offset = offset.saturating_add(self.start);
                }
                To::Packed { run, .. } if Arc::ptr_eq(&run.storage, &self.part) => {
                    run.storage = Arc::clone(&self.whole);
                    run.offset = run.offset.saturating_add(self.start);
                }
                _ => {}
            }
        }
        Ok(parts)
    }
}

/// Where an OVA breaks the rules of its format, or uses what is not read here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Less than a header.
    #[error("it ends inside of a header")]
    Short,
    /// The checksum of a header.
    #[error("a header of the tar file has another checksum than it should")]
    Checksum,
    /// A field of a header.
    #[error("the {0} in a header of the tar file makes no sense")]
    Header(&'static str),
    /// Links, devices, sparse files.
    #[error("it holds something of type {0:?}, which is no regular file")]
    Kind(char),
    /// A name that leads out.
    #[error("it holds a file called {0:?}, which is not below it")]
    Name(String),
    /// More than anybody puts into one.
    #[error("it holds too many files")]
    Members,
    /// A file that is longer than the tar file.
    #[error("the file {name:?} in it is at {range}, and it ends at {size:#x}")]
    Outside {
        /** Which. */
        name: String,
        /** Where it should be. */
        range: ByteRange,
        /** Of the tar file. */
        size: u64,
    },
    /// No descriptor.
    #[error("it has no OVF descriptor")]
    NoDescriptor,
    /// The descriptor.
    #[error("its OVF descriptor cannot be read: {0}")]
    Descriptor(String),
    /// A disk whose file is not declared.
    #[error("its OVF descriptor has no file {0:?}, which a disk refers to")]
    NoFile(String),
    /// A file that is declared and not there.
    #[error("the file {0:?} of the disk is not in it")]
    Missing(String),
    /// A disk that is a difference to another.
    #[error("its disk {0:?} is a difference to another disk of it")]
    Difference(String),
    /// A file in pieces.
    #[error("its file {0:?} is in several pieces")]
    Chunked(String),
    /// A disk that is compressed once more.
    #[error("its file {name:?} is {wrapper} data")]
    Wrapped {
        /** Which. */
        name: String,
        /** How it is compressed. */
        wrapper: String,
    },
    /// No disk.
    #[error("it has no disk")]
    NoDisk,
    /// Several disks, and nobody said which.
    #[error("it has several disks: {0}")]
    Several(String),
    /// No disk of that name.
    #[error("it has no disk {name:?}, but {all}")]
    NoSuchDisk {
        /** What was wanted. */
        name: String,
        /** Those that it has. */
        all: String,
    },
    /// A line of the manifest.
    #[error("its manifest has the line {0:?}, which makes no sense")]
    Manifest(String),
    /// It has no manifest.
    #[error("it has no manifest")]
    NoManifest,
    /// A file is not what the manifest says.
    #[error("its file {name:?} is not the one whose {algorithm} is in its manifest")]
    Digest {
        /** Which. */
        name: String,
        /** How it was digested. */
        algorithm: &'static str,
    },
}

impl Fault {
    /// The error, `doing` something to the OVA.
    #[must_use]
    pub fn while_doing(self, doing: String) -> Error {
        let kind = match self {
            Self::Difference(_) | Self::Chunked(_) | Self::Wrapped { .. } => Kind::Unsupported,
            Self::Kind(_) | Self::Name(_) | Self::Members => Kind::Refused,
            Self::Several(_) | Self::NoSuchDisk { .. } | Self::NoManifest => Kind::Usage,
            _ => Kind::Corrupt,
        };
        let error = Error::new(kind, doing);
        match &self {
            Self::Outside { .. } | Self::Short => {
                error.hint("the file is cut off, or it is damaged")
            }
            Self::Several(_) | Self::NoSuchDisk { .. } => error.hint("name one with --disk"),
            Self::Wrapped { name, .. } => {
                let hint = format!("read it forward: tar -xOf FILE {name} | diskferry copy -f …");
                error.hint(hint)
            }
            _ => error,
        }
        .because(self)
    }
}
