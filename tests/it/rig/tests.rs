//! The rig proves itself first: each peer is what it claims to be, without the program under test.

use super::*;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_seed_determines_a_disk_and_a_difference_is_found_where_it_is() {
    let room = Room::new();
    let (a, b) = (room.path("a"), room.path("b"));
    random_disk(&a, (3 << 20) + 5, 7);
    random_disk(&b, (3 << 20) + 5, 7);
    assert_same_bytes(&a, &b);
    let file = fs::OpenOptions::new().write(true).open(&b).unwrap();
    file.write_all_at(&[0; 1], (2 << 20) + 3).unwrap();
    file.write_all_at(&[255; 1], (2 << 20) + 4).unwrap();
    let found = first_difference(&a, &b, (3 << 20) + 5).unwrap();
    assert!(
        ((2 << 20) + 3..=(2 << 20) + 4).contains(&found),
        "{found:#x}"
    );
}

#[test]
fn a_loop_device_has_the_sectors_that_were_asked_for() {
    for sector in [512, 4096] {
        let device = LoopDevice::new(8 << 20, sector);
        let found = run("blockdev", ["--getss".as_ref(), device.path().as_os_str()]);
        assert_eq!(found.trim(), sector.to_string());
    }
}

#[test]
fn nbdkit_and_qemu_nbd_serve_what_they_are_given() {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, 1 << 20, 1);
    let nbdkit = Nbdkit::new(["file".as_ref(), disk.as_os_str()]);
    let qemu = QemuNbd::new(&disk, "raw", &["-r", "-x", "name"]);
    for (number, uri) in [nbdkit.uri(), qemu.uri()].into_iter().enumerate() {
        let copy = room.path(&format!("copy{number}"));
        run("nbdcopy", [uri.as_ref(), copy.as_os_str()]);
        assert_same_bytes(&disk, &copy);
    }
}

#[test]
fn a_frozen_view_stays_while_the_guest_writes_and_tells_what_changed() {
    let room = Room::new();
    let (disk, copy) = (room.path("disk"), room.path("copy"));
    random_disk(&disk, 8 << 20, 2);
    fs::copy(&disk, room.path("before")).unwrap();
    let mut qsd = Qsd::new(&disk);
    let mut guest = qsd.guest();

    let full = qsd.freeze("b1", None);
    guest.write(0xAA, 1 << 20, 65536);
    run("nbdcopy", [full.uri.as_ref(), copy.as_os_str()]);
    assert_same_bytes(&room.path("before"), &copy);
    qsd.thaw(full);

    let delta = qsd.freeze("b2", Some("b1"));
    let map = run("nbdinfo", ["--map=qemu:dirty-bitmap:b1", &delta.uri]);
    let dirty: Vec<&str> = map.lines().filter(|line| line.ends_with("dirty")).collect();
    assert_eq!(dirty.len(), 1, "{map}");
    assert!(dirty[0].contains("1048576"), "{map}");
    qsd.thaw(delta);

    guest.zero(2 << 20, 65536);
    drop(guest);
    let last = qsd.cut_over("b2");
    run("nbdcopy", [last.as_str(), copy.to_str().unwrap()]);
    assert_same_bytes(&disk, &copy);
}

#[test]
fn an_iscsi_lun_is_a_block_device_of_4096_byte_sectors() {
    let lun = IscsiLun::new(32 << 20);
    let sector = run("blockdev", ["--getss".as_ref(), lun.path().as_os_str()]);
    assert_eq!(sector.trim(), "4096");
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, 32 << 20, 3);
    let (from, to) = (
        format!("if={}", disk.display()),
        format!("of={}", lun.path().display()),
    );
    run(
        "dd",
        [
            from.as_str(),
            to.as_str(),
            "bs=1M",
            "oflag=direct",
            "status=none",
        ],
    );
    assert_same_bytes(&disk, &lun.backing());
}

#[test]
fn two_iscsi_luns_at_once_hold_what_each_was_given() {
    let room = Room::new();
    let luns = [IscsiLun::new(8 << 20), IscsiLun::new(12 << 20)];
    for (seed, lun) in (4..).zip(&luns) {
        let disk = room.path(&format!("disk{seed}"));
        random_disk(&disk, 8 << 20, seed);
        let words = ["copy", "--overwrite"].map(str::to_owned);
        let ends = [&disk, lun.path()].map(address);
        room.diskferry(words.into_iter().chain(ends)).ok();
    }
    for (seed, lun) in (4..).zip(&luns) {
        assert_same_bytes(&room.path(&format!("disk{seed}")), &lun.backing());
    }
}

/// A client of a server that answers every byte with the same byte, through a proxy.
fn echo(room: &Room) -> (Proxy, Proxy) {
    let socket = room.path("e");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let first = Proxy::tcp(To::Unix(socket));
    let second = Proxy::new(To::Tcp(first.port()));
    (first, second)
}

fn said_back(client: &mut UnixStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    client.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    client.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_network_passes_everything_until_it_is_cut_and_again_once_it_is_mended() {
    let room = Room::new();
    let (_inner, proxy) = echo(&room);
    let mut client = UnixStream::connect(proxy.socket()).unwrap();
    let bytes = Rng::new(1).bytes(100_000);
    assert_eq!(said_back(&mut client, &bytes).unwrap(), bytes);
    assert_eq!((proxy.accepted(), proxy.passed()), (1, 100_000));

    proxy.cut();
    assert!(said_back(&mut client, b"x").is_err());
    let mut late = UnixStream::connect(proxy.socket()).unwrap();
    assert!(said_back(&mut late, b"x").is_err());
    proxy.mend();
    assert!(
        said_back(&mut client, b"x").is_err(),
        "what was cut stays so"
    );
    let mut fresh = UnixStream::connect(proxy.socket()).unwrap();
    assert_eq!(said_back(&mut fresh, b"x").unwrap(), b"x");

    proxy.cut_after(10);
    fresh.write_all(&[7; 64]).unwrap();
    let mut rest = Vec::new();
    fresh.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [7; 10]);
    assert!(proxy.is_cut());
}

#[test]
fn a_network_that_stalls_keeps_what_it_was_given_and_one_that_is_slow_is_late() {
    let room = Room::new();
    let (_inner, proxy) = echo(&room);
    let mut client = UnixStream::connect(proxy.socket()).unwrap();
    assert_eq!(said_back(&mut client, b"a").unwrap(), b"a");
    proxy.stall();
    let soon = Some(Duration::from_millis(100));
    client.set_read_timeout(soon).unwrap();
    let error = said_back(&mut client, b"b").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    proxy.mend();
    client.set_read_timeout(None).unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"b");

    proxy.delay(Duration::from_millis(100));
    let began = Instant::now();
    assert_eq!(said_back(&mut client, b"c").unwrap(), b"c");
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_network_whose_server_is_gone_drops_its_clients() {
    let room = Room::new();
    let proxy = Proxy::new(To::Unix(room.path("nobody")));
    let mut client = UnixStream::connect(proxy.socket()).unwrap();
    assert!(said_back(&mut client, b"x").is_err());
    let socket = proxy.socket();
    drop(proxy);
    assert!(UnixStream::connect(socket).is_err());
}

#[test]
fn the_program_runs_in_a_room_of_its_own() {
    let outcome = Room::new().diskferry(["--no-such-option"]);
    assert_eq!(outcome.signal, None);
}
