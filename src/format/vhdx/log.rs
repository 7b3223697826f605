//! §2.3: the log of a file that was not closed → the sectors that it changes. Pure.
//!
//! The log is a ring of entries. What counts is the newest unbroken sequence of them; it begins
//! where its last entry says. Each entry sets sectors of 4 KiB, to zeroes or to data.

use super::fault::Fault;
use super::header::checksum;
use super::layout::{DataSector, Guid, LogDescriptor, LogHeader};
use crate::extent::{ByteRange, RangeSet};
use bytes::Bytes;
use std::collections::BTreeMap;
use zerocopy::FromBytes;

/// Bytes of a sector of the log, and of what it changes.
const SECTOR: u64 = 4096;
const SECTOR_LEN: usize = 4096;

/// What a log changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Replay {
    /// Offset of a sector → its new bytes.
    pub(super) sectors: BTreeMap<u64, Bytes>,
    /// Ranges of zeroes, which no sector lies in.
    pub(super) zeroes: RangeSet,
    /// The file is at least this long.
    pub(super) file_size: u64,
    /// Entries that were applied.
    pub(super) entries: usize,
}

/// An entry whose checksum is right.
#[derive(Clone, Debug)]
struct Entry {
    bytes: Vec<u8>,
    header: LogHeader,
}

/// Replays `log` of a file of `size` bytes whose header names `guid`.
pub(super) fn replay(log: &[u8], guid: &Guid, size: u64) -> Result<Replay, Fault> {
    let ring = Ring::read(log, guid)?;
    let fault = |why| Fault::Log { why };
    let active = ring
        .active()
        .ok_or_else(|| fault("it has no valid sequence"))?;
    let mut replay = Replay::default();
    for entry in active {
        if entry.header.flushed_file_offset.get() > size {
            return Err(fault("the file is shorter than it was"));
        }
        replay.apply(entry)?;
    }
    Ok(replay)
}

/// The valid entries by the number of their first sector.
struct Ring {
    entries: BTreeMap<usize, Entry>,
    sectors: usize,
}

impl Ring {
    fn read(log: &[u8], guid: &Guid) -> Result<Self, Fault> {
        let sectors = log.len().checked_div(SECTOR_LEN).unwrap_or(0);
        let mut entries = BTreeMap::new();
        // Sound entries lie side by side; stale ones may overlap them once. Who claims more has us
        // compute checksums for ever.
        let mut patience = log.len().saturating_mul(4);
        for number in 0..sectors {
            let Some(bytes) = claimed(log, number, guid) else {
                continue;
            };
            patience = patience.checked_sub(bytes.len()).ok_or(Fault::Log {
                why: "its entries overlap",
            })?;
            if let Some(entry) = Entry::read(bytes) {
                entries.insert(number, entry);
            }
        }
        Ok(Self { entries, sectors })
    }

    /// §2.3.3: the sequence whose last entry is the newest, from where that entry says.
    fn active(&self) -> Option<Vec<&Entry>> {
        let sequences = self
            .entries
            .keys()
            .filter_map(|start| self.sequence(*start));
        sequences.max_by_key(|entries| {
            entries
                .last()
                .map_or(0, |entry| entry.header.sequence_number.get())
        })
    }

    /// The entries from `start` on, if they are a sequence: each is one newer than the one before,
    /// and the last of them says that the sequence begins at `start`.
    fn sequence(&self, start: usize) -> Option<Vec<&Entry>> {
        let mut found: Vec<&Entry> = Vec::new();
        let mut at = start;
        while let Some(entry) = self.entries.get(&at) {
            let next = found.last().map(|last| last.header.sequence_number.get());
            let next = next.map(|number| number.wrapping_add(1));
            if next.is_some_and(|next| next != entry.header.sequence_number.get())
                || found.len() >= self.sectors
            {
                break;
            }
            found.push(entry);
            at = at.checked_add(entry.sectors())?.checked_rem(self.sectors)?;
        }
        let tail = found.last()?.header.tail.get();
        (u64::from(tail).checked_div(SECTOR) == u64::try_from(start).ok()).then_some(found)
    }
}

/// The bytes that the entry at sector `number` claims, around the end of the ring.
fn claimed(log: &[u8], number: usize, guid: &Guid) -> Option<Vec<u8>> {
    let start = number.checked_mul(SECTOR_LEN)?;
    let (header, _) = LogHeader::read_from_prefix(log.get(start..)?).ok()?;
    let length = usize::try_from(header.entry_length.get()).ok()?;
    let sound = header.signature == *b"loge"
        && header.log_guid == *guid
        && header.sequence_number.get() > 0
        && length >= SECTOR_LEN
        && length.is_multiple_of(SECTOR_LEN)
        && length <= log.len()
        && u64::from(header.tail.get()).is_multiple_of(SECTOR);
    if !sound {
        return None;
    }
    let end = start.checked_add(length)?;
    let mut bytes = log.get(start..end.min(log.len()))?.to_vec();
    bytes.extend_from_slice(log.get(..end.saturating_sub(log.len()))?);
    Some(bytes)
}

impl Entry {
    fn read(bytes: Vec<u8>) -> Option<Self> {
        let (header, _) = LogHeader::read_from_prefix(&bytes).ok()?;
        (header.checksum.get() == checksum(&bytes)).then_some(Self { bytes, header })
    }

    fn sectors(&self) -> usize {
        self.bytes.len().checked_div(SECTOR_LEN).unwrap_or(1)
    }

    /// The descriptors, and the data sectors that follow them.
    fn parts(&self) -> Option<(Vec<LogDescriptor>, &[u8])> {
        let count = usize::try_from(self.header.descriptor_count.get()).ok()?;
        let len = count.checked_mul(size_of::<LogDescriptor>())?;
        let end = len.checked_add(size_of::<LogHeader>())?;
        let area = self.bytes.get(size_of::<LogHeader>()..end)?;
        let all = area.chunks_exact(size_of::<LogDescriptor>());
        let all = all.filter_map(|chunk| LogDescriptor::read_from_bytes(chunk).ok());
        let data = self
            .bytes
            .get(end.checked_next_multiple_of(SECTOR_LEN)?..)?;
        Some((all.collect(), data))
    }
}

impl Replay {
    fn apply(&mut self, entry: &Entry) -> Result<(), Fault> {
        let fault = |why| Fault::Log { why };
        let short = || fault("an entry is shorter than it says");
        let number = entry.header.sequence_number;
        let (descriptors, data) = entry.parts().ok_or_else(short)?;
        let mut data = data.chunks_exact(SECTOR_LEN);
        for descriptor in descriptors {
            let at = descriptor.file_offset.get();
            if descriptor.sequence_number != number || !at.is_multiple_of(SECTOR) {
                return Err(fault("a descriptor makes no sense"));
            }
            match &descriptor.signature {
                b"zero" => self.zero(at, u64::from_le_bytes(descriptor.leading_bytes))?,
                b"desc" => {
                    let bytes = data.next().ok_or_else(short)?;
                    let sector = sector(&descriptor, bytes).ok_or_else(short)?;
                    self.zeroes.remove(ByteRange::at(at, SECTOR));
                    self.sectors.insert(at, sector);
                }
                _ => return Err(fault("a descriptor is of no known kind")),
            }
        }
        self.file_size = self.file_size.max(entry.header.last_file_offset.get());
        if i64::try_from(self.file_size).is_err() {
            return Err(fault("the file would be too large"));
        }
        self.entries = self.entries.saturating_add(1);
        Ok(())
    }

    fn zero(&mut self, at: u64, len: u64) -> Result<(), Fault> {
        let range = ByteRange::at(at, len);
        if !len.is_multiple_of(SECTOR) || range.len() != len {
            let why = "zeroes are not whole sectors";
            return Err(Fault::Log { why });
        }
        self.sectors
            .retain(|at, _| !range.covers(ByteRange::at(*at, SECTOR)));
        self.zeroes.insert(range);
        Ok(())
    }
}

/// A sector out of its descriptor, which has its ends, and a data sector, which has the rest.
fn sector(descriptor: &LogDescriptor, bytes: &[u8]) -> Option<Bytes> {
    let data = DataSector::ref_from_bytes(bytes).ok()?;
    let number = descriptor.sequence_number.get();
    let (high, low) = (data.sequence_high.get(), data.sequence_low.get());
    let told = (u64::from(high) << 32) | u64::from(low);
    (data.signature == *b"data" && told == number).then(|| {
        let ends = (&descriptor.leading_bytes, &descriptor.trailing_bytes);
        let mut all = Vec::with_capacity(SECTOR_LEN);
        all.extend_from_slice(ends.0);
        all.extend_from_slice(&data.data);
        all.extend_from_slice(ends.1);
        Bytes::from(all)
    })
}
