//! What the parsers here promise for any bytes. For fuzz targets: a broken promise is a panic.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a panic is what tells of a broken promise"
)]

use super::descriptor::{self, Access};
use super::forward::{Forward, Piece};
use super::header::{self, Entry, First, Kind, Tables};

/// The end of the largest file there is.
const FAR: u64 = u64::MAX >> 1;

/// Tries every parser on `input`, as the start of a file and as the end of one; whether any of them
/// took it.
///
/// # Panics
/// A promise is broken.
#[must_use]
pub fn keep(input: &[u8]) -> bool {
    let size = length(input.len());
    let tables = tables(input, size) | tables(input, FAR);
    tables | text(input) | stream(input)
}

fn tables(input: &[u8], size: u64) -> bool {
    if let Ok(Some(range)) = header::descriptor(input, size) {
        assert!(range.start > 0 && !range.is_empty() && range.end <= size);
    }
    let hosted = match header::hosted(input, size) {
        Ok(First::Header(hosted)) => Some(hosted),
        _ => None,
    };
    let last = &input[input.len().saturating_sub(1536)..];
    let found = [
        hosted.map(|hosted| hosted.tables),
        header::footer(last, size).ok().map(|hosted| hosted.tables),
        header::cowd(input, size).ok(),
        header::se_sparse(input, size).ok(),
    ];
    found
        .iter()
        .flatten()
        .map(|tables| entries(tables, input, size))
        .count()
        > 0
}

/// Sizes are sane, and no entry leads to the middle of something.
fn entries(tables: &Tables, input: &[u8], size: u64) {
    assert!(tables.grain.is_power_of_two() && (512..=64 << 20).contains(&tables.grain));
    assert!((1..=1 << 14).contains(&tables.entries));
    assert!(tables.capacity <= FAR);
    let directory = tables.directory;
    assert!(directory.start > 0 && directory.end <= size);
    let needed = tables.capacity.div_ceil(tables.table_span());
    assert_eq!(directory.len(), needed * tables.entry_size());
    for bytes in input.as_chunks::<8>().0 {
        let raw = u64::from_le_bytes(*bytes);
        let raw = if tables.entry_size() == 4 {
            raw >> 32
        } else {
            raw
        };
        let (table, grain) = (tables.table_at(raw), tables.grain_at(raw));
        assert_eq!(raw == 0, table == Ok(None));
        if raw == 0 {
            assert_eq!(grain, Ok(Entry::Below));
        }
        let (base, unit) = match tables.kind {
            Kind::Hosted { .. } | Kind::Cowd => (0, 512),
            Kind::Se { grains, .. } => (grains, tables.grain),
        };
        if let Ok(Entry::At(at)) = grain {
            assert!((at - base).is_multiple_of(unit));
        }
    }
}

/// Padding changes nothing; extents have sizes, and names where they need some.
fn text(input: &[u8]) -> bool {
    let found = descriptor::parse(input);
    let padded = [input, b"\0\nCID=0\nRW 1 ZERO\n"].concat();
    assert_eq!(descriptor::parse(&padded), found);
    let Ok(found) = found else { return false };
    assert!(found.extents.len() <= 8192);
    assert_ne!(found.parent_cid, Some(u32::MAX));
    for line in &found.extents {
        assert!(line.size <= FAR && line.size.is_multiple_of(512));
        assert!(line.offset <= FAR && line.offset.is_multiple_of(512));
        let named = line.name.as_ref().is_some_and(|name| !name.is_empty());
        assert!(named || line.kind == descriptor::Kind::Zero || line.access == Access::None);
    }
    true
}

/// The same comes out in whatever pieces it comes in, and lies on the disk.
fn stream(input: &[u8]) -> bool {
    let whole = forward(input, usize::MAX);
    assert_eq!(forward(input, 700), whole);
    let Ok(pieces) = whole else { return false };
    let mut size = None;
    for piece in pieces {
        let grain = match piece {
            Piece::Grain(grain) => grain,
            Piece::Disk(found) => {
                assert_eq!(size.replace(found), None, "a second disk");
                continue;
            }
        };
        let size = size.unwrap_or(0);
        assert!(grain.len > 0 && grain.len <= grain.unpacked);
        assert!(grain.offset + u64::from(grain.len) <= size);
        assert!(grain.offset.is_multiple_of(grain.unpacked.into()));
    }
    assert!(size.is_some(), "a whole stream has a disk");
    true
}

fn forward(input: &[u8], piece: usize) -> Result<Vec<Piece>, String> {
    let mut stream = Forward::default();
    let mut found = Vec::new();
    for part in input.chunks(piece) {
        found.extend(stream.push(part).map_err(|error| error.line())?);
    }
    stream.finish().map_err(|error| error.line())?;
    Ok(found)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
