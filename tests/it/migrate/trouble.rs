//! What may go wrong around a migration.

use super::{Stage, until};
use crate::rig::{Gate, LoopDevice, SmallDisk, run};
use std::fs;
use std::path::Path;

const SIZE: u64 = 16 << 20;

/// Another path in the plan.
pub(super) fn replan(stage: &Stage, from: &Path, to: &Path) {
    stage.replan(from.to_str().unwrap(), to.to_str().unwrap());
}

#[test]
fn a_vm_that_cannot_be_reached_is_told_and_nothing_is_begun() {
    let mut stage = Stage::new(SIZE, "retry: 1s");
    let text = fs::read_to_string(&stage.plan).unwrap();
    let socket = stage.emulator.qmp();
    let socket = socket.to_str().unwrap();
    fs::write(&stage.plan, text.replace(socket, &format!("{socket}-not"))).unwrap();
    let outcome = stage.migrate().wait();
    let failed = outcome.event("failed");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("look at the VM"), "{message}");
    assert_ne!(failed["code"], 0);
    stage.assert_clean();
    let report = fs::read_to_string(stage.directory().join("failure.txt")).unwrap();
    assert!(
        report.contains("look at the VM") && report.contains("Log:"),
        "{report}"
    );
}

#[test]
fn a_target_that_is_too_small_is_refused_before_anything_is_made() {
    let mut stage = Stage::new(SIZE, "retry: 1s");
    let small = LoopDevice::new(SIZE - 4096, 512);
    let text = fs::read_to_string(&stage.plan).unwrap();
    let device = stage.devices[1].path().to_str().unwrap();
    fs::write(
        &stage.plan,
        text.replace(device, small.path().to_str().unwrap()),
    )
    .unwrap();
    stage.migrate().wait().exits(4).event("failed");
    stage.assert_clean();
    assert_eq!(stage.status()["point"], 0);
}

#[test]
fn a_vm_that_cannot_be_made_quiet_as_the_plan_says_is_told_before_anything_is_made() {
    for how in ["how: guest", "how: external, otherwise: power-off"] {
        let mut stage = Stage::new(SIZE, "retry: 1s");
        stage.replan("how: external", how);
        let outcome = stage.migrate().wait();
        let message = outcome.event("failed")["message"].to_string();
        assert!(message.contains("has no VM that could be"), "{message}");
        stage.assert_clean();
        assert_eq!(stage.status()["point"], 0);
    }
}

#[test]
fn another_plan_does_not_take_over_a_migration_that_was_begun() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h");
    let run = stage.migrate();
    stage.until_durable(1);
    let text = fs::read_to_string(&stage.plan).unwrap();
    let outcome = stage.migrate().wait().exits(4);
    assert!(
        outcome.event("failed")["message"]
            .as_str()
            .unwrap()
            .contains("another process")
    );
    run.kill();
    fs::write(&stage.plan, text.replace("name: data", "name: other")).unwrap();
    let outcome = stage.migrate().wait().exits(4);
    assert!(
        outcome.event("failed")["message"]
            .as_str()
            .unwrap()
            .contains("data")
    );
    fs::write(&stage.plan, text).unwrap();
    stage.steer("cancel").ok();
    stage.assert_clean();
}

#[test]
fn a_device_that_one_migration_fills_is_refused_to_another_also_between_passes() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h\nlimits: {rate: 10M}");
    let mut other = Stage::new(SIZE, "precopy-interval: 1h\noverwrite: true");
    replan(&other, other.devices[1].path(), stage.devices[1].path());
    let assert_refused = |other: &mut Stage| {
        let outcome = other.migrate().wait().exits(4);
        let message = outcome.event("failed")["message"].to_string();
        assert!(message.contains("is of another migration"), "{message}");
        other.assert_clean();
    };
    let run = stage.migrate();
    until("a full pass", || stage.record()["state"]["step"] == "pass");
    assert_refused(&mut other);
    stage.until_durable(1);
    until("a wait", || stage.record()["state"]["step"] == "wait");
    assert_refused(&mut other);
    stage.steer("cutover").ok();
    stage.finish(run).ok();
    stage.assert_moved();
}

#[test]
fn a_file_that_one_migration_fills_is_refused_to_another_also_between_passes() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h");
    let mut other = Stage::new(SIZE, "precopy-interval: 1h\noverwrite: true");
    let file = stage.room.path("target");
    replan(&stage, stage.devices[1].path(), &file);
    replan(&other, other.devices[1].path(), &file);
    let run = stage.migrate();
    stage.until_durable(1);
    until("a wait", || stage.record()["state"]["step"] == "wait");
    let outcome = other.migrate().wait().exits(4);
    let message = outcome.event("failed")["message"].to_string();
    assert!(message.contains("is of another migration"), "{message}");
    other.assert_clean();
    stage.steer("cutover").ok();
    stage.finish(run).ok();
    stage.assert_same(1, &file);
    stage.assert_clean();
    assert!(!stage.room.path(".target.migration").exists());
}

#[test]
fn a_guest_that_does_not_get_quiet_keeps_running_and_the_cutover_is_called_off() {
    let stage = Stage::new(SIZE, "precopy-interval: 200ms\nretry: 5s");
    let text = fs::read_to_string(&stage.plan).unwrap();
    fs::write(&stage.plan, text.replace("timeout: 30s", "timeout: 1s")).unwrap();
    let run = stage.migrate();
    stage.until_durable(1);
    stage.steer("cutover").ok();
    until("a cutover that is called off", || {
        !stage.status()["called_off"].is_null()
    });
    let durable = stage.status()["durable"].as_u64().unwrap();
    stage.until_durable(durable + 1);
    run.kill();
}

#[test]
fn a_qmp_socket_that_is_cut_at_any_command_delays_and_nothing_else() {
    for (commands, delivered) in [(1, false), (4, true), (9, false), (14, true), (20, false)] {
        let mut stage = Stage::new(SIZE, "precopy-interval: 100ms\nretry: 20s");
        let gate = Gate::new(stage.emulator.qmp(), commands, delivered, true);
        replan(&stage, &stage.emulator.qmp(), &gate.socket());
        let run = stage.migrate();
        stage.until_durable(1);
        stage.steer("cutover").ok();
        stage.finish(run).ok();
        stage.assert_moved();
        assert!(gate.passed() > commands, "it was never cut");
    }
}

#[test]
fn a_target_that_runs_full_stops_it_and_room_lets_it_go_on() {
    let mut stage = Stage::new(SIZE, "retry: 1s\nprecopy-interval: 100ms");
    let small = SmallDisk::new(stage.room.path("small"), 4);
    let target = small.path().join("target");
    replan(&stage, stage.devices[1].path(), &target);
    let outcome = stage.migrate().wait().exits(1);
    let message = outcome.event("failed")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.contains("disk data") && message.contains("No space left"),
        "{message}"
    );
    assert!(
        stage.status()["stopped"]
            .as_str()
            .unwrap()
            .contains("No space left")
    );
    run(
        "mount",
        ["-o", "remount,size=64m", small.path().to_str().unwrap()],
    );
    let again = stage.migrate();
    stage.until_durable(1);
    stage.steer("cutover").ok();
    stage.finish(again).ok();
    stage.assert_clean();
    stage.assert_same(1, &target);
}

#[test]
fn a_hook_that_fails_stops_it_and_runs_again() {
    let mut stage = Stage::new(SIZE, "precopy-interval: 1h");
    let text = fs::read_to_string(&stage.plan).unwrap();
    let go = stage.room.path("go");
    let hook = format!(
        "hooks: {{before-snapshot: {{command: [ls, '{}']}}, ",
        go.display()
    );
    fs::write(&stage.plan, text.replace("hooks: {", &hook)).unwrap();
    let outcome = stage.migrate().wait().exits(1);
    let message = outcome.event("failed")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("hook before-snapshot"), "{message}");
    stage.assert_clean();
    fs::write(&go, "").unwrap();
    let again = stage.migrate();
    stage.until_durable(1);
    again.kill();
    stage.steer("cancel").ok();
    stage.assert_clean();
}
