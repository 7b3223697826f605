//! qcow2, the format of QEMU: versions 2 and 3.
//!
//! Follows qemu's `docs/interop/qcow2.txt`; the names of sections are that document's. A file is
//! made of clusters; an L1 table points to L2 tables, and those say for each cluster of the disk
//! where it is: in the file, compressed in the file, nowhere as it is zero, or in the backing
//! file. An internal snapshot is another L1 table.
//!
//! ```text
//!  layout.rs     bytes as the specification draws them       no logic
//!  header.rs     the first cluster → a header                pure
//!  extension.rs  what else is told there                     pure
//!  geometry.rs   sizes that follow; tables against the file  pure
//!  directory.rs  lists of snapshots and bitmaps              pure
//!  entry.rs      bits of L1 and L2 entries                   pure
//!  runs.rs       an L2 table → where guest ranges are        pure
//!  flaw.rs       what can be wrong
//!  image.rs      a header → an Image
//! ```
//!
//! Not read: version 1, and encrypted images, which are refused by name. Stricter than qemu: an
//! image that is cut off is an error where qemu reads zeroes, reserved bits are errors where qemu
//! ignores them, and an image that is marked as corrupt is refused.

pub mod directory;
pub mod entry;
mod extension;
pub mod flaw;
pub mod geometry;
pub mod header;
mod image;
pub mod layout;
pub mod runs;

use super::{Ends, Format, Image, Opener, Storage};
use crate::error::Result;
use async_trait::async_trait;
use std::sync::Arc;

/// The format.
#[derive(Debug)]
pub struct Qcow2;

#[async_trait]
impl Format for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn probe(&self, ends: &Ends<'_>) -> bool {
        ends.head.starts_with(&layout::MAGIC)
    }

    fn has_snapshots(&self) -> bool {
        true
    }

    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(image::Qcow2Image::open(storage, opener).await?))
    }
}
