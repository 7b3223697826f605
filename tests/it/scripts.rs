//! What scripts rely on: JSON that parses, exit codes where nobody reads, limits that hold.

use crate::rig::{Room, random_disk};
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
