//! Holes of a first pass, told by changed block tracking.

use super::wait;
use crate::rig::{LoopDevice, Room, Taken, Vcenter};
use diskferry::changes::vsphere::Written;
use diskferry::extent::{ByteRange, ExtentKind};
use diskferry::source::all_extents;
use diskferry::source::vddk::{VddkAddress, VddkOptions, VddkSource};
use diskferry::testkit::check_source;
use std::fs;
use std::sync::Arc;

const DATA: u64 = 3 * (1 << 20);

/// A VM with 3 MiB of data on a disk of 24 MiB, and a snapshot. VDDK does not tell holes.
fn rig() -> (Vcenter, Room, Taken) {
    let vcenter = Vcenter::new(&["24M"]);
    for at in [2, 11, 20] {
        vcenter.write(0, at << 20, 1 << 20, 7);
    }
    vcenter.vddk(&[("fail_alloc", "1")]);
    let taken = vcenter.snapshot("one");
    (vcenter, Room::new(), taken)
}

/// Copies the snapshot; gives the bytes that were read, and what was said.
fn copy(vcenter: &Vcenter, room: &Room, taken: &Taken) -> (u64, String) {
    let address = vcenter.vddk_address(0, Some(&taken.moref));
    let copied = room
        .diskferry([
            "copy",
            "-v",
            "--json",
            "--overwrite",
            "--no-journal",
            &address,
            "disk",
        ])
        .ok();
    let expected = fs::read(&vcenter.disks()[0].flat).unwrap();
    assert!(
        fs::read(room.path("disk")).unwrap() == expected,
        "the bytes differ"
    );
    assert_eq!(vcenter.tell("sessions"), "0");
    let read = copied.event("done")["read"].as_u64().unwrap();
    (read, copied.stderr)
}

#[test]
fn only_what_was_ever_written_is_read_page_by_page() {
    let (vcenter, room, taken) = rig();
    vcenter.tell("max-extents 1");
    assert_eq!(copy(&vcenter, &room, &taken).0, DATA);
}

#[test]
fn a_disk_whose_holes_are_told_keeps_the_contract_of_sources() {
    let (vcenter, _room, taken) = rig();
    vcenter.tell("max-extents 1");
    let address = vcenter.vddk_address(0, Some(&taken.moref));
    let address: VddkAddress = address.parse().unwrap();
    let expected = fs::read(&vcenter.disks()[0].flat).unwrap();
    wait(async {
        let opened = VddkSource::open(address.clone(), VddkOptions::default()).await;
        let source = Written::over(Arc::new(opened.unwrap()), &address).await;
        assert_eq!(check_source(&*source, &expected).await, Ok(()));
        // VDDK would have called all of it data.
        let all = ByteRange::new(0, expected.len() as u64);
        let told = all_extents(&*source, all).await.unwrap();
        assert!(
            told.iter().any(|it| it.kind == ExtentKind::Zero),
            "{told:?}"
        );
    });
}

#[test]
fn holes_become_zero_on_a_target_that_held_something() {
    let (vcenter, room, taken) = rig();
    fs::write(room.path("disk"), vec![0xee; 24 << 20]).unwrap();
    let address = vcenter.vddk_address(0, Some(&taken.moref));
    let device = LoopDevice::new(24 << 20, 512);
    fs::write(device.path(), vec![0xee; 24 << 20]).unwrap();
    let target = device.path().display().to_string();
    room.diskferry(["copy", "--overwrite", "--no-journal", &address, &target])
        .ok();
    let expected = fs::read(&vcenter.disks()[0].flat).unwrap();
    assert!(
        fs::read(device.path()).unwrap() == expected,
        "the bytes differ"
    );
}

#[test]
fn a_server_that_does_not_tell_or_leaves_out_what_is_there_is_not_relied_on() {
    let (vcenter, room, taken) = rig();
    vcenter.tell("fail QueryChangedDiskAreas 99 FileFault");
    let (read, said) = copy(&vcenter, &room, &taken);
    assert_eq!(read, 24 << 20, "all is read where nobody tells");
    assert!(said.contains("is not asked of the server"), "{said}");
    vcenter.tell("fail QueryChangedDiskAreas 0 FileFault");

    vcenter.tell("lie amnesia");
    let (read, said) = copy(&vcenter, &room, &taken);
    assert_eq!(read, 24 << 20);
    assert!(said.contains("leaves out what is there"), "{said}");
    vcenter.tell("lie none");
    assert_eq!(copy(&vcenter, &room, &taken).0, DATA);
}

#[test]
fn a_disk_that_is_not_tracked_is_copied_as_before() {
    let vcenter = Vcenter::new(&["3M"]);
    vcenter.python("wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))");
    vcenter.write(0, 1 << 20, 70_000, 3);
    let (room, taken) = (Room::new(), vcenter.snapshot("one"));
    let (_, said) = copy(&vcenter, &room, &taken);
    assert!(said.contains("is not tracked"), "{said}");
}
