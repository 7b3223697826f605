//! A VM of two disks that are written all the while, their targets, and a plan.

use crate::rig::{
    Emulator, Guest, LoopDevice, Outcome, Rng, Room, Running, assert_same_bytes, sparse_disk,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Waits until something is so, and fails if that takes too long.
#[track_caller]
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(4);

/// Someone who writes to one disk until told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How a guest writes to each of its disks.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// Here and there, also zeroes, also holes.
    Restless,
    /// Block after block, round and round, so many bytes a second.
    Steady(u64),
}

/// What QEMU tracks, and diskferry copies, as a whole.
const BLOCK: u64 = 64 << 10;

impl Writer {
    fn start(mut guest: Guest, size: u64, seed: u64, habit: Habit) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let mut rng = Rng::new(seed);
            let (began, mut written) = (Instant::now(), 0);
            while !told.load(Ordering::Relaxed) {
                match habit {
                    Habit::Restless => {
                        restless(&mut guest, size, &mut rng);
                        thread::sleep(PAUSE);
                    }
                    Habit::Steady(rate) => {
                        let pattern = u8::try_from(rng.below(255) + 1).unwrap();
                        guest.write(pattern, written % size, BLOCK);
                        written += BLOCK;
                        let due = Duration::from_micros(written * 1_000_000 / rate);
                        thread::sleep(due.saturating_sub(began.elapsed()));
                    }
                }
            }
        });
        let thread = Some(thread);
        Self { stop, thread }
    }
}

fn restless(guest: &mut Guest, size: u64, rng: &mut Rng) {
    let length = (1 + rng.below(16)) * 4096;
    let offset = rng.below((size - length) / 512) * 512;
    match rng.below(8) {
        0 => guest.zero(offset, length),
        1 => guest.discard(offset, length),
        _ => guest.write(u8::try_from(rng.below(255) + 1).unwrap(), offset, length),
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// All that a migration needs.
pub(super) struct Stage {
    pub(super) room: Room,
    pub(super) emulator: Emulator,
    pub(super) devices: Vec<LoopDevice>,
    disks: Vec<PathBuf>,
    size: u64,
    habit: Habit,
    writers: Vec<Writer>,
    pub(super) plan: PathBuf,
    /// What there was on the VM before.
    before: BTreeSet<String>,
}

impl Stage {
    /// Two disks of `size` bytes; `more` is the rest of the plan.
    #[track_caller]
    pub(super) fn new(size: u64, more: &str) -> Self {
        Self::with(size, Habit::Restless, more)
    }

    /// Likewise, with a guest that writes `rate` bytes a second in all.
    #[track_caller]
    pub(super) fn steady(size: u64, rate: u64, more: &str) -> Self {
        Self::with(size, Habit::Steady(rate / 2), more)
    }

    fn with(size: u64, habit: Habit, more: &str) -> Self {
        let room = Room::new();
        let disks: Vec<PathBuf> = (0..2).map(|i| room.path(&format!("disk{i}"))).collect();
        for (seed, disk) in (1..).zip(&disks) {
            sparse_disk(disk, size, 50, seed);
        }
        let devices = [512, 4096].map(|sector| LoopDevice::new(size, sector));
        let mut emulator = Emulator::daemon(&disks);
        fs::create_dir(room.path("scratch")).unwrap();
        let before = emulator.inventory();
        let mut stage = Self {
            plan: room.path("plan.yaml"),
            devices: devices.into(),
            writers: Vec::new(),
            room,
            emulator,
            disks,
            size,
            habit,
            before,
        };
        stage.write_plan(more);
        stage.start_writers();
        stage
    }

    /// The guest writes to both disks.
    fn start_writers(&mut self) {
        let (size, habit) = (self.size, self.habit);
        let writer = |i: usize| Writer::start(self.emulator.guest(i), size, 7 + i as u64, habit);
        self.writers = (0..2).map(writer).collect();
    }

    /// The server of the source dies with all that it has in memory, and comes back. So does the
    /// guest.
    pub(super) fn restart_vm(&mut self) {
        self.writers.clear();
        self.emulator.restart();
        self.start_writers();
    }

    /// The plan, with `more` at its end.
    pub(super) fn write_plan(&self, more: &str) {
        let path = |path: &Path| path.display().to_string();
        let text = format!(
            "vm: vm\n\
             guest: {{qmp: {{socket: '{}', scratch: '{}', nbd: '{}', keep-free: 1M}}}}\n\
             disks:\n\
             - {{name: system, source: disk0, target: '{}'}}\n\
             - {{name: data, source: disk1, target: '{}'}}\n\
             shutdown: {{how: external, timeout: 30s}}\n\
             hooks: {{before-cutover: {{command: [touch, '{}']}}}}\n\
             {more}\n",
            path(&self.emulator.qmp()),
            path(&self.room.path("scratch")),
            path(&self.emulator.nbd()),
            path(self.devices[0].path()),
            path(self.devices[1].path()),
            path(&self.flag()),
        );
        fs::write(&self.plan, text).unwrap();
    }

    /// Another word in the plan.
    #[track_caller]
    pub(super) fn replan(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.plan).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(&self.plan, text.replace(from, to)).unwrap();
    }

    /// Is there once the guest should go.
    fn flag(&self) -> PathBuf {
        self.room.path("cutover-begins")
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.room.state().join("diskferry/migrations/vm")
    }

    fn words<'a>(&'a self, first: &[&'a str]) -> Vec<&'a str> {
        [first, &[self.plan.to_str().unwrap()]].concat()
    }

    pub(super) fn migrate(&self) -> Running {
        self.room.start(self.words(&["migrate", "--json"]))
    }

    /// Another process goes on, and can be steered.
    #[track_caller]
    pub(super) fn go_on(&self) -> Running {
        let run = self.migrate();
        until("a process that listens", || {
            self.status()["running"] == true
        });
        run
    }

    /// The program, with more in its environment.
    pub(super) fn migrate_with(&self, environment: &[(&str, &str)]) -> Running {
        let mut command = self.room.command(self.words(&["migrate", "--json"]));
        command.envs(environment.iter().copied());
        Running::start(command)
    }

    /// Where it is, as it is recorded; nothing before there is a migration.
    pub(super) fn record(&self) -> Value {
        let text = fs::read(self.directory().join("migration.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Value::Null)
    }

    /// Another command about the migration.
    pub(super) fn steer(&self, command: &str) -> Outcome {
        self.room.diskferry(self.words(&[command]))
    }

    /// What `status --json` says; nothing before there is a migration.
    pub(super) fn status(&self) -> Value {
        let outcome = self.room.diskferry(self.words(&["status", "--json"]));
        serde_json::from_str(&outcome.stdout).unwrap_or(Value::Null)
    }

    /// Waits until so many points are durable.
    #[track_caller]
    pub(super) fn until_durable(&self, point: u64) {
        until("a durable point", || {
            self.status()["durable"].as_u64().unwrap_or(0) >= point
        });
    }

    /// Waits until the guest should go.
    #[track_caller]
    pub(super) fn until_wanted(&self) {
        until("a cutover", || self.flag().exists());
    }

    /// The cutover came to nothing: a later one is another one.
    pub(super) fn forget_wanted(&self) {
        fs::remove_file(self.flag()).unwrap();
    }

    /// The guest goes as soon as the cutover has begun; whether it has.
    pub(super) fn quiet_if_wanted(&mut self) -> bool {
        let wanted = self.flag().exists();
        if wanted && !self.writers.is_empty() {
            self.writers.clear();
            self.emulator.drop_guests();
        }
        wanted
    }

    /// Waits for a run to end, and lets the guest go when it is time.
    #[track_caller]
    pub(super) fn finish(&mut self, mut run: Running) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(100);
        while run.is_running() {
            self.quiet_if_wanted();
            assert!(
                Instant::now() < deadline,
                "it does not end: {}\n{}",
                run.stdout(),
                self.status()
            );
            thread::sleep(Duration::from_millis(5));
        }
        run.wait()
    }

    /// Everything arrived, and nothing that was made on the VM is left.
    #[track_caller]
    pub(super) fn assert_moved(&mut self) {
        for (disk, device) in self.disks.iter().zip(&self.devices) {
            assert_same_bytes(disk, device.backing());
        }
        assert!(self.directory().join("certificate.json").exists());
        self.assert_clean();
    }

    /// What was moved of a disk to another place than its device.
    #[track_caller]
    pub(super) fn assert_same(&self, disk: usize, target: &Path) {
        assert_same_bytes(&self.disks[disk], target);
    }

    /// Nothing is held on the VM as it was at some point. What changes may be recorded.
    #[track_caller]
    pub(super) fn assert_nothing_held(&mut self) {
        let left = self.emulator.inventory();
        let ours = left.difference(&self.before);
        let held: Vec<_> = ours.filter(|name| !name.starts_with("bitmap ")).collect();
        assert!(held.is_empty(), "held on the VM: {held:?}");
        assert!(left.len() > self.before.len(), "changes are recorded");
    }

    #[track_caller]
    pub(super) fn assert_clean(&mut self) {
        let left = self.emulator.inventory();
        let left: Vec<_> = left.difference(&self.before).collect();
        assert!(left.is_empty(), "left on the VM: {left:?}");
        let scratch = fs::read_dir(self.room.path("scratch")).unwrap();
        let scratch: Vec<_> = scratch.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            scratch.is_empty(),
            "left in the scratch directory: {scratch:?}"
        );
    }
}
