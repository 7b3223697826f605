//! The importer where nobody can tell what changed: all is compared, and only what differs written.

use crate::importer::{GOLDEN, source, vcenter};
use crate::importer_pod::Pod;
use crate::rig::Vcenter;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that were written to a block device since it is there.
fn written(device: &Path) -> u64 {
    let name = device.file_name().unwrap().to_str().unwrap();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    let sectors: u64 = stat.split_whitespace().nth(6).unwrap().parse().unwrap();
    sectors * 512
}

/// A pod whose volume holds the disk as it was, by somebody else's hand, and the change id of then.
fn copied(vcenter: &Vcenter) -> (Pod<'_>, String) {
    let pod = Pod::with_device(vcenter, 24 << 20);
    pod.hold(&source(vcenter));
    let base = vcenter.snapshot("base");
    vcenter.remove_snapshot("base");
    (pod, base.change_ids[0].clone())
}

fn settle(pod: &Pod<'_>) -> u64 {
    let device = pod.device.as_ref().unwrap();
    File::open(device.path()).unwrap().sync_all().unwrap();
    written(device.path())
}

#[test]
fn tracking_that_was_reset_ends_in_the_same_bytes_and_few_of_them_are_written() {
    let vcenter = vcenter();
    let (pod, since) = copied(&vcenter);
    vcenter.write(0, 3 << 20, 100, 3);
    vcenter.tell(&format!("reset {}", vcenter.name()));
    vcenter.write(0, 9 << 20, 100_000, 4);
    let now = vcenter.snapshot("now");
    let before = settle(&pod);
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*now.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*since),
        ("IMPORTER_FINAL_CHECKPOINT", "true"),
    ];
    assert_eq!(pod.import(0, &delta), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
    let wrote = settle(&pod) - before;
    assert!(wrote < 2 << 20, "{wrote} bytes were written");
}

#[test]
fn a_server_that_forgot_or_lies_or_never_tracked_is_not_the_end() {
    let vcenter = vcenter();
    let (pod, since) = copied(&vcenter);
    vcenter.write(0, 3 << 20, 100, 3);
    let now = vcenter.snapshot("now");
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*now.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*since),
    ];
    for trouble in ["fail QueryChangedDiskAreas 1 FileFault", "lie overrun"] {
        vcenter.write(0, 5 << 20, 100, trouble.as_bytes()[0]);
        vcenter.tell(trouble);
        assert_eq!(pod.import(0, &delta), GOLDEN, "{trouble}");
        vcenter.tell("lie none");
    }
    vcenter.remove_snapshot("now");
    vcenter.python("wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))");
    let untracked = vcenter.snapshot("untracked");
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*untracked.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*since),
    ];
    assert_eq!(pod.import(0, &delta), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
}

#[test]
fn a_file_that_somebody_else_copied_is_compared_in_place() {
    let vcenter = vcenter();
    let pod = Pod::new(&vcenter);
    let base = vcenter.snapshot("base");
    let file = pod.room.path("data/disk.img");
    pod.hold(&source(&vcenter));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = inode(&file);
    vcenter.tell(&format!("reset {}", vcenter.name()));
    vcenter.write(0, 3 << 20, 100, 3);
    let now = vcenter.snapshot("now");
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*now.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*base.change_ids[0]),
    ];
    assert_eq!(pod.import(0, &delta), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
    assert_eq!(inode(&file), before, "a second one would not have fitted");
}

#[test]
fn with_a_journal_nothing_of_the_volume_is_read_first_and_the_end_is_proven() {
    let vcenter = vcenter();
    let pod = Pod::with_device(&vcenter, 24 << 20);
    let journal = pod.room.path("journal").display().to_string();
    let first = vcenter.snapshot("first");
    let full = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*first.moref),
        ("DISKFERRY_JOURNAL", &*journal),
    ];
    assert_eq!(pod.import(0, &full), GOLDEN);
    vcenter.tell(&format!("reset {}", vcenter.name()));
    vcenter.write(0, 3 << 20, 100, 3);
    let now = vcenter.snapshot("now");
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*now.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*first.change_ids[0]),
        ("IMPORTER_FINAL_CHECKPOINT", "true"),
        ("DISKFERRY_JOURNAL", &*journal),
    ];
    let said = pod.start(&delta).wait().exits(0).stderr;
    assert!(said.contains("was reset"), "{said}");
    assert!(!said.contains("somebody else"), "{said}");
    assert_eq!(pod.message(), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
}

/// A first run that is a delta, as storage offload has it, killed in the middle.
#[test]
fn a_delta_onto_a_copy_of_somebody_elses_is_gone_on_with_after_a_restart() {
    let vcenter = vcenter();
    let (pod, since) = copied(&vcenter);
    for at in 0..16 {
        vcenter.write(0, at << 20, 700_000, 200 + u8::try_from(at).unwrap());
    }
    let now = vcenter.snapshot("now");
    vcenter.vddk(&[("bandwidth", "2000000")]);
    let journal = pod.room.path("journal").display().to_string();
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*now.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*since),
        ("DISKFERRY_JOURNAL", &*journal),
    ];
    pod.kill_after_a_barrier(&delta, &journal);
    vcenter.tell("expire");
    vcenter.vddk(&[]);
    let log = vcenter.vddk_log().len();
    let said = pod.start(&delta).wait().exits(0).stderr;
    assert!(!said.contains("beginning without the journal"), "{said}");
    assert_eq!(pod.message(), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
    assert!(vcenter.vddk_log().len() > log);
    assert_eq!(vcenter.tell("sessions"), "0");
}
