//! A file → a disk and its parents.

use super::header::{self, Blocks, Disk, Kind};
use super::layout::{DynamicHeader, SECTOR};
use super::{Facts, Fault, Opener, Pages, Result, Storage, VhdImage};
use crate::error::{Error, Kind as ErrorKind};
use crate::extent::ByteRange;
use crate::format::{Referenced, read_range};
use std::fmt::Write;
use std::sync::Arc;

/// Opens the disk on `storage`, and the disks that it is a difference to.
pub(super) async fn disk(storage: Arc<dyn Storage>, opener: &Opener) -> Result<VhdImage> {
    let mut warnings = Vec::new();
    let disk = footer(&storage, &mut warnings).await?;
    let size = storage.size();
    let fault = |fault: Fault| fault.while_doing(doing(&storage, "open"));
    if disk.kind == Kind::Fixed {
        let range = ByteRange::new(0, disk.size);
        if disk.size > size.saturating_sub(SECTOR) {
            let what = "data";
            return Err(fault(Fault::Outside { what, range, size }));
        }
        return Ok(assemble(storage, &disk, None, None, warnings));
    }
    let len = u64::try_from(size_of::<DynamicHeader>()).unwrap_or(0);
    let range = ByteRange::at(disk.header, len);
    let bytes = read_range(storage.as_ref(), "dynamic disk header", range).await?;
    let blocks = header::dynamic(&bytes, disk.size, size).map_err(fault)?;
    let parent = match disk.kind {
        Kind::Differencing => Some(parent(&storage, &blocks, opener).await?),
        Kind::Fixed | Kind::Dynamic => None,
    };
    Ok(assemble(storage, &disk, Some(blocks), parent, warnings))
}

/// The footer at the end; else its copy at the start.
async fn footer(storage: &Arc<dyn Storage>, warnings: &mut Vec<String>) -> Result<Disk> {
    let size = storage.size();
    let fault = |fault: Fault| fault.while_doing(doing(storage, "open"));
    let last = ByteRange::new(size.saturating_sub(SECTOR), size);
    let sector = read_range(storage.as_ref(), "footer", last).await?;
    if let Some(disk) = header::footer(&sector).map_err(fault)? {
        return Ok(disk);
    }
    let first = ByteRange::new(0, SECTOR.min(size));
    let sector = read_range(storage.as_ref(), "footer", first).await?;
    match header::footer(&sector).map_err(fault)? {
        Some(disk) if disk.kind != Kind::Fixed => {
            let name = storage.identity();
            warnings.push(format!(
                "{name} has no footer at its end; its copy at the start is used"
            ));
            Ok(disk)
        }
        _ => Err(fault(Fault::NoFooter)),
    }
}

/// Opens the parent: the first of its names that leads to a file must lead to the right one.
async fn parent(
    storage: &Arc<dyn Storage>,
    blocks: &Blocks,
    opener: &Opener,
) -> Result<Box<VhdImage>> {
    let what = || doing(storage, "open the parent");
    let found = named(storage, blocks, opener).await?;
    let opener = found.opener.entered(found.storage.as_ref());
    let name = found.storage.identity();
    let parent = Box::pin(disk(found.storage, &opener)).await?;
    if parent.id != blocks.parent.id {
        let (is, should) = (hex(&parent.id), hex(&blocks.parent.id));
        let why = format!("{name} is disk {is}, and the parent is disk {should}");
        let error = Error::new(ErrorKind::Corrupt, what()).because(why);
        return Err(error.hint("another file has its name now"));
    }
    Ok(Box::new(parent))
}

/// Tries the names of the parent: those in the locators, which may have a path, then the plain one.
async fn named(storage: &Arc<dyn Storage>, blocks: &Blocks, opener: &Opener) -> Result<Referenced> {
    let mut names = Vec::new();
    for (range, encoding) in &blocks.parent.locators {
        // One that is not there is not the only one.
        if let Ok(bytes) = read_range(storage.as_ref(), "parent locator", *range).await {
            names.push(header::located(&bytes, *encoding));
        }
    }
    names.push(blocks.parent.name.clone());
    let found = opener.any_file(names).await;
    found.map_err(|error| error.context(doing(storage, "open the parent")))
}

fn assemble(
    storage: Arc<dyn Storage>,
    disk: &Disk,
    blocks: Option<Blocks>,
    parent: Option<Box<VhdImage>>,
    mut warnings: Vec<String>,
) -> VhdImage {
    if disk.saved_state {
        let name = storage.identity();
        warnings.push(format!("{name} belongs to a machine whose state was saved"));
    }
    let kind = match disk.kind {
        Kind::Fixed => "fixed",
        Kind::Dynamic => "dynamic",
        Kind::Differencing => "differencing",
    };
    let size_from = match disk.by_geometry {
        true => "the geometry",
        false => "the footer",
    };
    let facts = Facts {
        format: "vhd",
        file: storage.identity().name,
        virtual_size: disk.size,
        cluster_size: blocks.as_ref().map(|blocks| blocks.block),
        warnings,
        ..Facts::default()
    };
    let facts = facts
        .with("type", kind)
        .with("id", hex(&disk.id))
        .with(
            "creator",
            String::from_utf8_lossy(&disk.creator).trim_end_matches('\0'),
        )
        .with("size from", size_from);
    VhdImage {
        pages: Pages::new(storage),
        size: disk.size,
        id: disk.id,
        blocks,
        parent,
        facts,
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn doing(storage: &Arc<dyn Storage>, what: &str) -> String {
    format!("{what} {}", storage.identity())
}
