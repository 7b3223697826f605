//! OVAs: made by tar, read where they lie and forward.

use super::{at, convert, mixed_disk, reads_as};
use crate::rig::{Outcome, Room, Running, assert_same_bytes, run};
use diskferry::testkit::ova::{descriptor, header, tar};
use std::fs;
use std::process::Command;

/// The disks `names.raw` as stream-optimized VMDKs, their descriptor and their manifest; all in
/// `machine.ova`, in this order: `d`escriptor, `m`anifest, the disks (`0`, `1`).
fn machine(room: &Room, names: &[&str], order: &str) {
    let size = |name: &&str| {
        fs::metadata(room.path(&format!("{name}.raw")))
            .unwrap()
            .len()
    };
    let files: Vec<_> = names.iter().map(|name| format!("{name}.vmdk")).collect();
    let disks: Vec<_> = files
        .iter()
        .map(String::as_str)
        .zip(names.iter().map(size))
        .collect();
    fs::write(room.path("machine.ovf"), descriptor(&disks)).unwrap();
    for name in names {
        let options = ["-o", "subformat=streamOptimized"];
        let (raw, vmdk) = (format!("{name}.raw"), format!("{name}.vmdk"));
        convert(room, "vmdk", &options, &raw, &vmdk);
    }
    let listed: Vec<_> = files
        .iter()
        .map(String::as_str)
        .chain(["machine.ovf"])
        .collect();
    let script = format!(
        "sha256sum --tag {} | sed 's/ (/(/; s/ = /= /' > machine.mf",
        listed.join(" ")
    );
    shell(room, &script);
    let members = order.chars().map(|which| match which {
        'd' => "machine.ovf",
        'm' => "machine.mf",
        number => files[number.to_digit(10).unwrap() as usize].as_str(),
    });
    let members: Vec<_> = members.collect();
    shell(
        room,
        &format!("tar --format=ustar -cf machine.ova {}", members.join(" ")),
    );
}

fn shell(room: &Room, script: &str) {
    let script = format!("cd {} && {script}", at(room, "."));
    run("bash", ["-c", &script]);
}

/// `diskferry` with the OVA as a pipe.
fn piped(room: &Room, args: &[&str]) -> Outcome {
    let command = room.command(args);
    let mut shell = Command::new("bash");
    shell.args(["-c", "cat machine.ova | \"$@\"", "-"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.current_dir(room.path("."));
    Running::start(shell).wait()
}

#[test]
fn the_only_disk_of_an_ova_is_read_in_place_and_forward() {
    let room = Room::new();
    mixed_disk(&room.path("one.raw"), (9 << 20) + 512, 1);
    machine(&room, &["one"], "dm0");
    reads_as(&room, "ova", "machine.ova", &room.path("one.raw"));
    let text = room.diskferry(["inspect", "machine.ova"]).ok().stdout;
    for part in [
        "machine.ova (ova)",
        "one.vmdk",
        "manifest SHA256",
        "streamOptimized",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    room.diskferry(["compare", "machine.ova", "one.raw"]).ok();
    room.diskferry(["map", "machine.ova"]).ok();
    room.diskferry(["checksum", "--check-manifest", "machine.ova"])
        .ok();
    piped(&room, &["copy", "-f", "ova", "-", "copied"]).ok();
    assert_same_bytes(&room.path("one.raw"), &room.path("copied"));
    shell(&room, "gzip -k machine.ova");
    room.diskferry(["copy", "machine.ova.gz", "copied", "--overwrite"])
        .ok();
    assert_same_bytes(&room.path("one.raw"), &room.path("copied"));
}

#[test]
fn of_several_disks_one_must_be_named() {
    let room = Room::new();
    for (number, name) in (1..).zip(["one", "two"]) {
        mixed_disk(&room.path(&format!("{name}.raw")), 5 << 20, number);
    }
    machine(&room, &["one", "two"], "d01m");
    room.diskferry(["copy", "machine.ova", "copied"])
        .fails(2, &["several disks: one.vmdk, two.vmdk", "--disk"]);
    piped(&room, &["copy", "-f", "ova", "-", "copied"]).fails(2, &["one.vmdk, two.vmdk"]);
    room.diskferry(["copy", "machine.ova", "copied", "--disk", "three"])
        .fails(2, &["no disk \"three\""]);
    for (disk, raw) in [("two.vmdk", "two.raw"), ("disk0", "one.raw")] {
        room.diskferry([
            "copy",
            "machine.ova",
            "copied",
            "--disk",
            disk,
            "--no-journal",
        ])
        .ok();
        assert_same_bytes(&room.path(raw), &room.path("copied"));
        let args = [
            "copy",
            "-f",
            "ova",
            "--disk",
            disk,
            "-",
            "copied",
            "--overwrite",
        ];
        piped(&room, &args).ok();
        assert_same_bytes(&room.path(raw), &room.path("copied"));
        fs::remove_file(room.path("copied")).unwrap();
        let compare =
            |words: [&str; 4]| room.diskferry(["compare", "--strict"].into_iter().chain(words));
        compare(["--disk", disk, "machine.ova", raw]).ok();
        compare([raw, "machine.ova", "--target-disk", disk]).ok();
        let other = if disk == "disk0" {
            "two.raw"
        } else {
            "one.raw"
        };
        compare([other, "machine.ova", "--target-disk", disk]).exits(3);
        piped(&room, &["compare", "-f", "ova", "--disk", disk, "-", raw]).ok();
    }
    room.diskferry(["inspect", "one.raw", "--disk", "x"])
        .fails(2, &["raw"]);
}

#[test]
fn a_disk_that_is_not_the_one_of_the_manifest_is_told() {
    for order in ["dm0", "d0m"] {
        let room = Room::new();
        mixed_disk(&room.path("one.raw"), 5 << 20, 3);
        machine(&room, &["one"], order);
        mixed_disk(&room.path("one.raw"), 5 << 20, 4);
        let options = ["-o", "subformat=streamOptimized"];
        convert(&room, "vmdk", &options, "one.raw", "one.vmdk");
        let files = if order == "dm0" {
            "machine.mf one.vmdk"
        } else {
            "one.vmdk machine.mf"
        };
        shell(&room, &format!("tar -cf machine.ova machine.ovf {files}"));
        for command in ["checksum", "inspect"] {
            room.diskferry([command, "--check-manifest", "machine.ova"])
                .fails(1, &["one.vmdk", "SHA256", "manifest"]);
        }
        let forward = piped(&room, &["copy", "-f", "ova", "-", "copied"]);
        forward.fails(1, &["one.vmdk", "SHA256", "manifest"]);
        assert!(!room.path("copied").exists());
        // Nobody asked, and nobody can know without reading all of it.
        room.diskferry(["checksum", "machine.ova"]).ok();
    }
}

#[test]
fn what_is_cut_off_never_looks_whole() {
    let room = Room::new();
    mixed_disk(&room.path("one.raw"), 3 << 20, 5);
    machine(&room, &["one"], "d0");
    let whole = fs::read(room.path("machine.ova")).unwrap();
    let disk = fs::read(room.path("one.vmdk")).unwrap().len();
    for end in [600, 1600, 4000, disk / 2, disk + 1000] {
        fs::write(room.path("machine.ova"), &whole[..end]).unwrap();
        assert_eq!(
            room.diskferry(["copy", "-f", "ova", "machine.ova", "copied"])
                .code,
            Some(1)
        );
        assert_eq!(
            piped(&room, &["copy", "-f", "ova", "-", "copied"]).code,
            Some(1),
            "{end}"
        );
        assert!(!room.path("copied").exists());
    }
}

/// Whatever unpacks such a file writes where it should not; here nothing is unpacked, and nothing
/// that is odd is believed either.
#[test]
fn what_does_not_belong_into_an_ova_is_refused() {
    let room = Room::new();
    let ovf = descriptor(&[("one.vmdk", 1 << 20)]);
    let good = tar(&[("a.ovf", ovf.as_bytes())]);
    let with = |more: Vec<u8>| [&good[..good.len() - 1024], &more, &[0; 1024]].concat();
    for (name, bytes, code, told) in [
        (
            "absolute",
            with(header("/etc/passwd", b'0', 0)),
            4,
            "/etc/passwd",
        ),
        ("up", with(header("a/../../b", b'0', 0)), 4, "a/../../b"),
        ("link", with(header("one.vmdk", b'2', 0)), 4, "'2'"),
        ("hard", with(header("one.vmdk", b'1', 0)), 4, "'1'"),
        ("sparse", with(header("one.vmdk", b'S', 0)), 4, "'S'"),
        (
            "huge",
            with(header("one.vmdk", b'0', u64::MAX - 512)),
            1,
            "one.vmdk",
        ),
        (
            "long",
            with(header("one.vmdk", b'0', 1 << 40)),
            1,
            "one.vmdk",
        ),
        ("gone", good.clone(), 1, "one.vmdk"),
    ] {
        fs::write(room.path("machine.ova"), bytes).unwrap();
        room.diskferry(["inspect", "machine.ova"])
            .fails(code, &[told]);
        let forward = piped(&room, &["copy", "-f", "ova", "-", "copied"]);
        assert!(
            forward.code == Some(code) || forward.code == Some(1),
            "{name}: {forward:?}"
        );
    }
}
