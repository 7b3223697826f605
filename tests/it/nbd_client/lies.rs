//! A server that breaks the protocol on purpose: each lie is an error that names it, at once.

use super::{connect, once};
use crate::rig::uri;
use diskferry::buffer::Buffer;
use diskferry::error::{Error, Kind};
use diskferry::extent::ByteRange;
use diskferry::nbd::client::{BASE_ALLOCATION, Client, Options, Timeouts};
use diskferry::nbd::wire::{INIT_PASSWD, OPTION_MAGIC, OPTION_REPLY_MAGIC, chunk, option, reply};
use std::io;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What the liar says to the first request, given its cookie; then it hangs up, or not.
type Script = fn(u64) -> (Vec<u8>, bool);

const HANG_UP: bool = true;
const STAY: bool = false;

/// An honest handshake and one dishonest reply.
struct Liar {
    task: JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    fn new(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The client hangs up when it sees through the lie.
                let _ = lie(stream, script).await;
            }
        });
        Self { task, dir }
    }

    async fn client(&self) -> Client {
        let options = Options {
            timeouts: Timeouts {
                request: Duration::from_millis(300),
                ..Timeouts::default()
            },
            ..once()
        };
        let uri = uri(&self.dir.path().join("s"), "");
        connect(&uri, options).await.unwrap()
    }

    async fn read(&self) -> Error {
        let client = self.client().await;
        let reading = client.read(0x1000, Buffer::unbudgeted(4096));
        timeout(Duration::from_secs(20), reading)
            .await
            .expect("no hang")
            .unwrap_err()
    }

    async fn status(&self) -> Error {
        let client = self.client().await;
        let asking = client.status(BASE_ALLOCATION, ByteRange::at(0, 4096));
        timeout(Duration::from_secs(20), asking)
            .await
            .expect("no hang")
            .unwrap_err()
    }
}

async fn lie(mut stream: UnixStream, script: Script) -> io::Result<()> {
    shake_hands(&mut stream).await?;
    let mut request = [0; 28];
    stream.read_exact(&mut request).await?;
    let cookie = u64::from_be_bytes(request[8..16].try_into().unwrap());
    let (said, hang_up) = script(cookie);
    stream.write_all(&said).await?;
    if hang_up {
        return Ok(());
    }
    // Silent until the client has enough.
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

async fn shake_hands(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_u64(INIT_PASSWD).await?;
    stream.write_u64(OPTION_MAGIC).await?;
    stream.write_u16(3).await?;
    stream.read_u32().await?;
    loop {
        stream.read_u64().await?;
        let option = stream.read_u32().await?;
        let length = stream.read_u32().await?;
        let mut data = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut data).await?;
        let mut say = Vec::new();
        match option {
            option::STRUCTURED_REPLY => answer(&mut say, option, reply::ACK, b""),
            option::SET_META_CONTEXT => {
                answer(
                    &mut say,
                    option,
                    reply::META_CONTEXT,
                    b"\0\0\0\x01base:allocation",
                );
                answer(&mut say, option, reply::ACK, b"");
            }
            option::GO => {
                let export = [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &[0, 1]].concat();
                answer(&mut say, option, reply::INFO, &export);
                answer(&mut say, option, reply::ACK, b"");
            }
            _ => answer(&mut say, option, reply::ERR_UNSUP, b""),
        }
        stream.write_all(&say).await?;
        if option == option::GO {
            return Ok(());
        }
    }
}

fn answer(say: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    say.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    say.extend(option.to_be_bytes());
    say.extend(kind.to_be_bytes());
    say.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    say.extend(data);
}

fn piece(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [
        &0x668e_33ef_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &length.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn data(offset: u64, length: usize) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &vec![7; length]].concat()
}

fn corrupt(error: &Error, words: &str) {
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(error.line().contains(words), "{words}: {error:?}");
}

#[tokio::test]
async fn an_honest_reply_passes_so_that_the_others_fail_for_their_lies() {
    let liar = Liar::new(|cookie| {
        (
            piece(cookie, 1, chunk::OFFSET_DATA, &data(0x1000, 4096)),
            STAY,
        )
    });
    let client = liar.client().await;
    let bytes = client.read(0x1000, Buffer::unbudgeted(4096)).await.unwrap();
    assert_eq!(bytes.to_vec(), [7; 4096]);
}

#[tokio::test]
async fn a_wrong_cookie_is_named() {
    let liar = Liar::new(|cookie| {
        (
            piece(cookie + 0x77, 1, chunk::OFFSET_DATA, &data(0x1000, 4096)),
            STAY,
        )
    });
    corrupt(&liar.read().await, "cookie 0x78, which no request has");
}

#[tokio::test]
async fn bytes_that_were_not_asked_for_are_named() {
    let liar = Liar::new(|cookie| {
        (
            piece(cookie, 1, chunk::OFFSET_DATA, &data(0x1000, 4097)),
            STAY,
        )
    });
    corrupt(
        &liar.read().await,
        "sends 4097 bytes at 0x1000 to a read of 0x1000..0x2000",
    );
    let liar = Liar::new(|cookie| (piece(cookie, 1, chunk::OFFSET_DATA, &data(0, 4096)), STAY));
    corrupt(&liar.read().await, "to a read of");
}

#[tokio::test]
async fn bytes_sent_twice_are_named() {
    let liar = Liar::new(|cookie| {
        let half = piece(cookie, 0, chunk::OFFSET_DATA, &data(0x1000, 2048));
        (half.repeat(2), STAY)
    });
    corrupt(&liar.read().await, "the bytes at 0x1000 twice");
}

#[tokio::test]
async fn a_read_that_ends_early_is_named() {
    let liar = Liar::new(|cookie| {
        (
            piece(cookie, 1, chunk::OFFSET_DATA, &data(0x1000, 100)),
            STAY,
        )
    });
    corrupt(&liar.read().await, "after 100 of 4096 bytes");
}

#[tokio::test]
async fn a_connection_that_ends_within_a_reply_is_lost_not_short() {
    let liar = Liar::new(|cookie| {
        let mut reply = piece(cookie, 1, chunk::OFFSET_DATA, &data(0x1000, 4096));
        reply.truncate(1000);
        (reply, HANG_UP)
    });
    let error = liar.read().await;
    assert_eq!(error.kind(), Kind::Transient);
    assert!(
        error.line().contains("in the middle of a reply"),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_ends_at_the_timeout() {
    let liar = Liar::new(|_| (Vec::new(), STAY));
    let error = liar.read().await;
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.line().contains("has not answered"), "{error:?}");
    let liar = Liar::new(|cookie| {
        let mut reply = piece(cookie, 1, chunk::OFFSET_DATA, &data(0x1000, 4096));
        reply.truncate(1000);
        (reply, STAY)
    });
    assert!(
        liar.read().await.line().contains("has not answered"),
        "half a reply"
    );
}

#[tokio::test]
async fn garbage_and_unknown_chunks_are_named() {
    let liar = Liar::new(|_| (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), STAY));
    corrupt(&liar.read().await, "starts with 0x48545450");
    let liar = Liar::new(|cookie| (piece(cookie, 1, 99, b"what is this"), STAY));
    corrupt(&liar.read().await, "unknown type 99");
    let liar = Liar::new(|cookie| {
        let mut huge = piece(cookie, 1, chunk::ERROR, b"");
        huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        (huge, STAY)
    });
    corrupt(&liar.read().await, "4294967295 bytes");
}

fn descriptors(pairs: &[(u32, u32)]) -> Vec<u8> {
    let mut bytes = 1u32.to_be_bytes().to_vec();
    for (length, flags) in pairs {
        bytes.extend(length.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
    }
    bytes
}

#[tokio::test]
async fn status_descriptors_that_overrun_or_are_empty_are_named() {
    let liar = Liar::new(|cookie| {
        let payload = descriptors(&[(4096, 0), (4096, 3)]);
        (piece(cookie, 1, chunk::BLOCK_STATUS, &payload), STAY)
    });
    corrupt(&liar.status().await, "go on at 0x1000");
    let liar = Liar::new(|cookie| {
        let payload = descriptors(&[(512, 0), (0, 3)]);
        (piece(cookie, 1, chunk::BLOCK_STATUS, &payload), STAY)
    });
    corrupt(&liar.status().await, "zero bytes at 0x200");
    let liar = Liar::new(|cookie| (piece(cookie, 1, chunk::NONE, b""), STAY));
    corrupt(&liar.status().await, "without the context");
}

#[tokio::test]
async fn one_lie_fails_every_request_under_way() {
    let liar = Liar::new(|_| (vec![0; 64], STAY));
    let client = liar.client().await;
    let reads = (0..10).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.read(n * 4096, Buffer::unbudgeted(4096)).await })
    });
    for read in reads.collect::<Vec<_>>() {
        corrupt(&read.await.unwrap().unwrap_err(), "starts with 0x00000000");
    }
}
