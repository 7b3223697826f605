//! The rig proves itself first: each peer is what it claims to be, without the program under test.

use super::*;
use std::fs;
use std::os::unix::fs::FileExt;

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
fn the_program_runs_in_a_room_of_its_own() {
    let outcome = Room::new().diskferry(["--no-such-option"]);
    assert_eq!(outcome.signal, None);
}
