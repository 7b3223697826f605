//! What honest servers say is understood, whoever wrote them.

use super::{MIB, assert_pattern, connect, endpoint, once, read};
use crate::rig::{Nbdkit, QemuNbd, Qsd, Rng, Room, free_port, random_disk, run};
use bytes::Bytes;
use diskferry::error::Kind;
use diskferry::extent::{ByteRange, Extent};
use diskferry::nbd::client::{BASE_ALLOCATION, Options, Timeouts, list};
use diskferry::source::Source;
use diskferry::source::nbd::NbdSource;
use diskferry::target::nbd::NbdTarget;
use diskferry::testkit::{check_source, check_target};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_reads_in_flight_each_get_their_own_bytes() {
    let server = Nbdkit::new(["pattern", "size=64M"]);
    for connections in [1, 4] {
        let options = Options {
            connections,
            ..once()
        };
        let client = connect(&server.uri(), options).await.unwrap();
        assert_eq!(client.connections(), connections);
        let mut rng = Rng::new(1);
        let reads = (0..300).map(|_| {
            let offset = rng.below(64 * MIB - 300_000) & !7;
            let length = usize::try_from(8 + (rng.below(260_000) & !7)).unwrap();
            let client = client.clone();
            tokio::spawn(async move {
                let bytes = read(&client, offset, length).await;
                assert_eq!(bytes.len(), length);
                assert_pattern(&bytes, offset);
            })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.unwrap();
        }
        assert_eq!(client.retries(), 0);
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_connections_need_the_servers_word_or_the_users() {
    let server = Nbdkit::new([
        "--filter=multi-conn",
        "memory",
        "1M",
        "multi-conn-mode=disable",
    ]);
    for (force_multi_conn, expected) in [(false, 1), (true, 3)] {
        let options = Options {
            connections: 3,
            force_multi_conn,
            ..once()
        };
        let client = connect(&server.uri(), options).await.unwrap();
        assert!(!client.export().flags.can_multi_conn());
        assert_eq!(client.connections(), expected);
        client
            .write(0, Bytes::from_static(&[7; 512]))
            .await
            .unwrap();
        client.flush().await.unwrap();
    }
}

/// Data at the start, in the middle and at the end, holes between; each server lets us see them.
fn sparse_file(room: &Room, size: u64) -> (std::path::PathBuf, Vec<u8>) {
    let path = room.path("disk");
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let mut rng = Rng::new(3);
    for start in [0, (size / 2) & !0xffff, (size - 200_000) & !0xffff] {
        let data = rng.bytes(128 << 10);
        file.write_all_at(&data, start).unwrap();
        let at = usize::try_from(start).unwrap();
        bytes[at..at + data.len()].copy_from_slice(&data);
    }
    (path, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_keeps_its_contract_over_nbdkit_and_qemu() {
    let room = Room::new();
    let (path, bytes) = sparse_file(&room, 5 * MIB);
    let file = format!("file={}", path.display());
    let nbdkit = Nbdkit::new(["file", &file]);
    let no_structured = Nbdkit::new(["--no-sr", "file", &file]);
    let qemu = QemuNbd::new(&path, "raw", &["-r"]);
    for (uri, knows_extents) in [
        (nbdkit.uri(), true),
        (no_structured.uri(), false),
        (qemu.uri(), true),
    ] {
        let source = NbdSource::open(endpoint(&uri), once()).await.unwrap();
        assert_eq!(source.knows_extents(), knows_extents, "{uri}");
        check_source(&source, &bytes).await.unwrap();
        let all = ByteRange::at(0, source.size());
        let first = source.extents(all).await.unwrap()[0];
        let expected = if knows_extents { 128 << 10 } else { 5 * MIB };
        assert_eq!(first, Extent::data(ByteRange::at(0, expected)), "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_keeps_its_contract_over_nbdkit_and_qemu() {
    let room = Room::new();
    let path = room.path("disk");
    File::create(&path).unwrap().set_len(6 * MIB).unwrap();
    let memory = Nbdkit::new(["memory", "6M"]);
    let no_zero = Nbdkit::new(["--filter=nozero", "memory", "6M"]);
    let blocks = Nbdkit::new([
        "--filter=blocksize-policy",
        "memory",
        "6M",
        "blocksize-minimum=4096",
        "blocksize-preferred=64K",
        "blocksize-maximum=256K",
        "blocksize-error-policy=error",
    ]);
    let qemu = QemuNbd::new(&path, "raw", &["--discard=unmap", "--cache=writeback"]);
    for uri in [memory.uri(), no_zero.uri(), blocks.uri(), qemu.uri()] {
        let target = NbdTarget::open(endpoint(&uri), once()).await.unwrap();
        check_target(&target, 6 * MIB)
            .await
            .unwrap_or_else(|clause| panic!("{uri}: {clause:?}"));
        assert_eq!(target.client().retries(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dirty_bitmap_of_a_running_disk_tells_what_changed() {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, 16 * MIB, 9);
    let mut qsd = Qsd::new(&disk);
    let first = qsd.freeze("b0", None);
    let mut guest = qsd.guest();
    guest.write(0xab, 3 * MIB, 128 << 10);
    guest.zero(9 * MIB, 64 << 10);
    qsd.thaw(first);
    let second = qsd.freeze("b1", Some("b0"));
    guest.write(0xcd, 12 * MIB, 64 << 10);

    let context = "qemu:dirty-bitmap:b0";
    let options = Options {
        contexts: vec![context.to_owned()],
        ..once()
    };
    let client = connect(&second.uri, options).await.unwrap();
    assert_eq!(client.export().contexts, [BASE_ALLOCATION, context]);
    let mut dirty = Vec::new();
    let mut rest = ByteRange::at(0, client.export().size);
    while !rest.is_empty() {
        let found = client.status(context, rest).await.unwrap();
        rest.start = found.last().unwrap().0.end;
        dirty.extend(found.into_iter().filter(|(_, flags)| flags & 1 != 0));
    }
    let changed = [
        (ByteRange::at(3 * MIB, 128 << 10), 1),
        (ByteRange::at(9 * MIB, 64 << 10), 1),
    ];
    assert_eq!(dirty, changed);
    // The view is of the moment: what the guest wrote later is not in it.
    let mut before = vec![0; 64 << 10];
    File::open(&disk)
        .unwrap()
        .read_exact_at(&mut before, 11 * MIB)
        .unwrap();
    assert_eq!(read(&client, 11 * MIB, 64 << 10).await, before);
    assert_ne!(read(&client, 12 * MIB, 512).await, [0xcd; 512]);
    client.close().await;
    qsd.thaw(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bitmap_that_the_server_does_not_have_is_named() {
    let server = Nbdkit::new(["memory", "1M"]);
    let context = "qemu:dirty-bitmap:gone";
    let options = Options {
        contexts: vec![context.to_owned()],
        ..once()
    };
    let client = connect(&server.uri(), options).await.unwrap();
    assert_eq!(client.export().contexts, [BASE_ALLOCATION]);
    let error = client
        .status(context, ByteRange::at(0, 512))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.line().contains(context), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_allocation_depth_of_qemu_is_understood() {
    let room = Room::new();
    let path = room.path("disk.qcow2");
    run(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "4M"],
    );
    run("qemu-io", ["-c", "write 1M 64k", path.to_str().unwrap()]);
    let server = QemuNbd::new(&path, "qcow2", &["-r", "-A"]);
    let context = "qemu:allocation-depth";
    let options = Options {
        contexts: vec![context.to_owned()],
        ..once()
    };
    let client = connect(&server.uri(), options).await.unwrap();
    let found = client
        .status(context, ByteRange::new(MIB - 512, 2 * MIB))
        .await
        .unwrap();
    assert_eq!(
        found[..2],
        [
            (ByteRange::new(MIB - 512, MIB), 0),
            (ByteRange::at(MIB, 64 << 10), 1)
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_lists_its_exports_with_their_sizes() {
    let room = Room::new();
    let disk = room.path("disk");
    random_disk(&disk, 2 * MIB, 1);
    let mut qsd = Qsd::new(&disk);
    let view = qsd.freeze("b0", None);
    let mut found: Vec<_> = list(endpoint(&qsd.guest_uri()), Timeouts::default())
        .await
        .unwrap()
        .into_iter()
        .map(|listing| (listing.listed.name, listing.export.unwrap().size))
        .collect();
    found.sort();
    assert_eq!(
        found,
        [("guest".to_owned(), 2 * MIB), ("pass1".to_owned(), 2 * MIB)]
    );
    qsd.thaw(view);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_old_handshake_is_unsupported_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, pid) = (dir.path().join("s"), dir.path().join("pid"));
    let mut server = crate::rig::Server::start(
        "nbdkit",
        [
            "-f",
            "-o",
            "-U",
            socket.to_str().unwrap(),
            "-P",
            pid.to_str().unwrap(),
            "memory",
            "1M",
        ],
    );
    server.wait_until(|| pid.exists());
    let error = connect(&crate::rig::uri(&socket, ""), once())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.line().contains("newstyle"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_or_lacks_the_export_is_named() {
    let error = connect("nbd+unix:///?socket=/nonexistent/s", once())
        .await
        .unwrap_err();
    assert!(error.line().contains("/nonexistent/s"), "{error:?}");
    let room = Room::new();
    let path = room.path("disk");
    fs::write(&path, [0; 4096]).unwrap();
    let server = QemuNbd::new(&path, "raw", &["-x", "right"]);
    let uri = crate::rig::uri(&server.socket(), "wrong");
    let error = connect(&uri, once()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.line().contains("no such export"), "{error:?}");
    assert!(
        connect(&server.uri(), once()).await.is_ok(),
        "a later correct run"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_speaks_over_tcp_as_well() {
    let port = free_port();
    let mut server = crate::rig::Server::start(
        "nbdkit",
        [
            "-f",
            "-i",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "pattern",
            "8M",
        ],
    );
    server.wait_until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let client = connect(&format!("nbd://127.0.0.1:{port}"), once())
        .await
        .unwrap();
    let bytes = read(&client, MIB, 3 << 20).await;
    assert_pattern(&bytes, MIB);
}
