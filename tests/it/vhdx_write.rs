//! Dynamic VHDX images that are written: sound and equal by qemu-img, or not there.

use super::qcow2::{mixed_disk, qemu_img};
use crate::rig::{Room, random_disk, run};
use diskferry::target::Target;
use diskferry::target::vhdx::{VhdxOptions, VhdxTarget};
use diskferry::testkit::check_target;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

#[track_caller]
fn assert_whole(room: &Room, disk: &str) {
    let checked = qemu_img(room, "check -f vhdx {}/image.vhdx");
    assert!(checked.contains("No errors were found"), "{checked}");
    qemu_img(
        room,
        &format!("compare -f raw -F vhdx {{}}/{disk} {{}}/image.vhdx"),
    );
    room.diskferry(["compare", disk, "image.vhdx"]).ok();
}

#[test]
fn an_image_holds_the_disk_whatever_its_size_and_however_it_is_cut() {
    let room = Room::new();
    for size in [512, 2 << 20, (9 << 20) + 3 * 512] {
        mixed_disk(&room.path("disk"), size);
        for options in [
            "",
            "--no-extents -R 3 --request-size 64k --verify",
            "--allocated",
        ] {
            let mut args = vec!["copy", "disk", "image.vhdx", "-O", "vhdx", "--overwrite"];
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
        let path = room.path("image.vhdx");
        let options = VhdxOptions { size, overwrite };
        let target = VhdxTarget::create(&path, options).await.unwrap();
        assert_eq!(check_target(&target, size).await, Ok(()), "{size}");
        target.finalize().await.unwrap();
        let checked = qemu_img(&room, "check -f vhdx {}/image.vhdx");
        assert!(checked.contains("No errors were found"), "{checked}");
    }
}

/// Large enough for the table to have entries of sector bitmaps between those of blocks.
#[test]
fn a_huge_disk_with_little_in_it_makes_a_small_image() {
    let room = Room::new();
    for size in ["9G", "3T"] {
        let huge = room.path("huge").display().to_string();
        qemu_img(&room, &format!("create -q -f qcow2 {{}}/huge {size}"));
        let write = [
            "write -P 3 8500M 64k",
            "write -P 4 1M 64k",
            "write -P 5 5000M 3M",
        ];
        run(
            "qemu-io",
            [
                "-f", "qcow2", "-c", write[0], "-c", write[1], "-c", write[2], &huge,
            ],
        );
        room.diskferry(["copy", "huge", "image.vhdx", "-O", "vhdx", "--overwrite"])
            .ok();
        for check in [
            "read -P 3 8500M 64k",
            "read -P 4 1M 64k",
            "read -P 5 5000M 3M",
        ] {
            let image = room.path("image.vhdx").display().to_string();
            let told = run("qemu-io", ["-r", "-f", "vhdx", "-c", check, &image]);
            assert!(!told.contains("verification failed"), "{told}");
        }
        room.diskferry(["compare", "huge", "image.vhdx"]).ok();
        let stat = fs::metadata(room.path("image.vhdx")).unwrap();
        assert!(stat.blocks() * 512 < 16 << 20, "{}", stat.blocks());
    }
}

#[test]
fn a_copy_that_is_killed_leaves_no_image_and_the_next_one_makes_it_whole() {
    let room = Room::new();
    random_disk(&room.path("disk"), 64 << 20, 5);
    for stop in [0, 30, 200] {
        let args = ["copy", "disk", "image.vhdx", "-O", "vhdx", "--rate", "50M"];
        let running = room.start(args);
        thread::sleep(Duration::from_millis(stop));
        running.kill();
        assert!(!room.path("image.vhdx").exists(), "killed after {stop} ms");
    }
    room.diskferry(["copy", "disk", "image.vhdx", "-O", "vhdx"])
        .ok();
    assert_whole(&room, "disk");
}
