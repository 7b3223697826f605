//! `changes::qmp` against real QEMU: a storage daemon, a machine, a machine with a guest.
//!
//! ```text
//!  points.rs    views of one instant, lists of changes, what tracking survives and what not
//!  crash.rs     a process that dies between any two commands, and its successor
//!  others.rs    what is not ours: bitmaps, jobs, exports, NBD servers, other clients
//!  quiet.rs     powerdown, pause, plug; the quiet disks; waking
//!  room.rs      overlays that run out of room
//! ```

mod crash;
mod others;
mod points;
mod quiet;
mod room;

use crate::rig::{Emulator, Room, random_disk, run};
use diskferry::changes::Baseline;
use diskferry::changes::guest::{Guest as _, Point, Standing};
use diskferry::changes::qmp::{DiskAt, Place, Qmp, QmpOptions};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIZE: u64 = 16 << 20;
const MIGRATION: &str = "the migration of a test";

/// `count` disks of random bytes.
fn disks(room: &Room, count: usize) -> Vec<PathBuf> {
    let disk = |index| {
        let path = room.path(&format!("disk{index}"));
        random_disk(&path, SIZE, index as u64 + 1);
        path
    };
    (0..count).map(disk).collect()
}

/// What the program is told of an emulator whose socket is `socket`.
fn options(room: &Room, socket: PathBuf, count: usize) -> QmpOptions {
    let scratch = room.path("scratch");
    let _ = fs::create_dir(&scratch);
    let disk = |index| DiskAt::node(format!("d{index}"), format!("disk{index}"));
    let mut options = QmpOptions::new(socket, MIGRATION, scratch, (0..count).map(disk).collect());
    options.keep_free = 1 << 20;
    options.patience = Duration::from_secs(20);
    options
}

/// A storage daemon, and the program's side of it: the NBD server runs already.
fn daemon(room: &Room, count: usize) -> (Emulator, Qmp) {
    let emulator = Emulator::daemon(&disks(room, count));
    let qmp = Qmp::new(of_daemon(room, &emulator, count)).unwrap();
    (emulator, qmp)
}

fn of_daemon(room: &Room, emulator: &Emulator, count: usize) -> QmpOptions {
    let mut options = options(room, emulator.qmp(), count);
    options.nbd = Some(Place::Unix(emulator.nbd()));
    options
}

/// A machine, and the program's side of it: disks by their devices, an NBD server of its own.
fn machine(room: &Room, count: usize) -> (Emulator, Qmp) {
    let emulator = Emulator::machine(&disks(room, count));
    let qmp = Qmp::new(of_machine(room, &emulator, count)).unwrap();
    (emulator, qmp)
}

fn of_machine(room: &Room, emulator: &Emulator, count: usize) -> QmpOptions {
    let mut options = options(room, emulator.qmp(), count);
    let disk = |index| DiskAt::device(format!("d{index}"), format!("device{index}"));
    options.disks = (0..count).map(disk).collect();
    options
}

/// The files that are left in the scratch directory.
fn scratch(room: &Room) -> Vec<String> {
    let entries = fs::read_dir(room.path("scratch")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A point, read by another program into a file.
fn read(room: &Room, point: &Point) -> PathBuf {
    let copy = room.path(&format!("read-{}", point.name));
    run(
        "nbdcopy",
        [point.address.to_string().as_ref(), copy.as_os_str()],
    );
    copy
}

/// The first bytes of a point.
fn first_byte(room: &Room, point: &Point, offset: u64) -> u8 {
    let mut byte = [0];
    let copy = File::open(read(room, point)).unwrap();
    copy.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

/// What changed before a point, as another program lists it: offsets and lengths.
fn changes(point: &Point) -> Vec<(u64, u64)> {
    let Some(Baseline::NbdBitmap(name)) = &point.since else {
        panic!("no bitmap: {point:?}");
    };
    let map = format!("--map=qemu:dirty-bitmap:{name}");
    let listed = run("nbdinfo", ["--json", &map, &point.address.to_string()]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let extents = listed.as_array().unwrap().iter();
    let dirty = extents.filter(|extent| extent["type"].as_u64().unwrap() & 1 == 1);
    let part = |extent: &Value, part: &str| extent[part].as_u64().unwrap();
    let range = |extent: &Value| (part(extent, "offset"), part(extent, "length"));
    dirty.map(range).collect()
}

fn lists(point: &Point, range: &Range<u64>) -> bool {
    let blocks = (range.start..range.end).step_by(512);
    let listed = changes(point);
    let is_listed = |at| {
        listed
            .iter()
            .any(|&(offset, length)| (offset..offset + length).contains(&at))
    };
    blocks.into_iter().all(is_listed)
}

/// Brings `target` from the point before up to this one by nothing but the list of changes.
fn apply(room: &Room, point: &Point, target: &Path) {
    let view = File::open(read(room, point)).unwrap();
    let target = OpenOptions::new().write(true).open(target).unwrap();
    for (offset, length) in changes(point) {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        view.read_exact_at(&mut bytes, offset).unwrap();
        target.write_all_at(&bytes, offset).unwrap();
    }
}

async fn standing(qmp: &Qmp, number: u32) -> Option<Standing> {
    let points = qmp.points().await.unwrap();
    points.into_iter().find(|point| point.number == number)
}
