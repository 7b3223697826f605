//! What goes wrong before or during a copy, as people see it: one line, an exit code, and that the
//! same copy done right succeeds afterwards.

use crate::rig::{
    Guest, LoopDevice, Nbdkit, QemuNbd, Qsd, Room, assert_same_bytes, random_disk, run,
    scrambled_disk,
};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

pub(super) const SIZE: u64 = 8 << 20;
pub(super) const FAILED: i32 = 1;
pub(super) const USAGE: i32 = 2;
pub(super) const REFUSED: i32 = 4;

/// A room with a random disk and a server for it.
pub(super) fn room() -> (Room, Nbdkit) {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, SIZE, 41);
    let server = serve(&disk);
    (room, server)
}

pub(super) fn serve(disk: &Path) -> Nbdkit {
    Nbdkit::new(["-r".as_ref(), "file".as_ref(), disk.as_os_str()])
}

pub(super) fn copy<'a>(source: &'a str, target: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["copy", source, target.to_str().unwrap()];
    let patience: &[&str] = if more.contains(&"--retry") {
        &[]
    } else {
        &["--retry", "1"]
    };
    [&fixed[..], patience, more].concat()
}

/// The copy done right, and nothing is left of what went wrong before.
#[track_caller]
pub(super) fn succeeds(room: &Room, server: &Nbdkit, target: &Path, more: &[&str]) {
    room.diskferry(copy(&server.uri(), target, more)).ok();
    assert_same_bytes(&room.path("disk"), target);
}

/// A port of this machine, and what answers there.
fn listening(greeting: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(greeting));
        }
    });
    format!("nbd://{address}/")
}

#[test]
fn a_server_that_is_not_there() {
    let (room, server) = room();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let uri = format!("nbd://{nobody}/");
    let target = room.path("copy");
    room.diskferry(copy(&uri, &target, &[]))
        .fails(FAILED, &[&nobody.to_string(), "refused"]);
    assert!(!target.exists());
    succeeds(&room, &server, &target, &[]);
}

#[test]
fn a_server_that_does_not_speak_nbd() {
    let (room, server) = room();
    let uri = listening(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n");
    let target = room.path("copy");
    room.diskferry(copy(&uri, &target, &[]))
        .fails(FAILED, &["NBD"]);
    succeeds(&room, &server, &target, &[]);
}

#[test]
fn an_export_that_the_server_does_not_have() {
    let (room, server) = room();
    let named = QemuNbd::new(&room.path("disk"), "raw", &["-r", "-x", "right"]);
    let wrong = named.uri().replace("/right?", "/wrong?");
    let target = room.path("copy");
    room.diskferry(copy(&wrong, &target, &[]))
        .fails(FAILED, &["wrong"]);
    succeeds(&room, &server, &target, &[]);
}

#[test]
fn a_server_that_refuses_tls() {
    let (room, server) = room();
    let target = room.path("copy");
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::create_dir(room.path("pki")).unwrap();
    fs::write(room.path("pki/ca-cert.pem"), authority.cert.pem()).unwrap();
    let uri = server.uri().replace("nbd+unix", "nbds+unix");
    let bare = room.diskferry(copy(&uri, &target, &[]));
    bare.fails(USAGE, &["tls-certificates"]);
    let uri = format!("{uri}&tls-certificates={}", room.path("pki").display());
    room.diskferry(copy(&uri, &target, &[]))
        .fails(REFUSED, &["TLS"]);
    assert!(!target.exists());
    succeeds(&room, &server, &target, &[]);
}

#[test]
fn a_device_that_is_too_small() {
    let (room, server) = room();
    let small = LoopDevice::new(SIZE - 4096, 512);
    let sizes = [SIZE.to_string(), (SIZE - 4096).to_string()];
    room.diskferry(copy(&server.uri(), small.path(), &[]))
        .fails(REFUSED, &["too small", &sizes[0], &sizes[1]]);
    let untouched = fs::read(small.backing()).unwrap();
    assert!(untouched.iter().all(|byte| *byte == 0), "it was written to");
    succeeds(&room, &server, LoopDevice::new(SIZE, 512).path(), &[]);
}

#[test]
fn a_device_that_is_too_small_for_a_stream() {
    let room = Room::new();
    random_disk(&room.path("disk"), SIZE, 46);
    let small = LoopDevice::new(SIZE - 4096, 512);
    let [node, sizes] = [
        small.path().display().to_string(),
        format!("has {} bytes", SIZE - 4096),
    ];
    let copy = |stdin: Stdio| {
        let mut command = room.command(["copy", "-", &node]);
        let output = command.stdin(stdin).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    // A file tells its size before.
    let disk = || File::open(room.path("disk")).unwrap();
    let (code, said) = copy(disk().into());
    assert_eq!(code, Some(REFUSED), "{said}");
    for part in [&*node, "too small", &sizes, &SIZE.to_string()] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let untouched = fs::read(small.backing()).unwrap();
    assert!(untouched.iter().all(|byte| *byte == 0), "it was written to");
    // What was read of it before does not count.
    let mut rest = disk();
    rest.seek(SeekFrom::Start(4096)).unwrap();
    let (code, said) = copy(rest.into());
    assert_eq!(code, Some(0), "{said}");

    // A pipe does not: it shows when most of it was written.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let sending = thread::spawn({
        let mut disk = disk();
        move || std::io::copy(&mut disk, &mut writer)
    });
    let (code, said) = copy(reader.into());
    assert_eq!(code, Some(FAILED), "{said}");
    for part in ["standard input", &node, "longer than the target", &sizes] {
        assert!(said.contains(part), "{part}: {said}");
    }
    drop(sending.join());
}

/// As of a program before the pipe that failed at once.
#[test]
fn a_stream_that_ends_before_its_first_byte() {
    let (room, server) = room();
    fs::write(room.path("nothing.gz"), NOTHING_IN_GZIP).unwrap();
    let (device, file) = (LoopDevice::new(SIZE, 512), room.path("copy"));
    for target in [device.path(), &file] {
        // Its standard input is /dev/null.
        for (source, name) in [
            ("-", "standard input"),
            ("/dev/null", "/dev/null"),
            ("nothing.gz", "nothing.gz"),
        ] {
            room.diskferry(copy(source, target, &[]))
                .fails(FAILED, &["read", name, "before its first byte"]);
            assert!(!file.exists(), "a disk of nothing");
        }
        succeeds(&room, &server, target, &[]);
        let _ = fs::remove_file(&file);
    }
}

/// What `gzip` makes of nothing.
const NOTHING_IN_GZIP: [u8; 20] = [
    31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_device_that_another_copy_is_writing() {
    let (room, server) = room();
    let device = LoopDevice::new(SIZE, 512);
    let uri = server.uri();
    let first = room.start(copy(&uri, device.path(), &["--rate", "2M"]));
    thread::sleep(Duration::from_millis(800));
    let journal = room.path("other").display().to_string();
    room.diskferry(copy(&uri, device.path(), &["--journal", &journal]))
        .fails(REFUSED, &["in use"]);
    room.diskferry(copy(&uri, device.path(), &[]))
        .fails(REFUSED, &["journal"]);
    first.kill();
    succeeds(&room, &server, device.path(), &[]);
}

#[test]
fn a_device_that_holds_a_file_system() {
    let (room, server) = room();
    let device = LoopDevice::new(SIZE, 4096);
    run("mkfs.ext4", ["-q".as_ref(), device.path().as_os_str()]);
    room.diskferry(copy(&server.uri(), device.path(), &[]))
        .fails(REFUSED, &["ext", "--overwrite"]);
    succeeds(&room, &server, device.path(), &["--overwrite"]);
}

#[test]
fn a_source_that_shrinks_under_the_copy() {
    let room = Room::new();
    let (disk, target) = (room.path("disk"), room.path("copy"));
    random_disk(&disk, SIZE, 42);
    let path = disk.to_str().unwrap();
    let run = room.start(copy(
        path,
        &target,
        &["--rate", "2M", "--request-size", "64k"],
    ));
    thread::sleep(Duration::from_millis(900));
    OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(SIZE / 2)
        .unwrap();
    run.wait().fails(FAILED, &[path]);
    assert!(!target.exists(), "half a disk looks like a disk");

    let shorter = room.diskferry(copy(path, &target, &[]));
    shorter.fails(REFUSED, &["bytes"]);
    room.diskferry(copy(path, &target, &["--restart"])).ok();
    assert_same_bytes(&disk, &target);
}

#[test]
fn a_server_that_comes_back_with_a_smaller_disk() {
    let (room, mut server) = room();
    let target = room.path("copy");
    let uri = server.uri();
    let run = room.start(copy(&uri, &target, &["--rate", "2M", "--retry", "20"]));
    thread::sleep(Duration::from_millis(900));
    server.crash();
    server.restart(["-r", "memory", "4M"]);
    run.wait().fails(FAILED, &["export changed"]);
    server.crash();
    let disk = format!("file={}", room.path("disk").display());
    server.restart(["-r", "file", &disk]);
    succeeds(&room, &server, &target, &[]);
}

/// A small file system in memory.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let size = format!("size={size}");
        run(
            "mount",
            ["-t", "tmpfs", "-o", &size, "tmpfs", at.to_str().unwrap()],
        );
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_without_space() {
    let (room, server) = room();
    let small = Small::mount(room.path("small"), "3M");
    let target = small.0.join("copy");
    room.diskferry(copy(&server.uri(), &target, &[]))
        .fails(FAILED, &["No space left"]);
    assert!(!target.exists(), "part of a disk looks like a disk");
    run(
        "mount",
        ["-o", "remount,size=32M", small.0.to_str().unwrap()],
    );
    succeeds(&room, &server, &target, &[]);
}

#[test]
fn a_bitmap_that_is_missing_or_of_no_use() {
    let room = Room::new();
    let (disk, target) = (room.path("disk"), room.path("copy"));
    random_disk(&disk, SIZE, 43);
    let mut qsd = Qsd::new(&disk);
    let mut guest = qsd.guest();
    let since = ["--changes-since", "nbd-bitmap:b1"];

    // Before the first pass there is nothing that a delta could build on.
    let view = qsd.freeze("b1", None);
    room.diskferry(copy(&view.uri, &target, &since))
        .fails(REFUSED, &["b1"]);
    room.diskferry(copy(&view.uri, &target, &[])).ok();
    qsd.thaw(view);

    let view = qsd.freeze("b2", Some("b1"));
    let missing = ["--changes-since", "nbd-bitmap:nobody"];
    let outcome = room.diskferry(copy(&view.uri, &target, &missing));
    assert_ne!(
        outcome.code,
        Some(0),
        "a bitmap that is not there was taken for an empty one"
    );
    outcome.fails(REFUSED, &["nobody"]);
    room.diskferry(copy(&view.uri, &target, &since)).ok();
    qsd.thaw(view);

    // A bitmap that was started too late does not know of what changed before it.
    guest.write(0x77, 0, SIZE);
    let gap = qsd.freeze("b3", None);
    let view = qsd.freeze("b4", Some("b3"));
    let late = ["--changes-since", "nbd-bitmap:b3"];
    room.diskferry(copy(&view.uri, &target, &late))
        .fails(REFUSED, &["bitmap", "0x0"]);
    room.diskferry(copy(&view.uri, &target, &["--restart", "--overwrite"]))
        .ok();
    qsd.thaw(view);
    qsd.thaw(gap);
    drop(guest);
    assert_same_bytes(&disk, &target);
}

/// An image whose last user crashed: what changed meanwhile its bitmap does not know, and QEMU offers
/// it to nobody.
#[test]
fn a_bitmap_that_is_inconsistent() {
    let room = Room::new();
    let (disk, image, target) = (room.path("disk"), room.path("image"), room.path("copy"));
    random_disk(&disk, SIZE, 46);
    let [disk_name, name] = [&disk, &image].map(|path| path.to_str().unwrap());
    run("qemu-img", ["convert", "-O", "qcow2", disk_name, name]);
    run("qemu-img", ["bitmap", "--add", name, "b1"]);
    let serve = |more: &[&str]| QemuNbd::new(&image, "qcow2", &[&["-r"], more].concat());
    let since = ["--changes-since", "nbd-bitmap:b1"];
    room.diskferry(copy(&serve(&["-B", "b1"]).uri(), &target, &[]))
        .ok();
    room.diskferry(copy(&serve(&["-B", "b1"]).uri(), &target, &since))
        .ok();

    let mut crashes = QemuNbd::new(&image, "qcow2", &[]);
    Guest::new(&crashes.uri()).write(0x77, 1 << 20, 65536);
    crashes.server().signal(Signal::KILL);
    crashes.server().child().wait().unwrap();
    let before = fs::read(&target).unwrap();

    // Asked for it, the server ends with a word of its own; else it offers none.
    let server = ["[", "qemu-nbd", "-r", "-f", "qcow2", "-B", "b1", name, "]"];
    let words = [&["copy"], &server[..], &[target.to_str().unwrap()], &since].concat();
    let outcome = room.diskferry([&words[..], &["--retry", "1"]].concat());
    assert!(
        outcome.stderr.contains("inconsistent"),
        "{}",
        outcome.stderr
    );
    outcome.fails(FAILED, &["qemu-nbd"]);
    let server = serve(&[]);
    room.diskferry(copy(&server.uri(), &target, &since))
        .fails(REFUSED, &["b1"]);
    assert!(fs::read(&target).unwrap() == before, "it was written to");

    let by_digests = ["--changes-since", "digest"];
    room.diskferry(copy(&server.uri(), &target, &by_digests))
        .ok();
    drop(server);
    run("qemu-img", ["convert", "-O", "raw", name, disk_name]);
    assert_same_bytes(&disk, &target);
    run("qemu-img", ["bitmap", "--remove", name, "b1"]);
    run("qemu-img", ["bitmap", "--add", name, "b1"]);
    room.diskferry(copy(&serve(&["-B", "b1"]).uri(), &target, &since))
        .ok();
    assert_same_bytes(&disk, &target);
}

#[test]
fn a_disk_of_an_odd_size_arrives_whole_on_anything() {
    for size in [1, 511, 4097, (3 << 20) + 513] {
        let room = Room::new();
        let disk = room.path("disk");
        random_disk(&disk, size, 44);
        let server = serve(&disk);
        succeeds(&room, &server, &room.path("copy"), &[]);
        assert_eq!(room.path("copy").metadata().unwrap().len(), size);

        let bytes = room.path("bytes");
        let rounded = size.next_multiple_of(4096) + 8192;
        scrambled_disk(&bytes, rounded);
        let device = LoopDevice::over(&bytes, 4096);
        succeeds(&room, &server, device.path(), &["--verify"]);
        drop(device);
        let mut beyond = vec![0; 4096];
        let file = File::open(&bytes).unwrap();
        file.read_exact_at(&mut beyond, rounded - 4096).unwrap();
        assert!(
            beyond.iter().all(|byte| *byte == 0x55),
            "bytes beyond the disk were written"
        );
    }
}

#[test]
fn a_server_that_refuses_what_is_not_aligned_is_read_to_its_end() {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, SIZE, 45);
    let file = format!("file={}", disk.display());
    let strict = [
        "blocksize-error-policy=error",
        "blocksize-minimum=4096",
        "blocksize-preferred=64k",
        "blocksize-maximum=256k",
    ];
    let filter = ["-r", "--filter=blocksize-policy", "file", &file];
    let server = Nbdkit::new([&filter[..], &strict].concat());
    succeeds(&room, &server, &room.path("copy"), &[]);
}
