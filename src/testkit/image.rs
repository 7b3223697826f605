//! What the contract of [`Image`] says, tried on any image, and images in memory.

use super::MemSource;
use super::conformance::Verdict;
use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::{self, Files, Image, Mapped, Opener, PARTS_MAX, Storage, To};
use crate::source::Source;
use crate::source::image::SourceStorage;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `bytes` as a storage.
#[must_use]
pub fn storage(bytes: &[u8]) -> Arc<dyn Storage> {
    over(MemSource::holding(bytes))
}

/// Anything as a storage.
#[must_use]
pub fn over(source: impl Source + 'static) -> Arc<dyn Storage> {
    Arc::new(SourceStorage::new(Arc::new(source)))
}

/// Files in memory, for images that name others. Their names are relative to the root.
#[derive(Clone, Debug, Default)]
pub struct MemFiles(BTreeMap<PathBuf, MemSource>);

/// Opens `bytes` as an image of `format`, which may open nothing else.
///
/// # Errors
/// As for [`format::open`].
pub async fn open(format: &str, bytes: &[u8]) -> Result<Arc<dyn Image>> {
    format::open(format::named(format)?, storage(bytes), &Opener::nowhere()).await
}

/// Tries every clause of the contract of [`Image`] on `image`, a disk that holds `expected`.
///
/// # Errors
/// The clause that does not hold.
pub async fn check_image(image: &dyn Image, expected: &[u8]) -> Verdict {
    let size = expected.len() as u64;
    if image.size() != size {
        return Err(format!("size {}, not {size}", image.size()));
    }
    if image.unit() == 0 || image.facts().virtual_size != size {
        return Err(format!("unit {}, facts {:?}", image.unit(), image.facts()));
    }
    let unit = image.unit();
    let odd = [1, 511, 512, unit - 1, unit, unit + 1, 3 * unit, size];
    for start in [
        0,
        1,
        unit / 2,
        unit,
        size / 3,
        size / 2,
        size.saturating_sub(1),
    ] {
        for len in odd {
            let window = ByteRange::at(start, len).intersect(ByteRange::new(0, size));
            check_window(image, expected, window).await?;
        }
    }
    Ok(())
}

async fn check_window(image: &dyn Image, expected: &[u8], window: ByteRange) -> Verdict {
    let found = content(image, window).await;
    let found = found.map_err(|error| format!("map {window}: {error:?}"))?;
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let wanted = expected
        .get(at(window.start)..at(window.end))
        .unwrap_or_default();
    match found.iter().zip(wanted).position(|(a, b)| a != b) {
        None if found.len() == wanted.len() => Ok(()),
        None => Err(format!("{window}: {} bytes", found.len())),
        Some(at) => Err(format!(
            "{window}: byte {at} is {}, not {}",
            found[at], wanted[at]
        )),
    }
}

/// The bytes of `window`, by nothing but the map: slow and simple.
///
/// # Errors
/// `Mismatch`: the contract is broken; else as the image and its storages say.
pub async fn content(image: &dyn Image, window: ByteRange) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = window;
    while !rest.is_empty() {
        for part in map(image, rest).await? {
            rest.start = part.range.end;
            bytes.extend(part_content(&part).await?);
        }
    }
    Ok(bytes)
}

/// One answer of the map, checked.
async fn map(image: &dyn Image, range: ByteRange) -> Result<Vec<Mapped>> {
    let parts = image.map(range).await?;
    let broken = |what: String| {
        Err(Error::new(
            Kind::Mismatch,
            format!("map of {range}: {what}"),
        ))
    };
    if parts.is_empty() || parts.len() > 2 * PARTS_MAX {
        return broken(format!("{} parts", parts.len()));
    }
    let mut at = range.start;
    for part in &parts {
        if part.range.start != at || part.range.is_empty() || !range.covers(part.range) {
            return broken(format!("{} after {at:#x}", part.range));
        }
        let (storage, span) = match &part.to {
            To::Zero => (None, ByteRange::default()),
            To::Raw { storage, offset } => {
                (Some(storage), ByteRange::at(*offset, part.range.len()))
            }
            To::Packed { run, skip } => {
                if skip.saturating_add(part.range.len()) > run.unpacked.into() {
                    return broken(format!("{} is longer than its run", part.range));
                }
                (
                    Some(&run.storage),
                    ByteRange::at(run.offset, run.len.into()),
                )
            }
        };
        if storage.is_some_and(|storage| span.end > storage.size()) {
            return broken(format!("{} is at {span}, past the end", part.range));
        }
        at = part.range.end;
    }
    Ok(parts)
}

async fn part_content(part: &Mapped) -> Result<Vec<u8>> {
    let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let wanted = length(part.range.len());
    match &part.to {
        To::Zero => Ok(vec![0; wanted]),
        To::Raw { storage, offset } => {
            let buffer = storage.read(*offset, Buffer::unbudgeted(wanted)).await?;
            Ok(buffer.to_vec())
        }
        To::Packed { run, skip } => {
            let packed = Buffer::unbudgeted(length(run.len.into()));
            let packed = run.storage.read(run.offset, packed).await?;
            let mut out = vec![0; length(run.unpacked.into())];
            run.codec.unpack(&packed, &mut out)?;
            Ok(out.split_off(length(*skip))[..wanted].to_vec())
        }
    }
}

/// Opens `bytes` as `format` and looks at it here and there, as a copy would: for fuzz targets and
/// for images that were damaged. Nothing may panic, hang or grow, whatever the bytes are.
///
/// # Errors
/// As the image says.
pub async fn wander(format: &str, bytes: &[u8]) -> Result<()> {
    let image = open(format, bytes).await?;
    let _ = image.facts();
    let size = image.size();
    let starts = [0, size / 3, size / 2, size.saturating_sub(1 << 20)];
    for start in starts {
        let mut rest = ByteRange::at(start, 1 << 20).intersect(ByteRange::new(0, size));
        for _ in 0..4 {
            if rest.is_empty() {
                break;
            }
            for part in map(image.as_ref(), rest).await? {
                rest.start = part.range.end;
                if part.range.len() <= 4 << 20 {
                    part_content(&part).await?;
                }
            }
        }
    }
    Ok(())
}

impl MemFiles {
    /// These, and a file called `name` that holds `bytes`.
    #[must_use]
    pub fn with(self, name: &str, bytes: &[u8]) -> Self {
        self.and(name, MemSource::holding(bytes))
    }

    /// These, and a file called `name` that is `source`.
    #[must_use]
    pub fn and(mut self, name: &str, source: MemSource) -> Self {
        self.0.insert(name.into(), source.named(name));
        self
    }

    /// Opens `name` of these files as an image of `format`; it may open the others.
    ///
    /// # Errors
    /// As for [`format::open`].
    pub async fn image(&self, format: &str, name: &str) -> Result<Arc<dyn Image>> {
        let (_, storage) = self.open(Path::new(""), name).await?;
        let opener = Opener::within(PathBuf::new(), Arc::new(self.clone()));
        format::open(format::named(format)?, storage, &opener).await
    }
}

#[async_trait]
impl Files for MemFiles {
    async fn open(&self, dir: &Path, name: &str) -> Result<(PathBuf, Arc<dyn Storage>)> {
        let path = dir.join(name);
        let found = self.0.get(&path).cloned();
        let gone = || Error::new(Kind::Io, format!("open {}: not there", path.display()));
        Ok((path.clone(), found.map(over).ok_or_else(gone)?))
    }

    async fn siblings(&self, dir: &Path, ending: &str) -> Result<Vec<String>> {
        let there = self.0.keys().filter(|path| path.parent() == Some(dir));
        let names = there.filter_map(|path| path.file_name()?.to_str());
        let found = names
            .filter(|name| name.ends_with(ending))
            .map(str::to_owned);
        Ok(found.collect())
    }
}
