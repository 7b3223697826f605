//! Targets that may not be written, or fail when they are told to be durable: one line, an exit code,
//! nothing changed, and that the same copy done right succeeds afterwards.

use super::badinput::{FAILED, REFUSED, SIZE, copy, room, succeeds};
use super::targets::Mounted;
use crate::rig::{LoopDevice, Nbdkit, Outcome, Room, assert_same_bytes, run};
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A copy to the export `target`, which is not tried again.
fn onto(room: &Room, source: &Nbdkit, target: &Nbdkit) -> Outcome {
    room.diskferry(["copy", "--retry", "1", &source.uri(), &target.uri()])
}

/// A file of `size` bytes that a server writes to; whatever is there first is 0xee.
fn behind(room: &Room, size: u64) -> (PathBuf, String) {
    let path = room.path("behind");
    fs::write(&path, vec![0xee; usize::try_from(size).unwrap()]).unwrap();
    let plugin = format!("file={}", path.display());
    (path, plugin)
}

#[track_caller]
fn assert_untouched(path: &Path) {
    let bytes = fs::read(path).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0xee), "it was written to");
}

#[test]
fn an_export_that_is_too_small() {
    let (room, source) = room();
    let (bytes, plugin) = behind(&room, SIZE - 512);
    let mut target = Nbdkit::new(["file", &plugin]);
    let sizes = [SIZE.to_string(), (SIZE - 512).to_string()];
    onto(&room, &source, &target).fails(REFUSED, &["too small", &sizes[0], &sizes[1]]);
    assert_untouched(&bytes);
    target.crash();
    behind(&room, SIZE);
    target.restart(["file", &plugin]);
    onto(&room, &source, &target).ok();
    assert_same_bytes(&room.path("disk"), &bytes);
}

#[test]
fn an_export_that_is_read_only() {
    let (room, source) = room();
    let (bytes, plugin) = behind(&room, SIZE);
    let mut target = Nbdkit::new(["-r", "file", &plugin]);
    let uri = target.uri();
    onto(&room, &source, &target).fails(REFUSED, &["read-only", &uri]);
    assert_untouched(&bytes);
    target.crash();
    target.restart(["file", &plugin]);
    onto(&room, &source, &target).ok();
    assert_same_bytes(&room.path("disk"), &bytes);
}

#[test]
fn an_export_whose_flush_fails() {
    let (room, source) = room();
    // What is written is gone: a journal that believed it would leave holes in the next copy.
    let mut target = Nbdkit::that_loses(SIZE);
    let uri = target.uri();
    onto(&room, &source, &target).fails(FAILED, &["flush", &uri, "input/output error"]);
    target.crash();
    let (bytes, plugin) = behind(&room, SIZE);
    target.restart(["file", &plugin]);
    onto(&room, &source, &target).ok();
    assert_same_bytes(&room.path("disk"), &bytes);
}

/// A device on which there is something, and which is refused with these words also if that may be
/// lost.
#[track_caller]
fn refuses(room: &Room, source: &Nbdkit, device: &Path, said: &[&str]) {
    let before = fs::read(device).unwrap();
    let uri = source.uri();
    let named = [said, &[device.to_str().unwrap()]].concat();
    for more in [&[][..], &["--overwrite"]] {
        room.diskferry(copy(&uri, device, more))
            .fails(REFUSED, &named);
        assert!(fs::read(device).unwrap() == before, "it was written to");
    }
}

#[test]
fn a_device_that_is_read_only() {
    let (room, source) = room();
    let device = LoopDevice::new(SIZE, 512);
    run("blockdev", ["--setro".as_ref(), device.path().as_os_str()]);
    refuses(&room, &source, device.path(), &["read-only"]);
    run("blockdev", ["--setrw".as_ref(), device.path().as_os_str()]);
    succeeds(&room, &source, device.path(), &[]);
}

#[test]
fn a_device_that_is_mounted() {
    let (room, source) = room();
    let device = LoopDevice::new(SIZE, 4096);
    let node = device.path().to_str().unwrap();
    run("mkfs.ext4", ["-q", node]);
    // Nothing but the copy may change what is on it.
    let mounted = Mounted::new(&["-t", "ext4", "-o", "ro", node]);
    let point = mounted.path("").display().to_string();
    let said = format!("mounted on {}", point.trim_end_matches('/'));
    refuses(&room, &source, device.path(), &["in use", &said]);
    drop(mounted);
    succeeds(&room, &source, device.path(), &["--overwrite"]);
}

#[test]
fn a_device_that_somebody_else_holds() {
    let (room, source) = room();
    let device = LoopDevice::new(SIZE, 512);
    let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap();
    let mut options = File::options();
    let holder = options.write(true).custom_flags(exclusive);
    let holder = holder.open(device.path()).unwrap();
    refuses(
        &room,
        &source,
        device.path(),
        &["in use", "another program"],
    );
    drop(holder);
    succeeds(&room, &source, device.path(), &[]);
}
