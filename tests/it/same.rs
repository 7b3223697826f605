//! One disk as source and as target: refused before a byte of it changes.

use crate::rig::{LoopDevice, Room, random_disk, run};
use std::fs::{self, File, hard_link};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const SIZE: u64 = 4 << 20;
const REFUSED: i32 = 4;

fn room() -> Room {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 81);
    room
}

/// The copy is refused, and what both are made of is as it was.
#[track_caller]
fn is_refused(room: &Room, source: &Path, target: &Path, more: &[&str]) {
    let disk = fs::read(room.path("disk")).unwrap();
    let [source, target] = [source, target].map(|path| path.to_str().unwrap());
    let words = [&["copy", source, target, "--no-journal"], more].concat();
    let outcome = room.diskferry(&words);
    assert!(fs::read(room.path("disk")).unwrap() == disk, "{words:?}");
    outcome.fails(REFUSED, &[source, target, "same disk"]);
}

#[test]
fn a_file_by_whatever_name() {
    let room = room();
    let disk = room.path("disk");
    let [soft, hard] = [room.path("soft"), room.path("hard")];
    symlink(&disk, &soft).unwrap();
    hard_link(&disk, &hard).unwrap();
    for other in [&disk, &soft, &hard] {
        for more in [&["--overwrite"][..], &["--no-create"]] {
            is_refused(&room, &disk, other, more);
            is_refused(&room, other, &disk, more);
        }
    }
    fs::copy(&disk, room.path("copy")).unwrap();
    room.diskferry(["copy", "disk", "copy", "--overwrite"]).ok();
}

#[test]
fn a_device_and_the_file_behind_it() {
    let room = room();
    let disk = room.path("disk");
    let [device, again] = [(); 2].map(|()| LoopDevice::over(&disk, 512));
    let node = room.path("node");
    symlink(device.path(), &node).unwrap();
    let overwrite = ["--overwrite"];
    for (source, target) in [
        (device.path(), device.path()),
        (device.path(), node.as_path()),
        (device.path(), again.path()),
        (device.path(), disk.as_path()),
        (disk.as_path(), device.path()),
    ] {
        is_refused(&room, source, target, &overwrite);
    }
    // Another name of the file makes no difference, and another file does.
    hard_link(&disk, room.path("hard")).unwrap();
    is_refused(&room, &room.path("hard"), device.path(), &overwrite);
    let other = LoopDevice::new(SIZE, 512);
    let words = [device.path(), other.path()].map(|path| path.to_str().unwrap());
    room.diskferry(["copy", words[0], words[1]]).ok();
}

/// The partitions of a loop device, which outlive it unless they are taken away.
struct Partitions<'a>(&'a str);

impl Drop for Partitions<'_> {
    fn drop(&mut self) {
        let _ = Command::new("partx").args(["-d", self.0]).status();
    }
}

#[test]
fn a_disk_and_its_partition_but_not_two_partitions() {
    let room = room();
    let disk = room.path("disk");
    // Two partitions of a MiB.
    let mut bytes = fs::read(&disk).unwrap();
    bytes[446..512].fill(0);
    for (entry, start) in [(446, 2048u32), (462, 4096)] {
        bytes[entry + 4] = 0x83;
        bytes[entry + 8..][..4].copy_from_slice(&start.to_le_bytes());
        bytes[entry + 12..][..4].copy_from_slice(&2048u32.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&disk, bytes).unwrap();
    let device = LoopDevice::over(&disk, 512);
    let node = device.path().to_str().unwrap();
    run("partx", ["-a", node]);
    let partitions = Partitions(node);
    let [one, two] = [1, 2].map(|number| format!("{node}p{number}"));
    for (source, target) in [(&*one, node), (&one, disk.to_str().unwrap()), (&one, &one)] {
        is_refused(&room, source.as_ref(), target.as_ref(), &["--overwrite"]);
    }
    // A disk is larger than its partition: that is refused anyhow, for one reason or the other.
    room.diskferry(["copy", node, &one, "--overwrite"])
        .fails(REFUSED, &[]);
    room.diskferry(["copy", &one, &two, "--overwrite"]).ok();
    drop(partitions);
}

#[test]
fn an_image_and_the_files_that_it_is_made_of() {
    let room = room();
    let disk = room.path("disk");
    let [image, layer] = ["image", "layer"].map(|name| room.path(name));
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "disk", "image"];
    let create = [
        "create", "-q", "-f", "qcow2", "-b", "disk", "-F", "raw", "layer",
    ];
    for words in [&convert[..], &create] {
        let mut command = Command::new("qemu-img");
        let done = command.args(words).current_dir(room.path("")).status();
        assert!(done.unwrap().success());
    }
    is_refused(&room, &image, &image, &["--overwrite"]);
    is_refused(&room, &image, &image, &["--overwrite", "-O", "qcow2"]);
    for target in [&disk, &layer] {
        is_refused(&room, &layer, target, &["--overwrite"]);
    }
    // A device that the chain ends in.
    let device = LoopDevice::over(&disk, 512);
    is_refused(&room, &layer, device.path(), &["--overwrite"]);
}

#[test]
fn standard_input_and_output() {
    let room = room();
    let before = fs::read(room.path("disk")).unwrap();
    let device = LoopDevice::over(&room.path("disk"), 512);
    let target = device.path().to_str().unwrap();
    let words = ["copy", "-", target, "--overwrite"];
    let mut command = room.command(words);
    let stdin = File::open(device.path()).unwrap();
    let output = command.stdin(stdin).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(REFUSED), "{said}");
    assert!(said.contains("same disk"), "{said}");
    assert!(fs::read(room.path("disk")).unwrap() == before);
}

#[test]
fn nbdcopy_neither_empties_the_file_nor_writes_the_device() {
    let room = room();
    let disk = room.path("disk");
    let before = fs::read(&disk).unwrap();
    let device = LoopDevice::over(&disk, 512);
    let [file, node] = [&*disk, device.path()].map(|path| path.to_str().unwrap());
    for (source, target) in [(file, file), (file, node), (node, file), (node, node)] {
        let outcome = room.diskferry(["nbdcopy", source, target]);
        assert!(fs::read(&disk).unwrap() == before, "{source} {target}");
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("same disk"), "{}", outcome.stderr);
    }
}
