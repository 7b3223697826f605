//! Fixed VHD images that are written: sound and equal by qemu-img and by another reader, or not
//! there.

use super::formats::{by_another, mixed_disk};
use super::qcow2::qemu_img;
use crate::rig::{Room, assert_same_bytes};
use diskferry::target::Target;
use diskferry::target::vhd::{VhdOptions, VhdTarget};
use diskferry::testkit::check_target;
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn an_image_holds_the_disk_whatever_its_size_and_however_it_is_cut() {
    let room = Room::new();
    for size in [512, 3 << 20, (9 << 20) + 3 * 512, (9 << 20) + 700] {
        mixed_disk(&room.path("disk"), size, size);
        for options in [
            "",
            "--no-extents -R 3 --request-size 64k --verify",
            "--allocated",
        ] {
            let mut args = vec!["copy", "disk", "image.vhd", "-O", "vhd", "--overwrite"];
            args.extend(options.split_whitespace());
            room.diskferry(args).ok();
            let told = qemu_img(&room, "info -f vpc {}/image.vhd");
            let whole = size.next_multiple_of(512);
            assert!(told.contains(&format!("({whole} bytes)")), "{told}");
            qemu_img(&room, "compare -f raw -F vpc {}/disk {}/image.vhd");
            room.diskferry(["compare", "disk", "image.vhd"]).ok();
            let other = by_another(&room, "vhd", "image.vhd", "other");
            if size == whole {
                assert_same_bytes(&room.path("disk"), &other);
            }
        }
    }
}

#[test]
fn the_footer_is_like_that_of_qemu() {
    let room = Room::new();
    fs::File::create(room.path("disk"))
        .unwrap()
        .set_len(5 << 30)
        .unwrap();
    room.diskferry(["copy", "disk", "image.vhd", "-O", "vpc"])
        .ok();
    let meta = fs::metadata(room.path("image.vhd")).unwrap();
    assert!(meta.blocks() < 64, "holes take nothing: {}", meta.blocks());
    qemu_img(
        &room,
        "create -q -f vpc -o subformat=fixed,force_size=on {}/theirs.vhd 5G",
    );
    let footer = |name: &str| {
        let mut file = fs::File::open(room.path(name)).unwrap();
        let mut bytes = vec![0; 512];
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(-512)).unwrap();
        std::io::Read::read_exact(&mut file, &mut bytes).unwrap();
        // When and by which version it was made, the sum of all, and its name.
        [24..28, 64..84]
            .into_iter()
            .for_each(|part| bytes[part].fill(0));
        bytes
    };
    assert_eq!(footer("image.vhd"), footer("theirs.vhd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_keeps_the_contract_of_targets_and_is_sound_after_all_that() {
    let room = Room::new();
    for size in [8 << 20, (5 << 20) + 1536] {
        let options = VhdOptions {
            size,
            overwrite: true,
        };
        let target = VhdTarget::create(&room.path("image.vhd"), options)
            .await
            .unwrap();
        assert_eq!(check_target(&target, size).await, Ok(()), "{size}");
        target.finalize().await.unwrap();
        drop(target);
        room.diskferry(["inspect", "-f", "vhd", "image.vhd"]).ok();
    }
}

#[test]
fn a_disk_that_is_too_large_is_refused_and_what_is_cut_short_leaves_nothing() {
    let room = Room::new();
    let huge = fs::File::create(room.path("huge")).unwrap();
    huge.set_len((2040 << 30) + 512).unwrap();
    room.diskferry(["copy", "huge", "image.vhd", "-O", "vhd"])
        .fails(1, &["2040 GiB", "vhdx"]);
    mixed_disk(&room.path("disk"), 40 << 20, 1);
    let copy = room.start(["copy", "disk", "image.vhd", "-O", "vhd", "--rate", "4M"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    copy.signal(rustix::process::Signal::INT);
    copy.wait().exits(5);
    assert!(!room.path("image.vhd").exists());
    assert!(!room.path(".image.vhd.partial").exists());
}
