//! What scripts rely on: JSON that parses, exit codes where nobody reads, limits that hold.

use crate::rig::{QemuNbd, Room, Server, random_disk, socket_dir, uri};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn output(command: &mut Command) -> Output {
    command.stderr(Stdio::piped()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_rate_holds_for_what_is_read_forward_and_for_what_is_only_read() {
    let room = Room::new();
    random_disk(&room.path("a"), 4 << 20, 1);
    let begin = |words: &[&str]| {
        let mut command = room.command(words.iter().copied());
        command.stdin(File::open(room.path("a")).unwrap());
        let began = Instant::now();
        let done = output(command.args(["--rate", "4M"]).stdout(Stdio::null()));
        assert!(done.status.success(), "{words:?}: {}", stderr(&done));
        began.elapsed()
    };
    // A limit can be kept, or not: no machine is too slow for it. A request goes before it is paid
    // for, and a tenth of a second is free.
    for (words, least) in [
        (&["copy", "-", "b"][..], 600),
        (&["copy", "a", "c"], 600),
        (&["checksum", "a"], 600),
        (&["checksum", "-"], 600),
        (&["compare", "a", "a"], 1200),
        (&["compare", "-", "a"], 1200),
        (&["map", "-"], 600),
    ] {
        let took = begin(words);
        assert!(took >= Duration::from_millis(least), "{words:?}: {took:?}");
    }
    assert!(fs::read(room.path("b")).unwrap() == fs::read(room.path("a")).unwrap());
    room.diskferry(["checksum", "--rate", "0", "a"]).ok();
    let help = room.diskferry(["copy", "--help"]).ok().stdout;
    let rate = help.split("--rate").nth(1).unwrap_or_default();
    assert!(
        rate.split("\n\n").next().unwrap().contains("; 0 "),
        "{rate}"
    );
}

#[test]
fn what_cannot_be_opened_has_no_map() {
    let room = Room::new();
    let failed = room.diskferry(["map", "--json", "gone.img"]).exits(1);
    assert_eq!(failed.stderr, "");
    let events = failed.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["event"], "failed");
    for words in [
        &["map", "--output=json", "gone.img"],
        &["map", "-q", "gone.img"],
    ] {
        let failed = room.diskferry(words).fails(1, &["gone.img"]);
        assert_eq!(failed.stdout, "", "{words:?}");
    }
    fs::write(room.path("empty.img"), b"").unwrap();
    let empty = room.diskferry(["map", "--json", "empty.img"]).ok();
    assert_eq!(empty.stdout, "[]\n");
}

#[test]
fn with_json_a_command_line_that_makes_no_sense_is_an_event_as_well() {
    let room = Room::new();
    for (words, part) in [
        (&["copy", "--json", "a"][..], "<TARGET>"),
        (&["--json", "copy", "--memory", "lots", "a", "b"], "'lots'"),
        (&["copy", "--json", "null:", "b"], "null:"),
        (&["copy", "gopher://x/", "b", "--json"], "gopher"),
        (&["--json", "fly"], "fly"),
        (&["--json"], "command"),
        (&["--json", "nbdcopy", "a", "b"], "nbdcopy"),
        (&["map", "--json", "--output", "xml", "a"], "xml"),
        (&["verify", "--json", "a", "b"], "one target"),
    ] {
        let outcome = room.diskferry(words.iter().copied()).exits(2);
        assert_eq!(outcome.stderr, "", "{words:?}");
        let events = outcome.events();
        assert_eq!(events.len(), 1, "{words:?}: {events:?}");
        assert_eq!(events[0]["event"], "failed");
        assert_eq!(events[0]["code"], 2);
        let message = events[0]["message"].as_str().unwrap();
        assert!(message.contains(part), "{words:?}: {message}");
    }
    let help = room.diskferry(["--json", "copy", "--help"]).ok();
    assert!(help.stdout.contains("Usage: diskferry copy"));
    let version = room.diskferry(["--json", "--version"]).ok();
    assert!(version.stdout.starts_with("diskferry "));
    let plain = room.diskferry(["copy", "--", "--json"]).exits(2);
    assert!(plain.stdout.is_empty() && plain.stderr.contains("Usage: "));
}

#[test]
fn whoever_stops_reading_ends_every_command_quietly() {
    let room = Room::new();
    random_disk(&room.path("a"), 3 << 20, 1);
    let server = QemuNbd::new(&room.path("a"), "raw", &["-r"]);
    let address = server.uri();
    for words in [
        &["map", "a"][..],
        &["map", "--json", &address],
        &["inspect", "a"],
        &["checksum", "--json", "a"],
        &["compare", "a", "a"],
        &["serve", "--socket", "s", "a"],
        &["completions", "bash"],
        &["copy", "-q", "a", "-"],
        &["copy", "-q", &address, "-"],
        &["--help"],
        &["help", "copy"],
        &["copy", "--help"],
        &["--version"],
    ] {
        let quietly = (Some(141), String::new());
        assert_eq!(room.unread(words), quietly, "{words:?}");
    }
}

#[test]
fn a_copy_goes_on_when_nobody_reads_its_events() {
    let room = Room::new();
    random_disk(&room.path("a"), 3 << 20, 1);
    let (code, said) = room.unread(["copy", "--json", "a", "b"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(fs::read(room.path("b")).unwrap() == fs::read(room.path("a")).unwrap());
}

fn inspected(room: &Room, address: &str) -> Value {
    let outcome = room.diskferry(["inspect", "--json", address]).ok();
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// As qemu-nbd is by default: one client at a time, and the end with the first that opens the disk.
#[test]
fn a_server_of_one_client_is_inspected_without_waiting() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    let lasting = QemuNbd::new(&room.path("a"), "raw", &["-r", "-e", "1"]);
    let dir = socket_dir();
    let socket = dir.path().join("s");
    let mut brief = Server::start(
        "qemu-nbd",
        ["-r", "-f", "raw", "-k"]
            .map(OsStr::new)
            .into_iter()
            .chain([socket.as_os_str(), room.path("a").as_os_str()]),
    );
    brief.wait_until(|| socket.exists());
    for address in [lasting.uri(), uri(&socket, "")] {
        let found = inspected(&room, &address);
        assert_eq!(found["warnings"], serde_json::json!([]), "{found}");
        assert_eq!(found["size"], 1 << 20);
        assert!(found.get("exports").is_none(), "{found}");
    }
}

#[test]
fn inspect_lists_the_exports_of_a_server_that_has_no_default_one() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    let server = QemuNbd::new(&room.path("a"), "raw", &["-r", "-x", "disk"]);
    let address = uri(&server.socket(), "");
    let found = inspected(&room, &address);
    assert_eq!(found["kind"], "NBD server");
    assert_eq!(found["exports"], serde_json::json!(["disk"]));
    let text = room.diskferry(["inspect", &address]).ok().stdout;
    assert!(text.contains("export     \"disk\"\n"), "{text}");
    assert_eq!(inspected(&room, &server.uri())["export"]["name"], "disk");
    // What was named and is not there is a failure, and says where to look.
    let other = uri(&server.socket(), "other");
    let hint = "inspect nbd://SERVER lists the exports";
    room.diskferry(["inspect", &other])
        .fails(1, &["other", hint]);
}
