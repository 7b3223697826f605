//! Disk images against qemu-img and other independent readers.
//!
//! The content of an image is what qemu-img makes of it as raw, where qemu-img is right. What it
//! cannot make is made by hand (`testkit`) and read by a reader that others wrote.

mod corpus;
mod hostile;
mod map;
mod ova;
mod policy;
mod seeds;
mod unread;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use crate::rig::{Outcome, Rng, Room, assert_same_bytes, run};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A disk of `size` bytes with stretches of every kind of content, none of which ends where a
/// cluster does: text, bytes that do not compress, written zeroes, one byte over and over, holes.
pub(crate) fn mixed_disk(path: &Path, size: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let file = File::create(path).expect("make a disk");
    file.set_len(size).expect("size a disk");
    let mut at = 0;
    while at < size {
        let stretch = (rng.below(200 << 10) + 1).min(size - at);
        let length = usize::try_from(stretch).unwrap();
        let bytes = match rng.below(5) {
            0 => rng.bytes(length),
            1 => vec![0; length],
            2 => vec![rng.next().to_le_bytes()[0]; length],
            3 => {
                let number = rng.next();
                let text = format!("line {number} of a log that says little\n");
                text.bytes().cycle().take(length).collect()
            }
            _ => {
                at += stretch;
                continue;
            }
        };
        file.write_all_at(&bytes, at).expect("fill a disk");
        at += stretch;
    }
}

/// The path of `name` in `room`, as text.
pub(crate) fn at(room: &Room, name: &str) -> String {
    room.path(name).display().to_string()
}

/// Makes an image of the raw disk `raw`; `options` stand before the names.
pub(crate) fn convert(room: &Room, format: &str, options: &[&str], raw: &str, image: &str) {
    let (raw, image) = (at(room, raw), at(room, image));
    let mut words = vec!["convert", "-f", "raw", "-O", format];
    words.extend(options);
    words.extend([raw.as_str(), image.as_str()]);
    run("qemu-img", words);
}

/// What qemu-img makes of `image` as raw, in the file `name`.
pub(crate) fn by_qemu(room: &Room, format: &str, image: &str, name: &str) -> PathBuf {
    let (from, to) = (at(room, image), at(room, name));
    run(
        "qemu-img",
        ["convert", "-f", format, "-O", "raw", &from, &to],
    );
    room.path(name)
}

/// What an independent reader makes of `image`: `tests/read-image`, run with the readers that
/// `tests/run peers` puts beside the build.
#[track_caller]
pub(crate) fn by_another(room: &Room, format: &str, image: &str, name: &str) -> PathBuf {
    by_another_over(room, format, image, name, &[])
}

/// The same of a difference over `parents`, the nearest first.
#[track_caller]
pub(crate) fn by_another_over(
    room: &Room,
    format: &str,
    image: &str,
    name: &str,
    parents: &[&str],
) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../readers/bin/python3");
    let script = root.join("tests/read-image").display().to_string();
    let (from, to) = (at(room, image), at(room, name));
    let python = python.display().to_string();
    let parents: Vec<_> = parents.iter().map(|name| at(room, name)).collect();
    let words = [script.as_str(), format, &from, &to].map(str::to_owned);
    run(&python, words.into_iter().chain(parents));
    room.path(name)
}

/// The digest that a run of `checksum` printed.
fn digest(outcome: Outcome) -> String {
    let out = outcome.ok().stdout;
    out.split_whitespace().next().expect("a digest").to_owned()
}

/// Asserts that `image` holds exactly the bytes of the file `raw`, however it is looked at.
#[track_caller]
pub(crate) fn reads_as(room: &Room, format: &str, image: &str, raw: &Path) {
    let raw_name = raw.display().to_string();
    let expected = digest(room.diskferry(["checksum", "-f", "raw", &raw_name]));
    let probed = digest(room.diskferry(["checksum", image]));
    assert_eq!(probed, expected, "{image}, probed");
    let all = room.diskferry(["checksum", "-f", format, "--no-extents", image]);
    assert_eq!(digest(all), expected, "{image}, read without its extents");
    let words = ["compare", "--strict", "-F", "raw", image, &raw_name];
    room.diskferry(words).ok();

    let copy = room.path("copied.raw");
    let target = copy.display().to_string();
    let words = ["copy", "--no-journal", "-f", format, image, &target];
    room.diskferry(words).ok();
    let sizes = [raw, &copy].map(|path| fs::metadata(path).unwrap().len());
    assert_eq!(sizes[0], sizes[1], "{image}: size");
    assert_same_bytes(raw, &copy);
    fs::remove_file(copy).unwrap();
}
