//! Web servers that do not have it, do not give it, or say one thing and do another: one line, an
//! exit code, and the same copy done right succeeds afterwards.

use super::{FAILED, REFUSED, SIZE, copy, web};
use crate::rig::{LoopDevice, Proxy, Room, To, Web, assert_same_bytes, random_disk, run};
use std::fs::{self, File};
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

/// The copy done right, and nothing is left of what went wrong before.
#[track_caller]
fn succeeds(room: &Room, web: &Web) {
    let target = room.path("copy");
    assert!(!target.exists(), "it has the name of a disk that is whole");
    room.diskferry(copy(&web.url("disk"), &target, &[])).ok();
    assert_same_bytes(&web.file("disk"), &target);
}

/// A server that gives the object, whose every rule makes some answer to it wrong.
const WRONG: &str = r#"
    location = /forbidden { deny all; }
    location = /round { return 302 /round; }
    location = /down { return 302 http://127.0.0.1:1/; }
    location = /file { return 302 file:///etc/passwd; }
    location = /busy { return 503; }
    location = /packed {
        gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
        add_header Content-Encoding gzip;
        alias $DIR/files/disk;
    }
    location = /other {
        proxy_pass http://127.0.0.1:$PORT/disk;
        proxy_hide_header Content-Range;
        add_header Content-Range "bytes 0-0/25165824";
    }
    location = /nonsense {
        proxy_pass http://127.0.0.1:$PORT/disk;
        proxy_hide_header Content-Range;
        add_header Content-Range "bytes=all";
    }
"#;

#[test]
fn a_server_that_answers_wrongly() {
    let (room, web) = web(WRONG);
    let target = room.path("copy");
    for (name, code, parts) in [
        (
            "nothing",
            FAILED,
            &["open http://127.0.0.1", "404 Not Found"][..],
        ),
        ("forbidden", REFUSED, &["403 Forbidden"]),
        ("round", FAILED, &["redirects"]),
        ("down", FAILED, &["connect to 127.0.0.1:1", "refused"]),
        ("file", REFUSED, &["no web server"]),
        ("busy", FAILED, &["503"]),
        ("packed", FAILED, &["gzip", "Content-Encoding"]),
        ("other", FAILED, &["other bytes than were asked for"]),
        ("nonsense", FAILED, &["Content-Range", "bytes=all"]),
    ] {
        let url = web.url(name);
        room.diskferry(copy(&url, &target, &[])).fails(code, parts);
        assert!(!target.exists(), "{name}");
    }
    let url = web.https("forbidden");
    room.diskferry(copy(&url, &target, &[]))
        .fails(REFUSED, &["TLS"]);
    succeeds(&room, &web);
}

#[test]
fn an_address_with_nobody_behind_it() {
    let (room, web) = web("");
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let target = room.path("copy");
    let url = format!("http://{nobody}/disk");
    room.diskferry(copy(&url, &target, &[]))
        .fails(FAILED, &[&nobody.to_string(), "refused"]);
    for (url, part) in [("http://", "URL"), ("http://a b/", "URL")] {
        room.diskferry(copy(url, &target, &[])).fails(2, &[part]);
    }
    succeeds(&room, &web);
}

#[test]
fn a_server_that_says_nothing() {
    let (room, web) = web("");
    let wire = Proxy::tcp(To::Tcp(web.port()));
    let url = format!("http://127.0.0.1:{}/disk", wire.port());
    let target = room.path("copy");
    wire.stall();
    let more = ["--retry", "1", "--http-timeout", "1"];
    room.diskferry(copy(&url, &target, &more))
        .fails(FAILED, &["nothing for 1 s"]);
    succeeds(&room, &web);
}

#[test]
fn a_server_that_falls_silent_in_the_middle() {
    let (room, web) = web("");
    let wire = Proxy::tcp(To::Tcp(web.port()));
    let url = format!("http://127.0.0.1:{}/disk", wire.port());
    let device = LoopDevice::new(SIZE, 512);
    let more = ["--retry", "1", "--http-timeout", "1", "--no-journal"];
    wire.cut_after(9 << 20);
    room.diskferry(copy(&url, device.path(), &more))
        .fails(FAILED, &["read http://127.0.0.1", "offset"]);
    wire.mend();
    room.diskferry(copy(&url, device.path(), &["--overwrite"]))
        .ok();
    assert_same_bytes(&web.file("disk"), device.path());
}

#[test]
fn an_object_that_changes_during_the_copy_is_never_mixed() {
    let (room, web) = web("");
    let (url, device) = (web.url("disk"), LoopDevice::new(SIZE, 512));
    let running = room.start(copy(&url, device.path(), &["--rate", "6M"]));
    while web.served().len() < 6 {
        sleep(Duration::from_millis(20));
    }
    // As a good publisher does it: another file under the same name.
    random_disk(&web.file("new"), SIZE, 53);
    sleep(Duration::from_millis(1100));
    run("touch", [web.file("new")]);
    fs::rename(web.file("new"), web.file("disk")).unwrap();
    running
        .wait()
        .fails(FAILED, &["changed while it was read", "ETag", "--restart"]);
    room.diskferry(copy(&url, device.path(), &["--restart", "--overwrite"]))
        .ok();
    assert_same_bytes(&web.file("disk"), device.path());
}

#[test]
fn an_object_that_is_cut_off_during_the_copy() {
    let (room, web) = web("");
    let (url, device) = (web.url("disk"), LoopDevice::new(SIZE, 512));
    let running = room.start(copy(&url, device.path(), &["--rate", "6M"]));
    while web.served().len() < 6 {
        sleep(Duration::from_millis(20));
    }
    let file = File::options().write(true).open(web.file("disk")).unwrap();
    file.set_len(SIZE / 2).unwrap();
    running.wait().fails(FAILED, &["changed while it was read"]);
}

#[test]
fn an_image_that_can_only_be_had_as_a_whole() {
    let (room, web) = web("location = /q { max_ranges 0; alias $DIR/files/disk.qcow2; }");
    let image = web.file("disk.qcow2").display().to_string();
    run("qemu-img", ["create", "-q", "-f", "qcow2", &image, "1M"]);
    let url = web.url("q");
    room.diskferry(copy(&url, &room.path("copy"), &[]))
        .fails(FAILED, &["no parts", "Range", "--scratch"]);
    room.diskferry(["inspect", &url])
        .fails(FAILED, &["no parts", "Range"]);
    succeeds(&room, &web);
}

#[test]
fn a_stream_that_breaks_off_is_no_disk() {
    let (room, web) = web("location = /whole { max_ranges 0; alias $DIR/files/disk; }");
    let disk = web.file("disk").display().to_string();
    run("gzip", ["-1", "-k", &disk]);
    let cut = File::options()
        .write(true)
        .open(web.file("disk.gz"))
        .unwrap();
    cut.set_len(SIZE / 2).unwrap();
    let target = room.path("copy");
    room.diskferry(copy(&web.url("disk.gz"), &target, &[]))
        .fails(FAILED, &["disk.gz"]);
    assert!(!target.exists());
    let wire = Proxy::tcp(To::Tcp(web.port()));
    wire.break_off(u64::MAX, 5 << 20);
    let url = format!("http://127.0.0.1:{}/whole", wire.port());
    room.diskferry(copy(&url, &target, &["--retry", "0"]))
        .fails(FAILED, &["read http://127.0.0.1", "offset"]);
    succeeds(&room, &web);
}
