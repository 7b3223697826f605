//! A migration by a plan: `diskferry migrate`, from a VM that runs to one that is off.

use super::address;
use crate::rig::{Room, Vcenter};
use std::fs;

#[test]
fn a_plan_takes_a_vm_from_its_vcenter_to_the_certificate() {
    let (vcenter, room) = (Vcenter::new(&["8M"]), Room::new());
    (1..6).for_each(|seed| vcenter.write(0, u64::from(seed) << 20, 100_000, seed));
    let plan = format!(
        "vm: web01\nguest:\n  vsphere:\n    address: {:?}\n    vddk: {{libdir: {:?}, plugin: {:?}}}\n\
         disks:\n  - {{name: root, source: {:?}, target: {:?}}}\n\
         precopy-interval: 1s\ncutover: {{at: 2020-01-01T00:00:00Z}}\n",
        address(&vcenter, &room.state()),
        vcenter.libdir(),
        Vcenter::plugin(),
        vcenter.disks()[0].file,
        room.path("arrived"),
    );
    fs::write(room.path("plan.yaml"), plan).unwrap();
    room.diskferry(["migrate", "plan.yaml"]).ok();
    let arrived = fs::read(room.path("arrived")).unwrap();
    assert!(arrived == fs::read(&vcenter.disks()[0].flat).unwrap());
    assert_eq!(
        vcenter.python("print(vm.runtime.powerState)"),
        "poweredOff\n"
    );
    assert_eq!(vcenter.tell("snapshots"), "");
    assert_eq!(vcenter.tell("sessions"), "0");
}
