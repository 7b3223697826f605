//! What parsers promise for any bytes: a broken promise is a panic. For fuzz targets, and for seeds.
//!
//! Each function here tries one family of parsers and says whether any of them took the input. Those
//! of formats whose parsers nobody else sees are in the formats (`promises.rs`).
//!
//! ```text
//!  qcow2.rs   header, lists and tables of a qcow2 image
//!  ova.rs     tar file, descriptor and manifest
//!  unpack.rs  what is compressed: whole files and runs of an image
//!  disk.rs    the first bytes of a disk: partitions and signatures
//!  words.rs   checksums, and addresses of objects
//!  names.rs   names of files in images
//! ```

mod disk;
mod names;
mod ova;
mod qcow2;
mod unpack;
mod words;

use crate::format::{vdi, vhd, vhdx, vmdk};
use crate::source::registry;

/// Tries one family of parsers on any bytes; whether any of them took it.
pub type Promise = fn(&[u8]) -> bool;

/// Every family, by the name of its fuzz target.
pub const PROMISES: &[(&str, Promise)] = &[
    ("vmdk_parts", vmdk::promises::keep),
    ("vhd_parts", vhd::promises::keep),
    ("vdi_parts", vdi::promises::keep),
    ("vhdx_parts", vhdx::promises::keep),
    ("qcow2_parts", qcow2::keep),
    ("ova_parts", ova::keep),
    ("unpack", unpack::keep),
    ("disk_head", disk::keep),
    ("words", words::keep),
    ("names", names::keep),
    ("registry", registry::promises::keep),
];

/// Tries the family of the fuzz target `target` on `input`.
///
/// # Panics
/// A promise is broken, or there is no such family.
pub fn keep(target: &str, input: &[u8]) -> bool {
    let found = PROMISES.iter().find(|(name, _)| *name == target);
    assert!(found.is_some(), "no parsers are called {target}");
    found.is_some_and(|(_, promise)| promise(input))
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
