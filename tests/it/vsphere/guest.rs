//! Points of a migration: snapshots made, found again and removed.

use super::{guest, options, wait};
use crate::rig::Vcenter;
use diskferry::changes::Baseline;
use diskferry::changes::guest::{Guest, Point, Quiesce, Shutdown, Standing};
use diskferry::changes::vsphere::VsphereGuest;
use diskferry::error::Kind;
use diskferry::vsphere::snapshots::Quiescing;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

fn rig() -> (Vcenter, TempDir) {
    (Vcenter::new(&["4M"]), tempdir().expect("make a directory"))
}

fn id(points: &[Point]) -> String {
    match &points[0].since {
        Some(Baseline::Cbt(id)) => id.to_string(),
        other => panic!("not tracked: {other:?} {:?}", points[0].lost),
    }
}

const SNAPSHOT_1: &str = "DC0_H0_VM0/diskferry_m1_point_1";

fn standing(number: u32, readable: bool, tracked: bool) -> Standing {
    Standing {
        number,
        readable,
        tracked,
    }
}

#[test]
fn a_point_is_made_once_and_given_again_to_the_next_process() {
    let (vcenter, dir) = rig();
    wait(async {
        let before = guest(&vcenter, dir.path()).await;
        assert_eq!(before.points().await.unwrap(), []);
        let first = before.snapshot(1, None).await.unwrap();
        drop(before);
        let after = guest(&vcenter, dir.path()).await;
        assert_eq!(after.snapshot(1, None).await.unwrap(), first);
        assert_eq!(after.points().await.unwrap(), [standing(1, true, true)]);
        assert_eq!(first[0].size, 4 << 20);
        assert_eq!((&first[0].since, &first[0].lost), (&None, &None));
        let address = first[0].address.to_string();
        for part in [
            "vddk://",
            vcenter.moref(),
            "snapshot=snapshot-",
            "disk1.vmdk",
        ] {
            assert!(address.contains(part), "{address}");
        }
        assert_eq!(vcenter.tell("snapshots"), SNAPSHOT_1);
        assert_eq!(vcenter.tell("calls CreateSnapshot_Task"), "1");
    });
}

#[test]
fn a_change_id_outlives_its_snapshot_and_its_process() {
    let (vcenter, dir) = rig();
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        vm.snapshot(1, None).await.unwrap();
        vm.release(1).await.unwrap();
        vm.release(1).await.unwrap();
        assert_eq!(vcenter.tell("snapshots"), "");
        drop(vm);
        let vm = guest(&vcenter, dir.path()).await;
        assert_eq!(vm.points().await.unwrap(), [standing(1, false, true)]);
        let second = vm.snapshot(2, Some(1)).await.unwrap();
        let remembered = fs::read_to_string(dir.path().join("vsphere.json")).unwrap();
        assert!(remembered.contains(&id(&second)), "{remembered}");
        vm.forget_before(2).await.unwrap();
        assert_eq!(vm.points().await.unwrap(), [standing(2, true, true)]);
        let lost = &vm.snapshot(2, Some(1)).await.unwrap()[0];
        assert_eq!(lost.since, Some(Baseline::Digest));
        assert!(
            lost.lost
                .as_ref()
                .unwrap()
                .contains("nobody remembers point 1")
        );
    });
}

#[test]
fn tracking_that_was_reset_or_a_disk_that_grew_is_not_believed() {
    let (vcenter, dir) = rig();
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        vm.snapshot(1, None).await.unwrap();
        vm.release(1).await.unwrap();
        vcenter.tell(&format!("reset {}", vcenter.name()));
        let second = vm.snapshot(2, Some(1)).await.unwrap();
        assert_eq!(second[0].since, Some(Baseline::Digest));
        let why = second[0].lost.clone().unwrap();
        assert!(why.contains("was reset"), "{why}");
        vm.release(2).await.unwrap();

        vm.snapshot(3, Some(2))
            .await
            .map(|points| id(&points))
            .unwrap();
        vm.release(3).await.unwrap();
        vcenter.tell(&format!("grow {} 0 8M", vcenter.name()));
        let fourth = vm.snapshot(4, Some(3)).await.unwrap();
        assert_eq!(fourth[0].size, 8 << 20);
        let why = fourth[0].lost.clone().unwrap();
        assert!(why.contains("had 4194304 bytes and has 8388608"), "{why}");
    });
}

#[test]
fn another_disk_in_the_place_of_the_one_that_was_copied_is_refused_and_nothing_is_switched_off() {
    let (vcenter, dir) = rig();
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        vm.snapshot(1, None).await.unwrap();
        vm.release(1).await.unwrap();
        vcenter.tell(&format!("replace {} 0", vcenter.name()));
        let how = Quiesce {
            how: Shutdown::PowerOff,
            timeout: Duration::from_secs(20),
            otherwise: None,
        };
        for refused in [
            vm.snapshot(2, Some(1)).await.map(drop),
            vm.quiesce(&how).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.line().contains("another disk"), "{}", error.line());
        }
        assert_eq!(vm.quiet().await.unwrap(), None, "it runs on");
    });
    assert_eq!(vcenter.tell("snapshots"), "");
}

#[test]
fn a_removal_that_fails_is_tried_again_until_the_snapshot_is_gone() {
    let (vcenter, dir) = rig();
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        for (number, fault) in [(1, "TaskInProgress"), (2, "SystemError")] {
            vm.snapshot(number, None).await.unwrap();
            vcenter.tell(&format!("fail RemoveSnapshot_Task 2 {fault}"));
            vm.release(number).await.unwrap();
            assert_eq!(vcenter.tell("snapshots"), "", "{fault}");
        }
        vm.snapshot(3, None).await.unwrap();
        vcenter.tell("fail RemoveSnapshot_Task 99 SystemError");
        let error = vm.release(3).await.unwrap_err();
        assert!(
            error
                .line()
                .contains("remove the snapshot \"diskferry m1 point 3\""),
            "{}",
            error.line()
        );
        vcenter.tell("fail RemoveSnapshot_Task 9 NoPermission");
        let error = vm.release(3).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        vcenter.tell("fail RemoveSnapshot_Task 0 SystemError");
        assert_eq!(
            vm.clean().await.unwrap(),
            ["snapshot \"diskferry m1 point 3\""]
        );
        assert_eq!(vm.clean().await.unwrap(), Vec::<String>::new());
    });
    assert_eq!(vcenter.tell("snapshots"), "");
}

#[test]
fn only_what_this_migration_made_is_removed() {
    let (vcenter, dir) = rig();
    vcenter.snapshot("nightly backup");
    vcenter.snapshot("diskferry m2 point 1");
    vcenter.snapshot("diskferry m1 point one");
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        vm.snapshot(1, None).await.unwrap();
        assert_eq!(vm.points().await.unwrap(), [standing(1, true, true)]);
        assert_eq!(
            vm.clean().await.unwrap(),
            ["snapshot \"diskferry m1 point 1\""]
        );
    });
    let left = vcenter.tell("snapshots");
    assert_eq!(left.split(' ').count(), 3, "{left}");
}

#[test]
fn a_snapshot_that_takes_long_is_waited_for_and_so_are_the_tasks_of_others() {
    let (vcenter, dir) = rig();
    vcenter.tell("delay CreateSnapshot_Task 400");
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        let begun = Instant::now();
        vm.snapshot(1, None).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(400));
        // Somebody else's task, which makes ours fail with TaskInProgress meanwhile.
        let busy = "vm.CreateSnapshot_Task('theirs', '', False, False)";
        vcenter.python(busy);
        vm.release(1).await.unwrap();
    });
    let left = vcenter.tell("snapshots");
    assert!(!left.contains("diskferry"), "{left}");
}

#[test]
fn quiescing_is_required_preferred_or_left_out() {
    let (vcenter, dir) = rig();
    let with = |quiescing| {
        let mut options = options(&vcenter, dir.path());
        options.quiescing = quiescing;
        VsphereGuest::connect(options, Some(dir.path()))
    };
    let quiesced = "print(vm.snapshot.rootSnapshotList[0].quiesced)";
    wait(async {
        for fault in ["ApplicationQuiesceFault", "GenericVmConfigFault"] {
            vcenter.tell(&format!("fail CreateSnapshot_Task 1 {fault}"));
            let vm = with(Quiescing::Require).await.unwrap();
            let error = vm.snapshot(1, None).await.unwrap_err();
            assert!(error.line().contains(fault), "{}", error.line());
            assert_eq!(vcenter.tell("snapshots"), "");
        }
        let vm = with(Quiescing::Require).await.unwrap();
        vm.snapshot(1, None).await.unwrap();
        assert_eq!(vcenter.python(quiesced), "True\n");
        vm.release(1).await.unwrap();

        vcenter.tell("fail CreateSnapshot_Task 1 ApplicationQuiesceFault");
        let vm = with(Quiescing::Prefer).await.unwrap();
        vm.snapshot(2, None).await.unwrap();
        assert_eq!(vcenter.python(quiesced), "False\n");
        let vm = with(Quiescing::Prefer).await.unwrap();
        vm.snapshot(2, None).await.unwrap();
    });
    let remembered = fs::read(dir.path().join("vsphere.json")).unwrap();
    let remembered: Value = serde_json::from_slice(&remembered).unwrap();
    let told = &remembered["quiesced"];
    assert_eq!(told["1"], json!({"done": true, "why_not": null}));
    assert_eq!(told["2"]["done"], false);
    let why = told["2"]["why_not"].as_str().unwrap();
    assert!(why.contains("ApplicationQuiesceFault"), "{why}");
}

#[test]
fn a_privilege_that_is_missing_is_named_and_nothing_is_left() {
    let (vcenter, dir) = rig();
    vcenter.tell("fail CreateSnapshot_Task 1 NoPermission");
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        let error = vm.snapshot(1, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        for part in [
            "make the snapshot",
            "VirtualMachine.State.CreateSnapshot",
            "docs/vsphere.md",
        ] {
            assert!(error.line().contains(part), "{}", error.line());
        }
        assert_eq!(vm.points().await.unwrap(), []);
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn tracking_is_turned_on_only_when_asked_and_not_over_snapshots_of_others() {
    let (vcenter, dir) = rig();
    vcenter.python("wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))");
    let tracking = "print(vm.config.changeTrackingEnabled)";
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        let error = vm.disks().await.unwrap_err();
        assert!(
            error.line().contains("changed block tracking is off"),
            "{}",
            error.line()
        );

        let mut options = options(&vcenter, dir.path());
        options.enable_tracking = true;
        let vm = VsphereGuest::connect(options, Some(dir.path()))
            .await
            .unwrap();
        assert_eq!(vm.disks().await.unwrap()[0].size, 4 << 20);
        vcenter.snapshot("theirs");
        let error = vm.snapshot(1, None).await.unwrap_err();
        assert!(
            error.line().contains("it has the snapshot \"theirs\""),
            "{}",
            error.line()
        );
        vcenter.remove_snapshot("theirs");
        assert_eq!(vcenter.python(tracking), "False\n");

        vm.snapshot(1, None).await.unwrap();
        assert_eq!(vcenter.python(tracking), "True\n");
        assert_eq!(
            vcenter.tell("snapshots"),
            SNAPSHOT_1,
            "the activating one is gone"
        );
        vm.release(1).await.unwrap();
        id(&vm.snapshot(2, Some(1)).await.unwrap());
    });
}

#[test]
fn a_guest_is_shut_down_and_what_does_not_shut_down_is_told_or_switched_off() {
    let (vcenter, dir) = rig();
    let how = |otherwise, timeout| Quiesce {
        how: Shutdown::Guest,
        timeout: Duration::from_millis(timeout),
        otherwise,
    };
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        vcenter.tell("shutdown -1");
        let error = vm.quiesce(&how(None, 300)).await.unwrap_err();
        assert!(error.line().contains("it still runs"), "{}", error.line());
        assert_eq!(vm.quiet().await.unwrap(), None);
        assert_eq!(vm.last(1, None).await.unwrap_err().kind(), Kind::Refused);

        let quiet = vm
            .quiesce(&how(Some(Shutdown::PowerOff), 300))
            .await
            .unwrap();
        assert_eq!(quiet.how, Shutdown::PowerOff);
        assert!(quiet.evidence.contains("poweredOff"), "{}", quiet.evidence);
        vcenter.python("wait(vm.PowerOn())");

        vcenter.tell("shutdown 200");
        let quiet = vm.quiesce(&how(None, 20_000)).await.unwrap();
        assert_eq!(quiet.how, Shutdown::Guest);
        assert!(vm.quiet().await.unwrap().is_some());
        vm.last(1, None).await.unwrap();
        let pause = Quiesce {
            how: Shutdown::Pause,
            ..how(None, 1)
        };
        vcenter.python("wait(vm.PowerOn())");
        assert_eq!(
            vm.quiesce(&pause).await.unwrap_err().kind(),
            Kind::Unsupported
        );
    });
}

const RUNS: &str = "print(vm.runtime.powerState)";

#[test]
fn a_vm_that_was_switched_off_for_a_cutover_is_woken_by_whoever_calls_it_off() {
    let (vcenter, dir) = rig();
    let how = |how| Quiesce {
        how,
        timeout: Duration::from_secs(20),
        otherwise: None,
    };
    wait(async {
        for shutdown in [Shutdown::Guest, Shutdown::PowerOff] {
            let vm = guest(&vcenter, dir.path()).await;
            vm.quiesce(&how(shutdown)).await.unwrap();
            drop(vm);
            assert_eq!(vcenter.python(RUNS), "poweredOff\n");
            let vm = guest(&vcenter, dir.path()).await;
            vm.wake().await.unwrap();
            assert_eq!(vcenter.python(RUNS), "poweredOn\n");
            vm.wake().await.unwrap();
        }
        let vm = guest(&vcenter, dir.path()).await;
        vcenter.python("wait(vm.PowerOff())");
        // It was off before, or somebody else did it: that is theirs to undo.
        vm.quiesce(&how(Shutdown::PowerOff)).await.unwrap();
        vm.wake().await.unwrap();
        assert_eq!(vcenter.python(RUNS), "poweredOff\n");
        vm.quiesce(&how(Shutdown::External)).await.unwrap();
        vm.wake().await.unwrap();
        assert_eq!(vcenter.python(RUNS), "poweredOff\n");
    });
    assert_eq!(vcenter.tell("calls PowerOnVM_Task"), "2");
}

#[test]
fn disks_left_apart_by_a_removal_are_merged() {
    let (vcenter, dir) = rig();
    wait(async {
        let vm = guest(&vcenter, dir.path()).await;
        vm.snapshot(1, None).await.unwrap();
        vcenter.tell(&format!("consolidation {}", vcenter.name()));
        vm.release(1).await.unwrap();
    });
    assert_eq!(vcenter.tell("calls ConsolidateVMDisks_Task"), "1");
    let apart = vcenter.python("print(vm.runtime.consolidationNeeded)");
    assert_eq!(apart, "False\n");
}

#[test]
fn the_directory_of_another_vm_is_refused() {
    let (vcenter, dir) = rig();
    wait(async {
        guest(&vcenter, dir.path())
            .await
            .snapshot(1, None)
            .await
            .unwrap();
        let mut options = options(&vcenter, dir.path());
        options.vm = options
            .vm
            .to_string()
            .replace(vcenter.moref(), "vm-42")
            .parse()
            .unwrap();
        let error = VsphereGuest::connect(options, Some(dir.path()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{}", error.line());
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}
