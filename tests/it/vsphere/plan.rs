//! A migration by a plan: `diskferry migrate`, from a VM that runs to one that is off, whatever
//! happens meanwhile.

use super::address;
use crate::rig::{Outcome, PASSWORD, Room, Running, Vcenter, words_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A plan for both disks; the cutover comes when somebody says so.
fn plan(vcenter: &Vcenter, room: &Room, address: &str) {
    let disks = vcenter.disks();
    let plan = format!(
        "vm: web01\nguest:\n  vsphere:\n    address: {address:?}\n    vddk: {{libdir: {:?}, plugin: {:?}}}\n\
         disks:\n  - {{name: root, source: {:?}, target: {:?}}}\n  - {{name: data, source: '{}', target: {:?}}}\n\
         precopy-interval: 1s\nretry: 30s\n",
        vcenter.libdir(),
        Vcenter::plugin(),
        disks[0].file,
        room.path("root"),
        disks[1].key,
        room.path("data"),
    );
    fs::write(room.path("plan.yaml"), plan).unwrap();
}

fn rig() -> (Vcenter, Room) {
    let (vcenter, room) = (Vcenter::new(&["8M", "3M"]), Room::new());
    (1..6).for_each(|seed| write(&vcenter, seed));
    plan(&vcenter, &room, &address(&vcenter, &room.state()));
    (vcenter, room)
}

/// The guest writes to three places of each disk, each time something else: the simulator compares
/// bytes, and would not call the same ones changed.
fn write(vcenter: &Vcenter, place: u8) {
    static WRITES: AtomicU8 = AtomicU8::new(1);
    let seed = WRITES.fetch_add(1, Ordering::Relaxed);
    for area in 0..3 {
        vcenter.write(0, (u64::from(place) << 20) + area * 300_000, 50_000, seed);
        vcenter.write(1, u64::from(place) * 70_000 + (area << 20), 5, seed);
    }
}

fn until(running: &mut Running, what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(running.is_running(), "it ended before {what}");
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(10));
    }
}

fn calls(vcenter: &Vcenter, method: &str) -> u32 {
    vcenter.tell(&format!("calls {method}")).parse().unwrap()
}

fn snapshots_made(vcenter: &Vcenter) -> u32 {
    calls(vcenter, "CreateSnapshot_Task")
}

/// Waits for `passes` more passes to begin, the guest writing meanwhile.
fn passes(vcenter: &Vcenter, running: &mut Running, passes: u32, seed: u8) {
    let before = snapshots_made(vcenter);
    for number in 1..=passes {
        write(vcenter, seed);
        until(running, "the next pass", || {
            snapshots_made(vcenter) >= before + number
        });
    }
}

/// Cuts over, and looks at what is there and what is left.
fn end(vcenter: &Vcenter, room: &Room, running: Running, left: &str) -> Outcome {
    room.diskferry(["cutover", "plan.yaml"]).ok();
    let ended = running.wait().ok();
    assert!(!ended.stderr.contains(PASSWORD) && !ended.stdout.contains(PASSWORD));
    for (disk, name) in vcenter.disks().iter().zip(["root", "data"]) {
        let arrived = fs::read(room.path(name)).unwrap();
        assert!(arrived == fs::read(&disk.flat).unwrap(), "{name} differs");
    }
    let power = vcenter.python("print(vm.runtime.powerState)");
    assert_eq!(power, "poweredOff\n");
    assert_eq!(vcenter.tell("snapshots"), left);
    assert_eq!(vcenter.tell("sessions"), "0");
    for disk in ["root", "data"] {
        let events = ended.events().into_iter();
        let later = events.filter(|it| it["event"] == "done" && it["pass"] != "full");
        let written = later.filter(|it| it["disk"] == disk);
        let written = written.map(|it| it["written"].as_u64().unwrap());
        assert!(
            written.sum::<u64>() > 0,
            "no delta of {disk} had anything in it"
        );
    }
    ended
}

#[test]
fn three_deltas_and_a_cutover_page_by_page_and_nobody_sees_the_password() {
    let (vcenter, room) = rig();
    vcenter.tell("max-extents 1");
    let mut running = room.start(["migrate", "-v", "--json", "plan.yaml"]);
    passes(&vcenter, &mut running, 4, 6);
    assert!(!words_of(running.pid()).contains(PASSWORD));
    let told = end(&vcenter, &room, running, "").events();
    // A page that was taken for all of a list might be found out, and made up for by comparing.
    assert!(!told.iter().any(|it| it["event"] == "tracking_lost"));
    // At each point but the first both disks had three areas, and so at least as many pages.
    let (points, pages) = (
        snapshots_made(&vcenter),
        calls(&vcenter, "QueryChangedDiskAreas"),
    );
    assert!(
        pages >= 6 * (points - 1),
        "{pages} pages at {points} points"
    );
}

#[test]
fn sessions_that_end_again_and_again_are_begun_again() {
    let (vcenter, room) = rig();
    let mut running = room.start(["migrate", "--json", "plan.yaml"]);
    for seed in 1..4 {
        until(&mut running, "a session", || {
            vcenter.tell("sessions") != "0"
        });
        let before = calls(&vcenter, "Login");
        vcenter.tell("expire");
        passes(&vcenter, &mut running, 1, seed);
        // A snapshot that is refused for want of a session counts as a call, too: the login comes after it.
        until(&mut running, "another login", || {
            calls(&vcenter, "Login") > before
        });
    }
    vcenter.tell("expire");
    end(&vcenter, &room, running, "");
}

#[test]
fn a_removal_that_fails_twice_and_snapshots_of_others_are_no_obstacle() {
    let (vcenter, room) = rig();
    vcenter.snapshot("nightly");
    let mut running = room.start(["migrate", "--json", "plan.yaml"]);
    for fault in ["SystemError", "TaskInProgress"] {
        vcenter.tell(&format!("fail RemoveSnapshot_Task 2 {fault}"));
        passes(&vcenter, &mut running, 2, 6);
    }
    end(&vcenter, &room, running, "DC0_H0_VM0/nightly");
    // All but the one that is theirs, and four times in vain.
    let removals = calls(&vcenter, "RemoveSnapshot_Task");
    assert_eq!(removals, snapshots_made(&vcenter) - 1 + 4);
}

#[test]
fn tracking_that_is_reset_between_two_passes_loses_nothing() {
    let (vcenter, room) = rig();
    let mut running = room.start(["migrate", "--json", "plan.yaml"]);
    passes(&vcenter, &mut running, 1, 3);
    write(&vcenter, 4);
    vcenter.tell(&format!("reset {}", vcenter.name()));
    passes(&vcenter, &mut running, 2, 5);
    let told = end(&vcenter, &room, running, "").events();
    let lost = told.iter().filter(|it| it["event"] == "tracking_lost");
    let lost: Vec<_> = lost.collect();
    for (disk, lost) in ["root", "data"].iter().zip(&lost) {
        let why = lost["why"].as_str().unwrap();
        assert_eq!(
            (&lost["disk"], &lost["for_good"]),
            (&(*disk).into(), &false.into())
        );
        assert!(why.contains("was reset"), "{why}");
    }
    assert_eq!(lost.len(), 2, "once for each disk: {lost:?}");
}

/// As a host answers whose change files are gone or damaged, and one that is out of its mind.
#[test]
fn where_the_list_of_changes_cannot_be_told_or_be_true_the_disks_are_compared() {
    for (trouble, part) in [
        ("fail QueryChangedDiskAreas 2 FileFault", "FileFault"),
        ("lie overrun", "where the answer or the disk ends"),
    ] {
        let (vcenter, room) = rig();
        let mut running = room.start(["migrate", "--json", "plan.yaml"]);
        passes(&vcenter, &mut running, 2, 3);
        write(&vcenter, 4);
        vcenter.tell(trouble);
        passes(&vcenter, &mut running, 2, 5);
        vcenter.tell("lie none");
        let told = end(&vcenter, &room, running, "").events();
        let mut lost = told.iter().filter(|it| it["event"] == "tracking_lost");
        let said = |it: &Value| it["why"].as_str().unwrap().contains(part);
        assert!(lost.any(said), "{trouble}: {told:?}");
    }
}

#[test]
fn an_nbdkit_that_is_killed_in_the_middle_of_a_pass_is_started_again() {
    let (vcenter, room) = rig();
    vcenter.vddk(&[("latency_us", "30000")]);
    let mut running = room.start(["migrate", "--json", "plan.yaml"]);
    until(&mut running, "a disk is open", || {
        vcenter.vddk_log().contains(" Open ")
    });
    let log = vcenter.vddk_log();
    let line = log.lines().find(|line| line.contains(" Open ")).unwrap();
    let pid: i32 = line.split(' ').next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    passes(&vcenter, &mut running, 2, 6);
    end(&vcenter, &room, running, "");
}

#[test]
fn a_wrong_thumbprint_and_a_wrong_password_are_told_before_anything_is_made() {
    let (vcenter, room) = rig();
    let right = address(&vcenter, &room.state());
    let zeroes = ["00"; 20].join(":");
    plan(
        &vcenter,
        &room,
        &right.replace(vcenter.thumbprint(), &zeroes),
    );
    let told = room.diskferry(["migrate", "plan.yaml"]).exits(4);
    for part in ["thumbprint", vcenter.thumbprint()] {
        assert!(told.stderr.contains(part), "{}", told.stderr);
    }
    plan(&vcenter, &room, &right);
    fs::write(room.state().join("password"), "another-$ecret").unwrap();
    let told = room.diskferry(["migrate", "plan.yaml"]).exits(4);
    for part in ["log in to", "check user and password"] {
        assert!(told.stderr.contains(part), "{}", told.stderr);
    }
    assert!(!told.stderr.contains("another-$ecret"), "{}", told.stderr);
    assert_eq!(snapshots_made(&vcenter), 0);
    assert_eq!(vcenter.tell("sessions"), "0");
    assert!(!room.path("root").exists() && !room.path("data").exists());
    // Set right, the same command does all of it.
    plan(&vcenter, &room, &address(&vcenter, &room.state()));
    let mut running = room.start(["migrate", "--json", "plan.yaml"]);
    passes(&vcenter, &mut running, 2, 6);
    end(&vcenter, &room, running, "");
}

#[test]
fn a_cutover_that_is_called_off_leaves_the_vm_running() {
    let (vcenter, room) = rig();
    let text = fs::read_to_string(room.path("plan.yaml")).unwrap();
    // No pass after the first but the last.
    let text = text
        .replace("30s", "1s")
        .replace("interval: 1s", "interval: 1h");
    fs::write(room.path("plan.yaml"), text).unwrap();
    let mut running = room.start(["migrate", "--json", "plan.yaml"]);
    until(&mut running, "a pass", || {
        !vcenter.tell("snapshots").is_empty()
    });
    until(&mut running, "the pass is over", || {
        vcenter.tell("snapshots").is_empty()
    });
    vcenter.vddk(&[("fail_open", "1")]);
    room.diskferry(["cutover", "plan.yaml"]).ok();
    running.wait().exits(1);
    let power = "print(vm.runtime.powerState)";
    assert_eq!(vcenter.python(power), "poweredOff\n");
    room.diskferry(["cancel", "plan.yaml"]).ok();
    assert_eq!(vcenter.python(power), "poweredOn\n");
    assert_eq!(vcenter.tell("snapshots"), "");
    assert_eq!(vcenter.tell("sessions"), "0");
}
