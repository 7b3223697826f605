//! Another disk where the disk was that a copy began with: the target never becomes some of both.

use crate::rig::{LoopDevice, Nbdkit, Room, assert_same_bytes, random_disk};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: u64 = 16 << 20;
const REFUSED: i32 = 4;

fn words<'a>(source: &'a str, target: &'a Path) -> [&'a str; 5] {
    let target = target.to_str().unwrap();
    ["copy", "--journal", "journal", source, target]
}

/// A copy that is killed once a part of it is durable.
#[track_caller]
fn killed_half_way(room: &Room, source: &str, target: &Path) {
    let mut copy = words(source, target).to_vec();
    copy.extend(["--json", "--rate", "4M", "--request-size", "64k"]);
    let run = room.start(copy);
    let journal = || fs::read(room.path("journal")).unwrap_or_default();
    let is_durable = || String::from_utf8_lossy(&journal()).contains("barrier");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_durable() {
        assert!(Instant::now() < deadline, "no barrier: {}", run.stdout());
        thread::sleep(Duration::from_millis(5));
    }
    let outcome = run.kill();
    assert!(outcome.signal.is_some(), "it was complete before");
}

/// The copy is refused for another disk, and goes on once `put_back` has brought back its own.
#[track_caller]
fn refused_until(room: &Room, source: &str, target: &LoopDevice, put_back: impl FnOnce()) {
    let before = fs::read(target.backing()).unwrap();
    let words = words(source, target.path());
    room.diskferry(words)
        .fails(REFUSED, &["not the disk", "--restart"]);
    let after = fs::read(target.backing()).unwrap();
    assert!(before == after, "the target was written to");
    put_back();
    let again = [&words[..], &["--json"]].concat();
    let start = room.diskferry(again).ok().event("start");
    assert!(start["resumed"].as_u64().unwrap() > 0, "{start}");
}

#[test]
fn a_server_that_serves_another_disk_of_the_same_size() {
    let room = Room::new();
    let disks = [room.path("disk"), room.path("other")];
    random_disk(&disks[0], SIZE, 81);
    random_disk(&disks[1], SIZE, 82);
    let serving =
        |disk: &Path| ["-r", "file", &format!("file={}", disk.display())].map(str::to_owned);
    let mut server = Nbdkit::new(serving(&disks[0]));
    let (uri, target) = (server.uri(), LoopDevice::new(SIZE, 512));
    killed_half_way(&room, &uri, target.path());
    server.crash();
    server.restart(serving(&disks[1]));
    refused_until(&room, &uri, &target, || {
        server.crash();
        server.restart(serving(&disks[0]));
    });
    assert_same_bytes(&disks[0], target.path());

    // Complete for the one is not complete for the other.
    server.crash();
    server.restart(serving(&disks[1]));
    let words = words(&uri, target.path());
    room.diskferry(words)
        .fails(REFUSED, &["does not hold what was copied", "--restart"]);
    let anew = ["--restart", "--overwrite"];
    room.diskferry([&words[..], &anew].concat()).ok();
    assert_same_bytes(&disks[1], target.path());
}

#[test]
fn a_file_that_was_rewritten_in_place() {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, SIZE, 83);
    let (source, target) = (disk.to_str().unwrap(), LoopDevice::new(SIZE, 512));
    killed_half_way(&room, source, target.path());
    // The same file, by name and by inode.
    random_disk(&disk, SIZE, 84);
    refused_until(&room, source, &target, || random_disk(&disk, SIZE, 83));
    assert_same_bytes(&disk, target.path());
}
