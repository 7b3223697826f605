//! Images that are written: sound by `qemu-img check`, equal by `qemu-img compare`, or not there.

use super::{mixed_disk, qemu_img};
use crate::rig::{Room, assert_same_bytes, random_disk, run};
use bytes::Bytes;
use diskferry::target::Target;
use diskferry::target::qcow2::{Compression, Qcow2Options, Qcow2Target};
use diskferry::testkit::check_target;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

/// Bytes of a disk that ends in the middle of a cluster of any size, but at a sector.
const ODD: usize = (9 << 20) + 3 * 512;

/// Sound, equal to `disk`, and read by us as well.
#[track_caller]
fn assert_whole(room: &Room, disk: &str, image: &str) {
    let checked = qemu_img(room, &format!("check -f qcow2 {{}}/{image}"));
    assert!(checked.contains("No errors were found"), "{checked}");
    qemu_img(
        room,
        &format!("compare -f raw -F qcow2 {{}}/{disk} {{}}/{image}"),
    );
    room.diskferry(["compare", disk, image]).ok();
}

#[test]
fn every_kind_of_image_is_sound_and_holds_the_disk() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), ODD);
    for options in [
        "",
        "--cluster-size 512",
        "--cluster-size 4k",
        "--cluster-size 2M",
        "--preallocation metadata",
        "--preallocation metadata --cluster-size 4k",
        "--compress zlib",
        "--compress zstd",
        "--compress zlib --cluster-size 512",
        "--compress zstd --cluster-size 4k",
        "--allocated",
        "--no-extents -R 3 --request-size 64k --verify",
        "--compress zlib --final",
    ] {
        let mut args = vec!["copy", "disk", "image", "-O", "qcow2", "--overwrite"];
        args.extend(options.split_whitespace());
        room.diskferry(args).ok();
        assert_whole(&room, "disk", "image");
    }
    assert!(
        fs::read_dir(room.state()).unwrap().next().is_none(),
        "a journal"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_keeps_the_contract_of_targets_and_is_sound_after_all_that() {
    let room = Room::new();
    for (cluster, compression) in [
        (64 << 10, None),
        (2 << 20, None),
        (512, None),
        (64 << 10, Some(Compression::Zlib)),
        (4096, Some(Compression::Zstd)),
    ] {
        for size in [5 << 20, (4 << 20) + 1536] {
            let options = Qcow2Options {
                size,
                overwrite: true,
                cluster,
                compression,
                preallocate: false,
            };
            let path = room.path("image");
            let target = Qcow2Target::create(&path, options).await.unwrap();
            let verdict = check_target(&target, size).await;
            assert_eq!(verdict, Ok(()), "{options:?}");
            target.finalize().await.unwrap();
            let checked = qemu_img(&room, "check -f qcow2 {}/image");
            assert!(checked.contains("No errors were found"), "{checked}");
        }
    }
}

/// With clusters of 2 MiB, four tables are kept; this disk has six, and two blocks of refcounts.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_fit_into_memory_are_written_and_come_back() {
    let room = Room::new();
    let options = Qcow2Options {
        size: 3 << 40,
        cluster: 2 << 20,
        preallocate: true,
        ..Qcow2Options::default()
    };
    let path = room.path("image");
    let target = Qcow2Target::create(&path, options).await.unwrap();
    let places = [0_u64, 5 << 38, 1 << 40, 2 << 40, (3 << 40) - 65536];
    for (at, byte) in places.iter().zip(1..) {
        target
            .write(*at, Bytes::from(vec![byte; 65536]))
            .await
            .unwrap();
    }
    target.finalize().await.unwrap();
    drop(target);
    let checked = qemu_img(&room, "check -f qcow2 {}/image");
    assert!(checked.contains("No errors were found"), "{checked}");
    for (at, byte) in places.iter().zip(1..) {
        let read = format!("read -P {byte} {at} 65536");
        let told = run(
            "qemu-io",
            ["-r", "-f", "qcow2", "-c", &read, path.to_str().unwrap()],
        );
        assert!(!told.contains("verification failed"), "{told}");
    }
}

#[test]
fn a_huge_disk_with_little_in_it_makes_a_small_image() {
    let room = Room::new();
    qemu_img(&room, "create -q -f qcow2 {}/huge 8T");
    run(
        "qemu-io",
        [
            "-f",
            "qcow2",
            "-c",
            "write -P 3 7T 64k",
            &room.path("huge").display().to_string(),
        ],
    );
    room.diskferry(["copy", "huge", "image", "-O", "qcow2"])
        .ok();
    qemu_img(&room, "compare -s {}/huge {}/image");
    let stat = fs::metadata(room.path("image")).unwrap();
    assert!(
        stat.len() < 2 << 20 && stat.blocks() * 512 < 2 << 20,
        "{}",
        stat.len()
    );
}

#[test]
fn a_compressed_image_is_no_larger_than_that_of_qemu() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), 16 << 20);
    for (how, kind) in [("zlib", "zlib"), ("zstd", "zstd")] {
        let line =
            format!("convert -c -f raw -O qcow2 -o compression_type={kind} {{}}/disk {{}}/theirs");
        qemu_img(&room, &line);
        room.diskferry([
            "copy",
            "disk",
            "ours",
            "-O",
            "qcow2",
            "--compress",
            how,
            "--overwrite",
        ])
        .ok();
        assert_whole(&room, "disk", "ours");
        let size = |name: &str| fs::metadata(room.path(name)).unwrap().len();
        // Ours ends with a whole cluster.
        let (ours, theirs) = (size("ours"), size("theirs").next_multiple_of(64 << 10));
        assert!(ours <= theirs, "{how}: {ours} {theirs}");
    }
}

#[test]
fn a_copy_that_is_killed_leaves_no_image_and_the_next_one_makes_it_whole() {
    let room = Room::new();
    random_disk(&room.path("disk"), 64 << 20, 5);
    for stop in [0, 30, 200] {
        let args = ["copy", "disk", "image", "-O", "qcow2", "--rate", "50M"];
        let running = room.start(args);
        thread::sleep(Duration::from_millis(stop));
        running.kill();
        assert!(!room.path("image").exists(), "killed after {stop} ms");
    }
    room.diskferry(["copy", "disk", "image", "-O", "qcow2"])
        .ok();
    assert_whole(&room, "disk", "image");
    assert!(!room.path(".image.partial").exists());
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is_there() {
    let room = Room::new();
    random_disk(&room.path("disk"), 1 << 20, 5);
    fs::write(room.path("there"), "something").unwrap();
    for (args, code, said) in [
        ("disk there -O qcow2", 4, "exists"),
        ("disk - -O qcow2", 1, "no regular file"),
        ("disk nbd://localhost/x -O qcow2", 1, "no regular file"),
        (
            "disk image -O qcow2 --cluster-size 3k",
            2,
            "no clusters of 3072",
        ),
        (
            "disk image -O qcow2 --cluster-size 4M",
            2,
            "no clusters of 4194304",
        ),
        (
            "disk image -O qcow2 --compress zlib --cluster-size 2M",
            1,
            "compressed clusters",
        ),
        (
            "disk image -O qcow2 --compress zlib --preallocation metadata",
            2,
            "in advance",
        ),
        ("- image -O qcow2", 1, "no size"),
        (
            "disk image -O qcow2 --changes-since nbd-bitmap:b",
            1,
            "delta",
        ),
        ("disk image -O vdi", 1, "vdi"),
    ] {
        let args = ["copy"].into_iter().chain(args.split(' '));
        room.diskferry(args).fails(code, &[said]);
        assert!(!room.path("image").exists() && !room.path(".image.partial").exists());
    }
    assert_eq!(fs::read(room.path("there")).unwrap(), b"something");
}

#[test]
fn an_image_becomes_another_image_and_a_disk_again() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), ODD);
    qemu_img(&room, "convert -c -f raw -O qcow2 {}/disk {}/a");
    room.diskferry(["copy", "a", "b", "-O", "qcow2", "--compress", "zstd"])
        .ok();
    room.diskferry(["copy", "b", "c", "-O", "qcow2", "--cluster-size", "4k"])
        .ok();
    room.diskferry(["copy", "c", "d", "--no-journal"]).ok();
    assert_same_bytes(&room.path("disk"), &room.path("d"));
}
