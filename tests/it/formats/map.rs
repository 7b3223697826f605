//! What `map` tells of an image, byte for byte as `qemu-img map` does.

use super::{at, convert, mixed_disk};
use crate::rig::{Room, run};
use serde_json::Value;

/// Bytes of the disks here.
const SIZE: u64 = 6 << 20;

/// The row that tells of the byte at `at`.
fn row(rows: &[Value], at: u64) -> &Value {
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let holds = |row: &&Value| {
        let start = number(row, "start");
        (start..start + number(row, "length")).contains(&at)
    };
    rows.iter()
        .find(holds)
        .unwrap_or_else(|| panic!("{at:#x} is in no row"))
}

/// What is told of the byte at `at`, as far as both tell it. Of zeroes, qemu-img tells what layer
/// has them; here they are in none.
fn told(rows: &[Value], at: u64) -> (bool, bool, bool, Option<u64>, Option<u64>) {
    let row = row(rows, at);
    let flag = |key: &str| row[key].as_bool().unwrap_or(false);
    let offset = row["offset"].as_u64();
    let offset = offset.map(|offset| offset + at - row["start"].as_u64().unwrap());
    let depth = row["depth"].as_u64().filter(|_| flag("data"));
    // qemu-img 7 has no such field: it tells no offset then.
    let packed = row["compressed"].as_bool();
    let packed = packed.unwrap_or(flag("data") && offset.is_none());
    (flag("zero"), flag("data"), packed, offset, depth)
}

#[track_caller]
fn same_map(room: &Room, theirs: &str, image: &str) {
    let path = at(room, image);
    let words = ["map", "--output=json", "-f", theirs, &path];
    let expected: Vec<Value> = serde_json::from_str(&run("qemu-img", words)).unwrap();
    let found = room
        .diskferry(["map", "--output", "json", image])
        .ok()
        .stdout;
    let found: Vec<Value> = serde_json::from_str(&found).unwrap();
    for at in (0..SIZE).step_by(512) {
        assert_eq!(told(&found, at), told(&expected, at), "{image} at {at:#x}");
    }
}

#[test]
fn a_map_is_that_of_qemu_img() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), SIZE, 21);
    for (theirs, options) in [
        ("qcow2", &[][..]),
        ("qcow2", &["-c"]),
        ("vmdk", &[]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vpc", &["-o", "force_size=on"]),
        ("vdi", &[]),
    ] {
        convert(&room, theirs, options, "disk", "image");
        same_map(&room, theirs, "image");
    }
    for format in ["qcow2", "vmdk"] {
        convert(&room, format, &[], "disk", "base");
        let (base, top) = (at(&room, "base"), at(&room, "top"));
        run(
            "qemu-img",
            [
                "create", "-q", "-f", format, "-F", format, "-b", &base, &top,
            ],
        );
        run(
            "qemu-io",
            ["-f", format, "-c", "write -q -P 7 192k 64k", &top],
        );
        same_map(&room, format, "top");
    }
}
