//! `nbdcopy` beside the original: the same words, the same end.

use crate::rig::{Nbdkit, Room, random_disk};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `program` in the room; standard input is `input`, standard output the file `out`.
fn told(room: &Room, program: &Path, words: &[&str], input: Stdio) -> Output {
    let out = File::create(room.path("out")).unwrap();
    let mut command = Command::new(program);
    command.args(words).current_dir(room.path(""));
    command.stdin(input).stdout(out);
    command.stderr(Stdio::piped()).output().unwrap()
}

/// Ours and the original.
fn both(room: &Room, words: &[&str]) -> [Output; 2] {
    let link = room.path("nbdcopy");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_diskferry"), &link).unwrap();
    }
    [&link, Path::new("nbdcopy")].map(|program| told(room, program, words, Stdio::null()))
}

#[test]
fn what_the_original_refuses_is_refused_for_the_same_reason() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    for (words, reason) in [
        (&["-", "-"][..], "-: truncate: Invalid argument"),
        (&["/dev/null", "n.img"], "n.img: truncate: Invalid argument"),
        (
            &["--", "[", "]", "null:"],
            "missing command name in argv list",
        ),
        (&["--", "a", "[", "]"], "missing command name in argv list"),
        (
            &["gone", "null:"],
            "nbdcopy: gone: No such file or directory",
        ),
        (
            &["a", "gone/b"],
            "nbdcopy: gone/b: No such file or directory",
        ),
        (&["a", "/dev/full"], "No space left on device"),
    ] {
        let [ours, theirs] = both(&room, words);
        assert_eq!(theirs.status.code(), Some(1), "{words:?}");
        assert_eq!(ours.status.code(), Some(1), "{words:?}: {}", stderr(&ours));
        for text in [stderr(&ours), stderr(&theirs)] {
            assert!(text.contains(reason), "{words:?}: {text}");
            assert!(
                !text.contains("os error") && !text.contains("Usage"),
                "{text}"
            );
            assert!(!text.contains("[--allocated]"), "{text}");
        }
    }
}

#[test]
fn progress_for_nobody_is_no_failure() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    for end in both(&room, &["--progress=99", "a", "null:"]) {
        assert_eq!(end.status.code(), Some(0), "{}", stderr(&end));
        assert_eq!(stderr(&end), "");
    }
}

#[test]
fn whoever_stops_reading_ends_it_quietly() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    let server = Nbdkit::new(["memory", "2M"]);
    let address = server.uri();
    for words in [
        &["nbdcopy", "a", "-"][..],
        &["nbdcopy", &address, "-"],
        &["nbdcopy", "--help"],
        &["nbdcopy", "--version"],
    ] {
        let quietly = (Some(141), String::new());
        assert_eq!(room.unread(words), quietly, "{words:?}");
    }
}

#[test]
fn verbose_tells_what_is_said_to_each_server() {
    let room = Room::new();
    random_disk(&room.path("a"), 1 << 20, 1);
    let server = Nbdkit::new(["memory", "2M"]);
    let [ours, theirs] = both(&room, &["-v", "a", &server.uri()]);
    assert_eq!(ours.status.code(), Some(0), "{}", stderr(&ours));
    assert!(stderr(&theirs).contains("debug: "));
    let text = stderr(&ours);
    for part in [
        "nbdcopy: debug: ",
        "connection 1: connect\n",
        "connection 1: open the export\n",
        "size 2097152, flags 0x",
        "debug: write 0x0 + ",
        "nbdcopy: dst: nbd_ops ",
    ] {
        assert!(text.contains(part), "{part:?} is missing from:\n{text}");
    }
    let quiet = room.diskferry(["nbdcopy", "a", &server.uri()]).ok();
    assert_eq!(quiet.stderr, "");
}
