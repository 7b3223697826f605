//! The lists that an image keeps: internal snapshots and bitmaps. Pure.
//!
//! Sections "Snapshots" and "Bitmap directory". Entries have a fixed part that tells how long the
//! rest is, so both are read entry by entry.

use super::flaw::Flaw;
use super::geometry::{Geometry, Table};
use super::header::{BitmapDirectory, slice, text};
use super::layout::{RawBitmap, RawSnapshot, RawSnapshotExtra, bitmap_flag};
use zerocopy::FromBytes;

/// Bytes of the fixed part of a snapshot's entry.
pub const SNAPSHOT_FIXED: u64 = 40;

/// Bytes of extra data of a snapshot at most: qemu's limit.
const EXTRA_MAX: u64 = 1024;

/// An internal snapshot: the disk, and perhaps the machine, at some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// What programs call it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub seconds: u32,
    /// Bytes of the machine's state.
    pub vm_state: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Its L1 table, as long as its disk needs it.
    pub l1: Table,
}

/// Bytes that the entry of a snapshot takes, by its fixed part.
///
/// # Errors
/// It is cut off, or has more extra data than anyone writes.
pub fn snapshot_length(fixed: &[u8], file: u64) -> Result<u64, Flaw> {
    let raw = snapshot_fixed(fixed, file)?;
    let extra = u64::from(raw.extra_data_size.get());
    if extra > EXTRA_MAX {
        return Err(Flaw::TooLarge {
            what: "extra data of a snapshot",
            bytes: extra,
            most: EXTRA_MAX,
        });
    }
    let names = u64::from(raw.id_str_size.get()).saturating_add(raw.name_size.get().into());
    let length = SNAPSHOT_FIXED.saturating_add(extra).saturating_add(names);
    Ok(length.next_multiple_of(8))
}

impl Snapshot {
    /// Reads one entry of an image whose disk has `disk` bytes and whose file has `file`.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn parse(entry: &[u8], geometry: Geometry, disk: u64, file: u64) -> Result<Self, Flaw> {
        let cut = cut_snapshot(file);
        let raw = snapshot_fixed(entry, file)?;
        let extra_len = u64::from(raw.extra_data_size.get());
        let extra = slice(entry, SNAPSHOT_FIXED, extra_len).ok_or_else(|| cut.clone())?;
        // Images of version 2 may know neither field.
        let extra = RawSnapshotExtra::read_from_prefix(extra).ok();
        let (vm_state, size) = match extra {
            Some((extra, _)) => (extra.vm_state_size.get(), extra.disk_size.get()),
            None => (raw.vm_state_size.get().into(), disk),
        };
        let id_at = SNAPSHOT_FIXED.saturating_add(extra_len);
        let id_len = u64::from(raw.id_str_size.get());
        let id = slice(entry, id_at, id_len).ok_or_else(|| cut.clone())?;
        let name_at = id_at.saturating_add(id_len);
        let name = slice(entry, name_at, raw.name_size.get().into()).ok_or(cut)?;
        let l1 = Table {
            offset: raw.l1_table_offset.get(),
            entries: raw.l1_size.get().into(),
        };
        Ok(Self {
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            seconds: raw.date_sec.get(),
            vm_state,
            size,
            l1: geometry.check_l1(l1, size, file)?,
        })
    }
}

fn snapshot_fixed(entry: &[u8], file: u64) -> Result<RawSnapshot, Flaw> {
    let (raw, _) = RawSnapshot::read_from_prefix(entry).map_err(|_| cut_snapshot(file))?;
    Ok(raw)
}

fn cut_snapshot(file: u64) -> Flaw {
    Flaw::Truncated {
        what: "the snapshot table",
        size: file,
    }
}

/// A bitmap that is kept in the image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bitmap {
    /// What it is called.
    pub name: String,
    /// Logarithm of the bytes of the disk that a bit stands for.
    pub granularity_bits: u8,
    /// It was not saved, and may be wrong.
    pub in_use: bool,
    /// It records every write.
    pub auto: bool,
}

/// Reads all of a directory.
///
/// # Errors
/// An entry breaks a rule, or there are more or fewer than the header says.
pub fn bitmaps(bytes: &[u8], directory: BitmapDirectory) -> Result<Vec<Bitmap>, Flaw> {
    let mut found = Vec::new();
    let mut rest = bytes;
    for index in 0..directory.count {
        let wrong = || Flaw::Bitmap(index);
        let (bitmap, length) = bitmap(rest).ok_or_else(wrong)?;
        found.push(bitmap);
        rest = rest.get(length..).ok_or_else(wrong)?;
    }
    if rest.is_empty() {
        Ok(found)
    } else {
        Err(Flaw::Bitmaps)
    }
}

/// The first bitmap of a directory, and the bytes that its entry takes.
fn bitmap(bytes: &[u8]) -> Option<(Bitmap, usize)> {
    let (raw, _) = RawBitmap::read_from_prefix(bytes).ok()?;
    let name_at = 24_u64.checked_add(raw.extra_data_size.get().into())?;
    let name = slice(bytes, name_at, raw.name_size.get().into())?;
    let sound = raw.granularity_bits < 64 && !name.is_empty();
    let end = name_at.checked_add(raw.name_size.get().into())?;
    let flags = raw.flags.get();
    let bitmap = Bitmap {
        name: text(name, "the name of a bitmap").ok()?,
        granularity_bits: raw.granularity_bits,
        in_use: flags & bitmap_flag::IN_USE != 0,
        auto: flags & bitmap_flag::AUTO != 0,
    };
    let length = usize::try_from(end.checked_next_multiple_of(8)?).ok()?;
    sound.then_some((bitmap, length))
}
