//! Transmission on bytes made by hand.

use super::{Answer, Finished, Transmission};
use crate::buffer::Buffer;
use crate::extent::ByteRange;
use crate::nbd::client::request::Work;
use crate::nbd::handshake::Style;
use crate::nbd::lie::Lie;
use crate::nbd::wire::chunk;
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

const DONE: u16 = chunk::FLAG_DONE;

fn structured(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
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

fn simple(cookie: u64, error: u32, payload: &[u8]) -> Vec<u8> {
    [
        &0x6744_6698_u32.to_be_bytes()[..],
        &error.to_be_bytes(),
        &cookie.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], bytes].concat()
}

fn read(offset: u64, length: usize) -> Work {
    read_in_parts(offset, length, None)
}

/// The same, asked for in parts of so many bytes.
fn read_in_parts(offset: u64, length: usize, part: Option<u64>) -> Work {
    let mut buffer = Buffer::unbudgeted(length);
    buffer.fill(0xee);
    Work::Read {
        offset,
        buffer,
        window: 0..length,
        whole: false,
        part,
    }
}

fn flush() -> Work {
    Work::Flush
}

fn status() -> Work {
    Work::Status {
        range: ByteRange::at(0, 4096),
        context: 1,
    }
}

/// A connection with `works` under way; their cookies are 1, 2, 3…, their tags 0, 1, 2….
fn with(style: Style, works: impl IntoIterator<Item = Work>) -> Transmission<usize> {
    let mut transmission = Transmission::new(style, vec![1, 2]);
    for (tag, work) in works.into_iter().enumerate() {
        transmission.issue(work, tag, 0, |_, _| ());
    }
    transmission
}

fn bytes_of(finished: Finished) -> Vec<u8> {
    match finished {
        Ok(Answer::Read(buffer)) => buffer.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn replies_out_of_order_find_their_requests() {
    let mut transmission = with(Style::Simple, [read(0, 4), flush(), read(8, 2)]);
    let said = [
        simple(3, 0, b"xy"),
        simple(2, 0, b""),
        simple(1, 0, b"abcd"),
    ]
    .concat();
    transmission.feed(&said).unwrap();
    let (tag, finished) = transmission.finished().unwrap();
    assert_eq!((tag, bytes_of(finished)), (2, b"xy".to_vec()));
    assert!(matches!(
        transmission.finished(),
        Some((1, Ok(Answer::Done)))
    ));
    let (tag, finished) = transmission.finished().unwrap();
    assert_eq!((tag, bytes_of(finished)), (0, b"abcd".to_vec()));
    assert!(transmission.is_idle() && transmission.is_between_replies());
}

#[test]
fn chunks_of_several_reads_may_be_interleaved_and_holes_are_zeroes() {
    let mut transmission = with(Style::Structured, [read(0, 6), read(100, 2)]);
    let hole = [&2u64.to_be_bytes()[..], &4u32.to_be_bytes()].concat();
    let said = [
        structured(1, 0, chunk::OFFSET_HOLE, &hole),
        structured(2, DONE, chunk::OFFSET_DATA, &data(100, b"zz")),
        structured(1, 0, chunk::OFFSET_DATA, &data(0, b"ab")),
        structured(1, DONE, chunk::NONE, b""),
    ];
    transmission.feed(&said.concat()).unwrap();
    let (tag, finished) = transmission.finished().unwrap();
    assert_eq!((tag, bytes_of(finished)), (1, b"zz".to_vec()));
    let (tag, finished) = transmission.finished().unwrap();
    assert_eq!((tag, bytes_of(finished)), (0, b"ab\0\0\0\0".to_vec()));
}

#[test]
fn data_is_received_where_it_stays() {
    let mut transmission = with(Style::Structured, [read(0, 64 << 10), read(64 << 10, 512)]);
    let start = structured(1, DONE, chunk::OFFSET_DATA, &data(0, &vec![7; 64 << 10]));
    transmission.feed(&start[..28]).unwrap();
    let (payload, header) = transmission.space();
    assert_eq!(payload.len(), 64 << 10, "the whole payload in place");
    assert_eq!(
        header.len(),
        28,
        "and the next header, but none of its data"
    );
}

/// The cookie of a part.
fn part_of(request: u64, part: u64) -> u64 {
    request | part << 56
}

#[test]
fn a_read_in_parts_is_asked_for_part_by_part_and_ends_with_the_last_of_them() {
    for style in [Style::Simple, Style::Structured] {
        let mut transmission = Transmission::new(style, vec![]);
        let mut asked = Vec::new();
        let work = read_in_parts(100, 10, Some(4));
        transmission.issue(work, 7, 0, |header, payload| {
            assert!(payload.is_none());
            asked.push(header.as_ref()[8..].to_vec());
        });
        let ranges: [(u64, u64, u32); 3] = [(0, 100, 4), (1, 104, 4), (2, 108, 2)];
        let expected = ranges.map(|(part, offset, length)| {
            [
                &part_of(1, part).to_be_bytes()[..],
                &offset.to_be_bytes(),
                &length.to_be_bytes(),
            ]
            .concat()
        });
        assert_eq!(asked, expected);
        let reply = |part, offset, bytes: &[u8]| match style {
            Style::Simple => simple(part_of(1, part), 0, bytes),
            _ => structured(
                part_of(1, part),
                DONE,
                chunk::OFFSET_DATA,
                &data(offset, bytes),
            ),
        };
        transmission.feed(&reply(2, 108, b"ij")).unwrap();
        transmission.feed(&reply(0, 100, b"abcd")).unwrap();
        assert!(transmission.finished().is_none() && !transmission.is_idle());
        transmission.feed(&reply(1, 104, b"efgh")).unwrap();
        let (tag, finished) = transmission.finished().unwrap();
        assert_eq!((tag, bytes_of(finished)), (7, b"abcdefghij".to_vec()));
        assert!(transmission.is_idle() && transmission.is_between_replies());
    }
}

#[test]
fn a_part_is_answered_once_with_its_own_bytes() {
    let lie = |said: &[Vec<u8>]| {
        let mut transmission = with(Style::Structured, [read_in_parts(0, 8, Some(4))]);
        let lie = transmission.feed(&said.concat()).expect_err("a lie");
        assert_eq!(
            transmission.abandon().count(),
            1,
            "it is there to be failed"
        );
        lie
    };
    let reply = |part, offset, bytes: &[u8]| {
        let cookie = part_of(1, part);
        structured(cookie, DONE, chunk::OFFSET_DATA, &data(offset, bytes))
    };
    let twice = [reply(0, 0, b"abcd"), reply(0, 0, b"abcd")];
    assert_eq!(lie(&twice), Lie::Cookie(1));
    assert_eq!(lie(&[reply(2, 0, b"abcd")]), Lie::Cookie(part_of(1, 2)));
    let other = lie(&[reply(0, 4, b"efgh")]);
    assert!(matches!(other, Lie::Overrun { end: 4, .. }), "{other}");
    let short = lie(&[reply(1, 4, b"efg")]);
    assert_eq!(short, Lie::Short { got: 3, asked: 4 });
}

#[test]
fn an_error_in_one_part_fails_the_read_once_all_have_ended() {
    let mut transmission = with(Style::Structured, [read_in_parts(0, 8, Some(4))]);
    let error = structured(part_of(1, 1), DONE, chunk::ERROR, b"\0\0\0\x05\0\0");
    transmission.feed(&error).unwrap();
    assert!(transmission.finished().is_none(), "the buffer is in use");
    let rest = structured(1, DONE, chunk::OFFSET_DATA, &data(0, b"abcd"));
    transmission.feed(&rest).unwrap();
    let (_, finished) = transmission.finished().unwrap();
    assert_eq!(finished.unwrap_err().0.code, 5);
    assert!(transmission.is_idle());
}

#[test]
fn an_error_chunk_fails_the_read_and_gives_its_memory_back() {
    let mut transmission = with(Style::Structured, [read(0, 4)]);
    let said = [
        structured(1, 0, chunk::OFFSET_DATA, &data(0, b"ab")),
        structured(
            1,
            0,
            chunk::ERROR_OFFSET,
            b"\0\0\0\x05\0\x03bad\0\0\0\0\0\0\0\x02",
        ),
        structured(1, DONE, chunk::NONE, b""),
    ];
    transmission.feed(&said.concat()).unwrap();
    let (_, finished) = transmission.finished().unwrap();
    let (error, work) = *finished.unwrap_err();
    assert_eq!((error.code, error.offset), (5, Some(2)));
    assert!(matches!(work, Work::Read { buffer, .. } if buffer.len() == 4));
}

#[test]
fn a_status_gives_the_context_that_was_asked_for() {
    let mut transmission = with(Style::Structured, [status()]);
    let extents = |context: u8, flags: u8| [0, 0, 0, context, 0, 0, 2, 0, 0, 0, 0, flags];
    let said = [
        structured(1, 0, chunk::BLOCK_STATUS, &extents(2, 9)),
        structured(1, DONE, chunk::BLOCK_STATUS, &extents(1, 3)),
    ];
    transmission.feed(&said.concat()).unwrap();
    match transmission.finished() {
        Some((0, Ok(Answer::Status(found)))) => {
            assert_eq!(found, [(ByteRange::new(0, 512), 3)]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn extended_chunks_are_understood() {
    let mut transmission = with(Style::Extended, [read(0, 4)]);
    let said = [
        &0x6e8a_278c_u32.to_be_bytes()[..],
        &[0, 1, 0, 1],
        &1u64.to_be_bytes(),
        &0u64.to_be_bytes(),
        &12u64.to_be_bytes(),
        &data(0, b"abcd"),
    ];
    transmission.feed(&said.concat()).unwrap();
    assert_eq!(bytes_of(transmission.finished().unwrap().1), b"abcd");
}

#[test]
fn every_lie_is_named() {
    let lie = |work: Work, said: Vec<u8>| {
        with(Style::Structured, [work])
            .feed(&said)
            .expect_err("a lie")
    };
    let chunk_of = |kind, payload: &[u8]| structured(1, DONE, kind, payload);
    assert_eq!(
        lie(read(0, 4), structured(9, DONE, chunk::NONE, b"")),
        Lie::Cookie(9)
    );
    assert_eq!(
        lie(read(0, 4), chunk_of(chunk::OFFSET_DATA, &data(0, b"abc"))),
        Lie::Short { got: 3, asked: 4 }
    );
    let overrun = lie(read(0, 4), chunk_of(chunk::OFFSET_DATA, &data(0, b"abcde")));
    assert!(
        matches!(
            overrun,
            Lie::Overrun {
                length: 5,
                end: 4,
                ..
            }
        ),
        "{overrun}"
    );
    let kind = |lie| matches!(lie, Lie::WrongKind { .. });
    assert!(kind(lie(read(0, 4), simple(1, 0, b"abcd"))));
    assert!(kind(lie(status(), simple(1, 0, b""))));
    assert!(kind(lie(
        flush(),
        chunk_of(chunk::OFFSET_DATA, &data(0, b"a"))
    )));
    assert!(kind(lie(flush(), chunk_of(chunk::BLOCK_STATUS, b"x"))));
    assert_eq!(lie(status(), chunk_of(chunk::NONE, b"")), Lie::NoStatus);
    let other = [0, 0, 0, 9, 0, 0, 2, 0, 0, 0, 0, 0];
    assert_eq!(
        lie(status(), chunk_of(chunk::BLOCK_STATUS, &other)),
        Lie::Context(9)
    );
    let errors = structured(1, 0, chunk::ERROR, b"\0\0\0\x05\0\0").repeat(5000);
    assert!(matches!(lie(flush(), errors), Lie::Pieces(_)));
}

#[test]
fn a_request_whose_reply_was_a_lie_is_still_there_to_be_failed() {
    let mut transmission = with(Style::Structured, [read(0, 4)]);
    transmission
        .feed(&structured(1, DONE, chunk::NONE, b""))
        .unwrap_err();
    assert_eq!(transmission.abandon().count(), 1);
}

proptest! {
    /// However the bytes are cut on the way, the answers are the same.
    #[test]
    fn the_cuts_between_reads_of_the_socket_do_not_matter(cuts in vec(1usize..40, 1..20)) {
        let works = || [read(0, 300), flush(), read_in_parts(1000, 7, Some(3)), status()];
        let pattern: Vec<u8> = (0u32..300).map(|i| (i % 251) as u8).collect();
        let said = [
            structured(part_of(3, 2), DONE, chunk::OFFSET_DATA, &data(1006, b"g")),
            structured(part_of(3, 1), DONE, chunk::OFFSET_DATA, &data(1003, b"def")),
            structured(1, 0, chunk::OFFSET_DATA, &data(100, &pattern[100..])),
            structured(2, DONE, chunk::NONE, b""),
            structured(4, DONE, chunk::BLOCK_STATUS, &[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]),
            structured(3, DONE, chunk::OFFSET_DATA, &data(1000, b"abc")),
            structured(1, DONE, chunk::OFFSET_DATA, &data(0, &pattern[..100])),
        ].concat();
        let mut transmission = with(Style::Structured, works());
        let mut rest = said.as_slice();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            transmission.feed(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let mut answers = vec![];
        while let Some((tag, finished)) = transmission.finished() {
            answers.push((tag, finished));
        }
        prop_assert_eq!(answers.len(), 4);
        prop_assert!(transmission.is_idle() && transmission.is_between_replies());
        for (tag, finished) in answers {
            match tag {
                0 => prop_assert_eq!(bytes_of(finished), pattern.clone()),
                2 => prop_assert_eq!(bytes_of(finished), b"abcdefg".to_vec()),
                _ => prop_assert!(finished.is_ok()),
            }
        }
    }

    /// Nonsense, and near-sense, never panics and never grows.
    #[test]
    fn arbitrary_replies_never_panic(
        style in 0usize..3,
        said in vec((1u64..6, 0u16..2, 0usize..9, vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let style = [Style::Simple, Style::Structured, Style::Extended][style];
        let mut transmission = with(style, [read(0, 32), flush(), status(), read(64, 8)]);
        for (cookie, flags, kind, payload) in said {
            let kind = [0, 1, 2, 5, 6, 32769, 32770, 40000, 7][kind];
            let bytes = match style {
                Style::Simple => simple(cookie, flags.into(), &payload),
                _ => structured(cookie, flags, kind, &payload),
            };
            if transmission.feed(&bytes).is_err() {
                break;
            }
        }
    }
}
