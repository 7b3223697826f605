//! Handshakes on bytes made by hand.

use super::{Action, Agreed, Handshake, Style, Wants};
use crate::error::{Error, Kind};
use crate::nbd::wire::{
    INIT_PASSWD, OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, option, reply,
};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

fn greeting(flags: u16) -> Vec<u8> {
    [
        &INIT_PASSWD.to_be_bytes()[..],
        &OPTION_MAGIC.to_be_bytes(),
        &flags.to_be_bytes(),
    ]
    .concat()
}

fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    [
        &OPTION_REPLY_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &u32::try_from(data.len()).unwrap().to_be_bytes(),
        data,
    ]
    .concat()
}

fn info_export(size: u64, flags: u16) -> Vec<u8> {
    [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// Feeds what a server says, as it is needed; gives the last action and all that was written.
fn run(wants: Wants, server: &[Vec<u8>]) -> Result<(Action, Vec<u8>), Error> {
    let mut handshake = Handshake::new(wants);
    let said = server.concat();
    let mut rest = said.as_slice();
    let mut written = Vec::new();
    loop {
        let (bytes, after) = rest
            .split_at_checked(handshake.need())
            .expect("the server has nothing more to say");
        rest = after;
        let mut action = handshake.step(bytes)?;
        if matches!(action, Action::StartTls) {
            action = handshake.tls_started()?;
        }
        match action {
            Action::Read => {}
            Action::Write(bytes) => written.extend(bytes),
            end => return Ok((end, written)),
        }
    }
}

fn agreed(wants: Wants, server: &[Vec<u8>]) -> Agreed {
    match run(wants, server).unwrap().0 {
        Action::Ready(agreed) => *agreed,
        other => panic!("{other:?}"),
    }
}

fn contexts() -> Wants {
    Wants {
        export: "disk".to_owned(),
        contexts: vec!["base:allocation".to_owned()],
        ..Wants::default()
    }
}

#[test]
fn a_modern_server_gives_structured_replies_contexts_and_block_sizes() {
    let block_size = [&[0, 3][..], &[0, 0, 2, 0], &[0, 0, 16, 0], &[0, 32, 0, 0]].concat();
    let agreed = agreed(
        contexts(),
        &[
            greeting(3),
            answer(option::EXTENDED_HEADERS, reply::ERR_UNSUP, b""),
            answer(option::STRUCTURED_REPLY, reply::ACK, b""),
            answer(
                option::SET_META_CONTEXT,
                reply::META_CONTEXT,
                b"\0\0\0\x07base:allocation",
            ),
            answer(option::SET_META_CONTEXT, reply::ACK, b""),
            answer(option::GO, reply::INFO, &info_export(1 << 30, 0x0103)),
            answer(option::GO, reply::INFO, b"\0\x01canonical"),
            answer(option::GO, reply::INFO, b"\0\x02a \x1b[31mdisk"),
            answer(option::GO, reply::INFO, &block_size),
            answer(option::GO, reply::INFO, b"\x12\x34unknown information"),
            answer(option::GO, reply::ACK, b""),
        ],
    );
    assert_eq!(agreed.style, Style::Structured);
    assert_eq!(agreed.contexts, [(7, "base:allocation".to_owned())]);
    let export = agreed.export;
    assert_eq!((export.size, export.name.as_str()), (1 << 30, "canonical"));
    assert_eq!(export.description.as_deref(), Some("a  [31mdisk"));
    assert!(export.flags.read_only() && export.flags.can_multi_conn());
    assert_eq!(export.block_size.minimum, 512);
    assert_eq!(export.block_size.maximum, 2 << 20);
}

#[test]
fn extended_headers_are_taken_where_offered() {
    let agreed = agreed(
        Wants::default(),
        &[
            greeting(3),
            answer(option::EXTENDED_HEADERS, reply::ACK, b""),
            answer(option::GO, reply::INFO, &info_export(512, 1)),
            answer(option::GO, reply::ACK, b""),
        ],
    );
    assert_eq!(agreed.style, Style::Extended);
}

#[test]
fn a_server_older_than_go_is_asked_by_export_name_and_its_zeroes_are_read() {
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let size_and_flags = [&4096u64.to_be_bytes()[..], &[0, 5], &vec![0; zeroes]].concat();
        let (action, written) = run(
            contexts(),
            &[
                greeting(flags),
                answer(option::EXTENDED_HEADERS, reply::ERR_UNSUP, b""),
                answer(option::STRUCTURED_REPLY, reply::ERR_UNSUP, b""),
                answer(option::GO, reply::ERR_UNSUP, b""),
                size_and_flags,
            ],
        )
        .unwrap();
        let Action::Ready(agreed) = action else {
            panic!("{action:?}")
        };
        assert_eq!((agreed.export.size, agreed.style), (4096, Style::Simple));
        assert!(agreed.export.contexts.is_empty());
        assert!(written.ends_with(b"\0\0\0\x01\0\0\0\x04disk"));
    }
}

#[test]
fn tls_comes_first_and_a_server_without_it_is_refused() {
    let wants = Wants {
        tls: true,
        ..Wants::default()
    };
    let error = run(
        wants.clone(),
        &[greeting(3), answer(option::STARTTLS, reply::ERR_UNSUP, b"")],
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.line().contains("does not offer TLS"), "{error:?}");
    let (_, written) = run(
        wants,
        &[
            greeting(3),
            answer(option::STARTTLS, reply::ACK, b""),
            answer(option::EXTENDED_HEADERS, reply::ACK, b""),
            answer(option::GO, reply::INFO, &info_export(512, 1)),
            answer(option::GO, reply::ACK, b""),
        ],
    )
    .unwrap();
    assert_eq!(&written[..20], b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0");
}

#[test]
fn a_server_that_requires_tls_is_named_with_the_scheme_to_use() {
    let error = run(
        Wants::default(),
        &[
            greeting(3),
            answer(option::EXTENDED_HEADERS, reply::ERR_TLS_REQD, b"no\nway"),
        ],
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let line = error.line();
    assert!(
        line.contains("requires TLS") && line.contains("nbds://"),
        "{line}"
    );
    assert!(line.contains("no way"), "{line}");
}

#[test]
fn an_unknown_export_is_named() {
    let error = run(
        contexts(),
        &[
            greeting(3),
            answer(option::EXTENDED_HEADERS, reply::ERR_UNSUP, b""),
            answer(option::STRUCTURED_REPLY, reply::ACK, b""),
            answer(option::SET_META_CONTEXT, reply::ERR_UNKNOWN, b""),
            answer(option::GO, reply::ERR_UNKNOWN, b""),
        ],
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.line().contains("\"disk\""), "{error:?}");
    assert!(error.line().contains("no such export"), "{error:?}");
}

#[test]
fn a_list_describes_each_export_that_the_server_will_describe() {
    let wants = Wants {
        list: true,
        ..Wants::default()
    };
    let (action, _) = run(
        wants,
        &[
            greeting(3),
            answer(option::STRUCTURED_REPLY, reply::ACK, b""),
            answer(option::LIST, reply::SERVER, b"\0\0\0\x01afirst"),
            answer(option::LIST, reply::SERVER, b"\0\0\0\x01b"),
            answer(option::LIST, reply::ACK, b""),
            answer(option::INFO, reply::INFO, &info_export(99, 1)),
            answer(option::INFO, reply::ACK, b""),
            answer(
                option::LIST_META_CONTEXT,
                reply::META_CONTEXT,
                b"\0\0\0\0x:y",
            ),
            answer(option::LIST_META_CONTEXT, reply::ACK, b""),
            answer(option::INFO, reply::ERR_POLICY, b"secret"),
        ],
    )
    .unwrap();
    let Action::Listed(list, goodbye) = action else {
        panic!("{action:?}")
    };
    assert_eq!(list.len(), 2);
    assert_eq!(list[0].listed.description, "first");
    assert_eq!(list[0].export.as_ref().unwrap().size, 99);
    assert_eq!(list[0].export.as_ref().unwrap().contexts, ["x:y"]);
    assert!(list[1].export.is_none());
    assert!(goodbye.ends_with(&[0, 0, 0, 2, 0, 0, 0, 0]));
}

#[test]
fn what_no_honest_server_says_is_corrupt_and_named() {
    let start = || greeting(3);
    let extended = || answer(option::EXTENDED_HEADERS, reply::ACK, b"");
    let go = |data: &[u8]| answer(option::GO, reply::INFO, data);
    let huge = || {
        let mut header = answer(option::EXTENDED_HEADERS, reply::ACK, b"");
        header[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        header
    };
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("not NBD", vec![b"HTTP/1.1 400 Bad R".to_vec()]),
        ("starts with", vec![start(), vec![0; 20]]),
        (
            "when asked",
            vec![start(), answer(option::GO, reply::ACK, b"")],
        ),
        (
            "type 0x3",
            vec![start(), answer(option::EXTENDED_HEADERS, reply::INFO, b"x")],
        ),
        ("4294967295 bytes", vec![start(), huge()]),
        (
            "size",
            vec![start(), extended(), answer(option::GO, reply::ACK, b"")],
        ),
        (
            "HAS_FLAGS",
            vec![start(), extended(), go(&info_export(1, 2))],
        ),
        (
            "bytes",
            vec![start(), extended(), go(&info_export(u64::MAX, 1))],
        ),
        ("kind", vec![start(), extended(), go(b"x")]),
        (
            "block sizes",
            vec![
                start(),
                extended(),
                go(&[0, 3, 0, 0, 0, 3, 0, 0, 16, 0, 0, 32, 0, 0]),
            ],
        ),
        ("UTF-8", vec![start(), extended(), go(b"\0\x01\xff")]),
    ];
    for (word, server) in cases {
        let error = run(Wants::default(), &server).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{word}: {error:?}");
        assert!(error.line().contains(word), "{word}: {error:?}");
    }
}

#[test]
fn an_oldstyle_server_is_unsupported_by_name() {
    let mut old = greeting(3);
    old[8..16].copy_from_slice(&OLDSTYLE_MAGIC.to_be_bytes());
    for server in [old, greeting(0)] {
        let error = run(Wants::default(), &[server]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.line().contains("newstyle"), "{error:?}");
    }
}

#[test]
fn replies_without_end_are_given_up() {
    let mut server = vec![
        greeting(3),
        answer(option::EXTENDED_HEADERS, reply::ACK, b""),
    ];
    server.extend((0..20_000).map(|_| answer(option::GO, reply::INFO, b"\0\x01again")));
    let error = run(Wants::default(), &server).unwrap_err();
    assert!(error.line().contains("more replies"), "{error:?}");
}

proptest! {
    /// Whatever a server says after an honest greeting, the machine ends or asks for more.
    #[test]
    fn arbitrary_replies_never_panic(list in any::<bool>(), tls in any::<bool>(), said in vec((0u32..12, any::<u8>(), any::<bool>(), vec(any::<u8>(), 0..32)), 0..12)) {
        let mut handshake = Handshake::new(Wants { list, tls, ..contexts() });
        let mut action = handshake.step(&greeting(3));
        for (option, kind, error, data) in said {
            let mut next = |bytes: &[u8]| match bytes.len() == handshake.need() {
                true => handshake.step(bytes),
                false => handshake.step(&bytes[..bytes.len().min(handshake.need())]),
            };
            let kind = u32::from(kind % 12) | if error { reply::ERROR_BIT } else { 0 };
            let bytes = answer(option, kind, &data);
            action = next(&bytes[..20]);
            if matches!(action, Ok(Action::Read)) {
                action = next(&data);
            }
            if action.is_err() {
                break;
            }
        }
        drop(action);
    }
}
