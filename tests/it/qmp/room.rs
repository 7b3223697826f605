//! Overlays that run out of room: the snapshot is lost, and the guest never notices.

use super::{SIZE, changes, disks, of_daemon, scratch, standing};
use crate::rig::{Emulator, Room, SmallDisk};
use diskferry::changes::guest::Guest as _;
use diskferry::changes::qmp::{Qmp, QmpOptions};
use diskferry::error::Kind;
use std::thread::sleep;
use std::time::Duration;

/// A guest that overwrites its disk during a snapshot, faster than overlays may grow. Each write
/// must succeed: [`Guest::write`](crate::rig::Guest::write) fails the test if one does not.
async fn overwritten(room: &Room, emulator: &Emulator, options: QmpOptions) -> Qmp {
    let qmp = Qmp::new(options).unwrap();
    qmp.snapshot(1, None).await.unwrap();
    let mut guest = emulator.guest(0);
    for block in 0..SIZE / 65536 {
        guest.write(1, block * 65536, 65536);
        sleep(Duration::from_millis(8));
    }
    let lost = async {
        while standing(&qmp, 1).await.unwrap().readable || !scratch(room).is_empty() {
            sleep(Duration::from_millis(20));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), lost)
        .await
        .expect("it was not given up");
    assert!(
        standing(&qmp, 1).await.unwrap().tracked,
        "only the view is lost"
    );
    qmp
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_file_system_is_full_the_snapshot_is_given_up() {
    let room = Room::new();
    let emulator = Emulator::daemon(&disks(&room, 1));
    let small = SmallDisk::new(room.path("scratch"), 14);
    let mut options = of_daemon(&room, &emulator, 1);
    options.scratch = small.path().to_owned();
    options.keep_free = 8 << 20;
    let qmp = overwritten(&room, &emulator, options).await;
    // There is room again, and nothing was forgotten.
    qmp.release(1).await.unwrap();
    let points = qmp.snapshot(2, None).await.unwrap();
    assert_eq!(points.len(), 1);
    qmp.clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_that_takes_more_than_it_may_is_given_up() {
    let room = Room::new();
    let emulator = Emulator::daemon(&disks(&room, 1));
    let mut options = of_daemon(&room, &emulator, 1);
    options.overlay_max = Some(4 << 20);
    let qmp = overwritten(&room, &emulator, options).await;
    qmp.release(1).await.unwrap();
    let points = qmp.snapshot(2, Some(1)).await.unwrap();
    assert_eq!(changes(&points[0]), [(0, SIZE)], "tracking went on");
    qmp.clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_to_begin_with_nothing_is_frozen() {
    let room = Room::new();
    let emulator = Emulator::daemon(&disks(&room, 1));
    let mut options = of_daemon(&room, &emulator, 1);
    options.keep_free = u64::MAX;
    let qmp = Qmp::new(options).unwrap();
    let error = qmp.snapshot(1, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("must stay so"), "{error:?}");
    assert_eq!(qmp.points().await.unwrap(), []);
}
