//! From one end of a disk to the other, and where its parts are.

use crate::cli::scan::WINDOW;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, ExtentKind};
use crate::format::{Facts, Image, To};
use crate::nbd::client::{BASE_ALLOCATION, Client};
use crate::nbd::wire::allocation;
use crate::source::Source;

/// A part of a disk, and where it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Row {
    pub(super) extent: Extent,
    /// It takes space. Zeroes may, too.
    pub(super) stored: bool,
    /// Which layer of a chain has it, 0 being the top.
    pub(super) depth: usize,
    pub(super) compressed: bool,
    /// Where in its file it begins; `None` if it is nowhere, or compressed.
    pub(super) offset: Option<u64>,
}

impl Row {
    /// A part of a raw disk.
    pub(super) fn of(extent: Extent) -> Self {
        Self {
            stored: extent.kind == ExtentKind::Data,
            depth: 0,
            compressed: false,
            offset: Some(extent.range.start),
            extent,
        }
    }

    /// Makes `next` a part of this, if it only goes on.
    fn takes(&mut self, next: &Self) -> bool {
        let len = self.extent.range.len();
        let alike = Self {
            extent: self.extent,
            offset: self.offset.map(|offset| offset.saturating_add(len)),
            ..*self
        };
        let then = Self {
            extent: self.extent,
            ..*next
        };
        let goes_on = alike == then && self.extent.kind == next.extent.kind;
        if goes_on {
            self.extent.range.end = next.extent.range.end;
        }
        goes_on
    }
}

/// What is asked where the parts of a disk are.
pub(super) enum Look<'a> {
    /// What is data and what is not, and no more.
    Source(&'a dyn Source),
    /// An export, which also tells which zeroes take space.
    Export(&'a dyn Source, &'a Client),
    /// An image, with the files of its layers.
    Image(&'a dyn Source, &'a dyn Image, Vec<String>),
}

impl<'a> Look<'a> {
    /// The layers of `image`, which `source` shows.
    pub(super) fn image(source: &'a dyn Source, image: &'a dyn Image) -> Self {
        Self::Image(source, image, layers(&image.facts()))
    }

    fn source(&self) -> &'a dyn Source {
        match self {
            Self::Source(source) | Self::Export(source, _) | Self::Image(source, ..) => *source,
        }
    }

    /// The parts of a prefix of `window`, in order.
    async fn rows(&self, window: ByteRange) -> Result<Vec<Row>> {
        if let Self::Export(_, client) = self
            && let Ok(found) = client.status(BASE_ALLOCATION, window).await
        {
            return Ok(found.into_iter().map(exported).collect());
        }
        let mut rows = Vec::new();
        for extent in self.source().extents(window).await? {
            match (self, extent.kind) {
                (Self::Image(..), ExtentKind::Zero) => rows.push(Row {
                    offset: None,
                    ..Row::of(extent)
                }),
                (Self::Image(_, image, layers), ExtentKind::Data) => {
                    places(*image, extent.range, layers, &mut rows).await?;
                }
                _ => rows.push(Row::of(extent)),
            }
        }
        Ok(rows)
    }
}

/// Calls `show` with every part of a disk in order; what only goes on comes as one.
///
/// One answer is in memory at a time, however large and shredded the disk.
///
/// # Errors
/// Those of whoever is asked, and of `show`; or the answers are not the disk, in order.
pub(super) async fn walk(look: &Look<'_>, mut show: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let mut open: Option<Row> = None;
    let mut rest = ByteRange::new(0, look.source().size());
    while !rest.is_empty() {
        let (window, _) = rest.split(WINDOW);
        for row in look.rows(window).await? {
            let range = row.extent.range;
            if range.start != rest.start || range.is_empty() {
                return Err(wrong(
                    format!("it answered {range} out of order"),
                    rest.start,
                ));
            }
            rest.start = range.end;
            if !open.as_mut().is_some_and(|last| last.takes(&row))
                && let Some(done) = open.replace(row)
            {
                show(done)?;
            }
        }
        if rest.start == window.start {
            return Err(wrong("it answered with nothing".to_owned(), rest.start));
        }
    }
    open.map_or(Ok(()), show)
}

/// What an export tells of `range`.
fn exported((range, flags): (ByteRange, u64)) -> Row {
    let extent = match flags & allocation::ZERO {
        0 => Extent::data(range),
        _ => Extent::zero(range),
    };
    let row = Row::of(extent);
    let stored = flags & allocation::HOLE == 0;
    // A hole that may read as anything is nowhere.
    let offset = row
        .offset
        .filter(|_| stored || flags & allocation::ZERO != 0);
    Row {
        stored,
        offset,
        ..row
    }
}

/// The files of an image and of what is under it.
fn layers(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut layer = Some(facts);
    while let Some(facts) = layer {
        found.push(facts.file.clone());
        layer = facts.backing.as_deref();
    }
    found
}

/// Where the data in `range` are.
async fn places(
    image: &dyn Image,
    range: ByteRange,
    layers: &[String],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut rest = range;
    while !rest.is_empty() {
        let parts = image.map(rest).await?;
        if parts.is_empty() {
            return Err(wrong("it answered with nothing".to_owned(), rest.start));
        }
        for part in parts {
            rest.start = part.range.end;
            let (storage, compressed, offset) = match &part.to {
                To::Zero => (None, false, None),
                To::Raw { storage, offset } => (Some(storage), false, Some(*offset)),
                To::Packed { run, .. } => (Some(&run.storage), true, None),
            };
            let name = storage.map(|storage| storage.identity().name);
            let layer = layers.iter().position(|file| Some(file) == name.as_ref());
            rows.push(Row {
                extent: Extent::data(part.range),
                stored: true,
                depth: layer.unwrap_or(0),
                compressed,
                offset,
            });
        }
    }
    Ok(())
}

fn wrong(why: String, at: u64) -> Error {
    let error = Error::new(Kind::Corrupt, "ask the source for its extents");
    error.because(why).at(at)
}

#[cfg(test)]
mod tests {
    use super::{Look, Row, walk};
    use crate::extent::{ByteRange, ExtentKind};
    use crate::testkit::MemSource;
    use futures_util::FutureExt;

    #[test]
    fn extents_cover_the_disk_and_neighbours_differ_however_the_answers_are_cut() {
        for pieces in [1, 7, 8, 9, 100] {
            let source = MemSource::new(pieces * 0x2000);
            for piece in 0..pieces {
                source.put(piece * 0x2000, &[1; 0x1000]);
            }
            let (mut at, mut last) = (0, None);
            let look = Look::Source(&source);
            let walked = walk(&look, |Row { extent, .. }| {
                assert_eq!(extent.range, ByteRange::new(at, at + 0x1000));
                assert_ne!(last.replace(extent.kind), Some(extent.kind));
                at = extent.range.end;
                Ok(())
            });
            walked.now_or_never().unwrap().unwrap();
            assert_eq!(at, pieces * 0x2000);
            assert_eq!(last, Some(ExtentKind::Zero));
        }
    }
}
