//! Errors, silence, restarts: what is tried again and what is not.

use super::{MIB, assert_pattern, connect, endpoint, once, patient, read};
use crate::rig::{Nbdkit, Server, uri};
use bytes::Bytes;
use diskferry::buffer::Buffer;
use diskferry::error::Kind;
use diskferry::nbd::client::{Client, Options, Timeouts};
use diskferry::source::Source;
use diskferry::source::nbd::NbdSource;
use rustix::process::Signal;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// nbdkit at a socket that stays the same over restarts.
struct Restartable {
    server: Option<Server>,
    dir: TempDir,
}

impl Restartable {
    fn new(args: &[&str]) -> Self {
        let mut server = Self {
            server: None,
            dir: tempfile::tempdir().unwrap(),
        };
        server.start(args);
        server
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn uri(&self) -> String {
        uri(&self.socket(), "")
    }

    fn start(&mut self, args: &[&str]) {
        let socket = self.socket();
        let words = ["-f", "-U", socket.to_str().unwrap()];
        let mut server = Server::start("nbdkit", words.iter().chain(args));
        server.wait_until(|| UnixStream::connect(&socket).is_ok());
        self.server = Some(server);
    }

    fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal(Signal::KILL);
        }
        fs::remove_file(self.socket()).unwrap();
    }

    /// A file in the server's directory.
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn trigger(path: &Path) -> String {
    format!("error-pread-file={}", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_io_error_that_passes_is_tried_again_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fail");
    let server = Nbdkit::new([
        "--filter=error",
        "pattern",
        "1M",
        "error-pread=EIO",
        "error-pread-rate=100%",
        &trigger(&file),
    ]);
    let client = connect(&server.uri(), patient()).await.unwrap();
    fs::write(&file, "").unwrap();
    let reading = tokio::spawn({
        let client = client.clone();
        async move { read(&client, 8192, 4096).await }
    });
    while client.retries() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        !reading.is_finished(),
        "it fails for as long as the file is there"
    );
    fs::remove_file(&file).unwrap();
    assert_pattern(&reading.await.unwrap(), 8192);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_io_error_without_patience_is_told_with_its_offset() {
    let server = Nbdkit::new([
        "--filter=error",
        "pattern",
        "1M",
        "error-pread=EIO",
        "error-pread-rate=100%",
    ]);
    let client = connect(&server.uri(), once()).await.unwrap();
    let error = client
        .read(4096, Buffer::unbudgeted(512))
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::Io, Some(5)));
    assert_eq!((error.offset(), client.retries()), (Some(4096), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_will_not_pass_are_not_tried_again() {
    for (name, errno) in [("ENOSPC", 28), ("EPERM", 1), ("EINVAL", 22)] {
        let setting = format!("error-pwrite={name}");
        let server = Nbdkit::new([
            "--filter=error",
            "memory",
            "1M",
            &setting,
            "error-pwrite-rate=100%",
        ]);
        let client = connect(&server.uri(), patient()).await.unwrap();
        let error = client
            .write(512, Bytes::from_static(&[1; 512]))
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::Io, Some(errno)));
        assert_eq!(client.retries(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_extents_cost_speed_only() {
    let server = Nbdkit::new([
        "--filter=error",
        "memory",
        "1M",
        "error-extents=EIO",
        "error-extents-rate=100%",
    ]);
    let source = NbdSource::open(endpoint(&server.uri()), once())
        .await
        .unwrap();
    let all = diskferry::extent::ByteRange::at(0, MIB);
    let found = source.extents(all).await.unwrap();
    assert_eq!(found, [diskferry::extent::Extent::data(all)]);
    source.read(0, Buffer::unbudgeted(4096)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_survive_a_crash_and_restart_of_the_server() {
    let mut server = Restartable::new(&["pattern", "64M"]);
    let options = Options {
        connections: 3,
        ..patient()
    };
    let client = connect(&server.uri(), options).await.unwrap();
    let readers: Vec<_> = (0..8u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                for step in 0..300u64 {
                    let offset = (n * 300 + step) % 240 * (256 << 10);
                    let bytes = read(&client, offset, 256 << 10).await;
                    assert_pattern(&bytes, offset);
                }
            })
        })
        .collect();
    sleep(Duration::from_millis(20)).await;
    server.crash();
    sleep(Duration::from_millis(100)).await;
    server.start(&["pattern", "64M"]);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(client.retries() > 0 && client.generation() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_is_given_up_at_the_deadline() {
    let mut server = Restartable::new(&["pattern", "1M"]);
    let mut options = patient();
    options.retry.deadline = Duration::from_millis(200);
    let client = connect(&server.uri(), options).await.unwrap();
    server.crash();
    let reading = client.read(0, Buffer::unbudgeted(512));
    let error = timeout(Duration::from_secs(20), reading)
        .await
        .expect("no hang")
        .unwrap_err();
    assert!(client.retries() > 0);
    assert!(error.line().contains("connect to"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_that_wait_for_a_lost_server_do_not_queue_for_their_deadline() {
    let mut server = Restartable::new(&["pattern", "1M"]);
    let mut options = patient();
    options.retry.deadline = Duration::from_millis(500);
    options.retry.longest = Duration::from_millis(400);
    options.retry.first = Duration::from_millis(400);
    let client = connect(&server.uri(), options).await.unwrap();
    server.crash();
    let reads = (0..64).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.read(0, Buffer::unbudgeted(512)).await })
    });
    let all = async {
        for read in reads.collect::<Vec<_>>() {
            read.await.unwrap().unwrap_err();
        }
    };
    // One after the other, 64 of them would take 25 s for each attempt.
    timeout(Duration::from_secs(15), all)
        .await
        .expect("they share the attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_changed_over_a_restart_is_not_read_on() {
    for other in [["memory", "2M"], ["pattern", "1M"]] {
        let mut server = Restartable::new(&["memory", "1M"]);
        let client = connect(&server.uri(), patient()).await.unwrap();
        server.crash();
        server.start(&other);
        let error = client.read(0, Buffer::unbudgeted(512)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.line().contains("the export changed"), "{error:?}");
    }
}

fn file_server(server: &Restartable) -> String {
    let path = server.file("disk");
    if !path.exists() {
        fs::write(&path, vec![0; 1 << 20]).unwrap();
    }
    format!("file={}", path.display())
}

/// A client of a server over a file, whose export stays the same over restarts.
async fn writer() -> (Restartable, String, Client) {
    let mut server = Restartable::new(&["memory", "1M"]);
    server.crash();
    let file = file_server(&server);
    server.start(&["file", &file]);
    let client = connect(&server.uri(), patient()).await.unwrap();
    (server, file, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_does_not_vouch_for_writes_from_before_a_crash() {
    let (mut server, file, client) = writer().await;
    client
        .write(0, Bytes::from_static(&[1; 512]))
        .await
        .unwrap();
    server.crash();
    server.start(&["file", &file]);
    client
        .write(512, Bytes::from_static(&[2; 512]))
        .await
        .unwrap();
    for _ in 0..2 {
        let error = client.flush().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Transient);
        assert!(error.line().contains("may be lost"), "{error:?}");
    }
    // Opened again, as the message says, the target can be flushed.
    let client = connect(&server.uri(), patient()).await.unwrap();
    client
        .write(0, Bytes::from_static(&[1; 512]))
        .await
        .unwrap();
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_a_flush_harms_nothing() {
    let (mut server, file, client) = writer().await;
    client
        .write(0, Bytes::from_static(&[1; 512]))
        .await
        .unwrap();
    client.flush().await.unwrap();
    server.crash();
    server.start(&["file", &file]);
    client
        .write(512, Bytes::from_static(&[2; 512]))
        .await
        .unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.generation(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_failed_is_never_repeated_with_success() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fail");
    let flush = format!(
        "flush=if [ -e {} ]; then echo EIO >&2; exit 1; fi",
        file.display()
    );
    let server = Nbdkit::new([
        "eval",
        "get_size=echo 1M",
        "pread=exit 1",
        "can_write=exit 0",
        "pwrite=cat >/dev/null",
        "can_flush=exit 0",
        &flush,
    ]);
    let client = connect(&server.uri(), patient()).await.unwrap();
    assert!(client.export().flags.can_flush());
    client
        .write(0, Bytes::from_static(&[1; 512]))
        .await
        .unwrap();
    fs::write(&file, "").unwrap();
    let error = client.flush().await.unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::Io, Some(5)));
    fs::remove_file(&file).unwrap();
    let error = client.flush().await.unwrap_err();
    assert!(error.line().contains("an earlier flush"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up_and_a_slow_one_is_not() {
    let options = |request| Options {
        timeouts: Timeouts {
            request: Duration::from_millis(request),
            ..Timeouts::default()
        },
        ..once()
    };
    let server = Nbdkit::new(["--filter=delay", "pattern", "1M", "delay-read=1"]);
    let client = connect(&server.uri(), options(200)).await.unwrap();
    let reading = client.read(0, Buffer::unbudgeted(512));
    let error = timeout(Duration::from_secs(20), reading)
        .await
        .expect("no hang")
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.line().contains("not answered for 0.2 s"), "{error:?}");
    let client = connect(&server.uri(), options(5000)).await.unwrap();
    assert_pattern(&read(&client, 0, 512).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_request_leaves_the_connection_usable() {
    let server = Nbdkit::new(["--filter=delay", "pattern", "1M", "delay-read=200ms"]);
    let client = connect(&server.uri(), once()).await.unwrap();
    for _ in 0..5 {
        let reading = client.read(0, Buffer::unbudgeted(64 << 10));
        assert!(timeout(Duration::from_millis(10), reading).await.is_err());
    }
    assert_pattern(&read(&client, 4096, 4096).await, 4096);
    assert_eq!((client.retries(), client.generation()), (0, 0));
}
