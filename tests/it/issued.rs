//! Exactly what is written and zeroed, as the target saw it.

use crate::rig::{Nbdkit, Qsd, Room, run};
use std::fs;
use std::path::Path;

/// What nbdkit's eval plugin noted of a copy of `source`, in order of offset.
///
/// Each line is the plugin's own: `pwrite LENGTH OFFSET FLAGS` and `zero LENGTH OFFSET FLAGS`.
fn issued(room: &Room, source: &str, size: &str, more: &[&str]) -> Vec<String> {
    let log = room.path("issued");
    let _ = fs::remove_file(&log);
    let note = |kind: &str| format!("{kind}=echo \"$@\" >> {}", log.display());
    let data = format!("pwrite=cat >/dev/null; echo \"$@\" >> {}", log.display());
    let size = format!("get_size=echo {size}");
    let flush = "flush=exit 0";
    let target = Nbdkit::new(["eval", &size, &data, &note("zero"), &note("trim"), flush]);
    let fixed = ["copy", "--no-journal", "-C", "1", "--request-size", "64k"];
    let uri = target.uri();
    room.diskferry([&fixed[..], more, &[source, &uri]].concat())
        .ok();
    let mut lines: Vec<String> = fs::read_to_string(&log)
        .unwrap_or_default()
        .lines()
        .map(|line| line.trim().replace(" fua", ""))
        .collect();
    lines.sort_by_key(|line| number(line, 2));
    lines
}

/// A word of `pwrite LENGTH OFFSET FLAGS`, as a number.
fn number(line: &str, word: usize) -> u64 {
    let found = line.split_whitespace().nth(word).unwrap_or_default();
    found
        .parse()
        .unwrap_or_else(|_| panic!("not a request: {line:?}"))
}

/// 64 KiB of data at 0, a hole, 4 KiB of zeroes within data at 1 MiB.
fn disk(path: &Path) {
    let mut bytes = vec![0; 2 << 20];
    bytes[..65536].fill(1);
    bytes[1 << 20..(1 << 20) + 65536].fill(2);
    bytes[(1 << 20) + 8192..(1 << 20) + 12288].fill(0);
    fs::write(path, bytes).unwrap();
    run("fallocate", ["--dig-holes".as_ref(), path.as_os_str()]);
}

fn served(room: &Room) -> Nbdkit {
    let path = room.path("disk");
    disk(&path);
    Nbdkit::new(["-r".as_ref(), "file".as_ref(), path.as_os_str()])
}

/// Adjacent zero requests as one: how many there are depends on windows, what they cover does not.
fn covered(lines: &[String], kind: &str) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for line in lines.iter().filter(|line| line.starts_with(kind)) {
        let length = number(line, 1);
        let start = number(line, 2);
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 += length,
            _ => ranges.push((start, start + length)),
        }
    }
    ranges
}

const M: u64 = 1 << 20;

#[test]
fn data_is_written_once_and_everything_else_is_zeroed_once() {
    let room = Room::new();
    let server = served(&room);
    let lines = issued(&room, &server.uri(), "2M", &[]);
    let data = [(0, 65536), (M, M + 8192), (M + 12288, M + 65536)];
    let zero = [(65536, M), (M + 8192, M + 12288), (M + 65536, 2 * M)];
    assert_eq!(covered(&lines, "pwrite"), data, "{lines:?}");
    assert_eq!(covered(&lines, "zero"), zero, "{lines:?}");
    let zeroes = lines.iter().filter(|line| line.starts_with("zero"));
    assert!(
        zeroes.clone().all(|line| line.contains("may_trim")),
        "{lines:?}"
    );
    assert!(
        zeroes.count() <= 4,
        "a hole is zeroed in a few long requests: {lines:?}"
    );
    assert!(
        !lines.iter().any(|line| line.starts_with("trim")),
        "TRIM promises no zeroes"
    );
}

#[test]
fn a_target_that_is_promised_to_be_zero_only_sees_data() {
    let room = Room::new();
    let server = served(&room);
    let lines = issued(&room, &server.uri(), "2M", &["--target-is-zero"]);
    let data = [(0, 65536), (M, M + 8192), (M + 12288, M + 65536)];
    assert_eq!(covered(&lines, "pwrite"), data, "{lines:?}");
    assert_eq!(covered(&lines, "zero"), [], "{lines:?}");
}

#[test]
fn allocated_zeroes_may_not_be_trimmed() {
    let room = Room::new();
    let server = served(&room);
    let lines = issued(&room, &server.uri(), "2M", &["--allocated"]);
    assert!(
        !lines.iter().any(|line| line.contains("may_trim")),
        "{lines:?}"
    );
    let all = [covered(&lines, "pwrite"), covered(&lines, "zero")].concat();
    assert_eq!(
        all.iter().map(|(start, end)| end - start).sum::<u64>(),
        2 * M
    );
}

#[test]
fn without_a_search_for_zeroes_data_is_written_as_it_is() {
    let room = Room::new();
    let server = served(&room);
    let lines = issued(
        &room,
        &server.uri(),
        "2M",
        &["--no-extents", "--sparse", "0"],
    );
    assert_eq!(covered(&lines, "pwrite"), [(0, 2 * M)], "{lines:?}");
    assert_eq!(covered(&lines, "zero"), [], "{lines:?}");
}

#[test]
fn a_delta_touches_what_changed_and_zeroes_what_is_now_unallocated() {
    let room = Room::new();
    let path = room.path("disk");
    disk(&path);
    let mut qsd = Qsd::new(&path);
    let mut guest = qsd.guest();
    let view = qsd.freeze("b1", None);
    guest.zero(0, 65536);
    guest.write(9, M + 65536, 65536);
    qsd.thaw(view);
    let view = qsd.freeze("b2", Some("b1"));
    let lines = issued(
        &room,
        &view.uri,
        "2M",
        &["--changes-since", "nbd-bitmap:b1"],
    );
    assert_eq!(
        covered(&lines, "pwrite"),
        [(M + 65536, M + 131_072)],
        "{lines:?}"
    );
    assert_eq!(covered(&lines, "zero"), [(0, 65536)], "{lines:?}");
}
