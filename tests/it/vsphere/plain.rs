//! The client against the simulator as Debian ships it, with nothing of ours in it.

use super::{address, machine, patience, wait};
use crate::rig::{PASSWORD, Room, Vcenter};
use diskferry::vsphere::changes::{Areas, ChangeId, Query, query};
use diskferry::vsphere::inventory::Power;
use diskferry::vsphere::snapshots::Quiescing;
use diskferry::vsphere::soap::fault;
use diskferry::vsphere::tree::{Purpose, Tag};
use std::fs;
use std::time::Duration;

/// The snapshots that pyVmomi sees.
const LEFT: &str = "print(list(vm.rootSnapshot))";

#[test]
fn every_call_that_it_knows_is_answered_and_nothing_is_left() {
    let vcenter = Vcenter::plain();
    wait(async {
        let (machine, _dir) = machine(&vcenter).await;
        let facts = machine.facts().await.unwrap();
        assert_eq!((&*facts.name, facts.power), (vcenter.name(), Power::On));
        assert_eq!(facts.disks.len(), 1);
        machine.track("m1", patience()).await.unwrap();
        assert!(machine.facts().await.unwrap().tracking);

        let tag = Tag::new("m1", Purpose::Point(1)).unwrap();
        let made = machine
            .freeze(&tag, Quiescing::Prefer, patience())
            .await
            .unwrap();
        let again = machine
            .freeze(&tag, Quiescing::Never, patience())
            .await
            .unwrap();
        assert_eq!(made.on, again.on);
        let disk = &machine.disks_in(&made.on).await.unwrap()[0];
        assert_eq!(disk.change_id, None, "it tracks nothing");
        let asked = Query {
            vm: machine.on().clone(),
            snapshot: made.on.clone(),
            disk: disk.key,
            since: ChangeId::everything(),
            capacity: 1 << 20,
        };
        let mut areas = Areas::new(asked.capacity);
        let refused = query(machine.session(), &asked, 0, &mut areas)
            .await
            .unwrap_err();
        assert!(fault::of(&refused).is_some(), "{}", refused.line());
        machine.thaw(&tag, patience()).await.unwrap();
        assert_eq!(machine.snapshots().await.unwrap(), []);

        machine.shut_down(Duration::from_secs(20)).await.unwrap();
        assert_eq!(machine.power().await.unwrap(), Power::Off);
        machine.power_on().await.unwrap();
        machine.power_off().await.unwrap();
        assert_eq!(machine.power().await.unwrap(), Power::Off);
        machine.session().close().await;
    });
    assert_eq!(vcenter.python(LEFT), "[]\n");
}

#[test]
fn a_vm_is_found_by_its_names_and_a_wrong_password_is_told() {
    let (vcenter, room) = (Vcenter::plain(), Room::new());
    let by_moref = address(&vcenter, &room.state());
    let moref = format!("moref={}", vcenter.moref());
    let uuid = format!("uuid={}", vcenter.instance_uuid());
    let path = format!("DC0/vm/{}", vcenter.name());
    for name in [&moref, &uuid, &path] {
        let address = by_moref.replace(&moref, name);
        let told = room.diskferry(["inspect", "--json", &address]).ok();
        assert!(told.stdout.contains(vcenter.moref()), "{}", told.stdout);
    }
    fs::write(room.state().join("password"), "wrong").unwrap();
    let failed = room
        .diskferry(["inspect", &by_moref])
        .fails(4, &["log in to"]);
    assert!(!failed.stderr.contains(PASSWORD));
    assert_eq!(vcenter.python(LEFT), "[]\n");
}
