//! Exactly what is written and zeroed, as the target saw it.

use crate::rig::{LoopDevice, Nbdkit, Qsd, Room, Running, assert_same_bytes, run};
use std::fs;
use std::path::Path;
use std::process::Command;

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

/// What strace saw of a copy of `disk` onto `target`, which the kernel knows as `held`: the same
/// lines, with the names of the kernel for how to zero.
fn issued_locally(room: &Room, target: &Path, held: &Path, more: &[&str]) -> Vec<String> {
    let log = room.path("trace").display().to_string();
    let target = target.to_str().unwrap();
    let fixed = ["copy", "--no-journal", "--request-size", "64k"];
    let copy = room.command([&fixed[..], more, &["disk", target]].concat());
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-v", "-s", "0", "-o", &log]);
    strace.args([
        "-e",
        "trace=io_submit,pwrite64,pwritev,pwritev2,fallocate,ioctl",
    ]);
    strace.arg(copy.get_program()).args(copy.get_args());
    strace.current_dir(copy.get_current_dir().unwrap());
    Running::start(strace).wait().ok();
    let trace = fs::read_to_string(&log).unwrap();
    let held = format!("<{}>", held.display());
    let mut lines: Vec<String> = trace
        .lines()
        .flat_map(|line| requests(line, &held))
        .collect();
    lines.sort_by_key(|line| number(line, 2));
    lines
}

/// The changes of the file `held` that one line of strace begins.
fn requests(line: &str, held: &str) -> Vec<String> {
    let (_, call) = line.split_once(' ').unwrap_or_default();
    // What goes on while another thread does something is shown in two parts.
    let call = call.trim_start().trim_end_matches(" <unfinished ...>");
    let value = |part: &str, key: &str| {
        let (_, rest) = part.split_once(key).unwrap_or_default();
        rest.split([',', '}']).next().unwrap_or_default().to_owned()
    };
    if call.starts_with("io_submit(") {
        let parts = call
            .split("aio_lio_opcode=")
            .filter(|part| part.contains(held));
        let writes = parts.filter(|part| part.starts_with("IOCB_CMD_PWRITE"));
        let write = |part| [value(part, "aio_nbytes="), value(part, "aio_offset=")].join(" ");
        return writes
            .map(|part| format!("pwrite {}", write(part)))
            .collect();
    }
    let words: Vec<_> = call
        .split([',', '(', ')', '[', ']'])
        .map(str::trim)
        .collect();
    match words[..] {
        _ if !call.contains(held) => Vec::new(),
        ["pwrite64", _, _, length, offset, ..] => vec![format!("pwrite {length} {offset}")],
        ["fallocate", _, how, offset, length, ..] => vec![format!("zero {length} {offset} {how}")],
        [
            "ioctl",
            _,
            how @ ("BLKZEROOUT" | "BLKDISCARD"),
            "",
            offset,
            length,
            ..,
        ] => {
            vec![format!("zero {length} {offset} {how}")]
        }
        ["ioctl", ..] => Vec::new(),
        _ => panic!("an unknown way to write: {line}"),
    }
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

#[test]
fn a_device_sees_data_once_and_zeroes_once_after_it_was_probed() {
    let room = Room::new();
    disk(&room.path("disk"));
    let data = [(M, M + 8192), (M + 12288, M + 65536)];
    let zero = [(M + 8192, M + 12288), (M + 65536, 2 * M)];
    for (more, how, data, zero) in [
        (&[][..], "FALLOC_FL_PUNCH_HOLE", &data[..], &zero[..]),
        (
            &["--allocated"],
            "FALLOC_FL_ZERO_RANGE",
            &[(M, M + 65536)],
            &zero[1..],
        ),
    ] {
        let device = LoopDevice::new(2 * M, 512);
        fs::write(device.path(), vec![0xee; 2 << 20]).unwrap();
        let lines = issued_locally(&room, device.path(), device.path(), more);
        assert_same_bytes(&room.path("disk"), device.path());
        // What zeroes is tried out on the first MiB.
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|line| number(line, 2) >= M)
            .collect();
        assert_eq!(covered(&lines, "pwrite"), data, "{lines:?}");
        assert_eq!(covered(&lines, "zero"), zero, "{lines:?}");
        let zeroes = lines.iter().filter(|line| line.starts_with("zero"));
        assert!(zeroes.clone().all(|line| line.contains(how)), "{lines:?}");
        assert!(zeroes.count() <= 3, "a few long requests: {lines:?}");
    }
}

#[test]
fn a_device_that_is_promised_to_be_zero_and_a_new_file_see_data_only() {
    let room = Room::new();
    disk(&room.path("disk"));
    let data = [(0, 65536), (M, M + 8192), (M + 12288, M + 65536)];
    let device = LoopDevice::new(2 * M, 512);
    let lines = issued_locally(&room, device.path(), device.path(), &["--target-is-zero"]);
    assert_eq!(covered(&lines, "pwrite"), data, "{lines:?}");
    assert_eq!(covered(&lines, "zero"), [], "{lines:?}");

    let (file, partial) = (room.path("copy"), room.path(".copy.partial"));
    let lines = issued_locally(&room, &file, &partial, &[]);
    assert_eq!(covered(&lines, "pwrite"), data, "{lines:?}");
    assert_eq!(covered(&lines, "zero"), [], "{lines:?}");
    assert_same_bytes(&room.path("disk"), &file);
}
