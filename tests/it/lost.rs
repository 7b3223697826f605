//! A target file that is gone or was cut short since it was copied to: refused, and nothing is made
//! that looks like the disk.

use crate::rig::{Room, assert_same_bytes, random_disk};
use std::fs::{self, File, OpenOptions};
use std::path::Path;

/// Not a multiple of anything.
const SIZE: u64 = (3 << 20) + 513;
const REFUSED: i32 = 4;

/// A room in which `disk` was copied to `copy`.
fn copied() -> Room {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 61);
    room.diskferry(["copy", "disk", "copy"]).ok();
    room
}

fn cut(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// As it was before the last record, that the pass is complete.
fn forget_the_end(room: &Room) {
    let journal = room.path("copy.journal");
    cut(&journal, journal.metadata().unwrap().len() - 1);
}

/// Everything that has to do with the target, by name and length.
fn files(room: &Room) -> Vec<(String, u64)> {
    let entries = fs::read_dir(room.path("")).unwrap().map(Result::unwrap);
    let mut found: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, entry.metadata().unwrap().len())
        })
        .filter(|(name, _)| name.contains("copy"))
        .collect();
    found.sort();
    found
}

const COPY: &[&str] = &["copy", "disk", "copy"];
const DELTA: &[&str] = &["copy", "disk", "copy", "--changes-since", "digest"];
const FINAL: &[&str] = &["copy", "disk", "copy", "--final"];
const VERIFY: &[&str] = &["verify", "copy"];

#[test]
fn a_file_that_is_gone_is_not_made_anew_under_its_name() {
    let room = copied();
    fs::remove_file(room.path("copy")).unwrap();
    let before = files(&room);
    for words in [COPY, DELTA, FINAL, VERIFY] {
        let outcome = room.diskferry(words);
        assert_eq!(files(&room), before, "{words:?}: {}", outcome.stderr);
        outcome.fails(REFUSED, &["copy is not there", "--restart"]);
    }
    room.diskferry([COPY, &["--restart"]].concat()).ok();
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

#[test]
fn a_file_that_was_cut_short_is_not_made_longer() {
    let room = copied();
    cut(&room.path("copy"), 1 << 20);
    let before = files(&room);
    for words in [COPY, DELTA, FINAL, VERIFY] {
        let outcome = room.diskferry(words);
        assert_eq!(files(&room), before, "{words:?}: {}", outcome.stderr);
        let sizes = ["1048576 bytes", &SIZE.to_string(), "--restart"];
        outcome.fails(REFUSED, &sizes);
    }
    room.diskferry([COPY, &["--restart", "--overwrite"]].concat())
        .ok();
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

#[test]
fn a_delta_that_nothing_records_needs_a_file_as_well() {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 62);
    room.diskferry([DELTA, &["--adopt", "--journal", "j"]].concat())
        .fails(REFUSED, &["copy is not there", "copy the whole disk"]);
    assert!(!room.path("copy").exists());
}

#[test]
fn half_a_copy_that_is_gone_or_cut_short_is_not_gone_on_with() {
    let room = copied();
    forget_the_end(&room);
    let partial = room.path(".copy.partial");
    fs::rename(room.path("copy"), &partial).unwrap();
    cut(&partial, 1 << 20);
    room.diskferry(COPY)
        .fails(REFUSED, &[".copy.partial is too small", "--restart"]);
    fs::remove_file(&partial).unwrap();
    // What has the name by now is somebody else's.
    for there in [false, true] {
        if there {
            File::create(room.path("copy"))
                .unwrap()
                .set_len(SIZE / 2)
                .unwrap();
        }
        let before = files(&room);
        let outcome = room.diskferry([COPY, &["--overwrite"]].concat());
        assert_eq!(files(&room), before, "{}", outcome.stderr);
        outcome.fails(REFUSED, &["copy", "--restart"]);
    }
    room.diskferry([COPY, &["--restart", "--overwrite"]].concat())
        .ok();
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}

#[test]
fn a_copy_cut_off_between_its_name_and_the_last_record_is_whole() {
    let room = copied();
    forget_the_end(&room);
    room.diskferry(COPY).ok();
    forget_the_end(&room);
    fs::rename(room.path("copy"), room.path(".copy.partial")).unwrap();
    room.diskferry(COPY).ok();
    room.diskferry(VERIFY).ok();
    assert_same_bytes(&room.path("disk"), &room.path("copy"));
}
