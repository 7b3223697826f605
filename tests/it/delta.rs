//! A delta on its own: onto what somebody else copied, on the user's word.

use crate::rig::{QemuNbd, Room, assert_same_bytes, run};

#[test]
fn a_delta_without_a_journal_goes_into_the_file_that_is_there() {
    let room = Room::new();
    let (image, target, wanted) = (room.path("image"), room.path("target"), room.path("wanted"));
    let [image_word, target_word, wanted_word] =
        [&image, &target, &wanted].map(|path| path.to_str().unwrap());
    run(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", image_word, "4M"],
    );
    run(
        "qemu-io",
        ["-f", "qcow2", "-c", "write -q -P 1 0 4M", image_word],
    );
    run(
        "qemu-img",
        [
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            image_word,
            target_word,
        ],
    );
    run(
        "qemu-img",
        ["bitmap", "--add", "-f", "qcow2", image_word, "b0"],
    );
    run(
        "qemu-io",
        ["-f", "qcow2", "-c", "write -q -P 2 1M 64k", image_word],
    );
    run(
        "qemu-io",
        ["-f", "qcow2", "-c", "write -q -z 2M 64k", image_word],
    );
    run(
        "qemu-img",
        [
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            image_word,
            wanted_word,
        ],
    );

    let server = QemuNbd::new(&image, "qcow2", &["-r", "-B", "b0"]);
    let since = [
        "copy",
        "--json",
        "--no-journal",
        "--changes-since",
        "nbd-bitmap:b0",
    ];
    let outcome = room
        .diskferry([&since[..], &[&server.uri(), target_word]].concat())
        .ok();

    assert_same_bytes(&wanted, &target);
    let done = outcome.event("done");
    assert_eq!(done["read"], 65536, "only what changed is read: {done}");
    assert_eq!(
        done["zeroed"], 65536,
        "what became zero is zeroed unread: {done}"
    );
}
