//! What `map` tells of an image, byte for byte as `qemu-img map` does.

use super::{at, convert, mixed_disk};
use crate::rig::{Nbdkit, Room, run};
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

/// Zeroes that take space and such as do not, holes that may hold anything, and data, also where a
/// server tells them in many parts.
#[test]
fn a_map_of_an_export_tells_which_zeroes_take_space() {
    let extents = "extents=for at in 0 1 2 3; do
        echo $((at * 1048576)) 262144
        echo $((at * 1048576 + 262144)) 131072 zero
        echo $((at * 1048576 + 393216)) 131072 zero
        echo $((at * 1048576 + 524288)) 262144 hole,zero
        echo $((at * 1048576 + 786432)) 262144 hole
        done";
    let server = Nbdkit::new([
        "eval",
        "get_size=echo 4194304",
        "pread=head -c $3 /dev/zero",
        "can_extents=exit 0",
        extents,
    ]);
    let rows = |text: &str| -> Vec<Value> { serde_json::from_str(text).unwrap() };
    let uri = server.uri();
    let expected = rows(&run(
        "qemu-img",
        ["map", "--output=json", "-f", "raw", &uri],
    ));
    let room = Room::new();
    let found = rows(
        &room
            .diskferry(["map", "--output", "json", &uri])
            .ok()
            .stdout,
    );
    let keys = ["start", "length", "zero", "data", "offset"];
    let of = |rows: &[Value]| -> Vec<Vec<Value>> {
        let row = |row: &Value| keys.map(|key| row[key].clone()).to_vec();
        rows.iter().map(row).collect()
    };
    assert_eq!(found.len(), 16);
    assert_eq!(of(&found), of(&expected));
}
