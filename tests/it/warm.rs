//! A running disk drained warm onto an iSCSI LUN, as `docs/warm-by-hand.md` says, while a guest writes.

use crate::rig::{
    Guest, IscsiLun, LoopDevice, Qsd, Rng, Room, assert_same_bytes, run, sparse_disk,
};
use rustix::process::Signal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const SIZE: u64 = 64 << 20;

/// Stops the guest also when a test fails: its thread would be waited for without end.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes, zeroes and discards all over the disk until told to stop; gives how many.
fn scribble(mut guest: Guest, stop: &AtomicBool, seed: u64) -> u32 {
    let mut rng = Rng::new(seed);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let length = (1 + rng.below(32)) * 4096;
        // In one half of the disk only, so that no delta has a reason to read more.
        let offset = rng.below((SIZE / 2 - length) / 512) * 512;
        match rng.below(8) {
            0 => guest.zero(offset, length),
            1 => guest.discard(offset, length),
            _ => guest.write(u8::try_from(rng.below(255) + 1).unwrap(), offset, length),
        }
        count += 1;
        thread::sleep(Duration::from_millis(4));
    }
    count
}

/// What the target holds is what the view shows. The view is read by another program.
fn assert_holds(room: &Room, view: &str, target: &Path) {
    let copy = room.path("view");
    run("nbdcopy", [view.as_ref(), copy.as_os_str()]);
    assert_same_bytes(&copy, target);
}

fn words<'a>(source: &'a str, target: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["copy", "--json", source, target.to_str().unwrap()];
    [&fixed[..], more].concat()
}

/// Full pass, two deltas and the final pass onto `target`, with a guest that writes until cutover.
fn migrate(room: &Room, disk: &Path, target: &Path) {
    let mut qsd = Qsd::new(disk);
    let stop = AtomicBool::new(false);
    let guest = qsd.guest();
    thread::scope(|scope| {
        let writer = scope.spawn(|| scribble(guest, &stop, 9));
        let end = StopAtEnd(&stop);

        let view = qsd.freeze("b1", None);
        room.diskferry(words(&view.uri, target, &["--overwrite"]))
            .ok();
        assert_holds(room, &view.uri, target);
        qsd.thaw(view);

        for (old, new) in [("b1", "b2"), ("b2", "b3")] {
            thread::sleep(Duration::from_millis(300));
            let view = qsd.freeze(new, Some(old));
            let since = format!("nbd-bitmap:{old}");
            let outcome = room
                .diskferry(words(&view.uri, target, &["--changes-since", &since]))
                .ok();
            let done = outcome.event("done");
            assert_eq!(done["pass"], "delta");
            let read = done["read"].as_u64().unwrap();
            assert!(read <= SIZE / 2, "a delta read {read} bytes");
            assert_holds(room, &view.uri, target);
            qsd.thaw(view);
        }

        drop(end);
        let writes = writer.join().unwrap();
        assert!(writes > 50, "the guest only wrote {writes} times");
    });
    let last = qsd.cut_over("b3");
    let outcome = room
        .diskferry(words(
            &last,
            target,
            &["--changes-since", "nbd-bitmap:b3", "--final"],
        ))
        .ok();
    let done = outcome.event("done");
    assert_eq!(
        (&done["pass"], &done["proven"]),
        (&"final".into(), &true.into())
    );
    assert_holds(room, &last, target);
}

#[test]
fn a_running_disk_is_drained_warm_onto_an_iscsi_lun_and_compares_equal() {
    let room = Room::new();
    let disk = room.path("disk");
    sparse_disk(&disk, SIZE, 40, 21);
    let lun = IscsiLun::new(SIZE);
    migrate(&room, &disk, lun.path());
    run("sync", ["-f".as_ref(), lun.backing().as_os_str()]);
    assert_same_bytes(&disk, &lun.backing());
}

#[test]
fn a_running_disk_is_drained_warm_onto_a_larger_device() {
    let room = Room::new();
    let disk = room.path("disk");
    sparse_disk(&disk, SIZE, 40, 22);
    let device = LoopDevice::new(SIZE + (4 << 20), 512);
    migrate(&room, &disk, device.path());
    assert_same_bytes(&disk, device.backing());
}

#[test]
fn a_delta_that_is_killed_and_one_that_is_interrupted_go_on() {
    let room = Room::new();
    let disk = room.path("disk");
    sparse_disk(&disk, SIZE, 40, 23);
    let device = LoopDevice::new(SIZE, 4096);
    let mut qsd = Qsd::new(&disk);
    let mut guest = qsd.guest();
    let view = qsd.freeze("b1", None);
    room.diskferry(words(&view.uri, device.path(), &[])).ok();
    qsd.thaw(view);
    for block in 0..200_u64 {
        guest.write(7, block * (256 << 10), 128 << 10);
    }

    let view = qsd.freeze("b2", Some("b1"));
    let slow = ["--changes-since", "nbd-bitmap:b1", "--rate", "4M"];
    let run = room.start(words(&view.uri, device.path(), &slow));
    thread::sleep(Duration::from_millis(2200));
    assert_eq!(run.kill().signal, Some(9), "it was over too soon");

    let run = room.start(words(&view.uri, device.path(), &slow));
    thread::sleep(Duration::from_millis(1500));
    run.signal(Signal::INT);
    let interrupted = run.wait().exits(5);
    assert_eq!(interrupted.event("failed")["code"], 5);

    let delta = &slow[..2];
    let outcome = room.diskferry(words(&view.uri, device.path(), delta)).ok();
    assert!(outcome.event("start")["resumed"].as_u64().unwrap() > 0);
    assert_holds(&room, &view.uri, device.path());
}
