//! What was moved is certified, and the certificate is checked with nothing else at hand.

use crate::rig::{LoopDevice, Nbdkit, Room, random_disk, sparse_disk};
use diskferry::address::Address;
use diskferry::job;
use diskferry::job::options::JournalPlace;
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SIZE: u64 = 24 << 20;

/// Changes one byte, past every cache of ours.
fn spoil(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).unwrap();
    file.sync_all().unwrap();
}

/// A disk that was moved onto `target` in two passes, and certified.
fn moved(room: &Room, target: &Path) -> Value {
    let (disk, certificate) = (room.path("disk"), room.path("certificate"));
    sparse_disk(&disk, SIZE, 60, 51);
    let ends = [disk.to_str().unwrap(), target.to_str().unwrap()];
    room.diskferry([&["copy", "--overwrite"], &ends[..]].concat())
        .ok();
    spoil(&disk, 5 << 20);
    let last = [
        "copy",
        "--changes-since",
        "digest",
        "--final",
        "--certificate",
    ];
    let path = certificate.to_str().unwrap();
    room.diskferry([&last[..], &[path], &ends].concat()).ok();
    serde_json::from_slice(&fs::read(&certificate).unwrap()).unwrap()
}

#[test]
fn a_certificate_says_what_was_moved_and_is_checked_without_the_journal() {
    let room = Room::new();
    let device = LoopDevice::new(SIZE + (4 << 20), 512);
    let certificate = moved(&room, device.path());
    let disk = &certificate["disks"][0];
    assert_eq!(
        (&disk["size"], &disk["proven"]),
        (&SIZE.into(), &true.into())
    );
    let kinds: Vec<_> = disk["passes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pass| &pass["pass"])
        .collect();
    assert_eq!(kinds, ["full", "final"]);
    let printed = room
        .diskferry(["checksum", room.path("disk").to_str().unwrap()])
        .ok();
    let digest = disk["digest"].as_str().unwrap();
    assert!(
        printed.stdout.contains(digest),
        "{digest} is not in {}",
        printed.stdout
    );

    fs::remove_dir_all(room.state()).unwrap();
    let path = room.path("certificate");
    let check = ["verify", "--certificate", path.to_str().unwrap()];
    room.diskferry(check).ok();
    spoil(device.path(), SIZE - 1);
    let said = ["certificate", digest, "written to since"];
    room.diskferry(check).fails(3, &said);
    spoil(device.path(), SIZE - 1);
    // What lies behind the disk on a larger LUN is not certified.
    spoil(device.path(), SIZE);
    room.diskferry(check).ok();
}

#[test]
fn a_certificate_is_checked_wherever_the_disk_is_now() {
    let room = Room::new();
    let target = room.path("target");
    moved(&room, &target);
    let (certificate, moved) = (room.path("certificate"), room.path("moved"));
    fs::rename(&target, &moved).unwrap();
    let server = Nbdkit::new(["-r", "file", &format!("file={}", moved.display())]);
    let check = ["verify", "--certificate", certificate.to_str().unwrap()];
    room.diskferry(check).fails(1, &["target", "No such file"]);
    room.diskferry([&check[..], &[&server.uri()]].concat()).ok();
    let two = [moved.to_str().unwrap(), moved.to_str().unwrap()];
    room.diskferry([&check[..], &two].concat())
        .fails(2, &["1 disks", "2 were named"]);
    let short = room.path("short");
    random_disk(&short, SIZE / 2, 52);
    let short = [short.to_str().unwrap()];
    room.diskferry([&check[..], &short].concat())
        .fails(3, &["certified"]);
    fs::write(&certificate, "{}").unwrap();
    room.diskferry(check).fails(1, &["not a certificate"]);
}

#[test]
fn a_target_that_was_given_up_says_so_until_a_pass_over_it_is_complete() {
    let room = Room::new();
    let target = room.path("target");
    moved(&room, &target);
    let words = |command| [command, target.to_str().unwrap()];
    let shown = room.diskferry(words("inspect")).ok().stdout;
    assert!(
        shown.contains("pass 2, final, complete and proven"),
        "{shown}"
    );

    let address = Address::Path(target.clone());
    job::label_incomplete(
        &address,
        &JournalPlace::Default,
        "the migration was cancelled",
    )
    .unwrap();
    let why = ["labelled incomplete", "the migration was cancelled"];
    room.diskferry(words("verify")).fails(4, &why);
    let shown = room.diskferry(words("inspect")).ok().stdout;
    assert!(
        shown.contains("INCOMPLETE, the migration was cancelled"),
        "{shown}"
    );
    let certified = job::certificate::certify("disk", &address, &JournalPlace::Default);
    assert!(
        certified
            .unwrap_err()
            .line()
            .contains("labelled incomplete")
    );

    let disk = room.path("disk");
    let again = [
        "copy",
        "--changes-since",
        "digest",
        disk.to_str().unwrap(),
        target.to_str().unwrap(),
    ];
    room.diskferry(again).ok();
    room.diskferry(words("verify")).ok();
}
