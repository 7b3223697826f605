//! A vCenter that takes connections and says nothing, stops in the middle of an answer, sends a byte
//! now and then, or is merely slow. `timeout=1` in the address stands for the two minutes of users;
//! what hangs in spite of it is far later than the bounds here.

use super::{address, patience, wait};
use crate::importer_pod::Pod;
use crate::rig::{How, Outcome, PASSWORD, Room, Running, SlowVcenter, USER, Vcenter};
use diskferry::vsphere::inventory::Machine;
use diskferry::vsphere::locator::Locator;
use diskferry::vsphere::session::Session;
use diskferry::vsphere::snapshots::Quiescing;
use diskferry::vsphere::tree::{Purpose, Tag};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const DRIP: How = How::Dripping(Duration::from_millis(100));

/// Far more than any limit of these tests, far less than those of users.
const SOON: Duration = Duration::from_secs(25);

/// The VM's address through the slow server.
fn through(slow: &SlowVcenter, vcenter: &Vcenter, dir: &Path, seconds: u64) -> String {
    let straight = address(vcenter, dir);
    let through = straight.replace(vcenter.address(), &slow.address());
    let through = through.replace(vcenter.thumbprint(), &slow.thumbprint());
    format!("{through}&timeout={seconds}")
}

/// `inspect`, which must be over soon.
#[track_caller]
fn inspect(address: &str) -> (Outcome, Duration) {
    let (room, began) = (Room::new(), Instant::now());
    let outcome = room.diskferry(["inspect", address]);
    let took = began.elapsed();
    assert!(took < SOON, "it took {took:?}");
    (outcome, took)
}

#[test]
fn a_server_that_stops_at_any_point_of_its_first_answer_ends_the_call_in_its_time() {
    let vcenter = Vcenter::new(&["1M"]);
    let dir = tempfile::tempdir().unwrap();
    for how in [How::Never, How::HeadOnly, DRIP] {
        let slow = SlowVcenter::before(&vcenter);
        slow.answer("RetrieveServiceContent", how);
        let (outcome, took) = inspect(&through(&slow, &vcenter, dir.path(), 1));
        let late = format!("{} did not answer within 1 s", slow.address());
        outcome.fails(1, &["RetrieveServiceContent", &late]);
        assert!(took >= Duration::from_secs(1), "{how:?}: {took:?}");
    }
    let slow = SlowVcenter::before(&vcenter);
    slow.mute();
    let (outcome, took) = inspect(&through(&slow, &vcenter, dir.path(), 1));
    let silent = format!("a connection from {}: nothing for 1 s", slow.address());
    outcome.fails(1, &["RetrieveServiceContent", &silent]);
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn every_later_call_ends_in_its_time_too_and_the_session_with_it() {
    let vcenter = Vcenter::new(&["1M"]);
    let dir = tempfile::tempdir().unwrap();
    for method in ["Login", "RetrievePropertiesEx"] {
        for how in [How::Never, How::HeadOnly, DRIP] {
            let slow = SlowVcenter::before(&vcenter);
            slow.answer(method, how);
            let (outcome, _) = inspect(&through(&slow, &vcenter, dir.path(), 1));
            let late = format!("{} did not answer within 1 s", slow.address());
            let outcome = outcome.fails(1, &[method, &late]);
            assert!(!outcome.stderr.contains(PASSWORD));
            assert_eq!(
                slow.calls(method),
                1,
                "what was too late is not asked again"
            );
            // A login whose answer never came is a session that nobody has the key of.
            if method != "Login" {
                assert_eq!(vcenter.tell("sessions"), "0", "{method} {how:?}");
            }
        }
        vcenter.tell("expire");
    }
}

#[test]
fn a_logout_that_is_not_answered_holds_nobody_up() {
    let vcenter = Vcenter::new(&["1M"]);
    let dir = tempfile::tempdir().unwrap();
    for how in [How::Never, How::HeadOnly, DRIP] {
        let slow = SlowVcenter::before(&vcenter);
        slow.answer("Logout", how);
        let (outcome, took) = inspect(&through(&slow, &vcenter, dir.path(), 30));
        let told = outcome.ok().stdout;
        assert!(told.contains("warm       will work"), "{told}");
        assert!(
            took < Duration::from_secs(15),
            "{took:?}: 5 s are the limit"
        );
        assert_eq!(slow.calls("Logout"), 1);
    }
}

#[test]
fn a_server_that_is_merely_slow_is_waited_for() {
    let vcenter = Vcenter::new(&["1M"]);
    let slow = SlowVcenter::before(&vcenter);
    let late = How::Late(Duration::from_millis(700));
    for method in [
        "Login",
        "RetrievePropertiesEx",
        "CreateSnapshot_Task",
        "RemoveSnapshot_Task",
    ] {
        slow.answer(method, late);
    }
    // The tasks take longer than any one answer may.
    vcenter.tell("delay CreateSnapshot_Task 3500");
    vcenter.tell("delay RemoveSnapshot_Task 3500");
    wait(async {
        let dir = tempfile::tempdir().unwrap();
        let locator = through(&slow, &vcenter, dir.path(), 2);
        let locator: Locator = locator.parse().unwrap();
        let session = Arc::new(Session::open(&locator.server).await.unwrap());
        let machine = Machine::find(session, &locator.vm).await.unwrap();
        let tag = Tag::new("m1", Purpose::Point(1)).unwrap();
        let made = machine.freeze(&tag, Quiescing::Never, patience());
        made.await.unwrap();
        assert_eq!(vcenter.tell("snapshots"), "DC0_H0_VM0/diskferry_m1_point_1");
        machine.thaw(&tag, patience()).await.unwrap();
        machine.session().close().await;
    });
    assert_eq!(
        slow.calls("CreateSnapshot_Task"),
        1,
        "it was not made twice"
    );
    assert_eq!(vcenter.tell("snapshots"), "");
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn what_may_be_called_once_only_is_not_lost_with_a_connection_that_was_kept() {
    let vcenter = Vcenter::new(&["1M"]);
    let slow = SlowVcenter::before(&vcenter);
    slow.end_kept();
    wait(async {
        let dir = tempfile::tempdir().unwrap();
        let locator = through(&slow, &vcenter, dir.path(), 10);
        let locator: Locator = locator.parse().unwrap();
        let session = Arc::new(Session::open(&locator.server).await.unwrap());
        let machine = Machine::find(session, &locator.vm).await.unwrap();
        machine.power_off().await.unwrap();
        machine.power_on().await.unwrap();
        machine.session().close().await;
    });
    for method in ["PowerOffVM_Task", "PowerOnVM_Task", "Login", "Logout"] {
        assert_eq!(slow.calls(method), 1, "{method}");
    }
    assert_eq!(vcenter.tell("sessions"), "0");
}

/// Waits until `method` was called, then tells `running` to end; how long that took.
#[track_caller]
fn stopped_in(slow: &SlowVcenter, method: &str, mut running: Running) -> (Outcome, Duration) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while slow.calls(method) == 0 {
        let ended = !running.is_running();
        assert!(!ended, "it ended before {method}: {:?}", running.wait());
        assert!(Instant::now() < deadline, "never: {method}");
        sleep(Duration::from_millis(10));
    }
    // It hangs in there.
    sleep(Duration::from_millis(300));
    assert!(running.is_running(), "{method} does not hang");
    let told = Instant::now();
    running.signal(Signal::TERM);
    let outcome = running.wait();
    (outcome, told.elapsed())
}

#[test]
fn a_signal_ends_a_program_that_hangs_in_a_call_and_its_session() {
    let vcenter = Vcenter::new(&["1M"]);
    let (dir, room) = (tempfile::tempdir().unwrap(), Room::new());
    let slow = SlowVcenter::before(&vcenter);
    slow.answer("RetrievePropertiesEx", How::Never);
    let address = through(&slow, &vcenter, dir.path(), 120);
    let running = room.start(["inspect", &address]);
    let (outcome, took) = stopped_in(&slow, "RetrievePropertiesEx", running);
    outcome.fails(5, &["stopped by a signal"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(vcenter.tell("sessions"), "0");
    // And if it does not even answer that.
    slow.answer("Logout", How::Never);
    let slower = SlowVcenter::before(&vcenter);
    slower.answer("RetrievePropertiesEx", How::Never);
    slower.answer("Logout", How::Never);
    let address = through(&slower, &vcenter, dir.path(), 120);
    let running = room.start(["inspect", &address]);
    let (outcome, took) = stopped_in(&slower, "RetrievePropertiesEx", running);
    outcome.fails(5, &["stopped by a signal"]);
    assert!(
        took < Duration::from_secs(10),
        "{took:?}: 5 s are the limit"
    );
}

#[test]
fn a_signal_ends_a_copy_that_hangs_in_asking_for_changes() {
    let vcenter = Vcenter::new(&["4M"]);
    let before = vcenter.snapshot("one");
    vcenter.write(0, 1 << 20, 100, 3);
    let now = vcenter.snapshot("two");
    let address = vcenter.vddk_address(0, Some(&now.moref));
    let since = format!("cbt:{}", before.change_ids[0]);
    // In opening the tracker, and in the middle of the pass.
    for method in ["RetrievePropertiesEx", "QueryChangedDiskAreas"] {
        let (room, slow) = (Room::new(), SlowVcenter::before(&vcenter));
        let thumbprint = slow.thumbprint();
        vcenter.vddk(&[("thumbprint", &thumbprint)]);
        slow.answer(method, How::Never);
        let address = address.replace(vcenter.address(), &slow.address());
        let address = address.replace(vcenter.thumbprint(), &thumbprint);
        fs::copy(&vcenter.disks()[0].flat, room.path("disk")).unwrap();
        let words = [
            "copy",
            "--no-journal",
            &address,
            "disk",
            "--changes-since",
            &since,
        ];
        let running = room.start(words);
        let (outcome, took) = stopped_in(&slow, method, running);
        outcome.fails(5, &["stopped by a signal"]);
        assert!(took < Duration::from_secs(8), "{method}: {took:?}");
        assert_eq!(vcenter.tell("sessions"), "0", "{method}");
    }
}

#[test]
fn a_signal_ends_a_migration_that_hangs_in_a_call() {
    let vcenter = Vcenter::new(&["1M"]);
    let dir = tempfile::tempdir().unwrap();
    for method in ["Login", "CreateSnapshot_Task"] {
        let (room, slow) = (Room::new(), SlowVcenter::before(&vcenter));
        slow.answer(method, How::Never);
        let address = through(&slow, &vcenter, dir.path(), 120);
        let plan = format!(
            "vm: web01\nguest:\n  vsphere:\n    address: {address:?}\ndisks:\n  - {{name: root, source: {:?}, target: {:?}}}\n",
            vcenter.disks()[0].file,
            room.path("root"),
        );
        fs::write(room.path("plan.yaml"), plan).unwrap();
        let running = room.start(["migrate", "plan.yaml"]);
        let (outcome, took) = stopped_in(&slow, method, running);
        outcome.fails(5, &["stopped", "goes on"]);
        assert!(took < Duration::from_secs(18), "{method}: {took:?}");
        vcenter.tell("expire");
    }
}

#[test]
fn a_pod_ends_in_its_time_and_by_a_signal_whatever_the_server_does() {
    let vcenter = Vcenter::new(&["1M"]);
    let pod = Pod::with_device(&vcenter, 2 << 20);
    let slow = SlowVcenter::before(&vcenter);
    slow.answer("RetrievePropertiesEx", How::HeadOnly);
    let endpoint = format!("https://{}/sdk", slow.address());
    let thumbprint = slow.thumbprint();
    let mut env = vec![
        ("IMPORTER_ENDPOINT", &*endpoint),
        ("IMPORTER_THUMBPRINT", &*thumbprint),
        ("DISKFERRY_RETRY", "1"),
        ("DISKFERRY_TIMEOUT", "1"),
    ];
    let began = Instant::now();
    let message = pod.import(1, &env);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let start = "Unable to connect to vddk data source: ";
    let late = format!("{} did not answer within 1 s", slow.address());
    assert!(
        message.starts_with(start) && message.contains(&late),
        "{message}"
    );
    assert!(message.contains("RetrievePropertiesEx"), "{message}");

    let slow = SlowVcenter::before(&vcenter);
    slow.answer("RetrievePropertiesEx", How::Never);
    let endpoint = format!("https://{}/sdk", slow.address());
    let thumbprint = slow.thumbprint();
    env = vec![
        ("IMPORTER_ENDPOINT", &*endpoint),
        ("IMPORTER_THUMBPRINT", &*thumbprint),
    ];
    let (outcome, took) = stopped_in(&slow, "RetrievePropertiesEx", pod.start(&env));
    outcome.exits(1);
    assert!(took < Duration::from_secs(8), "{took:?}");
    let told = pod.message();
    assert_eq!(told, format!("{start}stopped by a signal"));
    assert_eq!(vcenter.tell("sessions"), "0");
    assert!(!told.contains(USER));
}

#[test]
fn a_signal_in_the_middle_of_a_logout_does_not_leave_the_session() {
    let vcenter = Vcenter::new(&["1M"]);
    let (dir, room) = (tempfile::tempdir().unwrap(), Room::new());
    let slow = SlowVcenter::before(&vcenter);
    slow.answer("Logout", How::Never);
    let mut running = room.start(["inspect", &through(&slow, &vcenter, dir.path(), 120)]);
    while slow.calls("Logout") == 0 {
        assert!(running.is_running(), "it ended before it logged out");
        sleep(Duration::from_millis(10));
    }
    // Whoever asks once more is answered.
    slow.answer("Logout", How::Late(Duration::ZERO));
    assert_eq!(vcenter.tell("sessions"), "1");
    running.signal(Signal::TERM);
    running.wait().fails(5, &["stopped by a signal"]);
    assert_eq!(slow.calls("Logout"), 2);
    assert_eq!(vcenter.tell("sessions"), "0");
}
