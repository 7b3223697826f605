//! A tar file → the disk that is wanted.

use super::part::{Members, Part};
use super::{
    BLOCK, Digests, Fault, Next, OvaImage, OvfDisk, OvfFile, Sum, TEXT_MAX, Walk, choose, disks,
    is_descriptor, is_manifest, manifest, padded,
};
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use crate::format::{Facts, Image, Opener, Storage, Wrapper, open, probe, read_range};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes that are digested at a time.
const PIECE: u64 = 4 << 20;

/// Opens the disk that `opener` wants of the OVA on `storage`.
pub(super) async fn disk(storage: Arc<dyn Storage>, opener: &Opener) -> Result<OvaImage> {
    let fault = |fault: Fault| fault.while_doing(format!("open {}", storage.identity()));
    let (members, ended) = members(&storage).await?;
    let members = Arc::new(members);
    let mut names = members.found.iter().map(|(name, _)| name.as_str());
    let descriptor = names.find(|name| is_descriptor(name));
    let descriptor = descriptor.ok_or_else(|| fault(Fault::NoDescriptor))?;
    let text = text(&members, descriptor).await?;
    let disks = disks(&text).map_err(fault)?;
    let sums = sums(&members).await?;
    if opener.checks_manifest() {
        let sums = sums.as_deref().ok_or_else(|| fault(Fault::NoManifest))?;
        check(&members, sums).await?;
    }
    let chosen = choose(&disks, opener.disk()).map_err(fault)?;
    let file = chosen.file.clone().unwrap_or_default();
    let (part, start) = part(&members, &file).await?;
    let inner = opener.confined(Arc::clone(&members) as _);
    let format = probe(part.as_ref()).await?;
    let image = Box::pin(open(format, Arc::clone(&part), &inner)).await?;
    let mut facts = facts(&storage, &disks, chosen, sums.as_deref(), image.as_ref());
    if !ended {
        facts
            .warnings
            .push("the OVA has no mark of its end: more may have followed".to_owned());
    }
    Ok(OvaImage {
        inner: image,
        part,
        whole: storage,
        start,
        facts,
    })
}

/// The members of the tar file, and whether its end is marked.
async fn members(storage: &Arc<dyn Storage>) -> Result<(Members, bool)> {
    let size = storage.size();
    let failed = |fault: Fault, at: u64| -> Error {
        fault
            .while_doing(format!("open {}", storage.identity()))
            .at(at)
    };
    let (mut walk, mut found, mut at) = (Walk::default(), Vec::new(), 0u64);
    let mut ended = false;
    while at < size {
        let range = ByteRange::at(at, BLOCK);
        if range.end > size {
            return Err(failed(Fault::Short, at));
        }
        let block = read_range(storage.as_ref(), "tar header", range).await?;
        let next = walk.header(&block).map_err(|fault| failed(fault, at))?;
        at = range.end;
        match next {
            Next::End => {
                ended = true;
                break;
            }
            Next::Header => {}
            Next::Extra(len) => {
                let range = ByteRange::at(at, len);
                let bytes = read_range(storage.as_ref(), "tar header", range).await?;
                walk.extra(&bytes).map_err(|fault| failed(fault, at))?;
                at = at.saturating_add(padded(len));
            }
            // An OVA holds nothing else.
            Next::File(member) | Next::Other(member) => {
                let range = ByteRange::at(at, member.size);
                // A range that does not fit its numbers is cut, and must not look whole.
                if range.end > size || range.len() != member.size {
                    let name = member.name;
                    return Err(failed(Fault::Outside { name, range, size }, at));
                }
                at = at.saturating_add(padded(member.size));
                found.push((member.name, range));
            }
        }
    }
    let whole = Arc::clone(storage);
    Ok((Members { whole, found }, ended))
}

/// A small member.
async fn text(members: &Members, name: &str) -> Result<Bytes> {
    let fault = |fault: Fault| fault.while_doing(format!("open {}", members.whole.identity()));
    let missing = || fault(Fault::Missing(name.to_owned()));
    let range = members.place(name).ok_or_else(missing)?;
    if range.len() > TEXT_MAX {
        return Err(fault(Fault::Descriptor(format!("{} bytes", range.len()))));
    }
    read_range(members.whole.as_ref(), "descriptor", range).await
}

/// What the manifest says, if there is one.
async fn sums(members: &Members) -> Result<Option<Vec<Sum>>> {
    let mut names = members.found.iter().map(|(name, _)| name);
    let Some(name) = names.find(|name| is_manifest(name)) else {
        return Ok(None);
    };
    let sums = manifest(&text(members, name).await?);
    let doing = format!("open {}", members.whole.identity());
    sums.map(Some).map_err(|fault| fault.while_doing(doing))
}

/// Compares every file of the manifest with its digest.
async fn check(members: &Members, sums: &[Sum]) -> Result<()> {
    let fault = |fault: Fault| fault.while_doing(format!("check {}", members.whole.identity()));
    for sum in sums {
        let missing = || fault(Fault::Missing(sum.name.clone()));
        let mut rest = members.place(&sum.name).ok_or_else(missing)?;
        let mut digests = Digests::of(Some(sum));
        while !rest.is_empty() {
            let (piece, after) = rest.split(PIECE);
            digests.update(&read_range(members.whole.as_ref(), "member", piece).await?);
            rest = after;
        }
        digests.check(sum).map_err(fault)?;
    }
    Ok(())
}

/// The member that `file` is, and where it begins.
async fn part(members: &Arc<Members>, file: &OvfFile) -> Result<(Arc<dyn Storage>, u64)> {
    let fault = |fault: Fault| fault.while_doing(format!("open {}", members.whole.identity()));
    let name = &file.href;
    if file.chunked {
        return Err(fault(Fault::Chunked(name.clone())));
    }
    let missing = || fault(Fault::Missing(name.clone()));
    let range = members.place(name).ok_or_else(missing)?;
    let part = Part::new(Arc::clone(&members.whole), range, name);
    let head = ByteRange::new(0, range.len().min(8));
    if let Some(wrapper) = Wrapper::of(&read_range(&part, "first bytes", head).await?) {
        let (name, wrapper) = (name.clone(), wrapper.to_string());
        return Err(fault(Fault::Wrapped { name, wrapper }));
    }
    Ok((Arc::new(part), range.start))
}

fn facts(
    storage: &Arc<dyn Storage>,
    disks: &[OvfDisk],
    chosen: &OvfDisk,
    sums: Option<&[Sum]>,
    image: &dyn Image,
) -> Facts {
    let inner = image.facts();
    let name = |disk: &OvfDisk| disk.file.as_ref().map(|file| file.href.clone());
    let all = disks
        .iter()
        .map(|disk| json!({ "id": disk.id, "file": name(disk), "capacity": disk.capacity }));
    let mut warnings = inner.warnings.clone();
    if chosen
        .capacity
        .is_some_and(|size| size != inner.virtual_size)
    {
        let said = chosen.capacity.unwrap_or(0);
        warnings.push(format!(
            "the OVF descriptor says that the disk has {said} bytes, and it has {}",
            inner.virtual_size
        ));
    }
    let facts = Facts {
        format: "ova",
        file: storage.identity().name,
        virtual_size: inner.virtual_size,
        cluster_size: inner.cluster_size,
        warnings,
        backing: inner.backing.clone(),
        ..Facts::default()
    };
    let first = sums.and_then(|sums| sums.first());
    let mut facts = facts
        .with("disks", Value::Array(all.collect()))
        .with("disk", name(chosen))
        .with("manifest", first.map(|sum| sum.algorithm))
        .with("disk format", inner.format);
    facts.details.extend(inner.details);
    facts
}
