//! Files that no format here knows, and that are no disks as they are: each is refused by its name
//! however it comes, nothing is made of it, and whoever means its bytes gets them.

use super::{at, convert, mixed_disk};
use crate::rig::{LoopDevice, Room, Web, assert_same_bytes, run};
use crate::wrapped::piped;
use std::fs::{self, File};

const REFUSED: i32 = 4;

/// What others make, and what it is called.
const KINDS: [(&str, &str); 6] = [
    ("disk.qed", "a QED image"),
    ("disk.parallels", "a Parallels image"),
    ("disk.tar", "a tar archive, and no OVA"),
    ("disk.zip", "a ZIP archive"),
    ("disk.bz2", "bzip2 data"),
    ("page", "an HTML page"),
];

/// Makes one of each, of the same disk.
fn each(room: &Room) {
    mixed_disk(&room.path("disk"), 3 << 20, 8);
    convert(room, "qed", &[], "disk", "disk.qed");
    convert(room, "parallels", &[], "disk", "disk.parallels");
    let dir = at(room, ".");
    run("tar", ["-C", &dir, "-cf", &at(room, "disk.tar"), "disk"]);
    let pack = "import bz2, sys, zipfile
zipfile.ZipFile(sys.argv[1] + '.zip', 'w').write(sys.argv[1], 'disk')
open(sys.argv[1] + '.bz2', 'wb').write(bz2.compress(open(sys.argv[1], 'rb').read()))";
    run("python3", ["-c", pack, &at(room, "disk")]);
    let page = "<!DOCTYPE html>\n<html><body>Please log in</body></html>\n";
    fs::write(room.path("page"), page).unwrap();
}

fn names(what: &str) -> [String; 2] {
    let refused = format!("is {what}, which is not read here");
    [refused, "-f raw copies its bytes as they are".to_owned()]
}

#[test]
fn a_file_that_is_no_disk_is_refused_by_its_name_and_copied_if_it_is_meant() {
    let room = Room::new();
    each(&room);
    for (name, what) in KINDS {
        let [refused, hint] = names(what);
        for words in [&["copy", name, "copied"][..], &["inspect", name]] {
            let outcome = room.diskferry(words);
            outcome.fails(REFUSED, &[name, &refused, &hint]);
        }
        assert!(!room.path("copied").exists());
        room.diskferry(["copy", "-f", "raw", name, "copied"]).ok();
        assert_same_bytes(&room.path(name), &room.path("copied"));
        fs::remove_file(room.path("copied")).unwrap();
        for left in ["copied.journal", "copied.journal.manifest"] {
            fs::remove_file(room.path(left)).unwrap();
        }
    }
}

#[test]
fn it_is_refused_from_a_pipe_and_within_a_wrapper_too() {
    let room = Room::new();
    each(&room);
    for (name, what) in KINDS {
        let [refused, hint] = names(what);
        let outcome = piped(&room, name, &["copy", "-", "copied"]);
        outcome.fails(REFUSED, &[&refused, &hint]);
        run("gzip", ["-k", &at(&room, name)]);
        let packed = format!("{name}.gz");
        let outcome = room.diskferry(["copy", &packed, "copied"]);
        outcome.fails(REFUSED, &[&packed, &refused, &hint]);
        assert!(!room.path("copied").exists());
    }
}

#[test]
fn it_is_refused_from_a_web_server_and_behind_another_image() {
    let (room, web) = (Room::new(), Web::with(""));
    each(&room);
    for (name, what) in KINDS {
        let [refused, hint] = names(what);
        fs::copy(room.path(name), web.file(name)).unwrap();
        let url = web.url(name);
        let outcome = room.diskferry(["copy", "--retry", "1", &url, "copied"]);
        outcome.fails(REFUSED, &[&url, &refused, &hint]);
        assert!(!room.path("copied").exists());
    }
    let top = at(&room, "top.qcow2");
    let backing = ["create", "-q", "-f", "qcow2", "-F", "qed", "-b", "disk.qed"];
    run("qemu-img", backing.iter().copied().chain([top.as_str()]));
    room.diskferry(["copy", "top.qcow2", "copied"]).fails(
        1,
        &["top.qcow2", "the format of \"disk.qed\" is \"qed\", which"],
    );
}

#[test]
fn what_a_guest_writes_to_its_device_decides_nothing() {
    let room = Room::new();
    each(&room);
    for (name, _) in KINDS {
        let size = fs::metadata(room.path(name)).unwrap().len();
        let file = File::options().write(true).open(room.path(name)).unwrap();
        file.set_len(size.next_multiple_of(4096)).unwrap();
        let device = LoopDevice::over(&room.path(name), 512);
        room.diskferry([
            "copy",
            device.path().to_str().unwrap(),
            "copied",
            "--restart",
        ])
        .ok();
        assert_same_bytes(&room.path(name), &room.path("copied"));
        fs::remove_file(room.path("copied")).unwrap();
    }
}
