//! Changed areas, page by page, and a vCenter that lies.

use super::{machine, wait};
use crate::rig::{Taken, Vcenter};
use diskferry::changes::Tracker;
use diskferry::changes::vsphere::Cbt;
use diskferry::error::{Error, Kind, Result};
use diskferry::extent::ByteRange;
use diskferry::vsphere::changes::{ChangeId, Query};
use diskferry::vsphere::soap::Moref;
use tempfile::TempDir;

const GRAIN: u64 = 64 << 10;

/// What tells the changes of the first disk between a change id and a snapshot.
async fn tracker(vcenter: &Vcenter, since: &str, taken: &Taken) -> (Cbt, TempDir) {
    let (machine, dir) = machine(vcenter).await;
    let disk = &vcenter.disks()[0];
    let query = Query {
        vm: machine.on().clone(),
        snapshot: Moref::new("VirtualMachineSnapshot", taken.moref.clone()),
        disk: i32::try_from(disk.key).unwrap(),
        since: ChangeId::new(since.to_owned()).unwrap(),
        capacity: disk.size,
    };
    (Cbt::new(machine.session().clone(), query), dir)
}

/// All that it tells, window by window.
async fn told(
    vcenter: &Vcenter,
    since: &str,
    taken: &Taken,
    window: u64,
) -> Result<Vec<ByteRange>> {
    let (tracker, _dir) = tracker(vcenter, since, taken).await;
    let disk = &vcenter.disks()[0];
    let mut all: Vec<ByteRange> = Vec::new();
    let mut at = 0;
    while at < disk.size {
        let answer = tracker
            .changes(ByteRange::new(at, disk.size.min(at + window)))
            .await?;
        assert_eq!(answer.known.start, at);
        for range in answer.changed {
            match all.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => all.push(range),
            }
        }
        at = answer.known.end;
    }
    Ok(all)
}

#[test]
fn what_was_written_between_two_snapshots_is_told_however_small_the_pages() {
    let vcenter = Vcenter::new(&["16M"]);
    let first = vcenter.snapshot("one");
    let grains = [0u64, 1, 7, 20, 22, 100, 255];
    for grain in grains {
        vcenter.write(0, grain * GRAIN + 5, 10, 9);
    }
    let second = vcenter.snapshot("two");
    let expected = [(0, 2), (7, 8), (20, 21), (22, 23), (100, 101), (255, 256)];
    let expected: Vec<_> = expected
        .iter()
        .map(|(start, end)| ByteRange::new(start * GRAIN, end * GRAIN))
        .collect();
    for (page, window) in [("1", 1 << 20), ("2", 16 << 20), ("2000", 3 * GRAIN)] {
        vcenter.tell(&format!("max-extents {page}"));
        let all = wait(told(&vcenter, &first.change_ids[0], &second, window)).unwrap();
        assert_eq!(all, expected, "pages of {page}");
    }
    let nothing = wait(told(&vcenter, &second.change_ids[0], &second, 1 << 20)).unwrap();
    assert_eq!(nothing, []);
    let written = wait(told(&vcenter, "*", &second, 16 << 20)).unwrap();
    assert_eq!(written, expected, "all that was ever written");
}

#[test]
fn a_session_that_ends_between_two_pages_loses_nothing() {
    let vcenter = Vcenter::new(&["4M"]);
    let first = vcenter.snapshot("one");
    vcenter.write(0, 0, 1, 1);
    vcenter.write(0, 2 << 20, 1, 1);
    let second = vcenter.snapshot("two");
    vcenter.tell("max-extents 1");
    wait(async {
        let (tracker, _dir) = tracker(&vcenter, &first.change_ids[0], &second).await;
        let before = tracker.changes(ByteRange::new(0, 4 << 20)).await.unwrap();
        assert_eq!(before.known, ByteRange::new(0, GRAIN));
        vcenter.tell("expire");
        let after = tracker
            .changes(ByteRange::new(GRAIN, 4 << 20))
            .await
            .unwrap();
        assert_eq!(after.changed, [ByteRange::at(2 << 20, GRAIN)]);
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn a_lying_vcenter_is_caught_and_the_query_is_in_the_message() {
    let vcenter = Vcenter::new(&["4M"]);
    let first = vcenter.snapshot("one");
    for grain in [3u64, 9, 30] {
        vcenter.write(0, grain * GRAIN, 10, 9);
    }
    let second = vcenter.snapshot("two");
    for lie in [
        "unsorted", "overlap", "overrun", "negative", "before", "stuck",
    ] {
        vcenter.tell(&format!("lie {lie}"));
        let caught: Error =
            wait(told(&vcenter, &first.change_ids[0], &second, 1 << 20)).unwrap_err();
        assert_eq!(caught.kind(), Kind::Corrupt, "{lie}: {}", caught.line());
        let line = caught.line();
        assert!(line.contains(&first.change_ids[0]), "{lie}: {line}");
        assert!(line.contains(&second.moref), "{lie}: {line}");
    }
    vcenter.tell("lie none");
    let all = wait(told(&vcenter, &first.change_ids[0], &second, 1 << 20)).unwrap();
    assert_eq!(all.len(), 3);
}

#[test]
fn an_id_that_the_host_has_forgotten_is_a_fault_with_a_way_out() {
    let vcenter = Vcenter::new(&["1M"]);
    let taken = vcenter.snapshot("one");
    let error = wait(told(&vcenter, "52 00-11 22/9", &taken, 1 << 20)).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    for part in ["FileFault", "since \"52 00-11 22/9\"", "compared instead"] {
        assert!(error.line().contains(part), "{}", error.line());
    }
}
