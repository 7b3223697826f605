//! Files → a disk: its descriptor, its extents, its parent.

use super::descriptor::{self, Access, Descriptor, Line};
use super::header::{self, First, Kind as TableKind, Packing, Tables};
use super::layout::{COWD_MAGIC, Footer, HOSTED_MAGIC, SE_MAGIC, SECTOR};
use super::sparse::SparseExtent;
use super::{Disk, Error, Extent, Facts, Fault, Kind, Opener, Result, Storage, What};
use crate::extent::ByteRange;
use crate::format::{Referenced, read_range};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// Longest descriptor. One of 8192 extents is half as long.
const DESCRIPTOR_MAX: u64 = 1 << 20;

/// Unit of disks without grains.
const FLAT_UNIT: u64 = 64 << 10;

/// What is said of a descriptor, of the file that holds it, and of each extent.
struct Parts {
    descriptor: Descriptor,
    extents: Vec<Extent>,
    notes: Vec<(&'static str, Value)>,
    warnings: Vec<String>,
}

/// Opens the disk whose descriptor is on `storage`, alone or inside of its only extent.
pub(super) async fn disk(storage: Arc<dyn Storage>, opener: &Opener) -> Result<Disk> {
    let head = first(&storage, 4).await?;
    let parts = if head.starts_with(&HOSTED_MAGIC) {
        monolithic(&storage, opener).await?
    } else if head.starts_with(&COWD_MAGIC) || head.starts_with(&SE_MAGIC.to_le_bytes()) {
        return Err(only_a_part(&storage));
    } else {
        let size = storage.size();
        let text = descriptor_text(&storage, ByteRange::new(0, size)).await?;
        let descriptor = parsed(&storage, &text)?;
        from_lines(descriptor, opener).await?
    };
    let parent = parent(&storage, &parts.descriptor, opener).await?;
    Ok(assemble(&storage, parts, parent))
}

/// A parent is opened like any disk, and must be the one that the child was made on.
async fn parent(
    storage: &Arc<dyn Storage>,
    child: &Descriptor,
    opener: &Opener,
) -> Result<Option<Box<Disk>>> {
    let Some(expected) = child.parent_cid else {
        return Ok(None);
    };
    let missing = |what| Fault::Missing { what }.while_doing(doing(storage, "open the parent"));
    let hint = child
        .parent
        .as_deref()
        .ok_or_else(|| missing("parentFileNameHint"))?;
    let found = beside(hint, opener).await?;
    let opener = found.opener.entered(found.storage.as_ref());
    let name = found.storage.identity();
    let parent = Box::pin(disk(found.storage, &opener)).await?;
    if parent.cid != expected {
        let why = format!(
            "the parent {name} has CID {:08x}, and {} was made on {expected:08x}",
            parent.cid,
            storage.identity()
        );
        let error = Error::new(Kind::Corrupt, doing(storage, "open the parent")).because(why);
        return Err(error.hint("the parent was written to since, or it is another disk"));
    }
    Ok(Some(Box::new(parent)))
}

/// Opens what a descriptor calls `name`. Where a host had it by an absolute path, it may have come
/// along in the directory of the image; a wrong one would be found out by its CID or its size.
async fn beside(name: &str, opener: &Opener) -> Result<Referenced> {
    let failed = match opener.file(name).await {
        Err(error) if name.starts_with('/') => error,
        other => return other,
    };
    let base = name.rsplit('/').next().unwrap_or(name);
    opener.file(base).await.map_err(|_| failed)
}

/// A hosted sparse extent with its descriptor inside.
async fn monolithic(storage: &Arc<dyn Storage>, opener: &Opener) -> Result<Parts> {
    let size = storage.size();
    let sector = first(storage, SECTOR).await?;
    let inside = header::descriptor(&sector, size);
    let inside = inside.map_err(|fault| fault.while_doing(doing(storage, "open")))?;
    let text = match inside {
        Some(range) => descriptor_text(storage, range).await?,
        None => Bytes::new(),
    };
    let blank = text.iter().all(|byte| *byte == 0);
    if matches!(header::hosted(&sector, size), Ok(First::Empty)) {
        return from_lines(parsed(storage, &text)?, opener).await;
    }
    let (tables, notes, warnings) = hosted(storage).await?;
    if blank && !packed(&tables) {
        return Err(only_a_part(storage));
    }
    // A stream is always a whole disk, and some who write them leave the descriptor out.
    let descriptor = match blank {
        true => Descriptor::default(),
        false => parsed(storage, &text)?,
    };
    if descriptor.extents.len() > 1 {
        let why = format!("it has {} extents", descriptor.extents.len());
        let what = doing(storage, "read the descriptor inside");
        return Err(Error::new(Kind::Unsupported, what).because(why));
    }
    let extent = Extent {
        range: ByteRange::new(0, tables.capacity),
        what: What::Sparse(SparseExtent::new(Arc::clone(storage), tables)),
    };
    Ok(Parts {
        descriptor,
        extents: vec![extent],
        notes,
        warnings,
    })
}

fn packed(tables: &Tables) -> bool {
    match tables.kind {
        TableKind::Hosted { packing, .. } => packing != Packing::Plain,
        TableKind::Cowd | TableKind::Se { .. } => false,
    }
}

type Noted = (Tables, Vec<(&'static str, Value)>, Vec<String>);

/// The tables of the hosted sparse extent on `storage`, and what there is to say of it.
async fn hosted(storage: &Arc<dyn Storage>) -> Result<Noted> {
    let size = storage.size();
    let fault = |fault: Fault| fault.while_doing(doing(storage, "open"));
    let sector = first(storage, SECTOR).await?;
    let (hosted, at_end) = match header::hosted(&sector, size).map_err(fault)? {
        First::Header(hosted) => (hosted, false),
        First::Footer => {
            // The last whole sectors: some who write streams pad them.
            let end = size.saturating_sub(size.checked_rem(SECTOR).unwrap_or(0));
            let len = u64::try_from(size_of::<Footer>()).unwrap_or(0);
            let range = ByteRange::new(end.saturating_sub(len), end);
            let sectors = read_range(storage.as_ref(), "footer", range).await?;
            (header::footer(&sectors, size).map_err(fault)?, true)
        }
        First::Empty => return Err(fault(Fault::Magic)),
    };
    let mut notes = vec![("version", Value::from(hosted.version))];
    if packed(&hosted.tables) {
        notes.push(("compression", "deflate".into()));
    }
    if at_end {
        notes.push(("grain directory", "at the end".into()));
    }
    let mut warnings = Vec::new();
    if hosted.unclean {
        warnings.push(format!("{} was not closed properly", storage.identity()));
    }
    Ok((hosted.tables, notes, warnings))
}

/// The disk that a descriptor describes line by line.
async fn from_lines(descriptor: Descriptor, opener: &Opener) -> Result<Parts> {
    let mut parts = Parts {
        extents: Vec::with_capacity(descriptor.extents.len()),
        descriptor,
        notes: Vec::new(),
        warnings: Vec::new(),
    };
    let mut at = 0u64;
    for (number, line) in (1u64..).zip(&parts.descriptor.extents) {
        let doing = || format!("open extent {number}");
        let range = ByteRange::at(at, line.size);
        if i64::try_from(range.end).is_err() {
            let why = "the disk is too large";
            return Err(Error::new(Kind::Corrupt, doing()).because(why));
        }
        let opened = from_line(line, opener, &mut parts.warnings).await;
        let what = opened.map_err(|error| error.context(doing()))?;
        parts.extents.push(Extent { range, what });
        at = range.end;
    }
    if parts.extents.is_empty() {
        let fault = Fault::Missing { what: "extents" };
        return Err(fault.while_doing("read the descriptor".to_owned()));
    }
    Ok(parts)
}

async fn from_line(line: &Line, opener: &Opener, warnings: &mut Vec<String>) -> Result<What> {
    use descriptor::Kind as LineKind;
    if line.access == Access::None && line.kind != LineKind::Zero {
        let name = line.name.as_deref().unwrap_or("an extent");
        warnings.push(format!(
            "{name} is NOACCESS: the guest sees zeroes, and so do you"
        ));
        return Ok(What::Zero);
    }
    let name = line.name.as_deref().unwrap_or_default();
    let storage = match line.kind {
        LineKind::Zero => return Ok(What::Zero),
        LineKind::RawDevice => {
            let what = format!("{name} maps a physical disk");
            let error = Error::new(Kind::Unsupported, what);
            return Err(error.hint("copy that LUN itself, it is the disk"));
        }
        _ => beside(name, opener).await?.storage,
    };
    let size = storage.size();
    if line.kind == LineKind::Flat {
        let range = ByteRange::at(line.offset, line.size);
        if range.end > size {
            let what = "extent";
            let fault = Fault::Outside { what, range, size };
            return Err(fault.while_doing(doing(&storage, "open")));
        }
        let offset = line.offset;
        return Ok(What::Flat { storage, offset });
    }
    let tables = match line.kind {
        LineKind::SeSparse => {
            let sectors = first(&storage, SECTOR.saturating_mul(2)).await?;
            header::se_sparse(&sectors, size)
        }
        _ if first(&storage, 4).await?.starts_with(&COWD_MAGIC) => {
            header::cowd(&first(&storage, SECTOR).await?, size)
        }
        _ => {
            let (tables, _, more) = hosted(&storage).await?;
            warnings.extend(more);
            Ok(tables)
        }
    };
    let tables = tables.map_err(|fault| fault.while_doing(doing(&storage, "open")))?;
    if tables.capacity < line.size {
        let why = format!(
            "it has {} bytes, not the {} it should",
            tables.capacity, line.size
        );
        return Err(Error::new(Kind::Corrupt, doing(&storage, "open")).because(why));
    }
    Ok(What::Sparse(SparseExtent::new(storage, tables)))
}

fn assemble(storage: &Arc<dyn Storage>, parts: Parts, parent: Option<Box<Disk>>) -> Disk {
    let size = parts.extents.last().map_or(0, |extent| extent.range.end);
    let grain = parts.extents.iter().find_map(|extent| match &extent.what {
        What::Sparse(sparse) => Some(sparse.tables().grain),
        What::Zero | What::Flat { .. } => None,
    });
    let descriptor = parts.descriptor;
    let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::from);
    let hex = |cid: u32| Value::from(format!("{cid:08x}"));
    let database = |name: &str| text(&descriptor.database.get(name).cloned());
    let files = descriptor.extents.iter().map(shown).collect::<Vec<_>>();
    let mut facts = Facts {
        format: "vmdk",
        file: storage.identity().name,
        virtual_size: size,
        cluster_size: grain,
        warnings: parts.warnings,
        ..Facts::default()
    };
    if !descriptor.create_type.is_empty() {
        facts = facts.with("create type", descriptor.create_type.as_str());
    }
    facts.details.extend(parts.notes);
    let facts = facts
        .with("CID", hex(descriptor.cid))
        .with("parent CID", descriptor.parent_cid.map_or(Value::Null, hex))
        .with("parent", text(&descriptor.parent))
        .with("extents", files)
        .with("adapter type", database("adaptertype"))
        .with("hardware version", database("virtualhwversion"))
        .with("thin provisioned", database("thinprovisioned"))
        .with("encoding", text(&descriptor.encoding))
        .with("change tracking file", text(&descriptor.change_tracking));
    Disk {
        extents: parts.extents,
        size,
        unit: grain.unwrap_or(FLAT_UNIT),
        facts,
        cid: descriptor.cid,
        parent,
    }
}

/// An extent, in a few words.
fn shown(line: &Line) -> Value {
    let access = match line.access {
        Access::ReadWrite => "RW",
        Access::ReadOnly => "RDONLY",
        Access::None => "NOACCESS",
    };
    let name = line.name.as_deref().unwrap_or("");
    let kind = format!("{:?}", line.kind).to_uppercase();
    Value::from(format!("{access} {} {kind} {name}", line.size).trim_end())
}

fn parsed(storage: &Arc<dyn Storage>, text: &[u8]) -> Result<Descriptor> {
    let found = descriptor::parse(text);
    found.map_err(|fault| fault.while_doing(doing(storage, "read the descriptor")))
}

async fn descriptor_text(storage: &Arc<dyn Storage>, range: ByteRange) -> Result<Bytes> {
    if range.len() > DESCRIPTOR_MAX {
        let why = format!("{} bytes are too long for a descriptor", range.len());
        let what = doing(storage, "read the descriptor");
        return Err(Error::new(Kind::Corrupt, what).because(why));
    }
    read_range(storage.as_ref(), "descriptor", range).await
}

fn only_a_part(storage: &Arc<dyn Storage>) -> Error {
    let what = doing(storage, "open");
    let error = Error::new(Kind::Refused, what).because("it is one extent of a disk, not the disk");
    error.hint("open the descriptor instead, the small .vmdk beside it")
}

fn doing(storage: &Arc<dyn Storage>, what: &str) -> String {
    format!("{what} {}", storage.identity())
}

/// The first bytes of a file; fewer if it has fewer.
async fn first(storage: &Arc<dyn Storage>, len: u64) -> Result<Bytes> {
    let range = ByteRange::new(0, len.min(storage.size()));
    read_range(storage.as_ref(), "header", range).await
}
