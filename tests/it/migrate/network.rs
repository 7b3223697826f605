//! Ways that are cut: to the disks, to QMP, to a target; for a moment, and for longer than is waited.

use super::trouble::replan;
use super::{Stage, until};
use crate::rig::{Outcome, Proxy, Running, To};
use std::thread::sleep;
use std::time::Duration;

const SIZE: u64 = 16 << 20;

/// Passes that follow each other, and are not over in a moment.
const PATIENT: &str = "precopy-interval: 100ms\nretry: 20s\nlimits: {rate: 20M}";

/// Likewise, of somebody who soon gives up.
const HASTY: &str = "precopy-interval: 100ms\nretry: 1s\nlimits: {rate: 20M}";

fn disks(stage: &Stage) -> Proxy {
    let network = Proxy::new(To::Unix(stage.emulator.nbd()));
    replan(stage, &stage.emulator.nbd(), &network.socket());
    network
}

fn qmp(stage: &Stage) -> Proxy {
    let network = Proxy::new(To::Unix(stage.emulator.qmp()));
    replan(stage, &stage.emulator.qmp(), &network.socket());
    network
}

/// It has been cut for a while, and is well again.
#[track_caller]
fn mend(network: &Proxy, run: &mut Running) {
    while !network.is_cut() {
        assert!(run.is_running(), "{}", run.stdout());
        sleep(Duration::from_millis(2));
    }
    sleep(Duration::from_millis(300));
    network.mend();
}

/// It gave up, said why, and can go on.
#[track_caller]
fn assert_stopped(stage: &Stage, run: Running, why: &[&str]) -> Outcome {
    let outcome = run.wait().exits(1);
    let message = outcome.event("failed")["message"].to_string();
    let status = stage.status();
    for part in why {
        assert!(message.contains(part), "{part:?} is not in {message}");
        let stopped = status["stopped"].as_str().unwrap();
        assert!(stopped.contains(part), "{part:?} is not in {stopped}");
    }
    assert_eq!(status["running"], false);
    outcome
}

#[test]
fn the_way_to_the_disks_is_cut_in_every_kind_of_pass_and_mended_and_it_goes_on() {
    let mut stage = Stage::new(SIZE, PATIENT);
    let network = disks(&stage);
    network.cut_after(3 << 20);
    let mut run = stage.migrate();
    mend(&network, &mut run);
    stage.until_durable(1);
    assert_eq!(stage.record()["passes"][0]["kind"], "full");
    // In the handshake, in the list of changes, and while it reads.
    for bytes in [1, 200, 400, 600, 1000, 50_000, 300_000] {
        network.cut_after(bytes);
        mend(&network, &mut run);
    }
    stage.steer("cutover").ok();
    stage.until_wanted();
    network.cut_after(40_000);
    stage.quiet_if_wanted();
    mend(&network, &mut run);
    assert_eq!(stage.record()["pass"]["kind"], "final");
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn the_way_to_the_disks_stays_cut_and_it_stops_with_the_reason_and_goes_on_from_there() {
    let mut stage = Stage::new(SIZE, HASTY);
    let network = disks(&stage);
    network.cut_after(3 << 20);
    let run = stage.migrate();
    assert_stopped(&stage, run, &["disk ", "nbd+unix"]);
    network.mend();
    let run = stage.migrate();
    stage.until_durable(1);
    network.cut_after(50_000);
    assert_stopped(&stage, run, &["disk "]);
    network.mend();
    let run = stage.go_on();
    stage.steer("cutover").ok();
    stage.until_wanted();
    network.cut_after(40_000);
    stage.quiet_if_wanted();
    assert_stopped(&stage, run, &["disk "]);
    assert!(
        !stage.record()["state"]["quiet"].is_null(),
        "the VM stays down"
    );
    network.mend();
    let run = stage.migrate();
    stage.finish(run).ok();
    stage.assert_moved();
    assert_eq!(
        stage.status()["passes"].as_array().unwrap().last().unwrap()["resumed"],
        true
    );
}

#[test]
fn the_way_to_qmp_stays_cut_and_it_stops_with_the_reason_and_goes_on_from_there() {
    let mut stage = Stage::new(SIZE, HASTY);
    let network = qmp(&stage);
    let run = stage.migrate();
    until("a full pass", || stage.record()["state"]["step"] == "pass");
    network.cut();
    assert_stopped(&stage, run, &["QMP"]);
    network.mend();
    let run = stage.migrate();
    stage.until_durable(2);
    network.cut();
    assert_stopped(&stage, run, &["QMP"]);
    network.mend();
    let run = stage.go_on();
    stage.steer("cutover").ok();
    stage.until_wanted();
    // It looks whether the guest has gone, again and again.
    until("quiesce", || stage.record()["state"]["step"] == "quiesce");
    network.cut();
    assert_stopped(&stage, run, &["make the VM quiet", "QMP"]);
    assert_eq!(stage.status()["called_off"], serde_json::Value::Null);
    stage.quiet_if_wanted();
    network.mend();
    let run = stage.migrate();
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn a_target_that_stalls_for_a_while_delays_and_nothing_else() {
    let mut stage = Stage::new(SIZE, PATIENT);
    let target = stage.room.path("target");
    std::fs::File::create(&target)
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let server = crate::rig::Nbdkit::new(["file".as_ref(), target.as_os_str()]);
    let network = Proxy::new(To::Unix(server.socket()));
    let address = crate::rig::uri(&network.socket(), "");
    stage.replan(stage.devices[1].path().to_str().unwrap(), &address);
    let run = stage.migrate();
    until("a full pass", || stage.record()["state"]["step"] == "pass");
    network.stall();
    sleep(Duration::from_secs(2));
    network.mend();
    stage.until_durable(1);
    // In the outage, too.
    stage.steer("cutover").ok();
    stage.until_wanted();
    network.stall();
    stage.quiet_if_wanted();
    sleep(Duration::from_secs(2));
    assert_ne!(stage.record()["state"]["step"], "done");
    network.mend();
    stage.finish(run).ok();
    stage.assert_same(1, &target);
    stage.assert_clean();
}
