//! Views of one instant, and lists of what changed between them.

use super::{
    SIZE, apply, changes, daemon, disks, first_byte, lists, machine, of_daemon, of_machine,
    options, read, scratch, standing,
};
use crate::rig::{
    Emulator, Habits, Rng, Room, Vm, address, assert_same_bytes, diary, random_disk, run,
};
use diskferry::changes::Baseline;
use diskferry::changes::guest::{Guest as _, Shutdown};
use diskferry::changes::qmp::{DiskAt, IOTHREADS, Qmp};
use diskferry::error::Kind;
use serde_json::json;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Stops the guest also when the test fails: its thread would be waited for without end.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_disks_are_frozen_at_one_instant_while_their_guest_writes() {
    let room = Room::new();
    let (emulator, qmp) = daemon(&room, 2);
    let mut guests = [emulator.guest(0), emulator.guest(1)];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = StopAtEnd(&stop);
        // Each number first on disk 0, then on disk 1, as a database has a log and a table.
        scope.spawn(|| {
            for number in (1..=200_u8).cycle() {
                guests
                    .iter_mut()
                    .for_each(|guest| guest.write(number, 0, 65536));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let work = async {
            let mut seen = Vec::new();
            for number in 1..=6 {
                let points = qmp.snapshot(number, None).await.unwrap();
                let [log, table] = [&points[0], &points[1]].map(|p| first_byte(&room, p, 0));
                assert!(log == table || log == table % 200 + 1, "{log} {table}");
                let again = [&points[0], &points[1]].map(|p| first_byte(&room, p, 0));
                assert_eq!(again, [log, table], "it is not frozen");
                assert_eq!(
                    qmp.snapshot(number, None).await.unwrap(),
                    points,
                    "made again"
                );
                qmp.release(number).await.unwrap();
                seen.push(log);
            }
            seen.dedup();
            assert!(seen.len() > 1, "nobody wrote");
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
        drop(end);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_changes_alone_keep_two_targets_equal_to_every_view() {
    let room = Room::new();
    let (emulator, qmp) = daemon(&room, 2);
    let mut rng = Rng::new(5);
    let mut guests = [emulator.guest(0), emulator.guest(1)];
    let targets = [room.path("target0"), room.path("target1")];
    let full = qmp.snapshot(1, None).await.unwrap();
    for (point, target) in full.iter().zip(&targets) {
        assert_eq!((&point.since, point.size), (&None, SIZE));
        fs::copy(read(&room, point), target).unwrap();
    }
    qmp.release(1).await.unwrap();
    for number in 2..6 {
        let mut written = Vec::new();
        for _ in 0..20 {
            let disk = usize::try_from(rng.below(2)).unwrap();
            let (offset, length) = (
                rng.below(SIZE / 512 - 256) * 512,
                512 * (1 + rng.below(256)),
            );
            match rng.below(4) {
                0 => guests[disk].zero(offset, length),
                1 => guests[disk].discard(offset, length),
                _ => guests[disk].write(u8::try_from(number).unwrap(), offset, length),
            }
            written.push((disk, offset..offset + length));
        }
        let points = qmp.snapshot(number, Some(number - 1)).await.unwrap();
        // What is written now belongs to the next list.
        guests[0].write(99, 0, 4096);
        for (disk, range) in &written {
            assert!(
                lists(&points[*disk], range),
                "{range:?} of disk {disk} is missing"
            );
        }
        for (point, target) in points.iter().zip(&targets) {
            assert_eq!(point.lost, None);
            apply(&room, point, target);
            assert_same_bytes(&read(&room, point), target);
        }
        let stands = standing(&qmp, number).await.unwrap();
        assert!(stands.readable && stands.tracked);
        qmp.release(number).await.unwrap();
        assert!(!standing(&qmp, number).await.unwrap().readable);
        qmp.forget_before(number).await.unwrap();
        assert_eq!(standing(&qmp, number - 1).await, None);
    }
    let removed = qmp.clean().await.unwrap();
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!(qmp.points().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_was_given_up_leaves_its_changes_to_the_next_one() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 2);
    qmp.snapshot(1, None).await.unwrap();
    qmp.release(1).await.unwrap();
    emulator.write(0, 1, 1 << 20, 4096);
    qmp.snapshot(2, Some(1)).await.unwrap();
    emulator.write(0, 2, 2 << 20, 4096);
    qmp.release(2).await.unwrap(); // Its pass never became durable.
    emulator.write(0, 3, 3 << 20, 4096);
    let points = qmp.snapshot(3, Some(1)).await.unwrap();
    let block = |mib: u64| (mib << 20, 65536);
    assert_eq!(changes(&points[0]), [block(1), block(2), block(3)]);
    assert_eq!(changes(&points[1]), []);
    assert_eq!(standing(&qmp, 2).await, None, "as if it had never been");
    // The same number again, when its job is gone: also nothing is lost.
    let jobs = emulator.inventory();
    for job in jobs.iter().filter_map(|name| name.strip_prefix("job ")) {
        emulator.ask("job-cancel", &json!({"id": job}));
    }
    emulator.write(0, 4, 4 << 20, 4096);
    assert!(
        !standing(&qmp, 3).await.unwrap().readable,
        "it shows the disk as it is now"
    );
    let points = qmp.snapshot(3, Some(1)).await.unwrap();
    assert_eq!(
        changes(&points[0]),
        [block(1), block(2), block(3), block(4)]
    );
    assert_eq!(first_byte(&room, &points[0], 4 << 20), 4);
    qmp.clean().await.unwrap();
    assert_eq!(scratch(&room), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_asked_by_device_and_leaves_nothing_when_it_is_clean() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 2);
    let before = emulator.inventory();
    let disks = qmp.disks().await.unwrap();
    let facts: Vec<_> = disks
        .iter()
        .map(|disk| (&*disk.name, disk.size, &*disk.tracking))
        .collect();
    let tracking = ["dirty bitmap of node disk0", "dirty bitmap of node disk1"];
    assert_eq!(
        facts,
        [("d0", SIZE, tracking[0]), ("d1", SIZE, tracking[1])]
    );
    assert_eq!(emulator.inventory(), before, "looking changes nothing");

    emulator.ask("cont", &json!({}));
    let points = qmp.snapshot(7, None).await.unwrap();
    // While its job runs, the device's topmost node is a filter, which is seen through.
    assert_eq!(qmp.disks().await.unwrap(), disks);
    let was = first_byte(&room, &points[0], 0);
    emulator.write(0, !was, 0, 65536);
    assert_eq!(first_byte(&room, &points[0], 0), was);
    let removed = qmp.clean().await.unwrap();
    for what in ["export", "job", "overlay", "bitmap", "file", "NBD server"] {
        assert!(
            removed.iter().any(|line| line.contains(what)),
            "{what}: {removed:?}"
        );
    }
    assert_eq!(emulator.inventory(), before);
    assert_eq!(scratch(&room), Vec::<String>::new());
    assert_eq!(
        qmp.clean().await.unwrap(),
        Vec::<String>::new(),
        "nothing twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_in_io_threads_are_refused_where_reading_them_could_end_the_vm() {
    let room = Room::new();
    let emulator = Emulator::machine_with(&disks(&room, 2), Some("thread7"));
    let mut options = of_machine(&room, &emulator, 2);
    let qmp = Qmp::new(options.clone()).unwrap();
    let version = run("qemu-system-x86_64", ["--version"]);
    let major = version
        .split(['.', ' '])
        .find_map(|word| word.parse::<u32>().ok());
    let dangerous = major.unwrap() < IOTHREADS.major;
    let found = qmp.disks().await;
    assert_eq!(found.is_err(), dangerous, "{found:?}");
    if let Err(error) = found {
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.line().contains("thread7"), "{error:?}");
        assert_eq!(
            qmp.snapshot(1, None).await.unwrap_err().kind(),
            Kind::Refused
        );
        assert_eq!(qmp.points().await.unwrap(), []);
    }
    drop(qmp);
    options.allow_iothreads = true;
    let qmp = Qmp::new(options).unwrap();
    // The thread has nothing to do before the guest's driver starts: this is safe here.
    let points = qmp.snapshot(1, None).await.unwrap();
    assert_same_bytes(&read(&room, &points[0]), &room.path("disk0"));
    qmp.clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_resized_is_lost_to_tracking_and_says_so() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 2);
    qmp.snapshot(1, None).await.unwrap();
    qmp.release(1).await.unwrap();
    emulator.ask(
        "block_resize",
        &json!({"node-name": "disk0", "size": SIZE + 65536}),
    );
    assert!(!standing(&qmp, 1).await.unwrap().tracked);
    let points = qmp.snapshot(2, Some(1)).await.unwrap();
    assert_eq!(
        (points[0].size, &points[0].since),
        (SIZE + 65536, &Some(Baseline::Digest))
    );
    let why = points[0].lost.as_deref().unwrap();
    assert!(
        why.contains("16777216") && why.contains("16842752"),
        "{why}"
    );
    assert_eq!(changes(&points[1]), [], "the other disk is tracked on");
    qmp.release(2).await.unwrap();
    qmp.forget_before(2).await.unwrap();
    let points = qmp.snapshot(3, Some(2)).await.unwrap();
    assert_eq!(changes(&points[0]), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_was_started_anew_has_lost_its_bitmaps_and_says_so() {
    let room = Room::new();
    let (mut emulator, qmp) = daemon(&room, 1);
    qmp.snapshot(1, None).await.unwrap();
    emulator.kill();
    let error = qmp.points().await.unwrap_err();
    assert!(
        error.line().contains(emulator.qmp().to_str().unwrap()),
        "{error:?}"
    );
    let removed = qmp.clean().await.unwrap();
    assert_eq!(
        removed.len(),
        1,
        "the overlay's file outlived its QEMU: {removed:?}"
    );

    let emulator = Emulator::daemon(&[room.path("disk0")]);
    let qmp = Qmp::new(of_daemon(&room, &emulator, 1)).unwrap();
    assert_eq!(qmp.points().await.unwrap(), []);
    let points = qmp.snapshot(2, Some(1)).await.unwrap();
    assert_eq!(points[0].since, Some(Baseline::Digest));
    assert!(points[0].lost.as_deref().unwrap().contains("started anew"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_external_snapshot_the_disk_is_where_its_guest_writes_now() {
    let room = Room::new();
    let (mut emulator, qmp) = machine(&room, 2);
    qmp.snapshot(1, None).await.unwrap();
    qmp.release(1).await.unwrap();
    let layer = room.path("layer");
    emulator.ask(
        "blockdev-snapshot-sync",
        &json!({"node-name": "disk0", "snapshot-file": layer, "snapshot-node-name": "layer"}),
    );
    let points = qmp.snapshot(2, Some(1)).await.unwrap();
    let why = points[0].lost.as_deref().unwrap();
    assert!(why.contains("disk0") && why.contains("layer"), "{why}");
    emulator.write(0, 9, 0, 4096);
    qmp.release(2).await.unwrap();
    qmp.forget_before(2).await.unwrap();
    let points = qmp.snapshot(3, Some(2)).await.unwrap();
    assert_eq!(changes(&points[0]), [(0, 65536)]);
    drop(qmp);

    let mut by_node = of_machine(&room, &emulator, 1);
    by_node.disks = vec![DiskAt::node("d0", "disk0")];
    let error = Qmp::new(by_node).unwrap().disks().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("older layer"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_a_disk() {
    let room = Room::new();
    let (mut emulator, _) = daemon(&room, 1);
    let image = room.path("read-only");
    random_disk(&image, SIZE, 9);
    let file = json!({"driver": "file", "filename": image, "read-only": true});
    emulator.ask(
        "blockdev-add",
        &json!({"driver": "raw", "node-name": "disk1", "read-only": true, "file": file}),
    );
    let qmp = Qmp::new(of_daemon(&room, &emulator, 2)).unwrap();
    for (number, since) in [(1, None), (2, Some(1))] {
        let points = qmp.snapshot(number, since).await.unwrap();
        assert_same_bytes(&read(&room, &points[1]), &image);
        qmp.release(number).await.unwrap();
        qmp.forget_before(number).await.unwrap();
    }
    qmp.clean().await.unwrap();
}

/// A guest that keeps a diary on two disks, in a QEMU that would end with it.
fn diarist(room: &Room) -> Vm {
    let disks = [room.path("a"), room.path("b")];
    for disk in &disks {
        fs::File::create(disk).unwrap().set_len(SIZE).unwrap();
    }
    diary::begin(&disks, 7, 8192, 300).unwrap();
    let habits = Habits {
        rate: 60,
        stays: false,
    };
    Vm::start(&disks.map(address), habits)
}

/// The whole story.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_drained_while_it_writes_shut_down_and_found_whole() {
    let room = Room::new();
    let mut vm = diarist(&room);
    let qmp = Qmp::new(options(&room, vm.qmp(), 2)).unwrap();
    let targets = [room.path("target0"), room.path("target1")];
    let points = qmp.snapshot(1, None).await.unwrap();
    for (point, target) in points.iter().zip(&targets) {
        fs::copy(read(&room, point), target).unwrap();
    }
    let mut entries = vec![diary::check(&targets).unwrap()];
    qmp.release(1).await.unwrap();
    for number in 2..4 {
        let next = vm.acknowledged() + 40;
        vm.wait_for_entry(next);
        let points = qmp.snapshot(number, Some(number - 1)).await.unwrap();
        for (point, target) in points.iter().zip(&targets) {
            apply(&room, point, target);
        }
        entries.push(diary::check(&targets).unwrap());
        qmp.release(number).await.unwrap();
        qmp.forget_before(number).await.unwrap();
    }
    assert!(entries.is_sorted_by(|a, b| a < b), "{entries:?}");

    let quiet = qmp
        .quiesce(&super::quiet::by(Shutdown::Guest, 60, None))
        .await
        .unwrap();
    assert_eq!(
        (quiet.how, &*quiet.evidence),
        (Shutdown::Guest, "query-status: shutdown")
    );
    let points = qmp.last(4, Some(3)).await.unwrap();
    for (point, target) in points.iter().zip(&targets) {
        apply(&room, point, target);
    }
    let last = diary::check(&targets).unwrap();
    assert_eq!(last, vm.acknowledged(), "every entry that it ever wrote");
    qmp.release(4).await.unwrap();
    qmp.forget_before(4).await.unwrap();
    let points = qmp.last(5, Some(4)).await.unwrap();
    assert!(points.iter().all(|point| changes(point).is_empty()));
    qmp.clean().await.unwrap();
    assert_eq!(run("ls", [room.path("scratch")]), "");
}
