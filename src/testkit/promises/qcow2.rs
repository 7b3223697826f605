//! Header, lists and tables of a qcow2 image.

use super::length;
use crate::extent::ByteRange;
use crate::format::qcow2::directory::{Snapshot, bitmaps, snapshot_length};
use crate::format::qcow2::entry::{Packed, Rules, compressed};
use crate::format::qcow2::geometry::{Geometry, Table};
use crate::format::qcow2::header::{BitmapDirectory, Header};
use crate::format::qcow2::runs::{Mapper, Place, Runs};

/// The end of the largest file there is.
const FAR: u64 = u64::MAX >> 1;

/// As a header, and as what its first two bytes choose.
pub(super) fn keep(input: &[u8]) -> bool {
    let size = length(input.len());
    let header = header(input, size) | header(input, FAR);
    let [bits, rules, rest @ ..] = input else {
        return header;
    };
    let Ok(geometry) = Geometry::new(9 + u32::from(bits & 15), bits & 16 != 0) else {
        return header;
    };
    let rules = Rules {
        geometry,
        version: 2 + u32::from(rules & 1),
        data_file: rules & 2 != 0,
    };
    header | table(rest, rules) | lists(rest, geometry)
}

fn header(input: &[u8], file: u64) -> bool {
    if let Ok(wanted) = Header::wanted(input, file) {
        assert!(wanted <= file && wanted <= 2 << 20);
    }
    let Ok(header) = Header::parse(input, file) else {
        return false;
    };
    let geometry = header.geometry;
    assert!(header.version == 2 || header.version == 3);
    assert!((1..=64).contains(&header.refcount_bits));
    within(header.l1, 8, geometry, file);
    assert_eq!(header.l1.entries, geometry.l1_needed(header.size));
    if let Some(found) = header.bitmaps {
        assert!(found.count > 0 && found.offset + found.bytes <= file);
    }
    true
}

fn within(table: Table, width: u64, geometry: Geometry, file: u64) {
    assert!(geometry.is_aligned(table.offset));
    assert!(table.offset + table.entries * width <= file);
}

/// Runs follow each other, cover what was asked for, and lie in the file.
fn table(input: &[u8], rules: Rules) -> bool {
    let entries = length(input.len()) / rules.geometry.l2_entry();
    let range = ByteRange::new(512, entries << rules.geometry.cluster_bits());
    let mapper = Mapper {
        rules,
        file: 1 << 40,
        data: 1 << 41,
    };
    let mut runs = Runs::default();
    let Ok(end) = mapper.table(input, 0, range, 100, &mut runs) else {
        return false;
    };
    let mut at = range.start;
    for run in runs.into_vec() {
        assert!(run.range.start == at && !run.range.is_empty());
        at = run.range.end;
        match run.place {
            Place::Below | Place::Zero => {}
            Place::Raw(offset) => assert!(offset + run.range.len() <= mapper.data),
            Place::Packed { at, skip } => packed(at, skip + run.range.len(), mapper),
        }
    }
    assert!(at == end.max(range.start) && (end == range.end || entries > 100 || end > range.start));
    !range.is_empty()
}

/// What was described is described as it was.
fn packed(at: Packed, guest: u64, mapper: Mapper) {
    let geometry = mapper.rules.geometry;
    assert!(at.len > 0 && at.offset + at.len <= mapper.file && guest <= geometry.cluster());
    let raw = compressed(at, geometry);
    let again = raw.map(|raw| mapper.rules.l2(raw, 0, 0));
    assert!(again.is_some_and(|again| again.is_ok()));
}

fn lists(input: &[u8], geometry: Geometry) -> bool {
    if let Ok(length) = snapshot_length(input, FAR) {
        assert!(length.is_multiple_of(8) && length >= 40);
    }
    let snapshot = Snapshot::parse(input, geometry, 1 << 30, FAR);
    if let Ok(snapshot) = &snapshot {
        within(snapshot.l1, 8, geometry, FAR);
        assert_eq!(snapshot.l1.entries, geometry.l1_needed(snapshot.size));
    }
    let count = u32::from(input.first().copied().unwrap_or(0));
    let directory = BitmapDirectory {
        count,
        offset: 0,
        bytes: length(input.len()),
    };
    let found = bitmaps(input.get(1..).unwrap_or_default(), directory);
    if let Ok(found) = &found {
        assert_eq!(length(found.len()), u64::from(count));
        assert!(found.iter().all(|bitmap| bitmap.granularity_bits < 64));
    }
    snapshot.is_ok() || found.is_ok_and(|found| !found.is_empty())
}
