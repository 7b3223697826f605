//! FUA, NO_HOLE and FAST_ZERO: asked of servers that have them, and not of those that have not.

use super::{MIB, connect, once, read};
use crate::rig::{Nbdkit, Room};
use async_trait::async_trait;
use bytes::Bytes;
use diskferry::buffer::Buffer;
use diskferry::error::{Error, Kind, Result};
use diskferry::extent::ByteRange;
use diskferry::nbd::client::Client;
use diskferry::nbd::server::{Export, Listen, Server, Settings, ZeroHow};
use diskferry::target::Zeroing;
use diskferry::target::export::TargetExport;
use diskferry::testkit::{Call, MemTarget};
use std::cell::Cell;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// nbdkit that notes what it is asked to change; `words` are further filters, plugin and settings.
struct Noting {
    room: Room,
    server: Nbdkit,
    /// Bytes of the log that were looked at.
    known: Cell<usize>,
}

impl Noting {
    fn new(words: &[&str]) -> Self {
        let room = Room::new();
        let log = format!("logfile={}", room.path("log").display());
        let server = Nbdkit::new([&["--filter=log"], words, &[log.as_str()]].concat());
        let known = Cell::default();
        Self {
            room,
            server,
            known,
        }
    }

    async fn client(&self) -> Client {
        connect(&self.server.uri(), once()).await.unwrap()
    }

    /// What it was asked since the last time: `Write 0x0 0x1000 fua=1`, `Flush`.
    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.room.path("log")).unwrap();
        let known = self.known.replace(log.len());
        let noted = log[known..].lines().filter_map(|line| {
            let (_, request) = line.split_once("connection=1 ")?;
            let changes = ["Write ", "Zero ", "Flush "];
            let begins = changes.iter().any(|kind| request.starts_with(kind));
            begins.then(|| {
                let words = request.trim_end_matches(" ...").split(' ');
                let words = words.filter(|word| !word.starts_with("id="));
                let bare = words.map(|word| {
                    let (key, value) = word.split_once('=').unwrap_or(("", word));
                    match key {
                        "offset" | "count" => value,
                        _ => word,
                    }
                });
                bare.collect::<Vec<_>>().join(" ")
            })
        });
        noted.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_write_says_so_in_every_request_and_needs_no_flush() {
    let server = Noting::new(&[
        "--filter=blocksize-policy",
        "memory",
        "1M",
        "blocksize-minimum=4096",
        "blocksize-preferred=64K",
        "blocksize-maximum=64K",
        "blocksize-error-policy=error",
    ]);
    let client = server.client().await;
    assert!(client.export().flags.can_fua());
    let data = Bytes::from(vec![7; 100 << 10]);
    client.write(4096, data.clone()).await.unwrap();
    let plain = ["Write 0x1000 0x10000 fua=0", "Write 0x11000 0x9000 fua=0"];
    assert_eq!(server.asked(), plain);
    client.write_durable(4096, data).await.unwrap();
    let durable = ["Write 0x1000 0x10000 fua=1", "Write 0x11000 0x9000 fua=1"];
    assert_eq!(server.asked(), durable);
    // Part of a block is written as the whole of it.
    let part = Bytes::from_static(&[9; 50]);
    client.write_durable(8192 + 100, part).await.unwrap();
    assert_eq!(server.asked(), ["Write 0x2000 0x1000 fua=1"]);
    let found = read(&client, 8192, 200).await;
    assert!(found[..100] == [7; 100] && found[100..150] == [9; 50] && found[150..] == [7; 50]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_write_is_flushed_where_the_server_has_no_fua() {
    let server = Noting::new(&["--filter=fua", "memory", "1M"]);
    let client = server.client().await;
    assert!(!client.export().flags.can_fua() && client.export().flags.can_flush());
    let data = Bytes::from_static(&[7; 4096]);
    client.write_durable(4096, data).await.unwrap();
    assert_eq!(server.asked(), ["Write 0x1000 0x1000 fua=0", "Flush"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeroes_keep_their_space_and_are_fast_only_if_that_is_asked_for() {
    let server = Noting::new(&["memory", "1M"]);
    let client = server.client().await;
    let range = ByteRange::at(4096, 8192);
    for (no_hole, fast) in [(false, false), (true, false), (false, true), (true, true)] {
        client.zero(range, no_hole, fast).await.unwrap();
        let (trim, fast) = (i32::from(!no_hole), i32::from(fast));
        let asked = format!("Zero 0x1000 0x2000 trim={trim} fua=0 fast={fast}");
        assert_eq!(server.asked(), [asked]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeroes_that_would_be_slow_are_unsupported_and_change_nothing() {
    let range = ByteRange::new(4096, MIB);
    for (mode, offered, made) in [
        ("none", false, false),
        ("slow", true, false),
        ("ignore", true, true),
    ] {
        let mode_is = format!("fastzeromode={mode}");
        let server = Noting::new(&[
            "--filter=nozero",
            "memory",
            "1M",
            "zeromode=plugin",
            &mode_is,
        ]);
        let client = server.client().await;
        assert_eq!(client.export().flags.can_fast_zero(), offered, "{mode}");
        client
            .write(0, Bytes::from(vec![7; 1 << 20]))
            .await
            .unwrap();
        server.asked();
        let zeroed = client.zero(range, false, true).await;
        assert_eq!(server.asked().len(), usize::from(offered), "{mode}");
        if !made {
            let error = zeroed.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{mode}: {error:?}");
            assert!(error.line().contains("zero"), "{error:?}");
            let found = read(&client, 0, 1 << 20).await;
            assert!(found.iter().all(|byte| *byte == 7), "{mode}");
            // The connection goes on, and the server makes them if it may take its time.
            client.zero(range, false, false).await.unwrap();
        }
        let found = read(&client, 0, 1 << 20).await;
        assert!(found[..4096].iter().all(|byte| *byte == 7), "{mode}");
        assert!(found[4096..].iter().all(|byte| *byte == 0), "{mode}");
        assert_eq!(client.retries(), 0);
    }
}

/// Our server with one export, `disk`.
async fn ours(export: Arc<dyn Export>) -> (TempDir, Server, Client) {
    let dir = tempfile::tempdir().unwrap();
    let listen = Listen::Unix(dir.path().join("s"));
    let server = Server::start(&listen, Settings::default()).await.unwrap();
    server.add("disk", export).unwrap();
    let client = connect(&server.place().uri("disk", false), once()).await;
    (dir, server, client.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_our_server_called_durable_survives_a_power_cut_and_only_that() {
    let target = MemTarget::new(MIB);
    let export = TargetExport::new(Arc::new(target.clone())).unwrap();
    let (_dir, _server, client) = ours(Arc::new(export)).await;
    assert!(client.export().flags.can_fua());
    let write = |byte| Bytes::from(vec![byte; 4096]);
    client.write_durable(0, write(1)).await.unwrap();
    client.write(4096, write(2)).await.unwrap();
    let calls = [
        Call::Write(ByteRange::at(0, 4096)),
        Call::Flush,
        Call::Write(ByteRange::at(4096, 4096)),
    ];
    assert_eq!(target.calls(), calls);
    target.crash(|_| false);
    assert!(read(&client, 0, 4096).await == [1; 4096]);
    assert!(read(&client, 4096, 4096).await == [0; 4096]);
    // A target zeroes, however long that takes.
    assert!(!client.export().flags.can_fast_zero());
    let fast = client.zero(ByteRange::at(0, 4096), true, true).await;
    assert_eq!(fast.unwrap_err().kind(), Kind::Unsupported);
    client
        .zero(ByteRange::at(0, 4096), true, false)
        .await
        .unwrap();
    let zero = Call::Zero(ByteRange::at(0, 4096), Zeroing::Allocate);
    assert_eq!(target.calls().last(), Some(&zero));
}

/// A disk that is quick to zero its first half.
#[derive(Debug, Default)]
struct Half(Mutex<Vec<(ByteRange, ZeroHow)>>);

#[async_trait]
impl Export for Half {
    fn size(&self) -> u64 {
        MIB
    }
    fn read_only(&self) -> bool {
        false
    }
    fn can_zero_fast(&self) -> bool {
        true
    }
    async fn read(&self, _offset: u64, buffer: Buffer) -> Result<Buffer> {
        Ok(buffer)
    }
    async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        Ok(())
    }
    async fn zero(&self, range: ByteRange, how: ZeroHow) -> Result<()> {
        self.0.lock().unwrap().push((range, how));
        match how.fast && range.end > MIB / 2 {
            true => Err(Error::io("zero", io::Error::from_raw_os_error(95))),
            false => Ok(()),
        }
    }
    async fn trim(&self, _range: ByteRange) -> Result<()> {
        Ok(())
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_passes_on_how_to_zero_and_that_it_would_be_slow() {
    let disk = Arc::new(Half::default());
    let (_dir, _server, client) = ours(disk.clone()).await;
    assert!(client.export().flags.can_fast_zero());
    let (quick, slow) = (ByteRange::at(0, 4096), ByteRange::at(MIB - 4096, 4096));
    client.zero(quick, false, true).await.unwrap();
    let refused = client.zero(slow, true, true).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused:?}");
    client.zero(slow, true, false).await.unwrap();
    let how = |no_hole, fast| ZeroHow { no_hole, fast };
    let passed_on = [
        (quick, how(false, true)),
        (slow, how(true, true)),
        (slow, how(true, false)),
    ];
    assert_eq!(*disk.0.lock().unwrap(), passed_on);
}
