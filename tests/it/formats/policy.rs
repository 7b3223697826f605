//! What an image may open: its own directory, and what the user allows.

use super::{mixed_disk, reads_as};
use crate::rig::Room;
use diskferry::testkit::vmdk::descriptor;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::os::unix::fs::symlink;

/// A descriptor in `vm/` whose only extent is `name`.
fn image(room: &Room, name: &str) {
    let line = format!("RW 128 FLAT \"{name}\" 0");
    let text = descriptor("monolithicFlat", 1, None, &[&line]);
    fs::write(room.path("vm/disk.vmdk"), text).unwrap();
}

/// `vm/` for the image, and `secret` beside it.
fn room() -> Room {
    let room = Room::new();
    fs::create_dir(room.path("vm")).unwrap();
    mixed_disk(&room.path("secret"), 64 << 10, 1);
    room
}

#[test]
fn an_image_opens_nothing_outside_of_its_directory_by_itself() {
    let room = room();
    symlink("../secret", room.path("vm/link")).unwrap();
    mknodat(CWD, room.path("vm/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let absolute = room.path("secret").display().to_string();
    for name in [
        "../secret",
        "link",
        &absolute,
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "fifo",
        "nbd://127.0.0.1:1",
        "json:{}",
    ] {
        image(&room, name);
        for command in ["inspect", "map", "checksum"] {
            let outcome = room.diskferry([command, "vm/disk.vmdk"]);
            outcome.fails(4, &["vm/disk.vmdk", "extent 1"]);
        }
    }
}

#[test]
fn what_the_user_allows_is_opened_and_proc_never_is() {
    let room = room();
    image(&room, "../secret");
    let outcome = room.diskferry(["checksum", "vm/disk.vmdk"]);
    let parent = room.path("").display().to_string();
    let allow = format!("--allow-backing {}", parent.trim_end_matches('/'));
    outcome.fails(4, &["outside of the image's own directory", &allow]);
    let words = ["compare", "--allow-backing", ".", "vm/disk.vmdk", "secret"];
    room.diskferry(words).ok();
    image(&room, "/proc/self/environ");
    let words = ["checksum", "--allow-backing", "/", "vm/disk.vmdk"];
    room.diskferry(words).exits(4);
}

#[test]
fn what_is_named_as_raw_is_not_looked_into() {
    let room = room();
    image(&room, "../secret");
    fs::copy(room.path("vm/disk.vmdk"), room.path("copy")).unwrap();
    let one = room
        .diskferry(["checksum", "-f", "raw", "vm/disk.vmdk"])
        .ok();
    let other = room.diskferry(["checksum", "-f", "raw", "copy"]).ok();
    let digest = |text: &str| text.split_whitespace().next().map(str::to_owned);
    assert_eq!(digest(&one.stdout), digest(&other.stdout));
    room.diskferry(["checksum", "-f", "vmdq", "copy"])
        .fails(2, &["no image format \"vmdq\"", "one of"]);
}

#[test]
fn an_image_that_links_to_its_neighbours_is_read() {
    let room = room();
    mixed_disk(&room.path("vm/flat.bin"), 64 << 10, 2);
    symlink("flat.bin", room.path("vm/link")).unwrap();
    image(&room, "link");
    reads_as(&room, "vmdk", "vm/disk.vmdk", &room.path("vm/flat.bin"));
}
