//! Whatever qemu can make reads as qemu reads it.

use super::{assert_reads_as_qemu_does, copy, mixed_disk, qemu_img, qemu_io};
use crate::rig::{Room, assert_same_bytes};
use diskferry::testkit::image::{MemFiles, check_image};
use std::fs;

/// Bytes of a disk that ends in the middle of a cluster of any size.
const ODD: usize = (5 << 20) + 3 * 512;

#[test]
fn every_cluster_size_version_and_compression_reads_as_it_was_written() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), ODD);
    let kinds = [
        "cluster_size=512",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=4k,compat=0.10",
        "cluster_size=64k,compat=0.10",
        "cluster_size=64k,refcount_bits=64",
        "cluster_size=2M",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=128k,extended_l2=on",
        "cluster_size=2M,extended_l2=on",
        "cluster_size=64k,preallocation=metadata",
        "cluster_size=64k,lazy_refcounts=on",
        "cluster_size=4k,compression_type=zstd",
    ];
    for kind in kinds {
        for packed in ["", "-c"] {
            if packed == "-c" && kind.contains("preallocation") {
                continue;
            }
            let line = format!("convert {packed} -f raw -O qcow2 -o {kind} {{}}/disk {{}}/image");
            qemu_img(&room, &line);
            let ours = assert_reads_as_qemu_does(&room, "image", &[]);
            assert_same_bytes(&room.path("disk"), &ours);
        }
    }
}

/// All of the contract, not only what a copy happens to ask.
#[tokio::test]
async fn images_keep_the_contract_of_images() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), ODD);
    let expected = fs::read(room.path("disk")).unwrap();
    for (packed, kind) in [
        ("", "cluster_size=4k"),
        ("-c", "cluster_size=64k"),
        ("-c", "compression_type=zstd"),
        ("", "extended_l2=on,cluster_size=16k"),
    ] {
        let line = format!("convert {packed} -f raw -O qcow2 -o {kind} {{}}/disk {{}}/image");
        qemu_img(&room, &line);
        let files = MemFiles::default().with("image", &fs::read(room.path("image")).unwrap());
        let image = files.image("qcow2", "image").await.unwrap();
        assert_eq!(
            check_image(image.as_ref(), &expected).await,
            Ok(()),
            "{kind}"
        );
    }
}

#[test]
fn subclusters_are_told_apart() {
    let room = Room::new();
    mixed_disk(&room.path("base"), 1 << 20);
    qemu_img(
        &room,
        "create -q -f qcow2 -o extended_l2=on,cluster_size=64k -F raw -b {}/base {}/image",
    );
    let commands = [
        "write -P 1 2k 2k",
        "write -P 2 70k 1k",
        "write -z 10k 4k",
        "write -z 128k 64k",
        "write -P 3 200k 100k",
        "write -z 202k 2k",
    ];
    qemu_io(&room, "-f qcow2 {}/image", &commands);
    assert_reads_as_qemu_does(&room, "image", &[]);
}

#[test]
fn a_chain_of_three_with_other_clusters_and_shorter_parents_reads_through() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), 3 << 20);
    qemu_img(
        &room,
        "convert -c -f raw -O qcow2 -o cluster_size=64k {}/disk {}/base",
    );
    qemu_img(
        &room,
        "create -q -f qcow2 -o cluster_size=512 -F qcow2 -b base {}/middle 5M",
    );
    qemu_io(
        &room,
        "-f qcow2 {}/middle",
        &["write -P 5 2900k 300k", "write -z 1M 5k"],
    );
    qemu_img(
        &room,
        "create -q -f qcow2 -o cluster_size=2M,compression_type=zstd -F qcow2 -b middle {}/image 8M",
    );
    qemu_io(
        &room,
        "-f qcow2 {}/image",
        &["write -P 6 100k 1k", "write -P 7 7M 1k"],
    );
    assert_reads_as_qemu_does(&room, "image", &[]);
    let told = room.diskferry(["inspect", "image"]).ok().stdout;
    for part in [
        "(qcow2)",
        "backing_file middle",
        "backing_file base",
        "zstd",
    ] {
        assert!(told.contains(part), "{part} is missing from:\n{told}");
    }
}

#[test]
fn a_parent_of_another_directory_is_opened_only_if_that_is_allowed() {
    let room = Room::new();
    fs::create_dir(room.path("vm")).unwrap();
    mixed_disk(&room.path("base"), 1 << 20);
    qemu_img(&room, "create -q -f qcow2 -F raw -b ../base {}/vm/image");
    room.diskferry(["copy", "vm/image", "ours.raw", "--no-journal"])
        .fails(4, &["base", "outside", "--allow-backing"]);
    let allowed = room.path("").display().to_string();
    assert_reads_as_qemu_does(&room, "vm/image", &["--allow-backing", &allowed]);
}

#[test]
fn an_external_data_file_is_read_where_the_image_says() {
    for raw in ["on", "off"] {
        let room = Room::new();
        let line =
            format!("create -q -f qcow2 -o data_file={{}}/data,data_file_raw={raw} {{}}/image 3M");
        qemu_img(&room, &line);
        let commands = ["write -P 8 0 70k", "write -P 9 1M 300k", "write -z 1M 128k"];
        qemu_io(&room, "-f qcow2 {}/image", &commands);
        assert_reads_as_qemu_does(&room, "image", &[]);
    }
}

#[test]
fn a_snapshot_inside_reads_as_the_disk_was() {
    let room = Room::new();
    mixed_disk(&room.path("disk"), 2 << 20);
    qemu_img(&room, "convert -f raw -O qcow2 {}/disk {}/image");
    qemu_img(&room, "snapshot -c before {}/image");
    qemu_io(
        &room,
        "-f qcow2 {}/image",
        &["write -P 1 0 500k", "write -z 1M 200k"],
    );
    qemu_img(&room, "snapshot -c after {}/image");
    qemu_img(&room, "resize -q {}/image 3M");
    qemu_io(&room, "-f qcow2 {}/image", &["write -P 2 2M 1M"]);
    for wanted in ["before", "1"] {
        let _ = fs::remove_file(room.path("ours.raw"));
        copy(&room, "image", &["--snapshot", wanted]);
        assert_eq!(fs::metadata(room.path("ours.raw")).unwrap().len(), 2 << 20);
        assert_same_bytes(&room.path("disk"), &room.path("ours.raw"));
    }
    assert_reads_as_qemu_does(&room, "image", &[]);
    let words = ["compare", "--strict", "-F", "raw", "image", "disk"];
    room.diskferry(words.into_iter().chain(["--snapshot", "before"]))
        .ok();
    room.diskferry(words).exits(3);
    room.diskferry([
        "compare",
        "-f",
        "raw",
        "disk",
        "image",
        "--target-snapshot",
        "1",
    ])
    .ok();
    room.diskferry(["copy", "image", "x", "--snapshot", "never"])
        .fails(2, &["no snapshot", "before, after"]);
    let told = room.diskferry(["--json", "inspect", "image"]).ok().events();
    let told = &told[0]["image"]["details"]["snapshots"];
    assert_eq!(told[0]["name"], "before", "{told}");
    assert_eq!(told[1]["virtual_size"], 2 << 20, "{told}");
}

#[test]
fn bitmaps_are_listed_and_a_dirty_image_is_read() {
    let room = Room::new();
    qemu_img(&room, "create -q -f qcow2 -o lazy_refcounts=on {}/image 4M");
    qemu_img(&room, "bitmap --add -g 128k {}/image monday");
    qemu_img(&room, "bitmap --add {}/image tuesday");
    let told = room.diskferry(["--json", "inspect", "image"]).ok().events();
    let told = &told[0]["image"]["details"]["bitmaps"];
    assert_eq!(told[0]["name"], "monday", "{told}");
    assert_eq!(told[0]["granularity"], 128 << 10, "{told}");
    // As a crash leaves it: refcounts are to be rebuilt before the next write.
    qemu_io(&room, "-f qcow2 {}/image", &["write -P 4 1M 64k"]);
    let mut bytes = fs::read(room.path("image")).unwrap();
    bytes[79] |= 1;
    fs::write(room.path("image"), bytes).unwrap();
    let told = room.diskferry(["inspect", "image"]).ok().stdout;
    assert!(told.contains("not closed in good order"), "{told}");
    copy(&room, "image", &[]);
    let copied = fs::read(room.path("ours.raw")).unwrap();
    assert!(copied[1 << 20..][..64 << 10].iter().all(|byte| *byte == 4));
}

#[test]
fn a_huge_sparse_image_is_mapped_in_no_time() {
    let room = Room::new();
    qemu_img(&room, "create -q -f qcow2 -o cluster_size=64k {}/image 64T");
    qemu_io(&room, "-f qcow2 {}/image", &["write -P 3 60T 64k"]);
    let told = room.diskferry(["--json", "map", "image"]).ok().stdout;
    assert!(told.contains("65970697666560"), "{told}");
}
