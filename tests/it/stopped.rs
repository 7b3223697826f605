//! A copy that is told to stop: it ends in order, with a journal, and the next one goes on from there.

use crate::rig::{LoopDevice, Nbdkit, Room, Running, assert_same_bytes, random_disk, run};
use rustix::process::Signal;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SIZE: u64 = 24 << 20;
const STOPPED: i32 = 5;

/// Longer than any machine takes to end in order, and much shorter than a copy that was not told.
const HANGS: Duration = Duration::from_secs(40);

/// A copy from a server that gives 2 MB of a disk a second.
struct Slow {
    room: Room,
    server: Nbdkit,
    plugin: String,
    words: Vec<String>,
}

impl Slow {
    fn new(target: &str, filters: &[&str], settings: &[&str]) -> Self {
        let room = Room::new();
        random_disk(&room.path("disk"), SIZE, 47);
        let plugin = format!("file={}", room.path("disk").display());
        let fixed = ["-r", "--filter=rate", "rate=16M"];
        let server = Nbdkit::new(
            [
                &fixed[..2],
                filters,
                &["file", &plugin],
                &fixed[2..],
                settings,
            ]
            .concat(),
        );
        let uri = server.uri();
        let words = ["copy", "--json", "--request-size", "256k", &uri, target];
        let words = words.map(str::to_owned).to_vec();
        Self {
            room,
            server,
            plugin,
            words,
        }
    }

    /// The copy, once bytes of the disk were written.
    fn begun(&self) -> Running {
        let mut running = self.room.start(&self.words);
        wait_until_written(&mut running);
        running
    }

    /// The copy goes on from what the journal has, and what arrives is the disk.
    fn goes_on(&mut self, arrived: &Path) {
        // nbdkit may fall over a client that goes while replies are due.
        self.server.crash();
        self.server.restart(["-r", "file", &self.plugin]);
        let outcome = self.room.diskferry(&self.words).ok();
        let resumed = outcome.event("start")["resumed"].as_u64().unwrap();
        assert!(resumed > 0, "nothing was kept");
        let read = outcome.event("done")["read"].as_u64().unwrap();
        assert_eq!(read, SIZE - resumed, "what is known is not read again");
        assert_same_bytes(&self.room.path("disk"), arrived);
    }
}

/// Waits until bytes of the disk were written.
fn wait_until_written(running: &mut Running) {
    let deadline = Instant::now() + HANGS;
    let written = |line: &str| {
        let event: Option<serde_json::Value> = serde_json::from_str(line).ok();
        let written = event.and_then(|event| event["written"].as_u64());
        written.is_some_and(|bytes| bytes > 1 << 20)
    };
    while !running.stdout().lines().any(written) {
        assert!(running.is_running(), "it ended by itself");
        assert!(Instant::now() < deadline, "nothing is written");
        sleep(Duration::from_millis(5));
    }
}

/// Sends `signal`, and the copy ends as it should.
fn stop(running: Running, signal: Signal) {
    let since = Instant::now();
    running.signal(signal);
    let outcome = running.wait().exits(STOPPED);
    assert!(since.elapsed() < HANGS, "it did not stop but end");
    let failed = outcome.event("failed");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("stopped by a signal"), "{message}");
}

#[test]
fn a_copy_to_a_device_that_is_told_to_stop_goes_on_where_it_was() {
    for signal in [Signal::TERM, Signal::INT] {
        let device = LoopDevice::new(SIZE, 512);
        let mut slow = Slow::new(device.path().to_str().unwrap(), &[], &[]);
        stop(slow.begun(), signal);
        slow.goes_on(device.path());
    }
}

#[test]
fn a_copy_to_a_file_that_is_told_to_stop_leaves_no_disk_and_goes_on_where_it_was() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut slow = Slow::new("copy", &[], &[]);
        let target = slow.room.path("copy");
        stop(slow.begun(), signal);
        assert!(!target.exists(), "a part looks like a disk");
        slow.goes_on(&target);
    }
}

#[test]
fn a_copy_to_an_export_that_is_told_to_stop_goes_on_where_it_was() {
    for signal in [Signal::TERM, Signal::INT] {
        let bytes = Room::new();
        let file = bytes.path("bytes");
        File::create(&file).unwrap().set_len(SIZE).unwrap();
        let plugin = format!("file={}", file.display());
        let mut target = Nbdkit::new(["file", &plugin]);
        let mut slow = Slow::new(&target.uri(), &[], &[]);
        stop(slow.begun(), signal);
        target.crash();
        target.restart(["file", &plugin]);
        slow.goes_on(&file);
    }
}

#[test]
fn a_server_that_says_nothing_does_not_keep_a_copy_from_stopping() {
    let sockets = tempfile::tempdir().unwrap();
    let control = sockets.path().join("pause");
    let socket = format!("pause-control={}", control.display());
    let mut slow = Slow::new("copy", &["--filter=pause"], &[&socket]);
    let target = slow.room.path("copy");
    let running = slow.begun();
    pause(&control);
    stop(running, Signal::TERM);
    slow.goes_on(&target);
}

#[test]
fn a_target_that_never_answers_does_not_keep_a_copy_from_stopping() {
    let room = Room::new();
    random_disk(&room.path("disk"), 1 << 20, 12);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("nbd://{}", listener.local_addr().unwrap());
    let running = room.start(["copy", "--json", "disk", &target]);
    // It is connected, and waits for a greeting.
    let _silent = listener.accept().unwrap();
    stop(running, Signal::TERM);
}

#[test]
fn a_target_that_never_answers_does_not_keep_a_verify_from_stopping() {
    let room = Room::new();
    random_disk(&room.path("disk"), 1 << 20, 13);
    let mut server = Nbdkit::new(["memory", "1M"]);
    let target = server.uri();
    room.diskferry(["copy", "disk", &target]).ok();
    server.crash();
    let _ = fs::remove_file(server.socket());
    let listener = UnixListener::bind(server.socket()).unwrap();
    let running = room.start(["verify", "--json", &target]);
    // It is connected, and waits for a greeting.
    let _silent = listener.accept().unwrap();
    stop(running, Signal::TERM);
}

/// The pause filter answers when nothing is under way any more.
fn pause(control: &Path) {
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect({:?}); s.send(b'p'); \
         print(s.recv(1))",
        control.display().to_string()
    );
    run("python3", ["-c", &script]);
}
