//! Made quiet by power button, by pause, by plug, by others; read when quiet; woken.

use super::{SIZE, changes, daemon, first_byte, machine, standing};
use crate::rig::{Emulator, Room};
use diskferry::changes::guest::{Guest as _, Quiesce, Shutdown};
use diskferry::changes::qmp::Qmp;
use diskferry::error::Kind;
use serde_json::json;
use std::time::Duration;

pub(super) fn by(how: Shutdown, seconds: u64, otherwise: Option<Shutdown>) -> Quiesce {
    Quiesce {
        how,
        timeout: Duration::from_secs(seconds),
        otherwise,
    }
}

/// A machine that runs and knows no power button.
fn deaf(room: &Room) -> (Emulator, Qmp) {
    let (mut emulator, qmp) = machine(room, 2);
    emulator.ask("cont", &json!({}));
    (emulator, qmp)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_shut_down_in_time_is_told_of_and_runs_on() {
    let room = Room::new();
    let (mut emulator, qmp) = deaf(&room);
    assert_eq!(qmp.quiet().await.unwrap(), None);
    let error = qmp
        .quiesce(&by(Shutdown::Guest, 1, None))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.line().contains("within 1 s and still runs"),
        "{error:?}"
    );
    assert_eq!(emulator.status(), "running");
    let error = qmp.last(1, None).await.unwrap_err();
    assert!(error.line().contains("query-status: running"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_paused_instead_can_be_woken_and_what_it_writes_then_is_told() {
    let room = Room::new();
    let (mut emulator, qmp) = deaf(&room);
    qmp.snapshot(1, None).await.unwrap();
    qmp.release(1).await.unwrap();
    emulator.write(1, 3, 0, 65536);
    let how = by(Shutdown::Guest, 1, Some(Shutdown::Pause));
    let quiet = qmp.quiesce(&how).await.unwrap();
    assert_eq!(
        (quiet.how, &*quiet.evidence),
        (Shutdown::Pause, "query-status: paused")
    );
    assert_eq!(
        qmp.quiesce(&how).await.unwrap(),
        quiet,
        "asked again, it stays as it is"
    );
    assert_eq!(qmp.quiet().await.unwrap(), Some(quiet));

    let points = qmp.last(2, Some(1)).await.unwrap();
    assert_eq!(
        (changes(&points[0]), changes(&points[1])),
        (vec![], vec![(0, 65536)])
    );
    assert_eq!(first_byte(&room, &points[1], 0), 3);
    assert_eq!(qmp.last(2, Some(1)).await.unwrap(), points);
    assert!(standing(&qmp, 2).await.unwrap().readable);

    qmp.wake().await.unwrap();
    assert_eq!(emulator.status(), "running");
    assert_eq!(qmp.quiet().await.unwrap(), None);
    emulator.write(0, 4, 1 << 20, 65536);
    let stands = standing(&qmp, 2).await.unwrap();
    assert!(
        !stands.readable && stands.tracked,
        "the disks are not that point any more"
    );
    qmp.release(2).await.unwrap();
    emulator.ask("stop", &json!({}));
    // That pass never became durable: both lists are one.
    let points = qmp.last(3, Some(1)).await.unwrap();
    assert_eq!(changes(&points[0]), [(1 << 20, 65536)]);
    assert_eq!(changes(&points[1]), [(0, 65536)]);
    qmp.clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_plug_is_pulled_stays_off_and_its_disks_are_read() {
    let room = Room::new();
    let (mut emulator, qmp) = deaf(&room);
    emulator.write(0, 5, 0, 65536);
    qmp.snapshot(1, None).await.unwrap();
    qmp.release(1).await.unwrap();
    emulator.write(0, 6, SIZE - 65536, 65536);
    let how = by(Shutdown::Guest, 1, Some(Shutdown::PowerOff));
    let quiet = qmp.quiesce(&how).await.unwrap();
    assert_eq!(
        (quiet.how, &*quiet.evidence),
        (Shutdown::PowerOff, "query-status: shutdown")
    );
    qmp.wake().await.unwrap();
    assert_eq!(
        emulator.status(),
        "shutdown",
        "only what was paused is woken"
    );
    assert_eq!(
        qmp.quiet().await.unwrap().unwrap().how,
        Shutdown::External,
        "whoever it was"
    );
    let points = qmp.last(2, Some(1)).await.unwrap();
    assert_eq!(changes(&points[0]), [(SIZE - 65536, 65536)]);
    assert_eq!(first_byte(&room, &points[0], SIZE - 1), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_libvirt_a_guest_is_paused_and_not_turned_off() {
    let room = Room::new();
    let (mut emulator, qmp) = deaf(&room);
    for how in [Shutdown::Guest, Shutdown::PowerOff] {
        qmp.check_shutdown(how).await.unwrap();
    }
    emulator.ask(
        "blockdev-add",
        &json!({"driver": "null-co", "node-name": "libvirt-1-storage", "size": SIZE}),
    );
    for how in [Shutdown::Guest, Shutdown::PowerOff] {
        let told = qmp.check_shutdown(how).await.unwrap_err();
        assert_eq!(told.kind(), Kind::Unsupported);
        assert!(told.line().contains("libvirt ends QEMU"), "{told:?}");
        let error = qmp.quiesce(&by(how, 1, Some(Shutdown::Pause))).await;
        assert_eq!(error.unwrap_err().line(), told.line());
        assert_eq!(emulator.status(), "running");
    }
    qmp.check_shutdown(Shutdown::Pause).await.unwrap();
    let quiet = qmp.quiesce(&by(Shutdown::Pause, 1, None)).await.unwrap();
    assert_eq!(quiet.evidence, "query-status: paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_never_started_is_quiet_and_not_started_by_waking() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 2);
    let quiet = qmp.quiesce(&by(Shutdown::Guest, 1, None)).await.unwrap();
    assert_eq!(quiet.evidence, "query-status: prelaunch");
    qmp.wake().await.unwrap();
    assert_eq!(emulator.status(), "prelaunch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_daemon_is_quiet_when_nobody_else_has_an_export_of_its_disks() {
    let room = Room::new();
    let (mut emulator, qmp) = daemon(&room, 2);
    for how in [Shutdown::Guest, Shutdown::Pause, Shutdown::PowerOff] {
        let error = qmp.quiesce(&by(how, 1, None)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error:?}");
        let told = qmp.check_shutdown(how).await.unwrap_err();
        assert_eq!(told.line(), error.line());
    }
    // A filter above the disk is as good a way to write to it.
    emulator.ask(
        "blockdev-add",
        &json!({"driver": "copy-on-read", "node-name": "above", "file": "disk1"}),
    );
    let export = json!({
        "type": "nbd", "id": "other", "name": "other", "node-name": "above", "writable": true,
    });
    emulator.ask("block-export-add", &export);
    let error = qmp
        .quiesce(&by(Shutdown::External, 1, None))
        .await
        .unwrap_err();
    assert!(error.line().contains("export guest0"), "{error:?}");
    emulator.drop_guests();
    let error = qmp
        .quiesce(&by(Shutdown::External, 0, None))
        .await
        .unwrap_err();
    assert!(
        error.line().contains("export other may write to disk d1"),
        "{error:?}"
    );
    assert_eq!(qmp.quiet().await.unwrap(), None);
    emulator.ask("block-export-del", &json!({"id": "other", "mode": "hard"}));
    let quiet = qmp.quiesce(&by(Shutdown::External, 5, None)).await.unwrap();
    assert_eq!(quiet.how, Shutdown::External);
    qmp.last(1, None).await.unwrap();
    assert_eq!(
        qmp.quiet().await.unwrap(),
        Some(quiet),
        "our own exports do not write"
    );
    qmp.wake().await.unwrap();
    qmp.clean().await.unwrap();
}
