//! `kill -9` at any moment, then the same command again: the result is the same to the byte.

use crate::rig::{LoopDevice, QemuNbd, Rng, Room, assert_same_bytes, scrambled_disk, sparse_disk};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const SIZE: u64 = 24 << 20;

/// Copies are killed in this many places at once; each spends its time waiting for `--rate`.
const LANES: u64 = 8;

/// Kills in each of them: 200 in all.
const KILLS: u32 = 25;

/// The longest that a copy lives: long enough for a barrier or two, too short to complete.
const LONGEST_LIFE: u64 = 2300;

/// What was seen, to know that the kills struck where it matters.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    kills: u32,
    /// Runs that went on from a barrier of the run before.
    resumed: u32,
    completed: u32,
}

/// A target whose old content is nothing like the source's.
struct Target {
    path: PathBuf,
    bytes: PathBuf,
    device: Option<LoopDevice>,
}

impl Target {
    fn new(room: &Room, number: u32, on_device: bool) -> Self {
        if !on_device {
            let path = room.path(&format!("target{number}"));
            return Self {
                bytes: path.clone(),
                path,
                device: None,
            };
        }
        let bytes = room.path(&format!("backing{number}"));
        scrambled_disk(&bytes, SIZE);
        let device = LoopDevice::over(&bytes, if number.is_multiple_of(2) { 512 } else { 4096 });
        Self {
            path: device.path().to_owned(),
            bytes,
            device: Some(device),
        }
    }
}

fn words<'a>(source: &'a str, target: &'a Path, rate: &'a str) -> Vec<&'a str> {
    let target = target.to_str().unwrap();
    let mut words = vec!["copy", "--json", "--overwrite", "--request-size", "64k"];
    words.extend(["--memory", "4M", "--rate", rate, source, target]);
    words
}

fn resumed(events: &[Value]) -> bool {
    let start = events.iter().find(|event| event["event"] == "start");
    start.is_some_and(|start| start["resumed"].as_u64().unwrap() > 0)
}

/// One copy, killed until it completes or `kills` are used up, and then let run.
fn one_copy(room: &Room, uri: &str, target: &Target, rng: &mut Rng, seen: &mut Seen) {
    while seen.kills < KILLS {
        let run = room.start(words(uri, &target.path, "4M"));
        thread::sleep(Duration::from_millis(rng.below(LONGEST_LIFE)));
        let outcome = run.kill();
        seen.resumed += u32::from(resumed(&outcome.whole_events()));
        if outcome.signal.is_none() {
            outcome.ok();
            return;
        }
        seen.kills += 1;
        if target.device.is_none() && target.path.exists() {
            // Only whole files have the final name.
            assert_same_bytes(&room.path("disk"), &target.path);
        }
    }
    let outcome = room.diskferry(words(uri, &target.path, "1G")).ok();
    seen.resumed += u32::from(resumed(&outcome.events()));
}

fn lane(number: u64) -> Seen {
    let room = Room::new();
    let disk = room.path("disk");
    sparse_disk(&disk, SIZE, 60, number);
    // Not nbdkit: it may abort when a client vanishes with replies outstanding.
    let server = QemuNbd::new(&disk, "raw", &["-r"]);
    let mut rng = Rng::new(number);
    let mut seen = Seen::default();
    while seen.kills < KILLS {
        let target = Target::new(&room, seen.completed, !number.is_multiple_of(4));
        one_copy(&room, &server.uri(), &target, &mut rng, &mut seen);
        seen.completed += 1;
        assert_same_bytes(&disk, &target.bytes);
    }
    seen
}

#[test]
fn a_copy_killed_at_200_random_moments_and_resumed_is_the_same_to_the_byte() {
    let lanes: Vec<Seen> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|n| scope.spawn(move || lane(n))).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let kills: u32 = lanes.iter().map(|seen| seen.kills).sum();
    let resumed: u32 = lanes.iter().map(|seen| seen.resumed).sum();
    let completed: u32 = lanes.iter().map(|seen| seen.completed).sum();
    assert_eq!(kills, 200);
    assert!(resumed >= 40, "few kills came after a barrier: {lanes:?}");
    assert!(completed >= 16, "few copies were completed: {lanes:?}");
}
