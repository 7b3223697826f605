//! The whole way: full pass, deltas and the final pass, by VDDK and changed block tracking.

use super::{options, wait};
use crate::rig::{Outcome, Room, Vcenter};
use diskferry::changes::guest::{Guest, Point, Quiesce, Shutdown};
use diskferry::changes::vsphere::VsphereGuest;
use std::fs;
use std::time::Duration;

/// A guest of both disks, read with the rig's VDDK.
async fn connect(vcenter: &Vcenter, room: &Room) -> VsphereGuest {
    let mut options = options(vcenter, &room.state());
    let disks = vcenter.disks();
    options.disks = vec![
        ("b".to_owned(), disks[1].object_id.clone()),
        ("a".to_owned(), disks[0].key.to_string()),
    ];
    options.reading = vec![
        ("libdir".to_owned(), vcenter.libdir().display().to_string()),
        ("plugin".to_owned(), Vcenter::plugin().display().to_string()),
    ];
    let guest = VsphereGuest::connect(options, Some(&room.state())).await;
    guest.expect("connect")
}

/// Copies what the point holds, or what changed up to it; gives the bytes that were read.
fn pass(room: &Room, point: &Point, more: &[&str]) -> u64 {
    let address = point.address.to_string();
    let since = point.since.as_ref().map(ToString::to_string);
    let mut words = vec!["copy", "--json", &address, &point.name];
    if let Some(since) = &since {
        words.extend(["--changes-since", since]);
    }
    words.extend(more);
    let copied: Outcome = room.diskferry(words).ok();
    let events = copied.events().into_iter();
    let caught = events.filter(|event| event["event"] == "warning");
    let caught: Vec<_> = caught.collect();
    assert!(caught.is_empty(), "{caught:?}");
    copied.event("done")["read"].as_u64().expect("bytes read")
}

/// The guest writes a little to both disks.
fn write(vcenter: &Vcenter, seed: u8) {
    vcenter.write(0, u64::from(seed) << 20, 200_000, seed);
    vcenter.write(1, u64::from(seed) * 70_000, 5, seed);
}

fn point(vcenter: &Vcenter, room: &Room, number: u32, since: Option<u32>) -> Vec<Point> {
    wait(async {
        let guest = connect(vcenter, room).await;
        let points = guest.snapshot(number, since).await.unwrap();
        let names: Vec<&str> = points.iter().map(|point| &*point.name).collect();
        assert_eq!(names, ["b", "a"]);
        points
    })
}

fn release(vcenter: &Vcenter, room: &Room, number: u32) {
    wait(async {
        let guest = connect(vcenter, room).await;
        guest.release(number).await.unwrap();
    });
}

fn cut_over(vcenter: &Vcenter, room: &Room, number: u32) {
    let how = Quiesce {
        how: Shutdown::Guest,
        timeout: Duration::from_secs(20),
        otherwise: None,
    };
    wait(async {
        let guest = connect(vcenter, room).await;
        guest.quiesce(&how).await.unwrap();
        for point in guest.last(number, Some(number - 1)).await.unwrap() {
            pass(room, &point, &["--final"]);
        }
        guest.clean().await.unwrap();
    });
}

#[test]
fn two_disks_arrive_byte_for_byte_and_nothing_of_ours_stays() {
    let (vcenter, room) = (Vcenter::new(&["24M", "3M"]), Room::new());
    (1..12).for_each(|seed| write(&vcenter, seed));
    vcenter.tell("max-extents 1");
    for point in point(&vcenter, &room, 1, None) {
        assert_eq!(point.since, None);
        pass(&room, &point, &[]);
    }
    release(&vcenter, &room, 1);
    for number in 2..5u8 {
        write(&vcenter, number + 10);
        // A backup at the same time.
        vcenter.snapshot("theirs");
        let since = u32::from(number) - 1;
        for point in point(&vcenter, &room, number.into(), Some(since)) {
            // What is written meanwhile belongs to the next pass.
            vcenter.write(1, 1 << 20, 100, number);
            let read = pass(&room, &point, &[]);
            assert!((1..1 << 20).contains(&read), "a delta read {read} bytes");
        }
        vcenter.remove_snapshot("theirs");
        release(&vcenter, &room, number.into());
    }
    write(&vcenter, 16);
    cut_over(&vcenter, &room, 5);
    for (disk, name) in vcenter.disks().iter().zip(["a", "b"]) {
        let arrived = fs::read(room.path(name)).unwrap();
        assert!(arrived == fs::read(&disk.flat).unwrap(), "{name} differs");
    }
    assert_eq!(vcenter.tell("snapshots"), "");
    assert_eq!(vcenter.tell("sessions"), "0");
}
