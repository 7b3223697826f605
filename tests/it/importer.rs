//! The importer pod against the rig's vCenter: what CDI's controllers get to see of it.

use crate::importer_pod::{Pod, UID};
use crate::rig::{PASSWORD, Running, Vcenter, words_of};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) fn source(vcenter: &Vcenter) -> Vec<u8> {
    fs::read(&vcenter.disks()[0].flat).unwrap()
}

/// What is set, how the message starts, and what is in it.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

pub(crate) const GOLDEN: &str = r#"{"scratchSpaceRequired":false,"preallocationApplied":false,"vddkInfo":{"Version":"8.0.2","Host":"esx.example.com"},"message":"Import Complete"}"#;

pub(crate) fn vcenter() -> Vcenter {
    let vcenter = Vcenter::new(&["16M"]);
    for at in [0, 5, 6, 15] {
        vcenter.write(0, at << 20, 900_000, u8::try_from(at).unwrap());
    }
    vcenter
}

#[test]
fn a_cold_import_fills_a_device_that_was_not_empty_and_tells_in_the_golden_words() {
    let vcenter = vcenter();
    let pod = Pod::with_device(&vcenter, 24 << 20);
    assert_eq!(pod.import(0, &[]), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
    let mode = fs::metadata(pod.room.path("dev/termination-log"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_warm_migration_as_forklift_drives_it_ends_with_the_same_bytes() {
    let vcenter = vcenter();
    let pod = Pod::with_device(&vcenter, 24 << 20);
    let mut before = vcenter.snapshot("precopy-0");
    let first = [("IMPORTER_CURRENT_CHECKPOINT", &*before.moref)];
    assert_eq!(pod.import(0, &first), GOLDEN);
    vcenter.tell("max-extents 1");
    for round in 1..4u8 {
        vcenter.write(
            0,
            u64::from(round) * 2_000_000,
            300_000,
            round.wrapping_mul(77),
        );
        vcenter.write(0, 15 << 20, 10, round);
        vcenter.remove_snapshot(&format!("precopy-{}", round - 1));
        let now = vcenter.snapshot(&format!("precopy-{round}"));
        let delta = [
            ("IMPORTER_CURRENT_CHECKPOINT", &*now.moref),
            ("IMPORTER_PREVIOUS_CHECKPOINT", &*before.change_ids[0]),
            (
                "IMPORTER_FINAL_CHECKPOINT",
                if round == 3 { "true" } else { "false" },
            ),
        ];
        assert_eq!(pod.import(0, &delta), GOLDEN, "round {round}");
        before = now;
    }
    assert!(pod.content() == source(&vcenter), "the bytes differ");
    assert_eq!(
        vcenter.tell("snapshots"),
        "DC0_H0_VM0/precopy-3",
        "none of ours, all of theirs"
    );
}

#[test]
fn a_delta_may_come_first_and_be_empty_and_be_named_by_a_snapshot() {
    let vcenter = vcenter();
    let pod = Pod::with_device(&vcenter, 24 << 20);
    // Somebody else has copied the disk, as storage offload does.
    pod.hold(&source(&vcenter));
    let base = vcenter.snapshot("base");
    let same = vcenter.snapshot("same");
    vcenter.write(0, 3 << 20, 100, 3);
    let changed = vcenter.snapshot("changed");
    for (current, previous) in [
        (&same.moref, &base.change_ids[0]),
        (&changed.moref, &base.moref),
        (&"changed".to_owned(), &"same".to_owned()),
    ] {
        let delta = [
            ("IMPORTER_CURRENT_CHECKPOINT", current.as_str()),
            ("IMPORTER_PREVIOUS_CHECKPOINT", previous.as_str()),
        ];
        assert_eq!(pod.import(0, &delta), GOLDEN, "{previous} to {current}");
    }
    assert!(pod.content() == source(&vcenter), "the bytes differ");
}

#[test]
fn a_file_volume_is_grown_to_what_was_asked_for() {
    let vcenter = vcenter();
    let pod = Pod::new(&vcenter);
    assert_eq!(pod.import(0, &[]), GOLDEN);
    let meta = fs::metadata(pod.room.path("data/disk.img")).unwrap();
    assert_eq!(
        (meta.len(), meta.permissions().mode() & 0o777),
        (24 << 20, 0o660)
    );
    assert!(pod.content() == source(&vcenter), "the bytes differ");
}

#[test]
fn what_goes_wrong_is_told_in_the_words_that_are_looked_for() {
    let vcenter = vcenter();
    let then = vcenter.snapshot("one");
    let pod = Pod::with_device(&vcenter, 24 << 20);
    let connect = "Unable to connect to vddk data source: ";
    let zeroes = ["00"; 20].join(":");
    let cases: &[Case] = &[
        (&[("IMPORTER_SECRET_KEY", "wrong")], connect, "log in to"),
        (&[("IMPORTER_THUMBPRINT", &zeroes)], connect, "thumbprint"),
        (
            &[("IMPORTER_UUID", "nobody")],
            connect,
            "unable to locate VM in any datacenter",
        ),
        (
            &[("IMPORTER_BACKING_FILE", "[LocalDS_0] DC0_H0_VM0/none.vmdk")],
            connect,
            "is not present in VM hardware config or snapshot list",
        ),
        (
            &[("IMPORTER_CURRENT_CHECKPOINT", "snapshot-999")],
            connect,
            "snapshot \"snapshot-999\" not found",
        ),
        (
            &[("IMPORTER_PREVIOUS_CHECKPOINT", "snapshot-1")],
            connect,
            "previous checkpoint set without current",
        ),
        (
            &[
                ("IMPORTER_CURRENT_CHECKPOINT", &then.moref),
                ("IMPORTER_PREVIOUS_CHECKPOINT", "nothing"),
            ],
            connect,
            "snapshot \"nothing\" not found",
        ),
    ];
    for (changes, start, part) in cases {
        let message = pod.import(1, changes);
        assert!(message.starts_with(start), "{changes:?}: {message}");
        assert!(message.contains(part), "{changes:?}: {message}");
        assert!(
            !message.contains('\n') && !message.contains('{'),
            "{message}"
        );
    }
}

#[test]
fn a_volume_that_is_too_small_is_told_before_a_byte_is_written() {
    let vcenter = vcenter();
    let pod = Pod::with_device(&vcenter, 8 << 20);
    let message = pod.import(1, &[]);
    assert!(
        message.contains("is larger than the reported available storage 8388608"),
        "{message}"
    );
    let start = &fs::read(pod.device.as_ref().unwrap().path()).unwrap()[..4096];
    assert!(start.iter().all(|byte| *byte == 0xee), "it was written to");
}

#[test]
fn a_delta_without_a_disk_is_refused_and_unknown_sources_are_named() {
    let vcenter = vcenter();
    let pod = Pod::new(&vcenter);
    let then = vcenter.snapshot("one");
    let delta = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*then.moref),
        ("IMPORTER_PREVIOUS_CHECKPOINT", &*then.change_ids[0]),
    ];
    let message = pod.import(1, &delta);
    assert!(message.ends_with("Disk image does not exist, cannot apply deltas for warm migration"));
    for source in ["imageio", "glance"] {
        let message = pod.import(1, &[("IMPORTER_SOURCE", source)]);
        assert_eq!(message, format!("Unknown data source: {source}"));
    }
    assert_eq!(pod.import(1, &[("PREALLOCATION", "maybe")]), "");
}

#[test]
fn an_empty_disk_is_made_as_the_original_makes_it() {
    let vcenter = Vcenter::new(&["1M"]);
    let none = ("IMPORTER_SOURCE", "none");
    let file = Pod::new(&vcenter);
    let told = r#"{"preallocationApplied":false,"message":"Import Complete"}"#;
    assert_eq!(file.import(0, &[none]), told);
    let meta = fs::metadata(file.room.path("data/disk.img")).unwrap();
    assert_eq!(meta.len(), 24 << 20);
    let archive = file.import(1, &[none, ("IMPORTER_CONTENTTYPE", "archive")]);
    assert_eq!(
        archive,
        "Cannot create empty disk with content type archive"
    );

    let block = Pod::with_device(&vcenter, 8 << 20);
    assert_eq!(
        block.import(0, &[none]),
        "",
        "a volume that was not written to is empty"
    );
    let told = r#"{"preallocationApplied":true,"message":"Import Complete"}"#;
    assert_eq!(block.import(0, &[none, ("PREALLOCATION", "true")]), told);
    let all = fs::read(block.device.as_ref().unwrap().path()).unwrap();
    assert!(all.iter().all(|byte| *byte == 0), "not empty");
}

#[test]
fn both_controllers_find_the_progress_of_a_running_import_and_a_signal_ends_it_in_order() {
    let vcenter = vcenter();
    // So slow that it is still under way when it was looked at three times, whatever else runs here.
    vcenter.vddk(&[("bandwidth", "400000")]);
    let pod = Pod::with_device(&vcenter, 24 << 20);
    let mut running = pod.start(&[("DISKFERRY_SESSIONS", "1")]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !vcenter.vddk_log().contains(" Open ") {
        assert!(
            running.is_running() && Instant::now() < deadline,
            "never began"
        );
        sleep(Duration::from_millis(10));
    }
    let mut reached = Vec::new();
    while reached.iter().filter(|now| **now > 0.0).count() < 3 {
        assert!(
            running.is_running() && Instant::now() < deadline,
            "{reached:?}"
        );
        reached.push(pod.scrape());
        sleep(Duration::from_millis(100));
    }
    assert!(
        reached.is_sorted() && reached.iter().all(|now| *now < 100.0),
        "{reached:?}"
    );
    assert!(reached.first() < reached.last(), "{reached:?}");
    let pod_itself = format!("/proc/{}/environ", running.pid());
    assert!(
        fs::read_to_string(pod_itself).unwrap().contains(PASSWORD),
        "CDI hands it so"
    );
    let children = words_of(running.pid()).matches(PASSWORD).count();
    assert_eq!(children, 1, "nobody else is told");

    running.signal(Signal::TERM);
    let began = Instant::now();
    running.wait().exits(1);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "the pod would have been killed"
    );
    assert!(
        pod.message().starts_with("Unable to process data"),
        "{}",
        pod.message()
    );
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn a_restarted_container_goes_on_where_its_journal_says() {
    let vcenter = vcenter();
    vcenter.vddk(&[("bandwidth", "2000000")]);
    let pod = Pod::with_device(&vcenter, 24 << 20);
    let then = vcenter.snapshot("one");
    let journal = pod.room.path("journal").display().to_string();
    let env = [
        ("IMPORTER_CURRENT_CHECKPOINT", &*then.moref),
        ("DISKFERRY_JOURNAL", &*journal),
        ("DISKFERRY_VERIFY", "true"),
    ];
    pod.kill_after_a_barrier(&env, &journal);
    vcenter.tell("expire");
    vcenter.vddk(&[]);
    assert_eq!(pod.import(0, &env), GOLDEN);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
}

#[test]
fn a_populator_says_where_the_volume_is() {
    let vcenter = vcenter();
    let pod = Pod::with_device(&vcenter, 24 << 20);
    fs::rename(
        pod.room.path("dev/cdi-block-volume"),
        pod.room.path("dev/block"),
    )
    .unwrap();
    let mut command = pod.command(&[("OWNER_UID", "")]);
    let volume = pod.room.path("dev/block").display().to_string();
    command.args([
        &format!("--volume-path={volume}"),
        "--pvc-size=25165824",
        &format!("--owner-uid={UID}"),
    ]);
    Running::start(command).wait().exits(0);
    assert!(pod.content() == source(&vcenter), "the bytes differ");
}
