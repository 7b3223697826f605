//! What is not ours stays as it is, and what stands in the way is named.

use super::{
    SIZE, changes, daemon, disks, machine, of_daemon, of_machine, options, scratch, standing,
};
use crate::rig::{Emulator, Room, run};
use diskferry::changes::guest::Guest as _;
use diskferry::changes::qmp::{Place, Qmp, QmpOptions};
use diskferry::error::Kind;
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A bitmap, a job, an NBD server at `socket` and an export.
fn things_of_others(emulator: &mut Emulator, socket: &Path) {
    emulator.ask(
        "block-dirty-bitmap-add",
        &json!({"node": "disk0", "name": "backup-1"}),
    );
    emulator.ask(
        "blockdev-add",
        &json!({"driver": "null-co", "node-name": "sink", "size": SIZE}),
    );
    emulator.ask(
        "blockdev-backup",
        &json!({"job-id": "backup", "device": "disk0", "target": "sink", "sync": "none"}),
    );
    let server = json!({"type": "unix", "data": {"path": socket}});
    emulator.ask("nbd-server-start", &json!({"addr": server}));
    emulator.ask(
        "block-export-add",
        &json!({"type": "nbd", "id": "theirs", "name": "theirs", "node-name": "disk1"}),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bitmaps_jobs_exports_and_a_migration_of_others_are_left_alone() {
    let room = Room::new();
    let mut emulator = machine(&room, 2).0;
    let socket = room.path("nbd");
    things_of_others(&mut emulator, &socket);
    // One client at a time: the other migration has come as far as this when it lets go.
    let with = |emulator: &Emulator, migration: &str| {
        let mut options = of_machine(&room, emulator, 2);
        options.nbd = Some(Place::Unix(socket.clone()));
        options.migration = migration.to_owned();
        Qmp::new(options).unwrap()
    };
    let other = with(&emulator, "another migration");
    let ours = with(&emulator, "this migration");
    let theirs = other.snapshot(1, None).await.unwrap();
    drop(other);
    let before = emulator.inventory();

    let points = ours.snapshot(1, None).await.unwrap();
    assert_ne!(points[0].address, theirs[0].address);
    ours.release(1).await.unwrap();
    emulator.write(0, 1, 0, 4096);
    let points = ours.snapshot(2, Some(1)).await.unwrap();
    assert_eq!(changes(&points[0]), [(0, 65536)]);
    let removed = ours.clean().await.unwrap();
    assert!(
        removed.iter().all(|line| !line.contains("NBD server")),
        "{removed:?}"
    );
    assert_eq!(emulator.inventory(), before);
    drop(ours);

    let other = with(&emulator, "another migration");
    assert!(standing(&other, 1).await.unwrap().readable);
    other.clean().await.unwrap();
    let left = emulator.inventory();
    assert!(
        left.contains("job backup") && left.contains("export theirs"),
        "{left:?}"
    );
    assert!(left.contains("bitmap backup-1 of disk0"), "{left:?}");
    assert!(!left.iter().any(|name| name.contains("df-")), "{left:?}");
    assert_eq!(scratch(&room), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_bitmap_that_is_inconsistent_is_neither_used_nor_removed() {
    let room = Room::new();
    let image = room.path("image");
    let size = SIZE.to_string();
    run(
        "qemu-img",
        [
            "create",
            "-q",
            "-f",
            "qcow2",
            image.to_str().unwrap(),
            &size,
        ],
    );
    let mut emulator = Emulator::daemon_of(std::slice::from_ref(&image), "qcow2");
    let bitmap = json!({"node": "disk0", "name": "weekly", "persistent": true});
    emulator.ask("block-dirty-bitmap-add", &bitmap);
    drop(emulator); // Stored.
    let mut emulator = Emulator::daemon_of(std::slice::from_ref(&image), "qcow2");
    emulator.guest(0).write(1, 0, 4096);
    emulator.kill(); // Not stored.
    let mut emulator = Emulator::daemon_of(&[image], "qcow2");
    let nodes = emulator.ask("query-named-block-nodes", &json!({"flat": true}));
    let nodes = nodes.as_array().unwrap();
    let node = nodes
        .iter()
        .find(|node| node["node-name"] == "disk0")
        .unwrap();
    assert_eq!(node["dirty-bitmaps"][0]["inconsistent"], true, "{node}");

    let before = emulator.inventory();
    let qmp = Qmp::new(of_daemon(&room, &emulator, 1)).unwrap();
    qmp.snapshot(1, None).await.unwrap();
    qmp.release(1).await.unwrap();
    emulator.guest(0).write(2, 1 << 20, 4096);
    let points = qmp.snapshot(2, Some(1)).await.unwrap();
    assert_eq!(changes(&points[0]), [(1 << 20, 65536)]);
    qmp.clean().await.unwrap();
    assert_eq!(emulator.inventory(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nbd_server_of_somebody_else_must_be_named_and_named_right() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 1);
    let theirs = room.path("theirs");
    let server = json!({"type": "unix", "data": {"path": theirs}});
    emulator.ask("nbd-server-start", &json!({"addr": server}));
    let before = emulator.inventory();
    let error = qmp.snapshot(1, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.line().contains("does not tell where it listens"),
        "{error:?}"
    );
    assert_eq!(emulator.inventory(), before, "nothing is held meanwhile");
    assert_eq!(scratch(&room), Vec::<String>::new());
    drop(qmp);

    let mut options = of_machine(&room, &emulator, 1);
    let elsewhere = Room::new();
    let other = daemon(&elsewhere, 1).0;
    options.nbd = Some(Place::Unix(other.nbd()));
    let qmp = Qmp::new(options.clone()).unwrap();
    let error = qmp.snapshot(1, None).await.unwrap_err();
    assert!(
        error
            .line()
            .contains("where QEMU's NBD server is said to be"),
        "{error:?}"
    );
    drop(qmp);

    options.nbd = Some(Place::Unix(theirs.clone()));
    let qmp = Qmp::new(options).unwrap();
    qmp.snapshot(1, None).await.unwrap();
    qmp.clean().await.unwrap();
    assert!(
        UnixStream::connect(&theirs).is_ok(),
        "it is not ours to stop"
    );
    assert_eq!(scratch(&room), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nbd_server_that_another_migration_left_is_told_by_its_socket() {
    let room = Room::new();
    let emulator = machine(&room, 1).0;
    let with = |migration: &str| {
        let mut options = of_machine(&room, &emulator, 1);
        options.migration = migration.to_owned();
        Qmp::new(options).unwrap()
    };
    let other = with("another migration");
    other.snapshot(1, None).await.unwrap();
    other.release(1).await.unwrap();
    drop(other);
    let left = scratch(&room);
    assert_eq!(left.len(), 1, "{left:?}");

    let ours = with("this migration");
    let error = ours.snapshot(1, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let told = error.line();
    assert!(
        told.contains("that of another migration") && told.contains(&left[0]),
        "{told}"
    );
    drop(ours);
    with("another migration").clean().await.unwrap();
    with("this migration").snapshot(1, None).await.unwrap();
    with("this migration").clean().await.unwrap();
    assert_eq!(scratch(&room), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn our_nbd_server_is_left_to_those_who_use_it_too() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 1);
    qmp.snapshot(1, None).await.unwrap();
    let export = json!({"type": "nbd", "id": "theirs", "name": "theirs", "node-name": "disk0"});
    emulator.ask("block-export-add", &export);
    qmp.clean().await.unwrap();
    assert!(emulator.inventory().contains("export theirs"));
    emulator.ask("block-export-del", &json!({"id": "theirs", "mode": "hard"}));
    while emulator.inventory().contains("export theirs") {}
    assert_eq!(
        qmp.clean().await.unwrap(),
        ["the NBD server"],
        "then it goes"
    );
    assert_eq!(scratch(&room), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_client_holds_is_told_from_one_where_nobody_listens() {
    let room = Room::new();
    let (emulator, _) = daemon(&room, 1);
    let _holder = UnixStream::connect(emulator.qmp()).unwrap();
    let mut options = of_daemon(&room, &emulator, 1);
    options.patience = Duration::from_secs(1);
    let error = Qmp::new(options).unwrap().disks().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(
        error.line().contains("is another one connected?"),
        "{error:?}"
    );

    let nobody = super::options(&room, room.path("nobody"), 1);
    let error = Qmp::new(nobody).unwrap().disks().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.line().contains("is the VM running"), "{error:?}");

    // An NBD server also talks first, but not QMP.
    let nbd = options_of(&room, &emulator);
    let error = Qmp::new(nbd).unwrap().disks().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.line().contains("is that a QMP socket?"), "{error:?}");
}

fn options_of(room: &Room, emulator: &Emulator) -> QmpOptions {
    options(room, emulator.nbd(), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_directory_that_is_not_there_is_named() {
    let room = Room::new();
    let emulator = Emulator::daemon(&disks(&room, 1));
    let mut options = of_daemon(&room, &emulator, 1);
    options.scratch = room.path("no such directory");
    let error = Qmp::new(options)
        .unwrap()
        .snapshot(1, None)
        .await
        .unwrap_err();
    assert!(error.line().contains("no such directory"), "{error:?}");
}
