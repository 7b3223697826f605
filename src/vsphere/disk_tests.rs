//! Disks out of device lists: one that was recorded, and the odd ones made up.

use super::{Obstacle, disks, find};
use crate::error::Kind;
use crate::vsphere::soap::answer::{self, Answer};
use crate::vsphere::soap::xml::{Node, parse};

fn list(devices: &str) -> Node {
    let space = "http://www.w3.org/2001/XMLSchema-instance";
    parse(&format!("<val xmlns:xsi=\"{space}\">{devices}</val>")).unwrap()
}

fn disk(key: i32, backing: &str, more: &str) -> String {
    format!(
        "<VirtualDevice xsi:type=\"VirtualDisk\"><key>{key}</key>\
         <backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\">{backing}</backing>\
         <controllerKey>1000</controllerKey><unitNumber>1</unitNumber>\
         <capacityInKB>8</capacityInKB>{more}</VirtualDevice>"
    )
}

#[test]
fn a_recorded_list_has_one_disk_with_all_its_facts() {
    let text = include_str!("../../fuzz/seeds/soap_answer/snapshot-devices");
    let Answer::Done(values) = answer::parse("RetrievePropertiesEx", text).unwrap() else {
        panic!("a fault");
    };
    let page = answer::page(&values).unwrap();
    let found = disks(page.objects[0].1.get("config.hardware.device").unwrap()).unwrap();
    assert_eq!(found.len(), 1);
    let disk = &found[0];
    assert_eq!(disk.key, 1_345_084_660);
    assert_eq!(disk.file, "[LocalDS_0] DC0_C0_RP0_VM0/disk1.vmdk");
    assert_eq!(disk.capacity, 67_108_864);
    assert_eq!(disk.slot.as_deref(), Some("scsi0:0"));
    let id = disk.change_id.as_ref().unwrap();
    assert_eq!(
        id.as_str(),
        "52 de ad be ef 00 00 f4-00 00 00 00 00 00 00 f4/5"
    );
    assert_eq!(disk.obstacle, None);
}

#[test]
fn a_disk_is_found_by_any_file_of_its_chain() {
    let chain = "<fileName>[d] v/v-000002.vmdk</fileName>\
        <parent><fileName>[d] v/v-000001.vmdk</fileName>\
        <parent><fileName>[d] v/v.vmdk</fileName></parent></parent><uuid>6000-AB</uuid>";
    let other = "<fileName>[d] v/v_1.vmdk</fileName>";
    let more = "<diskObjectId>12-2000</diskObjectId>";
    let found = disks(&list(&(disk(2000, chain, more) + &disk(2001, other, "")))).unwrap();
    for name in [
        "[d] v/v.vmdk",
        "[d] v/v-000002.vmdk",
        "2000",
        "12-2000",
        "6000-ab",
    ] {
        assert_eq!(find(&found, name).unwrap().key, 2000, "{name}");
    }
    let error = find(&found, "v.vmdk").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.line().contains("2001 \"[d] v/v_1.vmdk\""),
        "{}",
        error.line()
    );
}

#[test]
fn a_name_that_two_disks_have_is_refused() {
    let file = "<fileName>[d] shared.vmdk</fileName>";
    let found = disks(&list(&(disk(1, file, "") + &disk(2, file, "")))).unwrap();
    assert!(
        find(&found, "[d] shared.vmdk")
            .unwrap_err()
            .line()
            .starts_with("more than one")
    );
}

#[test]
fn what_snapshots_do_not_cover_is_an_obstacle() {
    let of = |backing: &str, bus: &str| {
        let controller = format!(
            "<VirtualDevice xsi:type=\"VirtualLsiLogicSASController\"><key>1000</key>\
             <busNumber>0</busNumber><sharedBus>{bus}</sharedBus></VirtualDevice>"
        );
        disks(&list(&(disk(1, backing, "") + &controller))).unwrap()[0].obstacle
    };
    assert_eq!(of("<diskMode>persistent</diskMode>", "noSharing"), None);
    let independent = of("<diskMode>independent_persistent</diskMode>", "noSharing");
    assert_eq!(independent, Some(Obstacle::Independent));
    let raw = of(
        "<compatibilityMode>physicalMode</compatibilityMode>",
        "noSharing",
    );
    assert_eq!(raw, Some(Obstacle::PhysicalRdm));
    assert_eq!(
        of(
            "<compatibilityMode>virtualMode</compatibilityMode>",
            "noSharing"
        ),
        None
    );
    let many = of("<sharing>sharingMultiWriter</sharing>", "noSharing");
    assert_eq!(many, Some(Obstacle::MultiWriter));
    assert_eq!(of("", "physicalSharing"), Some(Obstacle::SharedBus));
}

#[test]
fn a_disk_without_a_size_or_with_an_absurd_one_is_not_believed() {
    let good = disk(1, "", "");
    for bad in [
        "",
        "<capacityInKB>-1</capacityInKB>",
        "<capacityInKB>99999999999999999999</capacityInKB>",
    ] {
        let text = good.replace("<capacityInKB>8</capacityInKB>", bad);
        assert!(disks(&list(&text)).is_err(), "{bad}");
    }
    let huge = good.replace(">8<", ">36028797018963968<");
    assert!(disks(&list(&huge)).is_err(), "2^55 KiB are 2^65 bytes");
}

#[test]
fn the_same_key_with_another_uuid_is_another_disk() {
    let one = disks(&list(&disk(1, "<uuid>a</uuid>", "")))
        .unwrap()
        .remove(0);
    let other = disks(&list(&disk(1, "<uuid>b</uuid>", "")))
        .unwrap()
        .remove(0);
    let silent = disks(&list(&disk(1, "", ""))).unwrap().remove(0);
    assert!(!one.is_the_same_as(&other));
    assert!(one.is_the_same_as(&silent));
}
