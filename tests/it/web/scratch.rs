//! The importer pod for images that need scratch space: the first pod asks for it, the second has it.

use super::pod::{DONE, Pod};
use crate::formats::{convert, mixed_disk};
use crate::importer_pod::scrape_at;
use crate::rig::{Proxy, Room, Running, To, Web, assert_same_bytes, free_port, give_to_pod, run};
use crate::targets::Mounted;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const SIZE: u64 = 12 << 20;

/// What the controller knows as a wish for scratch space.
const SCRATCH: &str =
    r#"{"scratchSpaceRequired":true,"preallocationApplied":false,"message":"Import Complete"}"#;

/// A disk, images of it that must be read here and there, and a server that gives `/whole/` in no
/// parts, nor `/dripping/`, of which it does not say how long it is.
fn images() -> (Room, Web) {
    let room = Room::new();
    let web = Web::with(
        "location /whole/ { max_ranges 0; alias $DIR/files/; } \
         location /dripping/ { ssi on; ssi_types *; alias $DIR/files/; }",
    );
    mixed_disk(&room.path("raw"), SIZE, 61);
    for (format, how, packer) in [
        ("qcow2", &["-c"][..], "gzip"),
        ("vhdx", &[], "xz"),
        ("vmdk", &["-o", "subformat=monolithicSparse"], "gzip"),
    ] {
        let name = format!("disk.{format}");
        convert(&room, format, how, "raw", &name);
        fs::copy(room.path(&name), web.file(&name)).unwrap();
        run(packer, ["-k", "-1", &web.file(&name).display().to_string()]);
    }
    (room, web)
}

#[track_caller]
fn assert_empty(dir: &Path) {
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "{}", dir.display());
}

#[test]
fn scratch_space_is_asked_for_and_used_when_it_is_there() {
    let (room, web) = images();
    for (name, on_device) in [
        ("disk.qcow2.gz", true),
        ("disk.vhdx.xz", false),
        ("whole/disk.qcow2", false),
        ("whole/disk.vmdk.gz", true),
    ] {
        let pod = match on_device {
            true => Pod::with_device(SIZE),
            false => Pod::new(),
        };
        let url = web.url(name);
        assert_eq!(pod.import(0, "http", &url, &[]), SCRATCH, "{name}");
        match on_device {
            true => assert_eq!(fs::read(pod.disk()).unwrap()[..4], [0xee; 4]),
            false => assert!(!pod.disk().exists()),
        }
        let scratch = pod.room.path("scratch");
        fs::create_dir(&scratch).unwrap();
        give_to_pod(&scratch);
        assert_eq!(pod.import(0, "http", &url, &[]), DONE, "{name}");
        assert_same_bytes(&room.path("raw"), &pod.disk());
        assert_empty(&scratch);
    }
}

#[test]
fn a_volume_with_scratch_space_is_checked_like_any() {
    let (_room, web) = images();
    let pod = Pod::with_device(SIZE - (1 << 20));
    fs::create_dir(pod.room.path("scratch")).unwrap();
    give_to_pod(&pod.room.path("scratch"));
    let message = pod.import(1, "http", &web.url("disk.qcow2.gz"), &[]);
    let line = "Unable to process data: virtual image size 12582912 is larger than the reported available storage";
    assert!(message.starts_with(line), "{message}");
    assert_eq!(fs::read(pod.disk()).unwrap()[..4], [0xee; 4]);
    // What needs none does not touch it; with a journal or a proof it does.
    let pod = Pod::new();
    run(
        "xz",
        ["-k", "-1", &web.file("disk.qcow2.gz").display().to_string()],
    );
    let more = [("DISKFERRY_VERIFY", "true")];
    let url = web.url("disk.qcow2.gz.xz");
    assert_eq!(pod.import(0, "http", &url, &more), SCRATCH);
    let scratch = pod.room.path("scratch");
    fs::create_dir(&scratch).unwrap();
    give_to_pod(&scratch);
    let journal = pod.room.path("data/.journal").display().to_string();
    let more = [
        ("DISKFERRY_VERIFY", "true"),
        ("DISKFERRY_JOURNAL", &journal),
    ];
    assert_eq!(pod.import(0, "http", &url, &more), DONE);
    assert_eq!(pod.import(0, "http", &url, &more), DONE, "it was complete");
}

#[test]
fn what_is_wrong_with_an_image_in_scratch_space_is_told_as_the_original_does() {
    let (_room, web) = images();
    let pod = Pod::new();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs"]);
    symlink(small.path(""), pod.room.path("scratch")).unwrap();
    let url = web.url("disk.qcow2.gz");
    let message = pod.import(1, "http", &url, &[]);
    assert!(
        message.starts_with("Unable to process data: unpack http"),
        "{message}"
    );
    assert!(message.contains("no space left on device"), "{message}");
    assert_empty(&small.path(""));
    fs::remove_file(pod.room.path("scratch")).unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    let more = [("IMPORTER_CHECKSUM", wrong.as_str())];
    assert_eq!(pod.import(0, "http", &url, &more), SCRATCH);
    let scratch = pod.room.path("scratch");
    fs::create_dir(&scratch).unwrap();
    give_to_pod(&scratch);
    let message = pod.import(0, "http", &url, &more);
    let start = r#"{"message":"Unable to process data: "#;
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains("checksum mismatch: expected"), "{message}");
    assert!(!pod.disk().exists());
    assert_empty(&scratch);
    let line = run("sha256sum", [web.file("disk.qcow2.gz")]);
    let right = format!("sha256:{}", line.split(' ').next().unwrap());
    let more = [("IMPORTER_CHECKSUM", right.as_str())];
    assert_eq!(pod.import(0, "http", &url, &more), DONE);
}

/// What a pod tells of its progress while a server stops in the middle of what it sends, the furthest
/// of it; the pod ends well after that.
fn progress_in_the_middle(pod: &Pod, web: &Web, name: &str) -> f64 {
    let port = free_port();
    let wire = Proxy::tcp(To::Tcp(web.port()));
    wire.delay(Duration::from_millis(2));
    let all = fs::metadata(web.file(Path::new(name).file_name().unwrap().to_str().unwrap()));
    let half = all.unwrap().len() / 2;
    let (url, metrics) = (
        format!("http://127.0.0.1:{}/{name}", wire.port()),
        format!("127.0.0.1:{port}"),
    );
    let running = Running::start(pod.command("http", &url, &[("DISKFERRY_METRICS", &metrics)]));
    // It is looked at before it is read, which may be by another connection.
    while wire.passed() < half {
        sleep(Duration::from_millis(1));
    }
    wire.stall();
    let mut reached = vec![scrape_at(port, "u")];
    // What is on its way still comes.
    while reached.len() < 3 || reached[reached.len() - 2] != reached[reached.len() - 1] {
        sleep(Duration::from_millis(100));
        reached.push(scrape_at(port, "u"));
    }
    assert!(reached.is_sorted(), "{reached:?}");
    wire.mend();
    running.wait().exits(0);
    let message = fs::read_to_string(pod.room.path("dev/termination-log")).unwrap();
    assert_eq!(message, DONE);
    reached[reached.len() - 1]
}

#[test]
fn what_comes_into_scratch_space_is_the_first_half_of_an_import() {
    let (room, web) = images();
    run(
        "gzip",
        ["-k", "-1", &room.path("raw").display().to_string()],
    );
    fs::copy(room.path("raw.gz"), web.file("raw.gz")).unwrap();
    // Without a length, nobody knows how much of it came.
    for (name, some) in [
        ("whole/disk.qcow2", 5.0..50.0),
        ("whole/disk.vmdk.gz", 5.0..50.0),
        ("dripping/disk.qcow2", 0.0..0.01),
        ("whole/raw.gz", 20.0..99.0),
    ] {
        let pod = Pod::new();
        fs::create_dir(pod.room.path("scratch")).unwrap();
        give_to_pod(&pod.room.path("scratch"));
        let reached = progress_in_the_middle(&pod, &web, name);
        assert!(some.contains(&reached), "{name}: {reached}");
        assert_same_bytes(&room.path("raw"), &pod.disk());
    }
}

#[test]
fn a_server_that_hangs_up_is_asked_again_and_one_that_always_does_is_told_of() {
    let (room, web) = images();
    let pod = Pod::new();
    let scratch = pod.room.path("scratch");
    fs::create_dir(&scratch).unwrap();
    give_to_pod(&scratch);
    let wire = Proxy::tcp(To::Tcp(web.port()));
    let url = format!("http://127.0.0.1:{}/whole/disk.qcow2", wire.port());
    let more = [("DISKFERRY_RETRY", "3")];
    wire.break_off(u64::MAX, 2 << 20);
    let message = pod.import(1, "http", &url, &more);
    let line = "Unable to process data: read http://127.0.0.1";
    assert!(message.starts_with(line), "{message}");
    assert!(message.contains("the answer broke off"), "{message}");
    assert!(!pod.disk().exists());
    wire.break_off(2, 2 << 20);
    assert_eq!(pod.import(0, "http", &url, &more), DONE);
    assert_same_bytes(&room.path("raw"), &pod.disk());
    assert_empty(&scratch);
    // One that is copied as it comes too, where it becomes a new file.
    run(
        "gzip",
        ["-k", "-1", &room.path("raw").display().to_string()],
    );
    fs::copy(room.path("raw.gz"), web.file("raw.gz")).unwrap();
    let url = format!("http://127.0.0.1:{}/whole/raw.gz", wire.port());
    for (pod, code) in [(Pod::new(), 0), (Pod::with_device(SIZE), 1)] {
        // The first connection is for a look.
        wire.break_off(3, 2 << 20);
        let message = pod.import(code, "http", &url, &more);
        assert_eq!(message == DONE, code == 0, "{message}");
    }
    wire.break_off(0, 0);
    let device = Pod::with_device(SIZE);
    assert_eq!(device.import(0, "http", &url, &more), DONE);
}
