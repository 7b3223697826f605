//! Long reads in parts: asked of a server that is near, in whatever order they are answered.

use super::{MIB, assert_pattern, connect, once, patient, read};
use crate::rig::{Nbdkit, Room};
use diskferry::nbd::client::Options;
use std::fs;

/// With parts allowed.
fn cut(options: Options) -> Options {
    Options {
        cut_reads: true,
        ..options
    }
}

/// nbdkit that notes what it is asked to read; `words` are further filters, plugin and settings.
fn noting(room: &Room, words: &[&str]) -> Nbdkit {
    let log = format!("logfile={}", room.path("log").display());
    Nbdkit::new([&["--filter=log"], words, &[log.as_str()]].concat())
}

/// Offset and length of each read until now, in order of offset.
fn reads(room: &Room) -> Vec<(u64, u64)> {
    let log = fs::read_to_string(room.path("log")).unwrap();
    let number = |line: &str, key: &str| {
        let (_, rest) = line.split_once(key).unwrap();
        let word = rest.split(' ').next().unwrap();
        u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap()
    };
    let begun = log.lines().filter(|line| line.contains(" Read id="));
    let mut reads: Vec<_> = begun
        .map(|line| (number(line, "offset="), number(line, "count=")))
        .collect();
    reads.sort_unstable();
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_read_is_asked_for_in_parts_where_that_is_allowed() {
    const PART: u64 = 128 << 10;
    for (options, expected) in [
        (cut(once()), vec![(0, PART), (PART, PART), (2 * PART, 4096)]),
        (once(), vec![(0, 2 * PART + 4096)]),
    ] {
        let room = Room::new();
        let server = noting(&room, &["pattern", "size=4M"]);
        let client = connect(&server.uri(), options).await.unwrap();
        assert_pattern(&read(&client, 0, (2 << 17) + 4096).await, 0);
        assert_eq!(reads(&room), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_turns_out_to_be_far_is_asked_for_all_at_once() {
    let room = Room::new();
    let words = ["--filter=delay", "pattern", "size=4M", "rdelay=5ms"];
    let server = noting(&room, &words);
    let client = connect(&server.uri(), cut(once())).await.unwrap();
    // The first answers say nothing yet.
    for _ in 0..100 {
        read(&client, 0, 256 << 10).await;
    }
    assert_eq!(reads(&room).len(), 200);
    read(&client, MIB, 1 << 20).await;
    assert_eq!(reads(&room).split_off(200), [(MIB, MIB)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_fail_and_parts_that_overtake_each_other_give_the_right_bytes() {
    let server = Nbdkit::new([
        "--filter=error",
        "pattern",
        "size=8M",
        "error-pread=EIO",
        "error-pread-rate=20%",
    ]);
    let client = connect(&server.uri(), cut(patient())).await.unwrap();
    for offset in (0..8 * MIB).step_by(1 << 20) {
        assert_pattern(&read(&client, offset, 1 << 20).await, offset);
    }
    assert!(client.retries() > 0, "no part failed");
}

#[test]
fn a_copy_asks_in_parts_unless_it_is_told_how_long_requests_are() {
    const PART: u64 = 128 << 10;
    for (words, length) in [(&[][..], PART), (&["--request-size", "256k"], 2 * PART)] {
        let room = Room::new();
        // Few enough that all are asked for before it is known how far the server is.
        let server = noting(&room, &["pattern", "size=1M"]);
        let fixed = ["copy", "--no-journal", "-C", "1"];
        let uri = server.uri();
        room.diskferry([&fixed[..], words, &[&uri, "null:"]].concat())
            .ok();
        let reads = reads(&room);
        assert_eq!(reads.iter().map(|(_, length)| length).sum::<u64>(), MIB);
        assert!(reads.iter().all(|read| read.1 == length), "{reads:?}");
    }
}
