//! The virtual machine of the rig is what migration tests lean on: that it writes what it says, that
//! its check finds what is wrong, and that it ends when it is told.

use crate::rig::{Habits, IscsiLun, Nbdkit, Room, Vm, address, diary, run, uri};
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const SIZE: u64 = 16 << 20;
const SLOT: usize = 8192;
const ENTRY: u64 = SLOT as u64;

/// Two disks with a diary of `entries` entries.
fn disks(room: &Room, entries: u64) -> [PathBuf; 2] {
    let disks = ["a", "b"].map(|name| room.path(name));
    for disk in &disks {
        File::create(disk).unwrap().set_len(SIZE).unwrap();
    }
    diary::begin(&disks, 7, ENTRY, entries).unwrap();
    disks
}

#[test]
fn a_diary_that_is_right_is_found_right_at_any_length() {
    let room = Room::new();
    // Slots of a disk: 2047. None, some, all of the log, and round it again.
    for entries in [0, 1, 700, 2047, 5000] {
        assert_eq!(diary::check(&disks(&room, entries)), Ok(entries));
    }
    let [a, b] = disks(&room, 700);
    OpenOptions::new()
        .write(true)
        .open(&b)
        .unwrap()
        .set_len(SIZE * 2)
        .unwrap();
    assert_eq!(diary::check(&[a, b]), Ok(700), "a larger disk is as good");
}

#[test]
fn any_wrong_byte_of_a_diary_is_found() {
    let room = Room::new();
    for (disk, offset) in [
        (0, 0),
        (0, 10),
        (0, 9000),
        (0, ENTRY * 600 + 4000),
        (0, SIZE - 1),
    ] {
        let disks = disks(&room, 700);
        let file = OpenOptions::new().read(true).write(true).open(&disks[disk]);
        let file = file.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        let wrong = diary::check(&disks).unwrap_err();
        assert!(wrong.starts_with("disk 0"), "{wrong}");
    }
}

#[test]
fn a_table_that_lags_a_log_by_two_a_table_ahead_and_a_lost_entry_are_found() {
    let room = Room::new();
    let old = disks(&room, 700).map(|disk| fs::read(disk).unwrap());
    let mixed = |log: u64, table: u64| {
        let [a, b] = disks(&room, table);
        let table = fs::read(&b).unwrap();
        disks(&room, log);
        fs::write(&b, table).unwrap();
        diary::check(&[a, b])
    };
    assert_eq!(mixed(701, 700), Ok(700), "the moment between the two disks");
    for (log, table) in [(702, 700), (700, 701)] {
        let wrong = mixed(log, table).unwrap_err();
        assert!(wrong.contains("not of one moment"), "{wrong}");
    }

    // One slot of the table as it was some entries ago, as a delta that lost a range leaves it.
    let now = disks(&room, 720);
    let [_, table] = &now;
    let fresh = fs::read(table).unwrap();
    let slots = || (0..fresh.len()).step_by(SLOT);
    let slot = |bytes: &[u8], at: usize| bytes[at..at + SLOT].to_vec();
    let stale = slots()
        .find(|at| slot(&fresh, *at) != slot(&old[1], *at))
        .expect("something was written");
    let file = OpenOptions::new().write(true).open(table).unwrap();
    file.write_all_at(&slot(&old[1], stale), stale as u64)
        .unwrap();
    let wrong = diary::check(&now).unwrap_err();
    assert!(wrong.contains("instead of"), "{wrong}");
}

#[test]
fn only_the_entry_that_was_being_written_may_be_torn_and_only_by_sectors() {
    let room = Room::new();
    let after = disks(&room, 701).map(|disk| fs::read(disk).unwrap());
    // Entry 701 is at slot 700 of the log. Half of it, then as much as no disk would write.
    let start = 701 * SLOT;
    for (bytes, right) in [(4096, true), (512, true), (4000, false)] {
        let disks = disks(&room, 700);
        let log = OpenOptions::new().write(true).open(&disks[0]).unwrap();
        log.write_all_at(&after[0][start..start + bytes], 701 * ENTRY)
            .unwrap();
        assert_eq!(diary::check(&disks).is_ok(), right, "{bytes} bytes");
    }
}

#[test]
fn a_guest_writes_until_its_power_button_is_pressed_and_every_entry_is_there() {
    let room = Room::new();
    let disks = disks(&room, 300).map(address);
    let habits = Habits {
        rate: 50,
        stays: true,
    };
    let mut vm = Vm::start(&disks, habits);
    vm.wait_for_entry(310);
    assert!(vm.qmp().exists());
    let nodes = vm.ask("query-named-block-nodes", &json!({"flat": true}));
    let nodes = nodes.as_array().unwrap().iter();
    let nodes: Vec<_> = nodes
        .filter_map(|node| node["node-name"].as_str())
        .collect();
    assert!(nodes.contains(&Vm::node(0).as_str()) && nodes.contains(&Vm::node(1).as_str()));
    vm.press_power_button();
    let last = vm.wait_off();
    assert_eq!(last, vm.acknowledged());
    assert_eq!(vm.ask("query-status", &json!({}))["status"], "shutdown");
    drop(vm);
    assert_eq!(diary::check(&disks), Ok(last));
    assert_eq!(Vm::check(&disks), Ok(last));
}

#[test]
fn a_guest_whose_plug_is_pulled_leaves_all_that_it_acknowledged_and_goes_on_from_there() {
    let room = Room::new();
    let disks = disks(&room, 0).map(address);
    let habits = Habits {
        rate: 0,
        stays: false,
    };
    let mut vm = Vm::start(&disks, habits);
    vm.wait_for_entry(100);
    let acknowledged = vm.kill();
    let found = diary::check(&disks).unwrap();
    assert!(
        (acknowledged..=acknowledged + 1).contains(&found),
        "{found} after {acknowledged}"
    );
    let mut vm = Vm::start(&disks, habits);
    vm.wait_for_entry(found + 50);
    vm.press_power_button();
    let last = vm.wait_off();
    assert_eq!(diary::check(&disks), Ok(last));

    // And the check from inside finds what is wrong, too.
    let table = OpenOptions::new().write(true).open(&disks[1]).unwrap();
    table.write_all_at(&[0x55; 512], SIZE / 2).unwrap();
    let wrong = Vm::check(&disks).unwrap_err();
    assert!(wrong.contains("disk 1: slot"), "{wrong}");
}

#[test]
fn a_guest_is_booted_from_an_iscsi_lun_and_an_nbd_export_that_are_larger() {
    let room = Room::new();
    let disks = disks(&room, 900);
    let lun = IscsiLun::new(SIZE + (1 << 20));
    room.diskferry(["copy".to_owned(), address(&disks[0]), address(lun.path())])
        .ok();
    let table = OpenOptions::new().write(true).open(&disks[1]).unwrap();
    table.set_len(SIZE + (1 << 20)).unwrap();
    let export = Nbdkit::new(["file".to_owned(), address(&disks[1])]);
    let arrived = [address(lun.path()), export.uri()];
    assert_eq!(Vm::check(&arrived), Ok(900));

    // It can also go on there.
    let habits = Habits {
        rate: 0,
        stays: false,
    };
    let mut vm = Vm::start(&arrived, habits);
    vm.wait_for_entry(950);
    vm.press_power_button();
    let last = vm.wait_off();
    drop(vm);
    assert_eq!(Vm::check(&arrived), Ok(last));
}

/// Bitmaps and the point-in-time view of both disks in one transaction, as a tracker asks for them.
#[test]
fn a_guest_that_writes_can_be_frozen_on_both_disks_at_one_instant() {
    let room = Room::new();
    let disks = disks(&room, 100).map(address);
    let habits = Habits {
        rate: 0,
        stays: false,
    };
    let mut vm = Vm::start(&disks, habits);
    let mut actions = Vec::new();
    for index in 0..2 {
        let (node, view) = (Vm::node(index), format!("view{index}"));
        let overlay = address(room.path(&view));
        let size = SIZE.to_string();
        run("qemu-img", ["create", "-q", "-f", "qcow2", &overlay, &size]);
        vm.ask(
            "blockdev-add",
            &json!({
                "driver": "qcow2", "node-name": view, "backing": node,
                "file": {"driver": "file", "filename": overlay},
            }),
        );
        actions.push(json!({
            "type": "block-dirty-bitmap-add", "data": {"node": node, "name": "since"},
        }));
        actions.push(json!({
            "type": "blockdev-backup",
            "data": {"job-id": view, "device": node, "target": view, "sync": "none"},
        }));
    }
    vm.wait_for_entry(120);
    let before = vm.acknowledged();
    vm.ask("transaction", &json!({ "actions": actions }));
    let socket = room.path("nbd");
    let server = json!({"type": "unix", "data": {"path": socket}});
    vm.ask("nbd-server-start", &json!({ "addr": server }));
    let mut copies = Vec::new();
    for index in 0..2 {
        let name = format!("view{index}");
        vm.ask(
            "block-export-add",
            &json!({"type": "nbd", "id": name, "node-name": name, "name": name}),
        );
        let copy = address(room.path(&format!("copy{index}")));
        room.diskferry(["copy".to_owned(), uri(&socket, &name), copy.clone()])
            .ok();
        copies.push(copy);
    }
    let after = vm.acknowledged();
    let frozen = diary::check(&copies).unwrap();
    assert!(
        before <= frozen && frozen < after,
        "{before} {frozen} {after}"
    );
}
