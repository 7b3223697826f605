//! VMDK, VMware's disks, in every form in which they are stored. Read-only.
//!
//! Follows "Virtual Disk Format 5.0" (VMware, 2011); ESX redo logs and seSparse extents, which it
//! tells little of, as other readers and real images have them. A disk is a list of extents: flat
//! files, sparse files with a directory of grain tables, or zeroes. A snapshot is a disk whose
//! missing grains are in its parent, which is believed only if its CID is the one that the snapshot
//! was made on.
//!
//! ```text
//!  layout.rs      bytes as the specification draws them         no logic
//!  header.rs      bytes → tables that were checked              no I/O
//!  descriptor.rs  text → extents, parent, CIDs                  no I/O
//!  sparse.rs      one sparse extent: its tables → where grains are
//!  open.rs        files → a disk
//!  forward.rs     a stream-optimized extent that is read once      no I/O
//!  fault.rs       what can be wrong
//!  promises.rs   what the parsers promise, for fuzz targets
//! ```
//!
//! Not read: raw device mappings, which are refused (the LUN itself can be copied); a seSparse
//! extent whose journal was not replayed; a part of a disk without its descriptor.

mod descriptor;
mod fault;
mod forward;
mod header;
pub(crate) mod layout;
mod open;
#[cfg(feature = "testkit")]
pub mod promises;
mod sparse;
#[cfg(test)]
mod tests;

pub use fault::Fault;
pub use forward::{Forward, Grain, Piece, must_seek};

use super::{
    Ends, Facts, Format, Image, Layer, Mapped, Opener, PARTS_MAX, Storage, To, over, push_layer,
};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use sparse::SparseExtent;
use std::sync::Arc;

/// The format.
#[derive(Debug)]
pub struct Vmdk;

#[async_trait]
impl Format for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn probe(&self, ends: &Ends<'_>) -> bool {
        let magics: [&[u8]; 3] = [
            &layout::HOSTED_MAGIC,
            &layout::COWD_MAGIC,
            &layout::SE_MAGIC.to_le_bytes(),
        ];
        magics.iter().any(|magic| ends.head.starts_with(magic))
            || descriptor::looks_like_one(ends.head)
    }

    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(open::disk(storage, opener).await?))
    }
}

/// A disk that is open.
#[derive(Debug)]
struct Disk {
    extents: Vec<Extent>,
    size: u64,
    unit: u64,
    facts: Facts,
    cid: u32,
    parent: Option<Box<Disk>>,
}

/// A part of a disk.
#[derive(Debug)]
struct Extent {
    range: ByteRange,
    what: What,
}

/// What an extent is.
#[derive(Debug)]
enum What {
    Zero,
    Flat {
        storage: Arc<dyn Storage>,
        offset: u64,
    },
    Sparse(SparseExtent),
}

#[async_trait]
impl Image for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn facts(&self) -> Facts {
        let backing = self.parent.as_ref().map(|parent| Box::new(parent.facts()));
        Facts {
            backing,
            ..self.facts.clone()
        }
    }

    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let first = self
            .extents
            .partition_point(|extent| extent.range.end <= range.start);
        let mut found = Vec::new();
        for extent in self.extents.iter().skip(first) {
            let window = extent.range.intersect(range);
            if window.is_empty() || found.len() >= PARTS_MAX {
                break;
            }
            if extent.map(window, &mut found).await? < window.end {
                break;
            }
        }
        let parent = self.parent.as_deref().map(|parent| parent as &dyn Image);
        over(found, parent).await
    }
}

impl Extent {
    /// Appends what is known of a prefix of `window`; where that ends.
    async fn map(&self, window: ByteRange, found: &mut Vec<(ByteRange, Layer)>) -> Result<u64> {
        let base = self.range.start;
        let inner = window.start.saturating_sub(base);
        match &self.what {
            What::Zero => push_layer(found, window, Layer::Here(To::Zero)),
            What::Flat { storage, offset } => {
                let to = To::Raw {
                    storage: Arc::clone(storage),
                    offset: offset.saturating_add(inner),
                };
                push_layer(found, window, Layer::Here(to));
            }
            What::Sparse(sparse) => {
                let parts = sparse.map(ByteRange::at(inner, window.len())).await?;
                let mut end = window.start;
                for (range, layer) in parts {
                    let range = ByteRange::at(base.saturating_add(range.start), range.len());
                    end = range.end;
                    push_layer(found, range, layer);
                }
                return Ok(end);
            }
        }
        Ok(window.end)
    }
}
