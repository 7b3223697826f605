//! Passes by digests with the real program: nothing tracks changes, and runs are killed.

use crate::rig::{LoopDevice, Rng, Room, assert_same_bytes, random_disk};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

const SIZE: u64 = 24 << 20;

const BLOCK: u64 = 64 << 10;

/// Another point in time of the same disk: every third block is another.
fn changed(disk: &Path, other: &Path) {
    fs::copy(disk, other).unwrap();
    let file = OpenOptions::new().write(true).open(other).unwrap();
    for block in (0..SIZE / BLOCK).step_by(3) {
        file.write_all_at(&[7; 64 << 10], block * BLOCK).unwrap();
    }
}

fn words<'a>(source: &'a Path, target: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let ends = [source.to_str().unwrap(), target.to_str().unwrap()];
    [
        &["copy", "--json", "--request-size", "64k"],
        &ends[..],
        more,
    ]
    .concat()
}

#[test]
fn without_any_tracking_only_what_differs_is_written() {
    let room = Room::new();
    let (disk, later) = (room.path("disk"), room.path("later"));
    random_disk(&disk, SIZE, 41);
    changed(&disk, &later);
    let device = LoopDevice::new(SIZE, 512);
    room.diskferry(words(&disk, device.path(), &[])).ok();
    let last = ["--changes-since", "digest", "--final"];
    let done = room
        .diskferry(words(&later, device.path(), &last))
        .ok()
        .event("done");
    assert_same_bytes(&later, device.backing());
    let written = (SIZE / BLOCK).div_ceil(3) * BLOCK;
    assert_eq!(done["written"], written);
    assert_eq!(done["skipped"], SIZE - written);
    assert_eq!(done["proven"], true);
}

#[test]
fn a_pass_that_was_killed_leaves_nothing_that_its_successor_takes_for_old() {
    let room = Room::new();
    let (disk, later) = (room.path("disk"), room.path("later"));
    random_disk(&disk, SIZE, 42);
    changed(&disk, &later);
    let device = LoopDevice::new(SIZE, 512);
    room.diskferry(words(&disk, device.path(), &[])).ok();
    let slow = ["--changes-since", "digest", "--rate", "20M"];
    let mut rng = Rng::new(43);
    let mut killed = 0;
    for round in 0..12 {
        // The disk goes back and forth, so that what was cut short has digests that fit again.
        let source = if round % 2 == 0 { &later } else { &disk };
        let run = room.start(words(source, device.path(), &slow));
        thread::sleep(Duration::from_millis(50 + rng.below(1000)));
        killed += u32::from(run.kill().signal.is_some());
        if round % 4 == 3 {
            let source = if round % 8 == 3 { &disk } else { &later };
            room.diskferry(words(source, device.path(), &slow[..2]))
                .ok();
            assert_same_bytes(source, device.backing());
        }
    }
    assert!(killed >= 6, "only {killed} runs were killed");
}

#[test]
fn a_pass_by_digests_goes_on_where_it_was_killed() {
    let room = Room::new();
    let (disk, later) = (room.path("disk"), room.path("later"));
    random_disk(&disk, SIZE, 44);
    changed(&disk, &later);
    let device = LoopDevice::new(SIZE, 4096);
    room.diskferry(words(&disk, device.path(), &[])).ok();
    let slow = ["--changes-since", "digest", "--rate", "8M"];
    let run = room.start(words(&later, device.path(), &slow));
    thread::sleep(Duration::from_millis(2200));
    assert_eq!(run.kill().signal, Some(9), "it was over too soon");
    let outcome = room
        .diskferry(words(&later, device.path(), &slow[..2]))
        .ok();
    let resumed = outcome.event("start")["resumed"].as_u64().unwrap();
    assert!(resumed > 0, "nothing was left of the run before");
    assert_eq!(outcome.event("done")["read"], SIZE - resumed);
    assert_same_bytes(&later, device.backing());
}

#[test]
fn without_a_whole_disk_or_without_a_journal_it_is_refused() {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, SIZE, 45);
    let target = room.path("copy");
    let since = ["--changes-since", "digest"];
    let line = |more: &[&str]| {
        let words = words(&disk, &target, &[&since, more].concat()).into_iter();
        let words: Vec<_> = words
            .filter(|word| *word != "--json")
            .map(str::to_owned)
            .collect();
        room.diskferry(words)
    };
    line(&[]).fails(4, &["no complete pass", "copy the whole disk first"]);
    line(&["--no-journal"]).fails(4, &["digests", "journal"]);
    assert!(!target.exists());
}
