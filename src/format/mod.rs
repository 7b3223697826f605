//! Disk images. A format does not copy: it answers *where* the bytes of a guest range are, and one
//! pipeline copies them. So every format has parallel reads, resume, verification and zeroes for
//! free.
//!
//! ```text
//!  storage.rs  the bytes that an image is laid over
//!  image.rs    trait Image: guest range → zero, raw bytes or a compressed run
//!  packed.rs   compressed runs, and how they are unpacked       pure
//!  wrapper.rs  files that are compressed as a whole                pure
//!  unread.rs   files that are no disk, and are not read            pure
//!  chain.rs    one layer over another
//!  pages.rs    tables, read in pages of which the last are kept
//!  refs.rs     what an image may open
//!  opener.rs   opens what an image names
//!  facts.rs    what an image says of itself
//! ```
//!
//! Each format is a folder: `layout.rs` (bytes as the specification draws them), `header.rs`
//! (bytes → something checked; pure) and `mod.rs` (something checked → an [`Image`]). A new format
//! is that, and a line in [`FORMATS`].
//!
//! Images come from strangers. Every number in one is checked before it is used: sums do not
//! overflow, tables lie inside the file and are read in windows, chains end, and what cannot be
//! made sense of is an error with the number in it.

#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

mod chain;
mod facts;
mod image;
mod opener;
pub mod ova;
mod packed;
mod pages;
pub mod qcow2;
pub mod raw;
mod refs;
mod storage;
mod unread;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod wrapper;

pub use chain::{Layer, over, push_layer};
pub use facts::Facts;
pub use image::{Image, Mapped, PARTS_MAX, To, push_mapped};
pub use opener::{Files, Opener, Referenced, SIBLINGS_MAX};
pub use packed::{Codec, Packed};
pub use pages::Pages;
pub use refs::Policy;
pub use storage::{AtHand, Storage, read_range};
pub use unread::may_be_raw;
pub use wrapper::{Decoder, WRAPPERS, Wrapper};

use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

/// Every format there is. `raw` comes last: it is what is left.
pub const FORMATS: &[&dyn Format] = &[
    &qcow2::Qcow2,
    &vmdk::Vmdk,
    &vhdx::Vhdx,
    &vhd::Vhd,
    &vdi::Vdi,
    &ova::Ova,
    &raw::Raw,
];

/// A format of disk images.
#[async_trait]
pub trait Format: fmt::Debug + Sync {
    /// Its name, as `-f` takes it.
    fn name(&self) -> &'static str;

    /// Other names that people know it by.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether an image looks like one of this format.
    fn probe(&self, ends: &Ends<'_>) -> bool;

    /// Whether an image has snapshots inside.
    fn has_snapshots(&self) -> bool {
        false
    }

    /// Whether an image may be several disks.
    fn has_disks(&self) -> bool {
        false
    }

    /// Opens an image; what it names is opened through `opener`.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, or `Refused` by the policy; else the storage cannot be read.
    async fn open(&self, storage: Arc<dyn Storage>, opener: &Opener) -> Result<Arc<dyn Image>>;
}

/// The first and the last bytes of a storage, to tell its format by.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The first [`HEAD`] bytes; fewer if there are fewer.
    pub head: &'a [u8],
    /// The last [`TAIL`] bytes; fewer if there are fewer.
    pub tail: &'a [u8],
    /// Size in bytes.
    pub size: u64,
}

/// Bytes at the start that a probe sees: what is looked for is a text, or at offset 0.
pub const HEAD: u64 = 4096;

/// Bytes at the end that a probe sees.
pub const TAIL: u64 = 1024;

/// The format called `name`.
///
/// # Errors
/// `Usage`: there is none.
pub fn named(name: &str) -> Result<&'static dyn Format> {
    find(name).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
        let what = format!("there is no image format {name:?} here");
        let names = names.join(", ");
        Error::new(Kind::Usage, what).hint(format!("one of {names}; .gz, .xz or .zst may follow"))
    })
}

/// The format called `name`, if there is one.
fn find(name: &str) -> Option<&'static dyn Format> {
    let mut all = FORMATS.iter().copied();
    all.find(|format| format.name() == name || format.aliases().contains(&name))
}

/// The format that the image on `storage` looks like; raw if like none.
///
/// # Errors
/// The storage cannot be read; `Refused` if it is nothing that may be a disk.
pub async fn probe(storage: &dyn Storage) -> Result<&'static dyn Format> {
    let size = storage.size();
    let head = ByteRange::new(0, HEAD.min(size));
    let tail = ByteRange::new(size.saturating_sub(TAIL), size);
    let head = read_range(storage, "first bytes", head).await?;
    let tail = read_range(storage, "last bytes", tail).await?;
    let ends = Ends {
        head: &head,
        tail: &tail,
        size,
    };
    let format = looks_like(&ends);
    if format.name() == raw::Raw.name() {
        may_be_raw(&storage.identity().name, &ends)?;
    }
    Ok(format)
}

/// The format of an image with such `ends`; raw if it looks like none.
#[must_use]
pub fn looks_like(ends: &Ends<'_>) -> &'static dyn Format {
    let mut all = FORMATS.iter().copied();
    all.find(|format| format.probe(ends)).unwrap_or(&raw::Raw)
}

/// Opens the image on `storage` as one of `format`.
///
/// # Errors
/// As for [`Format::open`]; `Usage` if a snapshot is wanted and the format has none.
pub async fn open(
    format: &dyn Format,
    storage: Arc<dyn Storage>,
    opener: &Opener,
) -> Result<Arc<dyn Image>> {
    let name = storage.identity().name;
    if opener.snapshot().is_some() && !format.has_snapshots() {
        let what = format!("{name}: {} images have no snapshots inside", format.name());
        return Err(Error::new(Kind::Usage, what));
    }
    if (opener.disk().is_some() || opener.checks_manifest()) && !format.has_disks() {
        let what = format!(
            "{name}: {} images are one disk, without a manifest",
            format.name()
        );
        return Err(Error::new(Kind::Usage, what));
    }
    let opener = opener.entered(storage.as_ref());
    let opened = format.open(storage, &opener).await;
    opened.map_err(|error| error.context(format!("open {name} as {}", format.name())))
}
