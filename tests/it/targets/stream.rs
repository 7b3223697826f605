//! Streams: pipes, and standard output to a file.

use diskferry::error::Kind;
use diskferry::extent::ByteRange;
use diskferry::target::stdout::StreamTarget;
use diskferry::target::{Target, Zeroing};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_written_in_order_whatever_order_the_writes_come_in() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let target = StreamTarget::new(writer.into(), "a pipe");
    let collected = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let (third, first, second) = tokio::join!(
        target.write(300_003, b"ccc".as_slice().into()),
        target.write(0, b"aaa".as_slice().into()),
        target.zero(ByteRange::new(3, 300_003), Zeroing::Unmap),
    );
    first.and(second).and(third).unwrap();
    target.flush().await.unwrap();
    assert!(target.write(0, b"a".as_slice().into()).await.is_err());
    drop(target);
    let bytes = collected.join().unwrap();
    assert_eq!(bytes.len(), 300_006);
    assert_eq!((&bytes[..3], &bytes[300_003..]), (&b"aaa"[..], &b"ccc"[..]));
    assert!(bytes[3..300_003].iter().all(|&byte| byte == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_wakes_those_who_wait_for_their_turn() {
    let (reader, writer) = std::io::pipe().unwrap();
    let target = StreamTarget::new(writer.into(), "a pipe");
    drop(reader);
    let (later, first) = tokio::join!(
        target.write(3, b"bbb".as_slice().into()),
        target.write(0, b"aaa".as_slice().into()),
    );
    assert_eq!(first.unwrap_err().kind(), Kind::Io, "never to be repeated");
    assert!(later.unwrap_err().line().contains("earlier write failed"));
}

#[tokio::test]
async fn standard_output_to_a_file_is_made_durable() {
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(b"head").unwrap();
    let target = StreamTarget::new(file.try_clone().unwrap().into(), "a file");
    target.write(0, b"tail".as_slice().into()).await.unwrap();
    target.flush().await.unwrap();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(
        &bytes, b"headtail",
        "it goes on where the descriptor stands"
    );
}
