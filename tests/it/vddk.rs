//! `vddk://` against nbdkit's real plugin, over a library that stands in for VDDK.

use crate::rig::{PASSWORD, Room, Running, Vcenter, assert_same_bytes, words_of};
use diskferry::source::vddk::{VddkOptions, VddkSource};
use diskferry::testkit::check_source;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Process ids of the nbdkits that have served the vCenter's disks.
fn nbdkits(vcenter: &Vcenter) -> Vec<i32> {
    let log = vcenter.vddk_log();
    let lines = log.lines().filter(|line| line.contains(" Open "));
    let mut pids: Vec<i32> = lines
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    pids.dedup();
    pids
}

/// Waits until the plugin was asked for `what`.
fn wait_for(vcenter: &Vcenter, running: &mut Running, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !vcenter.vddk_log().contains(what) {
        assert!(running.is_running(), "it ended before {what}");
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn fill(vcenter: &Vcenter) {
    for at in 0..24 {
        vcenter.write(0, at << 20, 700_000, u8::try_from(at).unwrap());
    }
}

#[test]
fn a_snapshot_is_copied_over_several_sessions_while_the_disk_goes_on() {
    let vcenter = Vcenter::new(&["24M"]);
    fill(&vcenter);
    let then = vcenter.snapshot("one");
    let before = fs::read(&vcenter.disks()[0].flat).unwrap();
    vcenter.write(0, 5 << 20, 3_000_000, 99);
    let room = Room::new();
    let address = vcenter.vddk_address(0, Some(&then.moref));
    let copied = room.diskferry(["copy", "--json", &address, "disk"]).ok();
    assert!(
        fs::read(room.path("disk")).unwrap() == before,
        "not as it was then"
    );
    let served = copied.event("served_by");
    assert_eq!(served["version"], "8.0.2");
    assert_eq!(served["host"], "esx.example.com");
    let log = vcenter.vddk_log();
    assert_eq!(log.matches(" ConnectEx ").count(), 4, "{log}");
    assert!(
        log.contains(&format!("vm=moref={}", vcenter.moref())),
        "{log}"
    );
}

#[test]
fn a_source_keeps_its_contract_also_at_an_odd_end() {
    let vcenter = Vcenter::new(&["3M", "1000K"]);
    vcenter.write(1, 900 << 10, 70_000, 5);
    vcenter.write(1, 4096, 1, 6);
    let runtime = Runtime::new().unwrap();
    let address = vcenter.vddk_address(1, None).parse().unwrap();
    let expected = fs::read(&vcenter.disks()[1].flat).unwrap();
    runtime.block_on(async {
        let source = VddkSource::open(address, VddkOptions::default())
            .await
            .unwrap();
        check_source(&source, &expected).await.unwrap();
    });
}

#[test]
fn the_password_is_nowhere_to_be_seen() {
    let vcenter = Vcenter::new(&["24M"]);
    fill(&vcenter);
    vcenter.vddk(&[("latency_us", "20000")]);
    let room = Room::new();
    let address = vcenter.vddk_address(0, None);
    let mut command = room.command(["copy", "-v", "-v", &address, "disk"]);
    command.env("DISKFERRY_VSPHERE_PASSWORD", "unused");
    let mut running = Running::start(command);
    wait_for(&vcenter, &mut running, " Open ");
    let words = words_of(running.pid());
    assert!(words.contains("password=-4"), "the child is seen: {words}");
    assert!(!words.contains(PASSWORD), "{words}");
    let served = nbdkits(&vcenter)[0].to_string();
    for pid in [running.pid().to_string(), served] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let words: Vec<_> = core.unwrap().split_whitespace().skip(4).take(2).collect();
        assert_eq!(words, ["1", "1"], "a core file would hold it");
    }
    let ended = running.wait().ok();
    assert!(ended.stderr.contains("VixDiskLib"), "the log is there");
    assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
}

#[test]
fn a_refusal_is_told_in_the_words_of_vddk_and_never_with_the_password() {
    let vcenter = Vcenter::new(&["1M"]);
    let room = Room::new();
    let address = vcenter.vddk_address(0, None);
    fs::write(room.path("wrong"), "another-$ecret\n").unwrap();
    let wrong = room.path("wrong").display().to_string();
    let (start, _) = address.split_once("&password-file=").unwrap();
    let with = |words: &str| format!("{start}&{words}");
    let cases = [
        (
            with(&format!("password-file={wrong}")),
            [
                "incorrect user name or password",
                "check the user and the password",
            ],
        ),
        (
            address.replace(vcenter.thumbprint(), &"00:".repeat(20)[..59]),
            ["thumbprint mismatch", "compare the thumbprint"],
        ),
        (
            address.replace("disk1.vmdk", "disk9.vmdk"),
            ["disk9.vmdk", "open vddk://"],
        ),
        (
            format!("{address}&snapshot=snapshot-999"),
            ["snapshot-999", "no such file"],
        ),
    ];
    for (address, parts) in cases {
        let failed = room.diskferry(["copy", &address, "disk"]).fails(1, &parts);
        for secret in [PASSWORD, "another-$ecret"] {
            assert!(!failed.stderr.contains(secret), "{}", failed.stderr);
        }
        assert!(!room.path("disk").exists());
    }
}

#[test]
fn an_nbdkit_that_is_killed_is_started_again_and_the_bytes_are_right() {
    let vcenter = Vcenter::new(&["24M"]);
    fill(&vcenter);
    vcenter.vddk(&[("latency_us", "30000")]);
    let room = Room::new();
    let mut running = room.start(["copy", &vcenter.vddk_address(0, None), "disk"]);
    wait_for(&vcenter, &mut running, " Open ");
    sleep(Duration::from_millis(300));
    let first = nbdkits(&vcenter);
    assert_eq!(first.len(), 1);
    kill_process(Pid::from_raw(first[0]).unwrap(), Signal::KILL).unwrap();
    running.wait().ok();
    assert_eq!(
        nbdkits(&vcenter).len(),
        2,
        "a second one has served the rest"
    );
    assert_same_bytes(&vcenter.disks()[0].flat, &room.path("disk"));
}

#[test]
fn requests_become_shorter_until_the_host_has_memory_for_them() {
    let vcenter = Vcenter::new(&["24M"]);
    fill(&vcenter);
    vcenter.vddk(&[("max_request", "262144")]);
    let room = Room::new();
    let copied = room
        .diskferry(["copy", "-v", &vcenter.vddk_address(0, None), "disk"])
        .ok();
    assert_same_bytes(&vcenter.disks()[0].flat, &room.path("disk"));
    assert!(copied.stderr.contains("using 262144"), "{}", copied.stderr);
}

#[test]
fn a_host_with_one_session_left_is_read_over_one() {
    let vcenter = Vcenter::new(&["3M"]);
    vcenter.write(0, 0, 3 << 20, 7);
    vcenter.vddk(&[("max_sessions", "1")]);
    let room = Room::new();
    room.diskferry(["copy", &vcenter.vddk_address(0, None), "disk"])
        .ok();
    assert_same_bytes(&vcenter.disks()[0].flat, &room.path("disk"));
}

#[test]
fn a_sector_that_cannot_be_read_fails_the_copy_with_its_place() {
    let vcenter = Vcenter::new(&["3M"]);
    vcenter.write(0, 0, 3 << 20, 7);
    vcenter.vddk(&[("fail_read", "4096")]);
    let room = Room::new();
    let address = vcenter.vddk_address(0, None);
    let args = ["copy", "--retry", "1", "--no-journal", &address, "disk"];
    room.diskferry(args)
        .fails(1, &["read vddk://", "at offset 0x", "unknown error"]);
}

#[test]
fn an_old_plugin_and_a_missing_nbdkit_are_told_apart() {
    let vcenter = Vcenter::new(&["1M"]);
    let room = Room::new();
    let address = vcenter.vddk_address(0, None);
    let copy =
        |address: &str, more: &str| room.diskferry(["copy", &format!("{address}&{more}"), "disk"]);
    // A plugin of this release's nbdkit, which is older and would be asked for a libdir in vain.
    let anywhere = address.replace(&format!("&libdir={}", vcenter.libdir().display()), "");
    copy(&anywhere, "plugin=null")
        .fails(1, &["1.42 is needed", "install a newer nbdkit-plugin-vddk"]);
    copy(&address, "nbdkit=/nonexistent/nbdkit")
        .fails(1, &["start /nonexistent/nbdkit", "install nbdkit"]);
    let nothing = format!("libdir={}", room.state().display());
    copy(&address, &nothing).fails(1, &["libvixDiskLib", "libdir="]);
}
