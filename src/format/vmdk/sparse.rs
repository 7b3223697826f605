//! One sparse extent: its tables, looked up window by window.

use super::header::{Entry, Kind, Packing, Tables};
use super::layout::SECTOR;
use crate::error::Result;
use crate::extent::ByteRange;
use crate::format::{Codec, Layer, PARTS_MAX, Packed, Pages, Storage, To, push_layer};
use std::sync::Arc;

/// Grain tables that one answer looks at: where all of them are empty, nothing else ends it.
const TABLES_MAX: u64 = 4096;

/// A sparse extent that is open.
#[derive(Debug)]
pub(super) struct SparseExtent {
    pages: Pages,
    tables: Tables,
}

impl SparseExtent {
    pub(super) fn new(storage: Arc<dyn Storage>, tables: Tables) -> Self {
        Self {
            pages: Pages::new(storage),
            tables,
        }
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What is known of a prefix of `range`, which lies in the extent and is not empty.
    pub(super) async fn map(&self, range: ByteRange) -> Result<Vec<(ByteRange, Layer)>> {
        let span = self.tables.table_span();
        let index = |at: u64| at.checked_div(span).unwrap_or(0);
        let first = index(range.start);
        let count = index(range.end.saturating_sub(1)).saturating_sub(first);
        let count = count.saturating_add(1).min(TABLES_MAX);
        let mut found = Vec::new();
        for (number, table) in (first..).zip(self.directory(first, count).await?) {
            if found.len() >= PARTS_MAX {
                break;
            }
            let whole = ByteRange::at(number.saturating_mul(span), span);
            let window = whole.intersect(range);
            match table {
                None => push_layer(&mut found, window, Layer::Below),
                Some(table) => {
                    self.map_table(table, whole.start, window, &mut found)
                        .await?;
                }
            }
        }
        Ok(found)
    }

    /// Where `count` grain tables are, from the one with the number `first` on.
    async fn directory(&self, first: u64, count: u64) -> Result<Vec<Option<u64>>> {
        let size = self.tables.entry_size();
        let at = self
            .tables
            .directory
            .start
            .saturating_add(first.saturating_mul(size));
        let range = ByteRange::at(at, count.saturating_mul(size));
        let bytes = self.pages.read("grain directory", range).await?;
        let tables = numbers(&bytes, size).map(|entry| self.tables.table_at(entry));
        let tables: std::result::Result<_, _> = tables.collect();
        tables.map_err(|fault| fault.while_doing(self.doing("grain directory")).at(at))
    }

    fn doing(&self, what: &str) -> String {
        format!("read the {what} of {}", self.pages.storage().identity())
    }

    /// Appends what the grain table at `table`, whose first grain is at `base`, says of `window`.
    async fn map_table(
        &self,
        table: u64,
        base: u64,
        window: ByteRange,
        found: &mut Vec<(ByteRange, Layer)>,
    ) -> Result<()> {
        let (grain, size) = (self.tables.grain, self.tables.entry_size());
        let index = |at: u64| at.saturating_sub(base).checked_div(grain).unwrap_or(0);
        let first = index(window.start);
        let last = index(window.end.saturating_sub(1));
        // One more than is asked for: where the next grain begins, this one has ended.
        let end = last.saturating_add(2).min(self.tables.entries);
        let at = table.saturating_add(first.saturating_mul(size));
        let len = end.saturating_sub(first).saturating_mul(size);
        let bytes = self
            .pages
            .read("grain table", ByteRange::at(at, len))
            .await?;
        let mut entries = Vec::new();
        for entry in numbers(&bytes, size) {
            let entry = self.tables.grain_at(entry);
            entries.push(
                entry.map_err(|fault| fault.while_doing(self.doing("grain table")).at(table))?,
            );
        }
        for (place, entry) in entries.iter().enumerate() {
            let number = first.saturating_add(u64::try_from(place).unwrap_or(u64::MAX));
            let start = base.saturating_add(number.saturating_mul(grain));
            let range = ByteRange::at(start, grain).intersect(window);
            if range.is_empty() {
                break;
            }
            let layer = match entry {
                Entry::Below => Layer::Below,
                Entry::Zero => Layer::Here(To::Zero),
                Entry::At(offset) => {
                    let later = entries.iter().skip(place).take(8);
                    let next = later.filter_map(|entry| match entry {
                        Entry::At(next) if next > offset => Some(*next),
                        _ => None,
                    });
                    Layer::Here(self.grain(start, range, *offset, next.min())?)
                }
            };
            push_layer(found, range, layer);
        }
        Ok(())
    }

    /// `range` of the grain that begins at `start` and is stored at `offset`; another begins at
    /// `next`.
    fn grain(&self, start: u64, range: ByteRange, offset: u64, next: Option<u64>) -> Result<To> {
        let skip = range.start.saturating_sub(start);
        // The last grain of an extent may end before it is full.
        let there = ByteRange::at(start, self.tables.grain)
            .end
            .min(self.tables.capacity);
        let least = there.saturating_sub(start);
        let storage = Arc::clone(self.pages.storage());
        let size = storage.size();
        let packing = match self.tables.kind {
            Kind::Hosted { packing, .. } => packing,
            Kind::Cowd | Kind::Se { .. } => Packing::Plain,
        };
        let (codec, needed) = match packing {
            Packing::Plain => (None, least),
            Packing::Marked => {
                let sector = start.checked_div(SECTOR).unwrap_or(0);
                let least = u32::try_from(least).unwrap_or(u32::MAX);
                (Some(Codec::Grain { sector, least }), 1)
            }
        };
        let room = size.checked_sub(offset).filter(|room| *room >= needed);
        let room = room.ok_or_else(|| {
            let fault = super::Fault::Outside {
                what: "grain",
                range: ByteRange::at(offset, needed),
                size,
            };
            fault.while_doing(self.doing("map")).at(start)
        })?;
        let Some(codec) = codec else {
            let offset = offset.saturating_add(skip);
            return Ok(To::Raw { storage, offset });
        };
        let room = next.map_or(room, |next| room.min(next.saturating_sub(offset)));
        let run = Packed {
            storage,
            offset,
            len: u32::try_from(room.min(longest(self.tables.grain))).unwrap_or(u32::MAX),
            codec,
            unpacked: u32::try_from(self.tables.grain).unwrap_or(u32::MAX),
        };
        Ok(To::Packed { run, skip })
    }
}

/// Bytes that a compressed grain takes at most: what cannot be compressed grows a little.
pub(super) fn longest(grain: u64) -> u64 {
    let grown = grain.saturating_add(grain.checked_div(8).unwrap_or(0));
    grown.saturating_add(SECTOR).next_multiple_of(SECTOR)
}

/// Little-endian numbers of `size` bytes, which is 4 or 8.
fn numbers(bytes: &[u8], size: u64) -> impl Iterator<Item = u64> + '_ {
    let chunks = bytes.chunks_exact(if size == 8 { 8 } else { 4 });
    chunks.map(|chunk| {
        let bytes = chunk.iter().rev();
        bytes.fold(0, |number, byte| (number << 8) | u64::from(*byte))
    })
}
