//! Stream-optimized VMDK images that are written: sound and equal by qemu-img, or not there.

use super::qcow2::{mixed_disk, qemu_img};
use crate::rig::{Room, random_disk};
use diskferry::target::Target;
use diskferry::target::vmdk::{VmdkOptions, VmdkTarget};
use diskferry::testkit::check_forward;
use std::fs;
use std::thread;
use std::time::Duration;

#[track_caller]
fn assert_whole(room: &Room, disk: &str) {
    let told = qemu_img(room, "info {}/image.vmdk");
    assert!(told.contains("create type: streamOptimized"), "{told}");
    qemu_img(room, "check -f vmdk {}/image.vmdk");
    qemu_img(
        room,
        &format!("compare -f raw -F vmdk {{}}/{disk} {{}}/image.vmdk"),
    );
}

#[test]
fn an_image_holds_the_disk_whatever_its_size_and_however_it_is_cut() {
    let room = Room::new();
    for size in [512, 65536, (9 << 20) + 3 * 512, 70 << 20] {
        mixed_disk(&room.path("disk"), size);
        for options in ["", "--no-extents -R 3 --request-size 64k", "--allocated"] {
            let mut args = vec!["copy", "disk", "image.vmdk", "-O", "vmdk", "--overwrite"];
            args.extend(options.split_whitespace());
            room.diskferry(args).ok();
            assert_whole(&room, "disk");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_keeps_the_contract_of_targets_and_is_sound_after_all_that() {
    let room = Room::new();
    for size in [8 << 20, (5 << 20) + 1536] {
        let overwrite = true;
        let path = room.path("image.vmdk");
        let options = VmdkOptions { size, overwrite };
        let target = VmdkTarget::create(&path, options).await.unwrap();
        let expected = check_forward(&target, size).await.unwrap();
        target.finalize().await.unwrap();
        fs::write(room.path("expected"), expected).unwrap();
        assert_whole(&room, "expected");
    }
}

#[test]
fn an_image_is_no_larger_than_that_of_qemu_and_holes_take_nothing() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), 40 << 20);
    qemu_img(
        &room,
        "convert -O vmdk -o subformat=streamOptimized {}/disk {}/theirs.vmdk",
    );
    room.diskferry(["copy", "disk", "image.vmdk", "-O", "vmdk"])
        .ok();
    let size = |name: &str| fs::metadata(room.path(name)).unwrap().len();
    let (ours, theirs) = (size("image.vmdk"), size("theirs.vmdk"));
    assert!(ours <= theirs, "{ours} {theirs}");
    fs::File::create(room.path("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    room.diskferry(["copy", "huge", "image.vmdk", "-O", "vmdk", "--overwrite"])
        .ok();
    assert!(size("image.vmdk") < 256 << 10, "{}", size("image.vmdk"));
}

#[test]
fn a_copy_that_is_killed_leaves_no_image_and_the_next_one_makes_it_whole() {
    let room = Room::new();
    random_disk(&room.path("disk"), 64 << 20, 5);
    for stop in [0, 30, 200] {
        let args = ["copy", "disk", "image.vmdk", "-O", "vmdk", "--rate", "50M"];
        let running = room.start(args);
        thread::sleep(Duration::from_millis(stop));
        running.kill();
        assert!(!room.path("image.vmdk").exists(), "killed after {stop} ms");
    }
    room.diskferry(["copy", "disk", "image.vmdk", "-O", "vmdk"])
        .ok();
    assert_whole(&room, "disk");
    assert!(!room.path(".image.vmdk.partial").exists());
}

#[test]
fn what_a_stream_cannot_do_is_refused_before_anything_is_there() {
    let room = Room::new();
    random_disk(&room.path("disk"), 1 << 20, 5);
    for (args, code, said) in [
        ("disk image -O vmdk --verify", 2, "read back"),
        ("disk image -O vmdk --cluster-size 4k", 2, "--cluster-size"),
        ("disk image -O vmdk --compress zstd", 2, "--compress"),
        ("disk - -O vmdk", 1, "no regular file"),
    ] {
        let args = ["copy"].into_iter().chain(args.split(' '));
        room.diskferry(args).fails(code, &[said]);
        assert!(!room.path("image").exists() && !room.path(".image.partial").exists());
    }
}
