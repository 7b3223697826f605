//! Streams: pipes, standard output to a file, and nowhere.

use super::{MIB, ODD, length};
use diskferry::error::Kind;
use diskferry::extent::ByteRange;
use diskferry::target::null::NullTarget;
use diskferry::target::stdout::StreamTarget;
use diskferry::target::{Target, Zeroing};
use diskferry::testkit::{Fault, Faults, FaultyTarget, MemTarget, Op, check_forward};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_and_a_file_behind_a_stream_keep_the_contract() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let collected = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes).unwrap()
    });
    let target = StreamTarget::new(writer.into(), "a pipe");
    let expected = check_forward(&target, ODD).await.unwrap();
    target.finalize().await.unwrap();
    drop(target);
    assert!(collected.join().unwrap() == expected, "a pipe");

    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let target = StreamTarget::new(file.try_clone().unwrap().into(), "a file");
    let expected = check_forward(&target, 5 * MIB).await.unwrap();
    let mut bytes = vec![0; length(5 * MIB)];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected, "a file");
    assert_eq!(file.metadata().unwrap().len(), 5 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn nowhere_keeps_the_contract() {
    check_forward(&NullTarget, ODD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_what_is_written_forward_tells_what_does_not_arrive() {
    let held = async |target: &dyn Target| {
        let expected = check_forward(target, ODD).await.unwrap();
        let found = target.read_back(0, super::empty(ODD)).await.unwrap();
        *found == *expected
    };
    // Zeroes that do not arrive are not seen where all was zero.
    let target = MemTarget::holding(&super::filled(0xee, ODD));
    assert!(held(&target).await);
    for op in [Op::Write, Op::Zero] {
        let faults = Faults::default();
        // Those before are past the end, and must be refused.
        faults.on(op, 3, Fault::Lie);
        let target = MemTarget::holding(&super::filled(0xee, ODD));
        assert!(!held(&FaultyTarget::new(target, faults)).await, "{op:?}");
    }
}

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
