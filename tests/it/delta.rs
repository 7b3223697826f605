//! A delta on its own: onto what somebody else copied, on the user's word.

use crate::rig::{QemuNbd, Room, assert_same_bytes, run};
use std::path::Path;

fn write(image: &Path, what: &str) {
    let command = format!("write -q {what}");
    let args = ["-f", "qcow2", "-c", &command, image.to_str().unwrap()];
    run("qemu-io", args);
}

fn to_raw(image: &Path, raw: &Path) {
    let paths = [image.to_str().unwrap(), raw.to_str().unwrap()];
    let options = ["convert", "-f", "qcow2", "-O", "raw"];
    run("qemu-img", [&options[..], &paths].concat());
}

/// Writes `image` and its raw copy `before`, then changes the image after starting a bitmap.
fn changed_image(image: &Path, before: &Path) {
    let path = image.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", path, "4M"]);
    write(image, "-P 1 0 4M");
    to_raw(image, before);
    run("qemu-img", ["bitmap", "--add", "-f", "qcow2", path, "b0"]);
    write(image, "-P 2 1M 64k");
    write(image, "-z 2M 64k");
}

#[test]
fn a_delta_without_a_journal_goes_into_the_file_that_is_there() {
    let room = Room::new();
    let (image, target, wanted) = (room.path("image"), room.path("target"), room.path("wanted"));
    changed_image(&image, &target);
    to_raw(&image, &wanted);
    let server = QemuNbd::new(&image, "qcow2", &["-r", "-B", "b0"]);

    let words = "copy --json --no-journal --changes-since nbd-bitmap:b0";
    let words: Vec<&str> = words.split(' ').collect();
    let (uri, target_word) = (server.uri(), target.to_str().unwrap());
    let outcome = room
        .diskferry([&words[..], &[&uri, target_word]].concat())
        .ok();

    assert_same_bytes(&wanted, &target);
    let done = outcome.event("done");
    assert_eq!(done["read"], 65536, "only what changed is read: {done}");
    assert_eq!(
        done["zeroed"], 65536,
        "what became zero is zeroed unread: {done}"
    );
}
