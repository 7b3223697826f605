//! Journals that may not be used, or are not left behind: one line, an exit code, and that the same copy
//! done right succeeds afterwards.

use super::badinput::{FAILED, REFUSED, SIZE, USAGE, copy, room, serve, succeeds};
use crate::rig::{LoopDevice, Room, random_disk};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};

#[test]
fn a_journal_of_another_disk() {
    let (room, server) = room();
    let device = LoopDevice::new(SIZE, 512);
    succeeds(&room, &server, device.path(), &[]);
    let other = serve(&room.path("disk"));
    room.diskferry(copy(&other.uri(), device.path(), &[]))
        .fails(REFUSED, &["journal"]);
    succeeds(&room, &other, device.path(), &["--restart", "--overwrite"]);

    let journal = room.path("j").display().to_string();
    let first = LoopDevice::new(SIZE, 512);
    succeeds(&room, &server, first.path(), &["--journal", &journal]);
    room.diskferry(copy(&server.uri(), device.path(), &["--journal", &journal]))
        .fails(REFUSED, &["journal", "target"]);
}

/// In its magic, in the checksum of its first record, in that record, and in a later one.
#[test]
fn a_journal_that_is_damaged() {
    for at in [3, 21, 40, 400] {
        let (room, server) = room();
        let target = room.path("copy");
        succeeds(&room, &server, &target, &[]);
        let journal = room.path("copy.journal");
        let file = OpenOptions::new().write(true).open(&journal).unwrap();
        file.write_all_at(b"?", at).unwrap();
        let damaged = fs::read(&journal).unwrap();
        room.diskferry(copy(&server.uri(), &target, &["--overwrite"]))
            .fails(FAILED, &["copy.journal", "damaged", "--restart"]);
        // It is forgotten only once every other check has passed.
        room.diskferry(copy(&server.uri(), &target, &["--restart"]))
            .fails(REFUSED, &["--overwrite"]);
        assert_eq!(fs::read(&journal).unwrap(), damaged, "{at}");
        let anew = ["--restart", "--overwrite"];
        succeeds(&room, &server, &target, &anew);
        succeeds(&room, &server, &target, &[]);
    }
}

#[test]
fn a_journal_that_is_the_target() {
    let (room, server) = room();
    let (target, link) = (room.path("copy"), room.path("link"));
    symlink("copy", &link).unwrap();
    for journal in [&target, &link] {
        let named = ["--journal", journal.to_str().unwrap()];
        room.diskferry(copy(&server.uri(), &target, &named))
            .fails(USAGE, &[named[1], "is the target", "journal"]);
        assert!(!target.exists());
    }
    succeeds(&room, &server, &target, &[]);
}

#[test]
fn a_copy_that_is_refused_leaves_no_journal() {
    let (room, server) = room();
    let target = room.path("copy");
    fs::write(&target, "precious").unwrap();
    let before = names(&room);
    room.diskferry(copy(&server.uri(), &target, &[]))
        .fails(REFUSED, &["copy", "exists"]);
    assert_eq!(names(&room), before);
    succeeds(&room, &server, &target, &["--overwrite"]);
}

/// What is in the room.
fn names(room: &Room) -> BTreeSet<OsString> {
    let entries = fs::read_dir(room.path("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_file_that_is_no_journal_is_not_touched() {
    let (room, server) = room();
    let target = room.path("copy");
    let precious = room.path("precious");
    fs::write(&precious, "not a journal at all").unwrap();
    let journal = precious.to_str().unwrap().to_owned();
    for more in [
        &["--journal", &*journal][..],
        &["--journal", &journal, "--restart"],
        &["--journal", &journal, "--restart", "--overwrite"],
    ] {
        room.diskferry(copy(&server.uri(), &target, more))
            .fails(REFUSED, &[&journal, "not a diskferry journal", "--journal"]);
        assert_eq!(
            fs::read_to_string(&precious).unwrap(),
            "not a journal at all"
        );
    }
    let another = room.path("another").display().to_string();
    succeeds(&room, &server, &target, &["--journal", &another]);
}

#[test]
fn a_restart_that_is_refused_forgets_nothing() {
    let room = Room::new();
    let (disk, target) = (room.path("disk"), room.path("target"));
    random_disk(&disk, 2 << 20, 5);
    let [source, target] = [&disk, &target].map(|path| path.to_str().unwrap());
    room.diskferry(["copy", source, target]).ok();
    // The file that is there may not be replaced unless the user says so.
    room.diskferry(["copy", "--restart", source, target])
        .fails(REFUSED, &["--overwrite"]);
    room.diskferry(["verify", target]).ok();
    room.diskferry(["copy", "--restart", "--overwrite", source, target])
        .ok();
}
