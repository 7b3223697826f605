//! Clients that break the rules: they get errors or are sent away, and nobody else notices.

use super::served::{PATIENCE, SIZE, Served};
use crate::rig::run;
use diskferry::nbd::server::Settings;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

const OPTION: u64 = 0x4948_4156_454f_5054;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const STATUS: u16 = 7;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let parts: [&[u8]; 4] = [
        &OPTION.to_be_bytes(),
        &number.to_be_bytes(),
        &len.to_be_bytes(),
        data,
    ];
    parts.concat()
}

fn exactly(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads one option reply and gives its kind.
fn option_reply(stream: &mut UnixStream) -> u32 {
    let header = exactly(stream, 20);
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    exactly(stream, usize::try_from(word(16)).unwrap());
    word(12)
}

fn greeted(served: &Served) -> UnixStream {
    let mut stream = served.connect();
    exactly(&mut stream, 18);
    stream.write_all(&[0, 0, 0, 3]).unwrap();
    stream
}

/// A client in transmission, after these options went well.
fn transmitting(served: &Served, options: &[(u32, &[u8])]) -> UnixStream {
    let mut stream = greeted(served);
    for (number, data) in options {
        stream.write_all(&option(*number, data)).unwrap();
        while option_reply(&mut stream) != 1 {}
    }
    stream.write_all(&option(1, b"disk")).unwrap();
    exactly(&mut stream, 10);
    stream
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        &0x2560_9513u32.to_be_bytes(),
        &[0, 0],
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ];
    parts.concat()
}

/// (cookie, errno) of a simple reply.
fn simple_reply(stream: &mut UnixStream) -> (u64, u32) {
    let bytes = exactly(stream, 16);
    assert_eq!(bytes[..4], 0x6744_6698u32.to_be_bytes());
    let errno = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    (u64::from_be_bytes(bytes[8..].try_into().unwrap()), errno)
}

/// The server hangs up, within the patience of the socket.
fn is_sent_away(stream: &mut UnixStream) {
    let mut byte = [0; 4096];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("not sent away: {error}"),
        }
    }
}

/// Somebody else is served.
fn works_for_others(served: &Served) {
    let size = run("nbdinfo", ["--size", &served.uri("disk")]);
    assert_eq!(size.trim(), SIZE.to_string());
}

#[test]
fn rubbish_at_any_point_of_the_handshake_ends_that_connection_only() {
    let served = Served::new();
    let mut not_newstyle = served.connect();
    not_newstyle.write_all(&[0, 0, 0, 0]).unwrap();
    is_sent_away(&mut not_newstyle);
    let mut no_magic = greeted(&served);
    no_magic.write_all(&[0x42; 64]).unwrap();
    is_sent_away(&mut no_magic);
    let mut half = greeted(&served);
    half.write_all(&option(7, &[0; 50])[..40]).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    is_sent_away(&mut half);
    let mut http = served.connect();
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    is_sent_away(&mut http);
    works_for_others(&served);
}

#[test]
fn an_option_too_long_is_answered_and_the_handshake_goes_on() {
    let served = Served::new();
    let mut stream = greeted(&served);
    stream.write_all(&option(7, &vec![0; 4 << 20])).unwrap();
    assert_eq!(option_reply(&mut stream), 0x8000_0009);
    stream.write_all(&option(3, &[])).unwrap();
    assert_eq!(option_reply(&mut stream), 2);
    assert_eq!(option_reply(&mut stream), 1);
}

#[test]
fn requests_off_the_disk_or_too_long_are_errors_and_the_next_one_is_served() {
    let served = Served::filled();
    let mut stream = transmitting(&served, &[]);
    for (cookie, command, offset, length, errno) in [
        (1, READ, SIZE, 1, 22),
        (2, READ, u64::MAX - 5, 100, 22),
        (3, READ, 0, u32::MAX, 22),
        (4, READ, 0, (32 << 20) + 1, 22),
        (5, STATUS, 0, 512, 22),
        (6, 99, 0, 512, 22),
        (7, FLUSH, 0, 0, 0),
    ] {
        stream
            .write_all(&request(command, cookie, offset, length))
            .unwrap();
        assert_eq!(simple_reply(&mut stream), (cookie, errno));
    }
    // The data of a refused write must not be taken for requests.
    stream
        .write_all(&request(WRITE, 8, SIZE - 1, 100_000))
        .unwrap();
    stream.write_all(&vec![0x25; 100_000]).unwrap();
    assert_eq!(simple_reply(&mut stream), (8, 28));
    stream.write_all(&request(READ, 9, 0, 512)).unwrap();
    assert_eq!(simple_reply(&mut stream), (9, 0));
    assert_eq!(exactly(&mut stream, 512), served.content()[..512]);
}

#[test]
fn a_write_of_4_gib_or_a_wrong_magic_ends_that_connection_only() {
    let served = Served::new();
    let mut huge = transmitting(&served, &[]);
    huge.write_all(&request(WRITE, 1, 0, u32::MAX)).unwrap();
    is_sent_away(&mut huge);
    let mut lost = transmitting(&served, &[]);
    lost.write_all(&[0x11; 28]).unwrap();
    is_sent_away(&mut lost);
    works_for_others(&served);
}

/// Replies pile up in the socket, then in the session, then nowhere.
#[test]
fn a_client_that_takes_no_replies_is_not_read_from_and_others_are_served() {
    let served = Served::filled();
    let mut greedy = transmitting(&served, &[]);
    greedy.set_nonblocking(true).unwrap();
    // What the socket holds by itself is some hundred KiB.
    const ENOUGH: usize = 4 << 20;
    let asking = request(READ, 1, 0, 1 << 20).repeat(64);
    let (mut sent, mut moved) = (0, Instant::now());
    while sent < ENOUGH && moved.elapsed() < Duration::from_secs(1) {
        match greedy.write(&asking[sent % 28..]) {
            Ok(count) => {
                sent += count;
                moved = Instant::now();
            }
            Err(_) => sleep(Duration::from_millis(5)),
        }
    }
    assert!(sent < ENOUGH, "the server reads on and on");
    works_for_others(&served);
    // Once it reads, it gets them all: the first one is whole.
    greedy.set_nonblocking(false).unwrap();
    assert_eq!(simple_reply(&mut greedy), (1, 0));
    assert!(exactly(&mut greedy, 1 << 20) == served.content()[..1 << 20]);
}

#[test]
fn a_silent_client_costs_others_nothing_as_long_as_there_is_room() {
    let served = Served::with(Settings {
        connections: 3,
        ..Settings::default()
    });
    let _silent = [served.connect(), served.connect()];
    works_for_others(&served);
}

#[test]
fn extended_headers_carry_status_of_more_than_4_gib_and_a_hole_in_a_read() {
    let served = Served::filled();
    let big = diskferry::demo::LiveDisk::create(&served.path(""), 6 << 30).unwrap();
    big.write_at(0, &[7; 100]).unwrap();
    served.add("disk", big);
    let meta = [
        &[0, 0, 0, 4][..],
        b"disk",
        &[0, 0, 0, 1, 0, 0, 0, 15],
        b"base:allocation",
    ];
    let mut stream = greeted(&served);
    for (number, data) in [(11, Vec::new()), (10, meta.concat())] {
        stream.write_all(&option(number, &data)).unwrap();
        while option_reply(&mut stream) != 1 {}
    }
    let go = [&[0, 0, 0, 4][..], b"disk", &[0, 0]].concat();
    stream.write_all(&option(7, &go)).unwrap();
    while option_reply(&mut stream) != 1 {}
    let ask = |command: u16, offset: u64, length: u64| {
        let parts: [&[u8]; 6] = [
            &0x21e4_1c71u32.to_be_bytes(),
            &[0, 0],
            &command.to_be_bytes(),
            &77u64.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ];
        parts.concat()
    };
    let reply = |stream: &mut UnixStream| {
        let head = exactly(stream, 32);
        assert_eq!(head[..4], 0x6e8a_278cu32.to_be_bytes());
        assert_eq!(head[8..16], 77u64.to_be_bytes());
        let len = u64::from_be_bytes(head[24..].try_into().unwrap());
        let kind = u16::from_be_bytes(head[6..8].try_into().unwrap());
        (
            head[5],
            kind,
            exactly(stream, usize::try_from(len).unwrap()),
        )
    };
    stream.write_all(&ask(STATUS, 0, 6 << 30)).unwrap();
    let expected = [
        &[0u8; 4][..],
        &2u32.to_be_bytes(),
        &65536u64.to_be_bytes(),
        &0u64.to_be_bytes(),
        &((6u64 << 30) - 65536).to_be_bytes(),
        &3u64.to_be_bytes(),
    ];
    assert_eq!(reply(&mut stream), (1, 6, expected.concat()));
    stream.write_all(&ask(READ, 65000, 1000)).unwrap();
    let (flags, kind, data) = reply(&mut stream);
    assert_eq!((flags, kind, data.len()), (0, 1, 8 + 536));
    let hole = [&65536u64.to_be_bytes()[..], &464u32.to_be_bytes()].concat();
    assert_eq!(reply(&mut stream), (1, 2, hole));
    // A flush has nothing to say but that.
    stream.write_all(&ask(FLUSH, 0, 0)).unwrap();
    assert_eq!(reply(&mut stream), (1, 0, Vec::new()));
}

#[test]
fn a_stop_finishes_what_was_begun_and_takes_the_socket_away() {
    let mut served = Served::filled();
    let mut client = transmitting(&served, &[]);
    client.write_all(&request(READ, 5, 0, 1 << 20)).unwrap();
    assert_eq!(simple_reply(&mut client), (5, 0));
    let server = served.server.take().unwrap();
    let began = Instant::now();
    let stop = served.runtime.spawn(server.stop());
    assert!(exactly(&mut client, 1 << 20).iter().any(|b| *b != 0));
    served.runtime.block_on(stop).unwrap();
    is_sent_away(&mut client);
    assert!(began.elapsed() < PATIENCE);
    assert!(!served.path("s").exists());
}
