//! qcow2 images that qemu made, and images that nobody should have made.
//!
//! ```text
//!  read.rs     whatever qemu can make reads as qemu reads it
//!  write.rs    images that we make are sound by qemu
//!  hostile.rs  cut off, damaged, marked, circular: an error, soon, and never zeroes
//! ```

mod hostile;
mod read;
mod write;

use crate::rig::{Room, assert_same_bytes, run};
use std::fs;
use std::path::{Path, PathBuf};

/// `qemu-img`, its words in one line; `{}` in them is the room.
#[track_caller]
pub(crate) fn qemu_img(room: &Room, line: &str) -> String {
    run("qemu-img", words(room, line))
}

/// `qemu-io`, with one command after the words of `line`.
#[track_caller]
fn qemu_io(room: &Room, line: &str, commands: &[&str]) {
    let mut all = words(room, line);
    for command in commands {
        all.extend(["-c".to_owned(), (*command).to_owned()]);
    }
    run("qemu-io", all);
}

fn words(room: &Room, line: &str) -> Vec<String> {
    let at = room.path("").display().to_string();
    let words = line.split_whitespace();
    words.map(|word| word.replace("{}/", &at)).collect()
}

/// A disk that qcow2 has something to do with: text, noise, holes, and an odd end.
pub(crate) fn mixed_disk(path: &Path, size: usize) {
    let mut bytes = vec![0; size];
    let mut rng = crate::rig::Rng::new(size as u64);
    for (index, chunk) in bytes.chunks_mut(24 << 10).enumerate() {
        match index % 4 {
            0 => rng.fill(chunk),
            1 => chunk
                .iter_mut()
                .zip(b"all work and no play ".iter().cycle())
                .for_each(|(to, from)| *to = *from),
            _ => {}
        }
    }
    fs::write(path, bytes).unwrap();
}

/// Asserts that a copy of `image` holds what qemu reads from it, and gives where the copy is.
#[track_caller]
fn assert_reads_as_qemu_does(room: &Room, image: &str, more: &[&str]) -> PathBuf {
    let (ours, theirs) = (room.path("ours.raw"), room.path("theirs.raw"));
    let _ = fs::remove_file(&ours);
    qemu_img(
        room,
        &format!("convert -O raw {{}}/{image} {{}}/theirs.raw"),
    );
    copy(room, image, more);
    assert_eq!(
        fs::metadata(&ours).unwrap().len(),
        fs::metadata(&theirs).unwrap().len(),
        "{image}"
    );
    assert_same_bytes(&theirs, &ours);
    ours
}

#[track_caller]
fn copy(room: &Room, image: &str, more: &[&str]) {
    let image = room.path(image).display().to_string();
    let mut args = vec!["copy", image.as_str(), "ours.raw", "--no-journal"];
    args.extend(more);
    room.diskferry(args).ok();
}
