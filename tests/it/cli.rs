//! The command line: exit codes, messages, help, and results for people and for scripts.

use crate::rig::{Nbdkit, Qsd, Room, Running, random_disk, run, sparse_disk};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const COMMANDS: [&str; 11] = [
    "copy",
    "inspect",
    "map",
    "checksum",
    "compare",
    "verify",
    "serve",
    "demo",
    "nbdcopy",
    "completions",
    "man",
];

/// A sparse file that ends in a hole and in the middle of a block.
fn holed(room: &Room) -> String {
    let path = room.path("holed.img");
    sparse_disk(&path, 24 << 20, 20, 7);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((40 << 20) + 512).unwrap();
    path.display().to_string()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn help_names_every_command_and_every_command_helps() {
    let room = Room::new();
    let help = room.diskferry(["--help"]).ok().stdout;
    for command in COMMANDS {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}: {help}"
        );
        let help = room.diskferry(["help", command]).ok().stdout;
        assert!(help.contains("Usage: diskferry"), "{help}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_2_and_touches_nothing() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    for words in [
        &[][..],
        &["fly"],
        &["copy", "a"],
        &["copy", "a", "b", "c"],
        &["copy", "--memory", "lots", "a", "b"],
        &["copy", "--changes-since", "yesterday", "a", "b"],
        &["copy", "null:", "b"],
        &["copy", "gopher://x/", "b"],
        &["copy", "a", "[", "nbdkit"],
        &["checksum", "--digest", "crc32", "a"],
        &["map", "--output", "xml", "a"],
        &["completions", "sh3"],
        &["--json", "nbdcopy", "a", "b"],
    ] {
        let outcome = room.diskferry(words.iter().copied()).exits(2);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        assert!(!room.path("b").exists(), "{words:?}");
    }
}

#[test]
fn what_is_not_there_is_one_line_that_names_it() {
    let room = Room::new();
    for command in ["inspect", "map", "checksum"] {
        room.diskferry([command, "gone.img"])
            .fails(1, &["diskferry: ", "gone.img", "No such file"]);
    }
    let outcome = room.diskferry(["--json", "checksum", "gone.img"]).exits(1);
    assert_eq!(outcome.stderr, "");
    let events = outcome.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event"], "failed");
    assert_eq!(events[0]["code"], 1);
}

#[test]
fn whoever_stops_reading_ends_the_program_quietly() {
    let room = Room::new();
    let path = holed(&room);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = room.command(["map", &path]);
    let output = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Extents as (start, length, zero, data), neighbours of one kind joined: that is how far two
/// programs must agree, whatever they add.
fn extents(json: &str) -> Vec<(u64, u64, bool, bool)> {
    let parsed: Vec<Value> = serde_json::from_str(json).unwrap();
    let mut joined: Vec<(u64, u64, bool, bool)> = Vec::new();
    for one in parsed {
        assert_eq!(one["depth"], 0);
        assert_eq!(one["present"], true);
        assert_eq!(one["offset"], one["start"]);
        let (start, length) = (
            one["start"].as_u64().unwrap(),
            one["length"].as_u64().unwrap(),
        );
        let (zero, data) = (
            one["zero"].as_bool().unwrap(),
            one["data"].as_bool().unwrap(),
        );
        match joined.last_mut() {
            Some(last) if last.2 == zero && last.3 == data => last.1 += length,
            _ => joined.push((start, length, zero, data)),
        }
    }
    joined
}

#[test]
fn the_map_of_a_file_and_of_an_export_is_that_of_qemu_img() {
    let room = Room::new();
    let path = holed(&room);
    let server = Nbdkit::new(["file", &path]);
    for address in [path.clone(), server.uri()] {
        let ours = room
            .diskferry(["map", "--output=json", &address])
            .ok()
            .stdout;
        let theirs = run("qemu-img", ["map", "--output=json", "-f", "raw", &address]);
        assert_eq!(extents(&ours), extents(&theirs), "{address}");
        assert!(
            extents(&ours).len() > 4,
            "a map that proves something: {ours}"
        );
    }
    let human = room.diskferry(["map", &path]).ok().stdout;
    assert!(
        human.contains(" data\n") && human.contains(" zero\n"),
        "{human}"
    );
}

#[test]
fn a_checksum_is_the_same_whatever_holds_the_bytes_and_changes_with_any_of_them() {
    let room = Room::new();
    let path = holed(&room);
    let sum = |words: &[&str]| {
        let out = room.diskferry([&["checksum"], words].concat()).ok().stdout;
        out.split_whitespace().next().unwrap().to_owned()
    };
    let first = sum(&[&path]);
    assert!(first.starts_with("xxh3:") && first.len() == 37, "{first}");

    let full = room.path("full.img");
    fs::write(&full, fs::read(&path).unwrap()).unwrap();
    assert_eq!(sum(&[&text(&full)]), first);
    assert_eq!(
        sum(&["--no-extents", "--memory", "1M", "-R", "2", &path]),
        first
    );
    let server = Nbdkit::new(["file", &path]);
    assert_eq!(sum(&[&server.uri()]), first);
    assert_eq!(
        sum(&["[", "nbdkit", "--exit-with-parent", "file", &path, "]"]),
        first
    );

    let blake3 = sum(&["--digest", "blake3", &path]);
    assert!(blake3.starts_with("blake3:"), "{blake3}");
    let json = room.diskferry(["checksum", "--json", &path]).ok().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(format!("xxh3:{}", json["digest"].as_str().unwrap()), first);
    assert_eq!(json["size"], (40 << 20) + 512);

    let file = OpenOptions::new().write(true).open(&full).unwrap();
    file.write_all_at(&[1], 40 << 20).unwrap();
    assert_ne!(sum(&[&text(&full)]), first);
    file.set_len((40 << 20) + 1024).unwrap();
    file.write_all_at(&[0], 40 << 20).unwrap();
    assert_ne!(sum(&[&text(&full)]), first, "the size counts");
}

#[test]
fn compare_tells_equal_from_different_and_where() {
    let room = Room::new();
    let path = holed(&room);
    let other = room.path("other.img");
    fs::write(&other, fs::read(&path).unwrap()).unwrap();
    let other = text(&other);
    let compare = |words: &[&str]| room.diskferry([&["compare"], words].concat());

    let equal = compare(&[&path, &other]).ok().stdout;
    assert!(equal.starts_with("equal"), "{equal}");

    let file = OpenOptions::new().write(true).open(&other).unwrap();
    file.set_len(64 << 20).unwrap();
    compare(&[&path, &other]).ok();
    for (one, two) in [(&path, &other), (&other, &path)] {
        let shorter = format!("{path} has 41943552 bytes and {other} has more");
        compare(&["--strict", one, two]).fails(3, &[&shorter]);
    }

    file.write_all_at(&[1], 50 << 20).unwrap();
    file.write_all_at(&[1], 60 << 20).unwrap();
    for (one, two) in [(&path, &other), (&other, &path)] {
        compare(&[one, two]).fails(3, &["differ", "0x3200000"]);
    }
    let outcome = compare(&["--json", &path, &other]).exits(3);
    let events = outcome.events();
    assert_eq!(events[0]["equal"], false);
    assert_eq!(events[0]["first_difference"], 50 << 20);
    assert_eq!(events[1]["event"], "failed");
    assert_eq!(events[1]["code"], 3);
}

#[test]
fn inspect_tells_what_is_on_a_disk_and_which_sectors_it_was_made_for() {
    let room = Room::new();
    let path = room.path("gpt.img");
    File::create(&path).unwrap().set_len(8 << 20).unwrap();
    for sector in [512u64, 4096] {
        let mut head = vec![0; 8192];
        head[510..512].copy_from_slice(b"\x55\xaa");
        head[450] = 0xee;
        let at = usize::try_from(sector).unwrap();
        head[at..at + 8].copy_from_slice(b"EFI PART");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(&head, 0)
            .unwrap();
        let outcome = room.diskferry(["inspect", "--json", &text(&path)]).ok();
        let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(found["kind"], "file");
        assert_eq!(found["size"], 8 << 20);
        assert_eq!(found["gpt_sector"], sector);
        assert_eq!(found["content"], "a GPT partition table");
    }
    let server = Nbdkit::new([
        "file",
        &text(&path),
        "--filter=blocksize-policy",
        "blocksize-minimum=512",
        "blocksize-preferred=64K",
        "blocksize-maximum=1M",
    ]);
    let outcome = room.diskferry(["inspect", "--json", &server.uri()]).ok();
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(found["kind"], "NBD export");
    assert_eq!(found["export"]["block_size_preferred"], 64 << 10);
    assert_eq!(found["export"]["block_size_maximum"], 1 << 20);
    let flags = found["export"]["flags"].as_array().unwrap();
    assert!(flags.contains(&"flush".into()), "{flags:?}");
    assert_eq!(found["export"]["contexts"][0], "base:allocation");
    let human = room.diskferry(["inspect", &server.uri()]).ok().stdout;
    assert!(human.contains("for sectors of 4096 bytes"), "{human}");
}

#[test]
fn inspect_finds_the_bitmaps_that_a_delta_can_start_from() {
    let room = Room::new();
    random_disk(&room.path("disk.img"), 8 << 20, 5);
    let mut daemon = Qsd::new(&room.path("disk.img"));
    let first = daemon.freeze("b1", None);
    daemon.thaw(first);
    let frozen = daemon.freeze("b2", Some("b1"));
    let outcome = room.diskferry(["inspect", "--json", &frozen.uri]).ok();
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        found["trackers"],
        serde_json::json!(["nbd-bitmap:b1"]),
        "{found}"
    );
    daemon.thaw(frozen);
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let room = Room::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = room.diskferry(["completions", shell]).ok().stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let script = room.path("completions.bash");
    fs::write(&script, room.diskferry(["completions", "bash"]).ok().stdout).unwrap();
    run("bash", [OsStr::new("-n"), script.as_os_str()]);
    room.diskferry(["man", "pages"]).ok();
    for command in COMMANDS {
        let page = fs::read_to_string(room.path(&format!("pages/diskferry-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}: {page}");
    }
}

#[test]
fn the_log_goes_to_standard_error_and_only_when_asked_for() {
    let room = Room::new();
    let path = holed(&room);
    let quiet = room.diskferry(["checksum", &path]).ok();
    assert_eq!(quiet.stderr, "");
    let server = Nbdkit::new(["file", &path]);
    let chatty = room.diskferry(["-vv", "checksum", &server.uri()]).ok();
    assert_eq!(
        chatty.stdout.split(' ').next(),
        quiet.stdout.split(' ').next()
    );
}

/// Runs the program through a link of that name, as scripts do.
fn nbdcopy(room: &Room, words: &[&str]) -> (Option<i32>, String, String) {
    let link = room.path("nbdcopy");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_diskferry"), &link).unwrap();
    }
    let output = Command::new(&link).args(words).output().unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        told(&output.stdout),
        told(&output.stderr),
    )
}

#[test]
fn nbdcopy_complains_as_the_original_does() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    let a = text(&room.path("a"));
    for words in [
        &["-C", "0", &a, "null:"][..],
        &["--requests=x", &a, "null:"],
        &["--request-size=5", &a, "null:"],
        &["-S", "100", &a, "null:"],
        &["--progress=-1", &a, "null:"],
        &["/nonexistent", "null:"],
    ] {
        let ours = nbdcopy(&room, words);
        let theirs = Command::new("nbdcopy").args(words).output().unwrap();
        assert_eq!(ours.0, theirs.status.code(), "{words:?}");
        let theirs = String::from_utf8_lossy(&theirs.stderr);
        let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        assert!(
            first(&ours.2).starts_with(&first(&theirs)),
            "{words:?}\n{}\n{theirs}",
            ours.2
        );
    }
}

#[test]
fn nbdcopy_writes_files_in_place_and_says_how_far_it_is() {
    let room = Room::new();
    let path = holed(&room);
    let target = room.path("target.img");
    random_disk(&target, 64 << 20, 9);
    let (code, stdout, stderr) = nbdcopy(&room, &["--progress=1", &path, &text(&target)]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout.starts_with("0/100\n") && stdout.ends_with("\n100/100\n"),
        "{stdout}"
    );
    assert!(
        fs::read(&target).unwrap() == fs::read(&path).unwrap(),
        "cut to the source's size"
    );

    let fresh = text(&room.path("fresh.img"));
    let (code, ..) = nbdcopy(&room, &["--flush", "-p", &path, &fresh]);
    assert_eq!(code, Some(0));
    assert!(fs::read(&fresh).unwrap() == fs::read(&path).unwrap());

    let small = Nbdkit::new(["memory", "1M"]);
    let (code, _, stderr) = nbdcopy(&room, &[&path, &small.uri()]);
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        "nbdcopy: error: destination size is smaller than source size\n"
    );

    let read_only = Nbdkit::new(["-r", "memory", "64M"]);
    let (code, _, stderr) = nbdcopy(&room, &[&path, &read_only.uri()]);
    assert_eq!(code, Some(1));
    let line = "the destination is read-only, cannot write to it\n";
    assert!(stderr.ends_with(line), "{stderr}");
}

#[test]
fn nbdcopy_obeys_a_maximum_block_size_that_the_original_runs_into() {
    let room = Room::new();
    let path = text(&room.path("a.img"));
    random_disk(Path::new(&path), 8 << 20, 3);
    let server = Nbdkit::new([
        "file",
        &path,
        "--filter=blocksize-policy",
        "blocksize-minimum=512",
        "blocksize-maximum=64K",
        "blocksize-error-policy=error",
    ]);
    let copy = text(&room.path("b.img"));
    let (code, _, stderr) = nbdcopy(&room, &[&server.uri(), &copy]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap());
}

#[test]
fn serve_is_a_server_for_every_client_and_ends_when_told() {
    let room = Room::new();
    let path = holed(&room);
    let socket = room.path("nbd.sock");
    let server = room.start([
        "serve",
        "--socket",
        &text(&socket),
        "--export-name",
        "disk",
        &path,
    ]);
    let uri = loop {
        match server.stdout().lines().next() {
            Some(uri) => break uri.to_owned(),
            None => sleep(Duration::from_millis(20)),
        }
    };
    assert!(uri.starts_with("nbd+unix:///disk?socket="), "{uri}");
    let info: Value = serde_json::from_str(&run("nbdinfo", ["--json", &uri])).unwrap();
    assert_eq!(info["exports"][0]["export-size"], (40 << 20) + 512);
    assert_eq!(info["exports"][0]["is_read_only"], true);
    room.diskferry(["compare", "--strict", &uri, &path]).ok();
    let copy = text(&room.path("copy.img"));
    run("nbdcopy", [&uri, &copy]);
    assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap());
    server.signal(Signal::TERM);
    server.wait().ok();
    assert!(!socket.exists(), "the socket is removed");
}

#[test]
fn a_log_filter_that_cannot_be_read_is_told_of_and_nothing_fails_for_it() {
    let room = Room::new();
    let disk = holed(&room);
    for (filter, said) in [("diskferry=loud", true), ("diskferry=warn", false)] {
        let mut command = room.command(["checksum", &disk]);
        command.env("DISKFERRY_LOG", filter);
        let outcome = Running::start(command).wait().ok();
        assert!(outcome.stdout.starts_with("xxh3:"), "{}", outcome.stdout);
        let lines = outcome.stderr.lines();
        let told = lines.filter(|line| line.contains("DISKFERRY_LOG is not a filter"));
        assert_eq!(told.count(), usize::from(said), "{}", outcome.stderr);
    }
}
