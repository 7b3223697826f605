//! A file → a disk and its parents.

use super::bat::Bat;
use super::fault::{Fault, shown};
use super::header::{self, Disk, Header, Regions};
use super::layout::{FILE_SIGNATURE, Guid, HEADER_LEN, HEADERS, REGION_TABLE_LEN, REGION_TABLES};
use super::log;
use super::overlay::Overlay;
use super::{Facts, Opener, Pages, Result, Storage, VhdxImage};
use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use crate::format::{Referenced, read_range};
use bytes::Bytes;
use std::sync::Arc;

/// §2.6.1: a metadata table and its items. Real ones have a few hundred bytes of items.
const METADATA_MAX: u64 = 2 << 20;

/// Opens the disk on `storage`, and the disks that it is a difference to.
pub(super) async fn disk(storage: Arc<dyn Storage>, opener: &Opener) -> Result<VhdxImage> {
    let fault = |fault: Fault| fault.while_doing(doing(&storage, "open"));
    let creator = creator(&storage).await?;
    let [one, two] = copies(&storage, "header", HEADERS, HEADER_LEN).await?;
    let header = header::current([&one, &two], storage.size()).map_err(fault)?;
    let (replayed, entries) = replayed(&storage, &header).await?;
    let [one, two] = copies(&replayed, "region table", REGION_TABLES, REGION_TABLE_LEN).await?;
    let regions = header::regions([&one, &two], replayed.size()).map_err(fault)?;
    let disk = metadata(&replayed, &regions).await?;
    let bat = Bat::new(regions.bat, &disk).map_err(fault)?;
    let parent = match &disk.parent {
        Some(names) => Some(parent(&storage, names, opener).await?),
        None => None,
    };
    let mut facts = facts(&storage, &disk, &header, &creator);
    if entries > 0 {
        let name = storage.identity();
        let text = format!("{name} was not closed: {entries} entries of its log are replayed");
        facts.warnings.push(text);
    }
    Ok(VhdxImage {
        pages: Pages::new(replayed),
        size: disk.size,
        bat,
        data_write_guid: header.data_write_guid,
        parent,
        facts,
    })
}

/// §2.2.1: who made the file.
async fn creator(storage: &Arc<dyn Storage>) -> Result<String> {
    let range = ByteRange::new(0, 520);
    let bytes = read_range(storage.as_ref(), "file type identifier", range).await?;
    let Some(name) = bytes.strip_prefix(&FILE_SIGNATURE) else {
        let what = "file type identifier";
        return Err(Fault::Missing { what }.while_doing(doing(storage, "open")));
    };
    let units = name
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u16::from_le_bytes(*pair));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Ok(String::from_utf16_lossy(&units))
}

/// Both copies of something.
async fn copies(
    storage: &Arc<dyn Storage>,
    what: &str,
    at: [u64; 2],
    len: u64,
) -> Result<[Bytes; 2]> {
    let [one, two] = at.map(|at| ByteRange::at(at, len));
    Ok([
        read_range(storage.as_ref(), what, one).await?,
        read_range(storage.as_ref(), what, two).await?,
    ])
}

/// The file as its log leaves it, and how many entries were replayed.
async fn replayed(
    storage: &Arc<dyn Storage>,
    header: &Header,
) -> Result<(Arc<dyn Storage>, usize)> {
    if header.log_guid == [0; 16] {
        return Ok((Arc::clone(storage), 0));
    }
    let bytes = read_range(storage.as_ref(), "log", header.log).await?;
    let replay = log::replay(&bytes, &header.log_guid, storage.size());
    let replay = replay.map_err(|fault| fault.while_doing(doing(storage, "open")))?;
    let entries = replay.entries;
    Ok((Arc::new(Overlay::new(Arc::clone(storage), replay)), entries))
}

async fn metadata(storage: &Arc<dyn Storage>, regions: &Regions) -> Result<Disk> {
    let (range, _) = regions.metadata.split(METADATA_MAX);
    let bytes = read_range(storage.as_ref(), "metadata", range).await?;
    let disk = header::metadata(&bytes);
    disk.map_err(|fault| fault.while_doing(doing(storage, "open")))
}

/// §2.6.2.6.3: opens the parent, which must be as it was when the difference was made.
async fn parent(
    storage: &Arc<dyn Storage>,
    names: &[(String, String)],
    opener: &Opener,
) -> Result<Box<VhdxImage>> {
    let found = named(storage, names, opener).await?;
    let opener = found.opener.entered(found.storage.as_ref());
    let name = found.storage.identity();
    let parent = Box::pin(disk(found.storage, &opener)).await?;
    let is = shown(&parent.data_write_guid);
    let links = names
        .iter()
        .filter(|(key, _)| key.starts_with("parent_linkage"));
    let mut links = links.map(|(_, value)| value.trim_matches(['{', '}']).to_lowercase());
    if !links.clone().any(|link| link == is) {
        let should = links.next().unwrap_or_default();
        let why = format!("{name} was last written as {is}, and the parent as {should}");
        let error = Error::new(Kind::Corrupt, doing(storage, "open the parent")).because(why);
        return Err(error.hint("the parent was written to since, or it is another disk"));
    }
    Ok(Box::new(parent))
}

/// Tries the names of the parent, the relative one first.
async fn named(
    storage: &Arc<dyn Storage>,
    names: &[(String, String)],
    opener: &Opener,
) -> Result<Referenced> {
    let keys = ["relative_path", "absolute_win32_path", "volume_path"];
    let paths = keys.iter().filter_map(|key| {
        let pair = names.iter().find(|(name, _)| name == key);
        pair.map(|(_, value)| value.clone())
    });
    let found = opener.any_file(paths.collect::<Vec<_>>()).await;
    found.map_err(|error| error.context(doing(storage, "open the parent")))
}

fn facts(storage: &Arc<dyn Storage>, disk: &Disk, header: &Header, creator: &str) -> Facts {
    let kind = match (disk.fixed, &disk.parent) {
        (_, Some(_)) => "differencing",
        (true, None) => "fixed",
        (false, None) => "dynamic",
    };
    let guid = |guid: &Guid| shown(guid);
    Facts {
        format: "vhdx",
        file: storage.identity().name,
        virtual_size: disk.size,
        cluster_size: Some(disk.block),
        ..Facts::default()
    }
    .with("type", kind)
    .with("logical sector size", disk.sector)
    .with("physical sector size", disk.physical_sector)
    .with("id", guid(&disk.id))
    .with("last written as", guid(&header.data_write_guid))
    .with("creator", creator)
}

fn doing(storage: &Arc<dyn Storage>, what: &str) -> String {
    format!("{what} {}", storage.identity())
}
