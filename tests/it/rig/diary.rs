//! What a virtual machine of the rig does all day: it writes numbered entries to its disks, each to
//! every disk in turn, and can tell from the disks alone whether one of them is missing.
//!
//! The same file is a module of the tests and the guest's program. It needs nothing but std.
//!
//! Entry N goes to the first disk and is flushed, then to the next one. The first disk is a log: its
//! entries follow one another, round and round. The others are tables: an entry goes wherever its
//! number says, over what was there. Every byte of an entry follows from the seed, the disk and the
//! number, so the highest number on a disk determines what must be in *every* slot of it. That is
//! stricter than checksums: what an older copy of a slot holds is found out too. Only one slot may be
//! torn: that of the entry which was being written.
//!
//! ```text
//!  block 0                  the heading: magic, seed, disk, disks, entry size, slots
//!  (1 + slot) * entry size  an entry, or zeroes where none was written yet
//! ```

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Unit of entries: a page, and the largest sector there is.
const PAGE: usize = 4096;
/// Unit in which a disk writes all or nothing.
const SECTOR: usize = 512;
const MAGIC: &[u8; 8] = b"DIARY 01";
/// `O_DIRECT` on `x86_64`.
const PAST_THE_CACHE: i32 = 0o40000;

/// How a disk is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Heading {
    seed: u64,
    /// Which of the disks this is.
    disk: u64,
    disks: u64,
    /// Bytes of an entry: a multiple of [`PAGE`].
    entry: u64,
    slots: u64,
}

impl Heading {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.seed, self.disk, self.disks, self.entry, self.slots] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.resize(PAGE, 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes.strip_prefix(MAGIC)?.chunks_exact(8).map(number);
        Some(Self {
            seed: numbers.next()?,
            disk: numbers.next()?,
            disks: numbers.next()?,
            entry: numbers.next()?,
            slots: numbers.next()?,
        })
    }

    fn entry_len(&self) -> usize {
        usize::try_from(self.entry).expect("an entry fits in memory")
    }

    /// The slot of entry `number`; the first entry is 1.
    fn slot(&self, number: u64) -> u64 {
        if self.disk == 0 {
            (number - 1) % self.slots
        } else {
            mixed(self.seed ^ (self.disk << 56) ^ number) % self.slots
        }
    }

    fn offset(&self, slot: u64) -> u64 {
        (1 + slot) * self.entry
    }

    /// All bytes of entry `number`, into `bytes`. Zero stands for a slot never written.
    fn render(&self, number: u64, bytes: &mut [u8]) {
        if number == 0 {
            bytes.fill(0);
            return;
        }
        let mut state = mixed(self.seed ^ (self.disk << 48) ^ number) | 1;
        for chunk in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
    }

    /// The number that a slot's bytes claim; 0 if they claim none.
    fn claimed(bytes: &[u8]) -> u64 {
        bytes
            .strip_prefix(MAGIC)
            .map_or(0, |rest| number(&rest[..8]))
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// splitmix64: neighbours become strangers.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn length_of(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

// --- checking ----------------------------------------------------------------------------------

/// What one disk holds.
#[derive(Debug)]
struct Holding {
    /// The highest entry that is there whole.
    head: u64,
    /// The entry after it is there in part.
    torn: bool,
}

/// The last entry that is on all of `disks`, if each of them holds exactly what it must.
///
/// # Errors
/// What is wrong, for people: an entry that is missing, torn, or older than it must be, disks that
/// contradict each other, or no diary.
pub(crate) fn check<P: AsRef<Path>>(disks: &[P]) -> Result<u64, String> {
    let mut found = Vec::new();
    let mut first = None;
    for (index, path) in disks.iter().enumerate() {
        let name = format!("disk {index}");
        let mut file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
        let heading = heading_of(&mut file).map_err(|error| format!("{name}: {error}"))?;
        let heading = heading.ok_or_else(|| format!("{name} holds no diary"))?;
        let first = *first.get_or_insert(heading);
        let right = (index as u64, disks.len() as u64, first.seed, first.entry);
        let has = (heading.disk, heading.disks, heading.seed, heading.entry);
        if has != right {
            return Err(format!("{name} is another disk: {heading:?}"));
        }
        found.push(holding(&mut file, &heading).map_err(|error| format!("{name}: {error}"))?);
    }
    in_order(&found)
}

fn heading_of(file: &mut File) -> Result<Option<Heading>, String> {
    let mut bytes = vec![0; PAGE];
    let size = length_of(file).map_err(|error| error.to_string())?;
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| format!("its heading: {error}"))?;
    let Some(heading) = Heading::decode(&bytes) else {
        return match bytes.iter().position(|byte| *byte != 0) {
            None => Ok(None),
            Some(at) => Err(format!("its heading is torn or strange at {at}")),
        };
    };
    let sane = heading.entry >= PAGE as u64
        && heading.entry <= 16 << 20
        && heading.entry.is_multiple_of(PAGE as u64)
        && heading.slots > 0;
    if !sane || heading.slots >= size / heading.entry || bytes != heading.encode() {
        return Err(format!("its heading makes no sense: {heading:?}"));
    }
    Ok(Some(heading))
}

/// Reads every slot of a disk, and compares it with what it must hold.
fn holding(file: &mut File, heading: &Heading) -> Result<Holding, String> {
    let mut claims = Vec::new();
    let mut odd = Vec::new();
    let mut wanted = vec![0; heading.entry_len()];
    each_slot(file, heading, |slot, bytes| {
        let claim = Heading::claimed(bytes);
        heading.render(claim, &mut wanted);
        if bytes != wanted || (claim > 0 && heading.slot(claim) != slot) {
            odd.push((slot, bytes.to_vec()));
        } else {
            claims.push((slot, claim));
        }
        // Whatever is broken on a large scale is told by its first slots.
        odd.len() < 4
    })
    .map_err(|error| error.to_string())?;
    let head = claims.iter().map(|(_, claim)| *claim).max().unwrap_or(0);
    let next = heading.slot(head + 1);
    let last = last_of_each_slot(heading, head);
    let must_hold = |slot: u64| last[usize::try_from(slot).expect("a slot")];
    for (slot, bytes) in &odd {
        let allowed =
            *slot == next && is_torn(heading, bytes, must_hold(*slot), head + 1, &mut wanted);
        if !allowed {
            return Err(format!(
                "slot {slot} holds garbage instead of entry {} (the last is {head})",
                must_hold(*slot)
            ));
        }
    }
    for (slot, claim) in &claims {
        if *claim != must_hold(*slot) {
            return Err(format!(
                "slot {slot} holds entry {claim} instead of {} (the last is {head})",
                must_hold(*slot)
            ));
        }
    }
    Ok(Holding {
        head,
        torn: !odd.is_empty(),
    })
}

/// Calls `look` with each slot and its bytes, until it gives false.
fn each_slot(
    file: &mut File,
    heading: &Heading,
    mut look: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<()> {
    let entry = heading.entry_len();
    let mut bytes = vec![0; entry * ((1 << 20) / entry).max(1)];
    let mut slot = 0;
    file.seek(SeekFrom::Start(heading.offset(0)))?;
    while slot < heading.slots {
        let left = usize::try_from(heading.slots - slot).expect("slots of a test's disk");
        let piece = bytes.len().min(left.saturating_mul(entry));
        file.read_exact(&mut bytes[..piece])?;
        for one in bytes[..piece].chunks_exact(entry) {
            if !look(slot, one) {
                return Ok(());
            }
            slot += 1;
        }
    }
    Ok(())
}

/// For each slot, the last entry up to `head` that was written there; 0 if none was.
fn last_of_each_slot(heading: &Heading, head: u64) -> Vec<u64> {
    let mut last = vec![0; usize::try_from(heading.slots).expect("slots of a test's disk")];
    for number in 1..=head {
        last[usize::try_from(heading.slot(number)).expect("a slot")] = number;
    }
    last
}

/// Whether each sector of `bytes` is that of entry `old` or of entry `new`.
fn is_torn(heading: &Heading, bytes: &[u8], old: u64, new: u64, scratch: &mut [u8]) -> bool {
    heading.render(old, scratch);
    let older: Vec<bool> = same_sectors(bytes, scratch);
    heading.render(new, scratch);
    let newer = same_sectors(bytes, scratch);
    older.iter().zip(&newer).all(|(old, new)| *old || *new)
}

fn same_sectors(one: &[u8], other: &[u8]) -> Vec<bool> {
    let pairs = one.chunks(SECTOR).zip(other.chunks(SECTOR));
    pairs.map(|(a, b)| a == b).collect()
}

/// The last entry that all disks have, if what they have can have come about.
fn in_order(found: &[Holding]) -> Result<u64, String> {
    let heads: Vec<u64> = found.iter().map(|one| one.head).collect();
    let (Some(first), Some(last)) = (heads.first(), heads.last()) else {
        return Err("no disk".to_owned());
    };
    let falls = heads.windows(2).all(|pair| pair[0] >= pair[1]);
    if !falls || first - last > 1 {
        return Err(format!(
            "the disks are not of one moment: their last entries are {heads:?}"
        ));
    }
    // The entry after the last one is begun on one disk only, and only once those before have it.
    let writing = heads.iter().position(|head| head == last).unwrap_or(0);
    match found.iter().rposition(|one| one.torn) {
        Some(torn) if torn != writing => Err(format!(
            "disk {torn} was being written while disk {writing} was: last entries {heads:?}"
        )),
        _ => Ok(*last),
    }
}

// --- writing -----------------------------------------------------------------------------------

/// Begins a diary on `disks`, which are as long as they are to be, with entries of `entry` bytes,
/// of which the first `entries` are written already. From outside the guest, into files.
///
/// # Errors
/// Those of the files.
pub(crate) fn begin<P: AsRef<Path>>(
    disks: &[P],
    seed: u64,
    entry: u64,
    entries: u64,
) -> io::Result<()> {
    for (index, path) in disks.iter().enumerate() {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let heading = Heading {
            seed,
            disk: index as u64,
            disks: disks.len() as u64,
            entry,
            slots: (length_of(&mut file)? / entry).saturating_sub(1),
        };
        let mut bytes = vec![0; heading.entry_len()];
        for (slot, number) in (0..).zip(last_of_each_slot(&heading, entries)) {
            if number > 0 {
                heading.render(number, &mut bytes);
                file.write_all_at(&bytes, heading.offset(slot))?;
            }
        }
        file.write_all_at(&heading.encode(), 0)?;
    }
    Ok(())
}

/// A disk of the guest.
struct Disk {
    file: File,
    heading: Heading,
}

/// Writes entry after entry, `rate` a second or as fast as it goes, until `stop`; says each one that
/// is safe on every disk.
fn write(disks: &[PathBuf], rate: u32, stop: &AtomicBool) -> Result<u64, String> {
    let mut number = check(disks)?;
    let mut open = Vec::new();
    for path in disks {
        let told = |error: io::Error| format!("{}: {error}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(PAST_THE_CACHE);
        let file = options.open(path).map_err(told)?;
        let heading = heading_of(&mut File::open(path).map_err(told)?)?;
        let heading = heading.ok_or("the diary is gone")?;
        open.push(Disk { file, heading });
    }
    let longest = open.first().map_or(PAGE, |disk| disk.heading.entry_len());
    let mut memory = vec![0; longest + PAGE];
    let start = memory.as_ptr().align_offset(PAGE);
    let bytes = &mut memory[start..start + longest];
    say(&format!("READY {number}"));
    let began = Instant::now();
    for written in 1_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let next = number + 1;
        for disk in &open {
            disk.heading.render(next, bytes);
            let offset = disk.heading.offset(disk.heading.slot(next));
            disk.file
                .write_all_at(bytes, offset)
                .and_then(|()| disk.file.sync_data())
                .map_err(|error| format!("entry {next} on disk {}: {error}", disk.heading.disk))?;
        }
        number = next;
        say(&format!("ACK {number}"));
        if rate > 0 {
            let due = Duration::from_secs(1) * written / rate;
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    Ok(number)
}

fn say(line: &str) {
    // One write a line. Whoever listens may be gone; the diary goes on.
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
    let _ = io::stdout().flush();
}

/// Sets `stop` once a button that says "power" is pressed on any input device.
fn watch_power_button(stop: &Arc<AtomicBool>) {
    /// `struct input_event`: a time of 16 bytes, a type, a code, a value.
    const PRESSED: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];
    for index in 0..8 {
        let Ok(mut device) = File::open(format!("/dev/input/event{index}")) else {
            continue;
        };
        let stop = Arc::clone(stop);
        thread::spawn(move || {
            let mut event = [0; 24];
            while device.read_exact(&mut event).is_ok() {
                if event[16..] == PRESSED {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
    }
}

/// `diary check DISK...` and `diary write RATE DISK...`, in the guest.
pub(crate) fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let disks = |from: usize| -> Vec<PathBuf> {
        let names = words.iter().skip(from);
        names.map(PathBuf::from).collect()
    };
    match words.first().map(String::as_str) {
        Some("check") => match check(&disks(1)) {
            Ok(number) => say(&format!("VERDICT ok {number}")),
            Err(wrong) => say(&format!("VERDICT wrong {wrong}")),
        },
        Some("write") => {
            let rate = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
            let stop = Arc::new(AtomicBool::new(false));
            watch_power_button(&stop);
            match write(&disks(2), rate, &stop) {
                Ok(number) => say(&format!("BYE {number}")),
                Err(wrong) => say(&format!("FAILED {wrong}")),
            }
        }
        _ => say("FAILED usage: diary check|write RATE DISK..."),
    }
}
