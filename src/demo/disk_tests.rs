//! The live disk under writers, snapshots and bitmaps at once.

use super::{BASE_ALLOCATION, ByteRange, Export, GRAIN, LiveDisk};
use crate::nbd::wire::{DIRTY, allocation};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const SIZE: u64 = GRAIN * 32 + 512;

fn disk() -> (tempfile::TempDir, LiveDisk) {
    let directory = tempfile::tempdir().unwrap();
    let disk = LiveDisk::create(directory.path(), SIZE).unwrap();
    (directory, disk)
}

/// (length, flags) of the whole disk.
async fn map(export: &dyn Export, context: &str) -> Vec<(u64, u64)> {
    let whole = ByteRange::new(0, SIZE);
    let list = export.status(context, whole).await.unwrap();
    list.iter().map(|s| (s.len, s.flags)).collect()
}

#[tokio::test]
async fn a_snapshot_keeps_what_is_overwritten_zeroed_and_written_after_it() {
    let (_directory, disk) = disk();
    disk.write_at(0, &[1; 100]).unwrap();
    disk.write_at(GRAIN * 2, &[2; 65536]).unwrap();
    let view = disk.checkpoint(None, None).unwrap();
    disk.write_at(50, &[9; 10]).unwrap();
    disk.zero_at(ByteRange::at(GRAIN * 2, GRAIN)).unwrap();
    disk.write_at(SIZE - 1, &[9]).unwrap();
    let mut all = vec![7; usize::try_from(SIZE).unwrap()];
    view.read_at(0, &mut all).unwrap();
    assert!(all[..100].iter().all(|b| *b == 1));
    assert!(all[131_072..196_608].iter().all(|b| *b == 2));
    assert!(all[196_608..].iter().all(|b| *b == 0));
    let hole = allocation::HOLE | allocation::ZERO;
    assert_eq!(map(&disk, BASE_ALLOCATION).await[0], (GRAIN, 0));
    assert_eq!(map(&disk, BASE_ALLOCATION).await[1], (GRAIN * 31, hole));
    assert_eq!(map(&view, BASE_ALLOCATION).await[2], (GRAIN, 0));
}

#[tokio::test]
async fn a_frozen_bitmap_tells_what_changed_between_two_checkpoints_only() {
    let (_directory, disk) = disk();
    disk.write_at(0, &[1]).unwrap();
    drop(disk.checkpoint(None, Some("one")).unwrap());
    disk.write_at(GRAIN * 3 - 1, &[1; 2]).unwrap();
    disk.zero_at(ByteRange::at(GRAIN * 9, 1)).unwrap();
    let view = disk.checkpoint(Some("one"), Some("two")).unwrap();
    disk.write_at(GRAIN * 20, &[1]).unwrap();
    let expected = [
        (GRAIN * 2, 0),
        (GRAIN * 2, DIRTY),
        (GRAIN * 5, 0),
        (GRAIN, DIRTY),
        (SIZE - GRAIN * 10, 0),
    ];
    assert_eq!(map(&view, "qemu:dirty-bitmap:one").await, expected);
    assert_eq!(view.dirty(), GRAIN * 3);
    assert_eq!(disk.contexts(), ["qemu:dirty-bitmap:two"]);
    assert!(disk.checkpoint(Some("one"), None).is_err(), "it is frozen");
    assert_eq!(map(&disk, "qemu:dirty-bitmap:two").await[1], (GRAIN, DIRTY));
}

#[test]
fn a_range_past_the_end_changes_nothing() {
    let (_directory, disk) = disk();
    assert!(disk.write_at(SIZE - 1, &[1; 2]).is_err());
    assert!(disk.write_at(u64::MAX, &[1]).is_err());
    assert!(disk.zero_at(ByteRange::at(SIZE, 1)).is_err());
    assert_eq!(disk.written(), 0);
}

/// What a warm migration stands on: the snapshot of one checkpoint, brought up to date with the
/// dirty blocks of the next, is the snapshot of the next, whatever the writers do meanwhile.
#[test]
fn a_snapshot_and_the_dirty_blocks_after_it_make_the_next_snapshot() {
    let (_directory, disk) = disk();
    let stop = AtomicBool::new(false);
    // Also when an assertion fails: the scope waits for its writers.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let read = |view: &super::View| {
        let mut all = vec![0; usize::try_from(SIZE).unwrap()];
        view.read_at(0, &mut all).unwrap();
        all
    };
    thread::scope(|scope| {
        for seed in 1..=3u64 {
            let (disk, stop) = (&disk, &stop);
            scope.spawn(move || {
                let mut state = seed;
                while !stop.load(Ordering::Relaxed) {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let at = (state >> 33) % (SIZE - 1024);
                    let byte = state.to_le_bytes()[7];
                    if byte < 32 {
                        disk.zero_at(ByteRange::at(at, 1024)).unwrap();
                    } else {
                        disk.write_at(at, &[byte; 1024]).unwrap();
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        let mut copy = read(&disk.checkpoint(None, Some("0")).unwrap());
        for pass in 0..40 {
            let (old, new) = (pass.to_string(), (pass + 1).to_string());
            let view = disk.checkpoint(Some(&old), Some(&new)).unwrap();
            let (_, bitmap) = view.frozen().unwrap();
            let whole = ByteRange::new(0, SIZE);
            for (run, dirty) in bitmap.runs(whole, |block| bitmap.get(block)) {
                if dirty {
                    let end = usize::try_from(run.end).unwrap();
                    let start = usize::try_from(run.start).unwrap();
                    view.read_at(run.start, &mut copy[start..end]).unwrap();
                }
            }
            assert!(copy == read(&view), "pass {pass}");
            assert!(read(&view) == read(&view), "pass {pass}: a snapshot moves");
        }
    });
}
