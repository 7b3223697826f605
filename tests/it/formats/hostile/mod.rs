//! Images that are cut off or damaged, of every format: an error, soon, in little memory, and never
//! another disk.
//!
//! The bounds are kept by the kernel: this program runs itself again with an address space that is
//! larger by what an image may take than what it has at its start, so whoever wants more aborts.

mod made;

use super::mixed_disk;
use crate::rig::{Rng, Room};
use diskferry::buffer::Buffer;
use diskferry::error::{Error, Result};
use diskferry::extent::ByteRange;
use diskferry::format::vmdk::{Forward, Piece};
use diskferry::format::{FORMATS, WRAPPERS};
use diskferry::source::stream::{Belief, ByteStream, Inside, Look, inside};
use diskferry::testkit::MemStream;
use diskferry::testkit::image::{MemFiles, content, wander};
use made::{Sound, all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// How long any image may take, however it was damaged.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much memory it may take, in bytes.
const MEMORY: u64 = 256 << 20;

/// Damaged images of each sound one.
const DAMAGED: usize = 500;

impl Sound {
    fn whole(&self) -> &[u8] {
        let found = self.files.iter().find(|(name, _)| *name == self.damaged);
        &found.unwrap().1
    }

    /// All of the disk, when the file that is damaged holds `bytes`.
    async fn read(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let others = self.files.iter().filter(|(name, _)| *name != self.damaged);
        let files = others.fold(MemFiles::default(), |files, (name, bytes)| {
            files.with(name, bytes)
        });
        let files = files.with(self.damaged, bytes);
        let image = files.image(self.format, self.files[0].0).await?;
        // A size that nobody could copy is looked at here and there.
        match image.size() {
            0..=0x40_0000 => content(image.as_ref(), ByteRange::new(0, image.size())).await,
            _ => wander(self.format, bytes).await.map(|()| Vec::new()),
        }
    }

    async fn cut(&self, notes: &Notes) {
        let whole = self.whole();
        let disk = self.read(whole).await.unwrap();
        let step = (whole.len() / 200).max(1);
        let header = 2048.min(whole.len());
        let tail = whole.len().saturating_sub(1100);
        let ends = (0..header)
            .chain((header..whole.len()).step_by(step))
            .chain(tail..whole.len());
        let ends: BTreeSet<_> = ends.collect();
        // A file of two mebibytes is not copied two thousand times.
        let every = if whole.len() > 1 << 20 { 16 } else { 1 };
        for end in ends.into_iter().step_by(every) {
            notes.put(&format!("{} cut to {end}", self.name));
            let began = Instant::now();
            match self.read(&whole[..end]).await {
                Err(error) => sane(&error),
                // What was cut off has nothing to do with the disk; raw has nothing else.
                Ok(found) => assert!(found == disk || self.format == "raw", "{end}: another disk"),
            }
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        }
    }

    async fn damaged(&self, notes: &Notes) {
        let whole = self.whole();
        let mut rng = Rng::new(whole.len() as u64);
        let count = if whole.len() > 1 << 20 {
            DAMAGED / 4
        } else {
            DAMAGED
        };
        for number in 0..count {
            notes.put(&format!("{} damaged {number}", self.name));
            let damaged = damage(whole, &mut rng);
            let began = Instant::now();
            if let Err(error) = self.read(&damaged).await {
                sane(&error);
            }
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        }
    }
}

/// Some bytes changed, mostly where tables are; now and then into numbers that are large.
fn damage(whole: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    for _ in 0..=rng.below(6) {
        let within = match rng.below(4) {
            0 => 600,
            1 => 9000,
            2 => 300_000,
            _ => whole.len(),
        };
        let within = within.min(whole.len()) as u64;
        let at = usize::try_from(rng.below(within)).unwrap();
        // Footers are at the end.
        let at = if rng.below(4) == 0 {
            whole.len() - 1 - at
        } else {
            at
        };
        let bytes = [rng.next().to_le_bytes()[0], 0xff, 0x7f, 0];
        let length = usize::try_from(rng.below(8)).unwrap() + 1;
        let byte = bytes[usize::try_from(rng.below(4)).unwrap()];
        let end = (at + length).min(damaged.len());
        damaged[at..end].fill(byte);
    }
    damaged
}

fn sane(error: &Error) {
    let line = error.line();
    assert!(!line.contains(['\n', '\r']) && line.len() < 2000, "{line}");
}

/// What is read forward, out of bytes: a digest of the disk that came.
async fn forward(bytes: Vec<u8>) -> Result<u64> {
    let look = Look {
        format: None,
        disk: None,
        belief: Belief::File,
    };
    count(Box::new(MemStream::new(&bytes)), look).await
}

async fn count(stream: Box<dyn ByteStream>, look: Look<'_>) -> Result<u64> {
    let (mut stream, mut forward) = match inside(stream, look).await? {
        Inside::Raw(stream) => (stream, None),
        Inside::Vmdk(stream) => (stream, Some(Forward::default())),
        Inside::Seeking(..) => return Ok(0),
    };
    let (mut left, mut digest) = (64usize << 20, DefaultHasher::new());
    while let Some(bytes) = stream.next(Buffer::unbudgeted(64 << 10)).await? {
        // A bomb goes on for as long as there is room; here there is enough of it soon.
        left = left.saturating_sub(bytes.len());
        if left == 0 {
            break;
        }
        let Some(forward) = &mut forward else {
            digest.write(&bytes);
            continue;
        };
        for piece in forward.push(&bytes)? {
            let Piece::Grain(grain) = piece else { continue };
            let mut out = vec![0; usize::try_from(grain.unpacked).unwrap()];
            grain.codec.unpack(&grain.packed, &mut out)?;
            digest.write(&out);
        }
    }
    forward.map_or(Ok(()), |forward| forward.finish())?;
    Ok(digest.finish())
}

/// What `tool` makes of the file `name`.
fn packed(room: &Room, tool: &[&str], name: &str) -> Vec<u8> {
    let file = fs::File::open(room.path(name)).unwrap();
    let made = Command::new(tool[0]).args(&tool[1..]).stdin(file).output();
    made.unwrap().stdout
}

/// What was being done when the process ended. Written over what was there: a file that is cut to
/// nothing and written anew goes to the disk each time it is closed.
struct Notes(fs::File);

impl Notes {
    fn put(&self, text: &str) {
        self.0
            .write_all_at(format!("{text:80}").as_bytes(), 0)
            .unwrap();
    }

    /// The last of what was put down.
    fn last(path: &Path) -> String {
        let notes = fs::read_to_string(path).unwrap_or_default();
        notes.trim_end().to_owned()
    }
}

async fn streams(whole: &[u8], number: usize, notes: &Notes) {
    let disk = forward(whole.to_vec()).await.unwrap();
    let step = (whole.len() / 300).max(1);
    let ends = (0..600).chain((600..whole.len()).step_by(step));
    for end in ends.filter(|end| *end < whole.len()) {
        notes.put(&format!("stream {number} cut to {end}"));
        let began = Instant::now();
        match forward(whole[..end].to_vec()).await {
            Err(error) => sane(&error),
            // Too short to look like anything; or only what follows the disk is gone.
            Ok(found) => assert!(end < 512 || found == disk, "{number}: {end}"),
        }
        assert!(began.elapsed() < PATIENCE);
    }
    let mut rng = Rng::new(whole.len() as u64);
    for time in 0..DAMAGED / 2 {
        notes.put(&format!("stream {number} damaged {time}"));
        let began = Instant::now();
        if let Err(error) = forward(damage(whole, &mut rng)).await {
            sane(&error);
        }
        assert!(began.elapsed() < PATIENCE);
    }
}

/// From here on, no more memory than this process has now and what an image may take.
fn bound_memory() {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let limit = Rlimit {
        current: Some(pages * 4096 + MEMORY),
        maximum: getrlimit(Resource::As).maximum,
    };
    setrlimit(Resource::As, limit).unwrap();
}

/// Runs in a process of its own.
async fn within_bounds(notes: &Notes) {
    let room = Room::new();
    let images = all(&room);
    let formats: BTreeSet<_> = images.iter().map(|sound| sound.format).collect();
    assert_eq!(formats.len(), FORMATS.len(), "an image of every format");
    mixed_disk(&room.path("disk"), 200 << 10, 6);
    let tools: [&[&str]; 3] = [&["gzip", "-c"], &["xz", "-c", "-1"], &["zstd", "-q", "-c"]];
    assert_eq!(tools.len(), WRAPPERS.len());
    let mut forward: Vec<_> = tools.map(|tool| packed(&room, tool, "disk")).into();
    let those = images
        .iter()
        .filter(|sound| ["ova", "stream"].contains(&sound.name));
    forward.extend(those.map(|sound| sound.whole().to_vec()));
    // So that threads that come later find their stacks counted.
    streams(&forward[0], 0, notes).await;
    bound_memory();
    for sound in &images {
        sound.cut(notes).await;
        sound.damaged(notes).await;
    }
    for (number, whole) in forward.iter().enumerate() {
        streams(whole, number, notes).await;
    }
    notes.put("all done");
}

const NAME: &str = "formats::hostile::a_cut_or_damaged_image_ends_in_time_and_in_little_memory";

#[test]
fn a_cut_or_damaged_image_ends_in_time_and_in_little_memory() {
    if let Some(notes) = env::var_os("WITHIN_BOUNDS") {
        let runtime = Builder::new_current_thread().build().unwrap();
        let notes = Notes(fs::File::create(notes).unwrap());
        return runtime.block_on(within_bounds(&notes));
    }
    let room = Room::new();
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env("WITHIN_BOUNDS", room.path("notes"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stderr);
    let last = Notes::last(&room.path("notes"));
    assert_eq!(
        (child.status.success(), last.as_str()),
        (true, "all done"),
        "{told}"
    );
}
