//! What is copied from a web server, and how it is asked.

use super::{MISMATCH, REFUSED, SIZE, copy, web};
use crate::rig::{
    LoopDevice, Proxy, Room, Running, To, Web, assert_same_bytes, random_disk, run, scrambled_disk,
};
use diskferry::nbd::client::Retry;
use diskferry::source::Source;
use diskferry::source::http::{Access, AsItIs, HttpOptions, HttpSource, Opened, open, parse_url};
use diskferry::testkit::check_source;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_disk_comes_in_parts_over_several_connections() {
    let (room, web) = web("");
    let device = LoopDevice::new(SIZE, 512);
    let url = web.url("disk");
    let outcome = room.diskferry(copy(&url, device.path(), &["--json"])).ok();
    assert_same_bytes(&web.file("disk"), device.path());
    assert_eq!(outcome.event("start")["source"], url.as_str());
    let served = web.served();
    let parts: Vec<_> = served.iter().filter(|it| !it.if_range.is_empty()).collect();
    assert!(parts.len() >= 20, "{served:?}");
    assert!(served.iter().all(|it| it.status == 206), "{served:?}");
    let connections: BTreeSet<_> = parts.iter().map(|it| it.connection).collect();
    assert!(connections.len() > 1, "{connections:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_keeps_the_contract_of_sources_however_many_connections_there_are() {
    let web = Web::new();
    let size = (3 << 20) + 777;
    random_disk(&web.file("disk"), size, 52);
    let expected = fs::read(web.file("disk")).unwrap();
    for connections in [1, 8] {
        let retried = Arc::new(AtomicU64::new(0));
        let options = HttpOptions {
            access: Access::default(),
            connections,
            retry: Retry::never(),
            retried,
        };
        let url = parse_url(&web.url("disk")).unwrap();
        let Opened::InParts(source) = open(Arc::new(AsItIs(url)), &options).await.unwrap() else {
            panic!("nginx gives parts");
        };
        let source: HttpSource = source;
        assert_eq!(source.size(), size);
        assert_eq!(check_source(&source, &expected).await, Ok(()));
    }
}

#[test]
fn every_command_reads_an_image_on_a_web_server() {
    let (room, web) = (Room::new(), Web::new());
    scrambled_disk(&room.path("raw"), 16 << 20);
    let raw = room.path("raw").display().to_string();
    for (name, more) in [
        ("d.qcow2", &["-c", "-O", "qcow2"][..]),
        ("d.vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("d.vhdx", &["-O", "vhdx"]),
    ] {
        let file = web.file(name).display().to_string();
        run(
            "qemu-img",
            [&["convert", "-f", "raw"], more, &[&raw, &file]].concat(),
        );
        let url = web.url(name);
        let json = |words: &[&str]| -> Value {
            let outcome = room.diskferry(words).ok();
            serde_json::from_str(&outcome.stdout).unwrap()
        };
        let facts = json(&["inspect", "--json", &url]);
        let format = name.strip_prefix("d.").unwrap();
        assert_eq!(facts["image"]["format"], format, "{facts}");
        let map = json(&["map", "--json", &url]);
        assert_eq!(map, json(&["map", "--json", &file]));
        let sum = |disk: &str| room.diskferry(["checksum", disk]).ok().stdout;
        let words = |line: String| line.split(' ').next().unwrap().to_owned();
        assert_eq!(words(sum(&url)), words(sum(&raw)));
        room.diskferry(["compare", &url, &raw, "-F", "raw"]).ok();
        let target = room.path(&format!("{name}.raw"));
        room.diskferry(copy(&url, &target, &["--verify"])).ok();
        assert_same_bytes(&room.path("raw"), &target);
    }
}

#[test]
fn a_certificate_is_believed_by_the_authority_that_is_named_and_no_other() {
    let (room, web) = web("");
    let (url, target) = (web.https("disk"), room.path("copy"));
    room.diskferry(copy(&url, &target, &[]))
        .fails(REFUSED, &["start TLS with localhost", "--cacert"]);
    assert!(!target.exists());
    room.diskferry(copy(&url, &target, &["--cacert", &web.cacert()]))
        .ok();
    assert_same_bytes(&web.file("disk"), &target);
}

#[test]
fn a_copy_that_is_killed_goes_on_where_it_was() {
    let (room, web) = web("");
    let (url, device) = (web.url("disk"), LoopDevice::new(SIZE, 512));
    let slow = room.start(copy(&url, device.path(), &["--rate", "8M", "--json"]));
    while !slow.stdout().contains("\"barrier\"") && !slow.stdout().contains("\"progress\"") {
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(1500));
    slow.kill();
    let again = room.diskferry(copy(&url, device.path(), &["--json"])).ok();
    let resumed = again.event("start")["resumed"].as_u64().unwrap();
    assert!(resumed > 0, "nothing was kept");
    assert_same_bytes(&web.file("disk"), device.path());
}

#[test]
fn an_object_that_changed_since_is_not_gone_on_with() {
    let (room, web) = web("");
    let (url, device) = (web.url("disk"), LoopDevice::new(SIZE, 512));
    room.diskferry(copy(&url, device.path(), &[])).ok();
    sleep(Duration::from_millis(1100));
    random_disk(&web.file("disk"), SIZE, 52);
    room.diskferry(copy(&url, device.path(), &[])).fails(
        REFUSED,
        &["changed since it was copied", "ETag", "--restart"],
    );
    room.diskferry(copy(&url, device.path(), &["--restart", "--overwrite"]))
        .ok();
    assert_same_bytes(&web.file("disk"), device.path());
}

#[test]
fn a_network_that_is_cut_in_the_middle_is_waited_for() {
    let (room, web) = web("");
    let wire = Proxy::tcp(To::Tcp(web.port()));
    let url = format!("http://127.0.0.1:{}/disk", wire.port());
    let target = room.path("copy");
    wire.cut_after(5 << 20);
    let running = room.start(copy(&url, &target, &["--retry", "30", "--json"]));
    wire.wait_until_cut();
    sleep(Duration::from_millis(300));
    wire.mend();
    let outcome = running.wait().ok();
    assert_same_bytes(&web.file("disk"), &target);
    let retries = outcome.event("done")["retries"].as_u64().unwrap();
    assert!(retries > 0, "{}", outcome.stdout);
}

#[test]
fn a_checksum_decides_whether_a_copy_is_complete() {
    let (room, web) = web("");
    let (url, target) = (web.url("disk"), room.path("copy"));
    let sum = |program: &str| {
        let line = run(program, [web.file("disk")]);
        line.split(' ').next().unwrap().to_owned()
    };
    let wrong = format!("sha256:{}", "0".repeat(64));
    let outcome = room.diskferry(copy(&url, &target, &["--source-checksum", &wrong]));
    let outcome = outcome.fails(MISMATCH, &["checksum mismatch", &wrong, &sum("sha256sum")]);
    assert!(!outcome.stderr.contains("copied"), "{}", outcome.stderr);
    assert!(!target.exists(), "it has the name of a disk that is whole");
    for (name, program) in [
        ("sha256", "sha256sum"),
        ("sha512", "sha512sum"),
        ("sha1", "sha1sum"),
        ("md5", "md5sum"),
    ] {
        let sum = format!("{name}:{}", sum(program));
        let target = room.path(name);
        room.diskferry(copy(&url, &target, &["--source-checksum", &sum]))
            .ok();
        assert_same_bytes(&web.file("disk"), &target);
    }
}

#[test]
fn a_checksum_is_that_of_the_image_and_not_of_the_disk_in_it() {
    let (room, web) = (Room::new(), Web::new());
    scrambled_disk(&room.path("raw"), 16 << 20);
    let (raw, file) = (room.path("raw"), web.file("d.qcow2"));
    run(
        "qemu-img",
        [
            "convert",
            "-O",
            "qcow2",
            raw.to_str().unwrap(),
            file.to_str().unwrap(),
        ],
    );
    let sum = |path| {
        let line = run("sha256sum", [path]);
        format!("sha256:{}", line.split(' ').next().unwrap())
    };
    let (of_disk, of_image) = (sum(&raw), sum(&file));
    for source in [web.url("d.qcow2"), file.display().to_string()] {
        let device = LoopDevice::new(16 << 20, 512);
        let wrong = ["--source-checksum", &of_disk];
        room.diskferry(copy(&source, device.path(), &wrong))
            .fails(MISMATCH, &["checksum mismatch"]);
        let right = ["--source-checksum", &of_image];
        room.diskferry(copy(&source, device.path(), &right)).ok();
        assert_same_bytes(&raw, device.path());
    }
}

#[test]
fn a_proxy_is_asked_for_what_has_no_tls() {
    let (room, web) = web("");
    let proxy = Web::with("location / { proxy_pass http://$http_host$request_uri; }");
    let target = room.path("copy");
    let url = web.url("disk");
    let run = |except: &str, target| {
        let mut command = room.command(copy(&url, target, &[]));
        let through = format!("http://127.0.0.1:{}", proxy.port());
        command.env("http_proxy", through).env("no_proxy", except);
        Running::start(command).wait().ok();
    };
    run("", &target);
    assert_same_bytes(&web.file("disk"), &target);
    let asked = proxy.served().len();
    assert!(asked > 10, "{asked}");
    run("127.0.0.1", &room.path("again"));
    assert_eq!(proxy.served().len(), asked, "the proxy was asked again");
}

#[test]
fn an_object_that_has_moved_is_followed_and_found_again_when_it_moves_on() {
    let (room, web) = web("location = /moved { return 302 /disk; }");
    let target = room.path("copy");
    let url = web.url("moved");
    room.diskferry(copy(&url, &target, &[])).ok();
    assert_same_bytes(&web.file("disk"), &target);
    let hops = web.served().iter().filter(|it| it.status == 302).count();
    // Once to see what it is, once to read it.
    assert!(hops <= 2, "where it is was not remembered: {hops}");
    assert_eq!(fs::metadata(&target).unwrap().len(), SIZE);
}

#[test]
fn what_is_compressed_or_comes_only_as_a_whole_is_read_forward() {
    let (room, web) = web("location = /whole { max_ranges 0; alias $DIR/files/disk; }");
    let disk = web.file("disk").display().to_string();
    run("gzip", ["-1", "-k", &disk]);
    run("xz", ["-0", "-k", &disk]);
    for name in ["disk.gz", "disk.xz", "whole"] {
        let file = web.file(if name == "whole" { "disk" } else { name });
        let line = run("sha256sum", [file]);
        let sum = format!("sha256:{}", line.split(' ').next().unwrap());
        let wrong = format!("sha256:{}", "0".repeat(64));
        let (url, target) = (web.url(name), room.path(name));
        room.diskferry(copy(&url, &target, &["--source-checksum", &wrong]))
            .fails(MISMATCH, &["checksum mismatch"]);
        assert!(!target.exists(), "{name}");
        room.diskferry(copy(&url, &target, &["--source-checksum", &sum]))
            .ok();
        assert_same_bytes(&web.file("disk"), &target);
    }
    let wrapped = web.served();
    let wrapped = wrapped
        .iter()
        .filter(|it| it.path == "/disk.gz" && it.status == 206);
    assert!(wrapped.count() > 10, "it was not read in parts");
}
