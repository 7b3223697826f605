//! Block sizes, odd sizes, and what a server lacks.

use super::{MIB, assert_pattern, connect, endpoint, once, read};
use crate::rig::Nbdkit;
use bytes::Bytes;
use diskferry::buffer::Buffer;
use diskferry::error::Kind;
use diskferry::extent::ByteRange;
use diskferry::nbd::client::{BASE_ALLOCATION, Options};
use diskferry::target::nbd::NbdTarget;
use diskferry::target::{Target, Zeroing};

fn strict(plugin: &[&str]) -> Nbdkit {
    let policy = [
        "blocksize-minimum=4096",
        "blocksize-preferred=64K",
        "blocksize-maximum=128K",
        "blocksize-error-policy=error",
    ];
    let words = ["--filter=blocksize-policy"]
        .iter()
        .chain(plugin)
        .chain(&policy);
    Nbdkit::new(words.copied().collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_sizes_are_obeyed_whatever_is_asked() {
    let server = strict(&["pattern", "size=4M"]);
    let client = connect(&server.uri(), once()).await.unwrap();
    let limits = client.limits();
    assert_eq!((limits.align, limits.max), (4096, 128 << 10));
    assert_eq!(limits.preferred, 128 << 10);
    // The server answers EINVAL to anything that is unaligned or too long.
    assert_pattern(&read(&client, 0, 3 << 20).await, 0);
    assert_pattern(&read(&client, 4096 + 8, 100_000).await, 4096 + 8);
    assert_pattern(&read(&client, 4 * MIB - 16, 16).await, 4 * MIB - 16);
    let found = client
        .status(BASE_ALLOCATION, ByteRange::new(5000, 5001))
        .await;
    assert_eq!(found.unwrap()[0].0, ByteRange::new(5000, 5001));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_zeroes_of_part_of_a_block_leave_the_rest_alone() {
    let server = strict(&["memory", "1M"]);
    let client = connect(&server.uri(), once()).await.unwrap();
    let mut expected = vec![0xee; 1 << 20];
    client
        .write(0, Bytes::from(expected.clone()))
        .await
        .unwrap();
    for (start, length) in [
        (100, 50),
        (4000, 10_000),
        (200_000, 300_001),
        ((1 << 20) - 7, 7),
    ] {
        client
            .write(start, Bytes::from(vec![0x11; length]))
            .await
            .unwrap();
        let at = usize::try_from(start).unwrap();
        expected[at..at + length].fill(0x11);
    }
    for (start, length) in [(50u64, 70u64), (8000, 9000), (600_000, 200_000)] {
        client
            .zero(ByteRange::at(start, length), false, false)
            .await
            .unwrap();
        let at = usize::try_from(start).unwrap();
        expected[at..at + usize::try_from(length).unwrap()].fill(0);
    }
    client.trim(ByteRange::new(1, 4095)).await.unwrap();
    assert!(read(&client, 0, 1 << 20).await == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_of_an_odd_size_is_read_and_written_to_its_last_byte() {
    let server = Nbdkit::new(["memory", "1000003"]);
    let client = connect(&server.uri(), once()).await.unwrap();
    assert_eq!(client.export().size, 1_000_003);
    client
        .write(999_990, Bytes::from(vec![5; 13]))
        .await
        .unwrap();
    assert_eq!(read(&client, 999_999, 4).await, [5; 4]);
    for past in [1_000_000, 1_000_003, u64::MAX - 2] {
        let error = client.read(past, Buffer::unbudgeted(4)).await.unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Kind::Io, Some(past)));
        assert!(error.line().contains("past its end"), "{error:?}");
        client
            .write(past, Bytes::from(vec![5; 4]))
            .await
            .unwrap_err();
        client
            .zero(ByteRange::at(past, 4), false, false)
            .await
            .unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_export_refuses_to_be_a_target() {
    let server = Nbdkit::new(["-r", "memory", "1M"]);
    let error = NbdTarget::open(endpoint(&server.uri()), once())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("read-only"), "{error:?}");
    let writable = Nbdkit::new(["memory", "1M"]);
    let options = Options {
        read_only: true,
        ..once()
    };
    let client = connect(&writable.uri(), options).await.unwrap();
    let error = client.write(0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeroes_are_sent_once_the_server_has_said_that_it_cannot_make_them() {
    let server = Nbdkit::new([
        "--filter=error",
        "memory",
        "4M",
        "error-zero=EINVAL",
        "error-zero-rate=100%",
    ]);
    let client = connect(&server.uri(), once()).await.unwrap();
    assert!(client.export().flags.can_zero());
    let target = NbdTarget::new(client).unwrap();
    target
        .write(0, Bytes::from(vec![7; 4 << 20]))
        .await
        .unwrap();
    for _ in 0..2 {
        target
            .zero(ByteRange::new(512, 3 * MIB), Zeroing::Unmap)
            .await
            .unwrap();
        assert!(!target.makes_zeroes());
    }
    let bytes = read(target.client(), 0, 4 << 20).await;
    let is = |range: std::ops::Range<usize>, byte| bytes[range].iter().all(|b| *b == byte);
    assert!(is(0..512, 7) && is(512..3 << 20, 0) && is(3 << 20..4 << 20, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_zeroes_trim_or_flush_is_not_asked_for_them() {
    let server = Nbdkit::new([
        "--filter=nozero",
        "eval",
        "get_size=echo 1M",
        "pread=exit 1",
        "can_write=exit 0",
        "pwrite=cat >/dev/null",
    ]);
    let client = connect(&server.uri(), once()).await.unwrap();
    let flags = client.export().flags;
    assert!(!flags.can_zero() && !flags.can_trim() && !flags.can_flush());
    let range = ByteRange::at(0, 4096);
    for refused in [
        client.zero(range, false, false).await,
        client.trim(range).await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported);
    }
    client.flush().await.unwrap();
    let target = NbdTarget::new(client).unwrap();
    assert!(!target.makes_zeroes());
    target.zero(range, Zeroing::Allocate).await.unwrap();
}
