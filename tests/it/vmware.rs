//! The rig's vCenter, seen by a client that nobody here wrote.

use crate::rig::Vcenter;

#[test]
fn the_vcenter_tells_what_changed_between_two_snapshots_page_by_page() {
    let vcenter = Vcenter::new(&["8M", "1M"]);
    vcenter.write(0, 0, 100, 1);
    let first = vcenter.snapshot("one");
    vcenter.write(0, 1 << 20, 70_000, 2);
    vcenter.write(0, 3 << 20, 1, 3);
    let second = vcenter.snapshot("two");
    vcenter.tell("max-extents 1");

    let script = format!(
        "at = 0\n\
         two = find('two', vm.snapshot.rootSnapshotList)\n\
         while at < 8 << 20:\n\
         \x20   page = vm.QueryChangedDiskAreas(two, {}, at, '{}')\n\
         \x20   print([(a.start >> 16, a.length >> 16) for a in page.changedArea])\n\
         \x20   at = page.startOffset + page.length\n",
        vcenter.disks()[0].key,
        first.change_ids[0],
    );
    assert_eq!(vcenter.python(&script), "[(16, 2)]\n[(48, 1)]\n");

    assert_ne!(first.change_ids, second.change_ids);
    assert_eq!(vcenter.tell("snapshots"), "DC0_H0_VM0/one DC0_H0_VM0/two");
    vcenter.remove_snapshot("one");
    vcenter.remove_snapshot("two");
    assert_eq!(vcenter.tell("snapshots"), "");
    assert_eq!(vcenter.tell("sessions"), "0", "the other client logs out");
}

#[test]
fn the_current_disk_is_a_delta_while_a_snapshot_stands() {
    let vcenter = Vcenter::new(&["1M"]);
    vcenter.snapshot("one");
    let names = "print(*[d.backing.fileName for d in disks(vm)])";
    assert_eq!(
        vcenter.python(names),
        "[LocalDS_0] DC0_H0_VM0/disk1-000001.vmdk\n"
    );
    vcenter.remove_snapshot("one");
    assert_eq!(vcenter.python(names), "[LocalDS_0] DC0_H0_VM0/disk1.vmdk\n");
}

#[test]
fn a_removal_fails_as_often_as_it_is_told_to() {
    let vcenter = Vcenter::new(&["1M"]);
    vcenter.snapshot("one");
    vcenter.tell("fail RemoveSnapshot_Task 1 TaskInProgress");
    let removal = "one = find('one', vm.snapshot.rootSnapshotList)\n\
                   try:\n\
                   \x20   wait(one.RemoveSnapshot_Task(False, True))\n\
                   except vim.fault.TaskInProgress:\n\
                   \x20   print('busy')\n\
                   wait(one.RemoveSnapshot_Task(False, True))";
    assert_eq!(vcenter.python(removal), "busy\n");
    assert_eq!(vcenter.tell("snapshots"), "");
}
