//! The handshake on bytes made by hand.

use super::{MAX_OPTION, Menu, Mode, Negotiation, Next, Step, Terms};
use crate::nbd::server::export::BlockSizes;
use crate::nbd::server::menu::{Offer, Tls};
use crate::nbd::wire::{OPTION_MAGIC, OPTION_REPLY_MAGIC, export_flag, info, option, reply};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};

fn offer(name: &str, minimum: u32) -> Offer {
    Offer {
        name: name.into(),
        size: 0x1234_5678_9abc,
        flags: export_flag::HAS_FLAGS,
        blocks: BlockSizes {
            minimum,
            ..BlockSizes::default()
        },
        description: "a disk".into(),
        contexts: [
            "base:allocation",
            "qemu:dirty-bitmap:a",
            "qemu:dirty-bitmap:b",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

fn menu(tls: Tls) -> Menu {
    Menu {
        offers: vec![offer("first", 1), offer("second", 4096)],
        tls,
    }
}

/// A handshake after good client flags.
fn begun(tls: Tls) -> Negotiation {
    let mut talk = Negotiation::new(menu(tls));
    assert_eq!(talk.step(&3u32.to_be_bytes()).next, Next::Continue);
    talk
}

fn words(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn string(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    words(&[&len.to_be_bytes(), text.as_bytes()])
}

/// Sends an option whole, as often as the machine wants bytes of it.
fn send(talk: &mut Negotiation, option: u32, data: &[u8]) -> Step {
    let len = u32::try_from(data.len()).unwrap();
    let header = words(&[
        &OPTION_MAGIC.to_be_bytes(),
        &option.to_be_bytes(),
        &len.to_be_bytes(),
    ]);
    let mut step = talk.step(&header);
    let mut rest = data;
    while !rest.is_empty() {
        assert_eq!(step.next, Next::Continue);
        let (now, later) = rest.split_at(talk.wants());
        step = talk.step(now);
        rest = later;
    }
    step
}

/// Takes replies apart: (kind, data), all of them to `option`.
fn replies(option: u32, mut output: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let mut found = Vec::new();
    while !output.is_empty() {
        assert_eq!(output[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        assert_eq!(word(&output[8..12]), option);
        let len = usize::try_from(word(&output[16..20])).unwrap();
        found.push((word(&output[12..16]), output[20..20 + len].to_vec()));
        output = &output[20 + len..];
    }
    found
}

/// The kind of the last reply: what became of the option.
fn verdict(talk: &mut Negotiation, option: u32, data: &[u8]) -> u32 {
    let step = send(talk, option, data);
    replies(option, &step.output).pop().unwrap().0
}

fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let count = u16::try_from(wanted.len()).unwrap().to_be_bytes();
    let wanted: Vec<u8> = wanted.iter().flat_map(|w| w.to_be_bytes()).collect();
    words(&[&string(name), &count, &wanted])
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap().to_be_bytes();
    let queries: Vec<u8> = queries.iter().flat_map(|q| string(q)).collect();
    words(&[&string(name), &count, &queries])
}

#[test]
fn the_greeting_is_the_one_of_the_specification() {
    assert_eq!(Negotiation::greeting(), *b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn a_client_without_fixed_newstyle_or_with_unknown_flags_is_sent_away() {
    for flags in [0u32, 2, 4 | 3, u32::MAX] {
        let mut talk = Negotiation::new(menu(Tls::Unavailable));
        let step = talk.step(&flags.to_be_bytes());
        assert!(matches!(step.next, Next::Close(Some(_))), "{flags:#x}");
        assert_eq!(talk.wants(), 0);
    }
}

#[test]
fn go_tells_size_flags_and_what_was_asked_for_then_starts() {
    let mut talk = begun(Tls::Unavailable);
    let data = go("first", &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE]);
    let step = send(&mut talk, option::GO, &data);
    let found = replies(option::GO, &step.output);
    let export = words(&[&[0, 0], &0x1234_5678_9abc_u64.to_be_bytes(), &[0, 1]]);
    assert_eq!(found[0], (reply::INFO, export));
    assert_eq!(found[1], (reply::INFO, b"\0\x01first".to_vec()));
    assert_eq!(found[2], (reply::INFO, b"\0\x02a disk".to_vec()));
    assert_eq!(found[3].1.len(), 14);
    assert_eq!(found[4], (reply::ACK, Vec::new()));
    let terms = Terms {
        offer: 0,
        mode: Mode::Simple,
        contexts: Vec::new(),
    };
    assert_eq!(step.next, Next::Transmit(terms));
}

#[test]
fn a_minimum_block_size_is_told_to_those_who_did_not_ask() {
    let mut talk = begun(Tls::Unavailable);
    let step = send(&mut talk, option::INFO, &go("second", &[]));
    let found = replies(option::INFO, &step.output);
    assert_eq!(found.len(), 3);
    assert_eq!(found[1].1[..6], [0, 3, 0, 0, 0x10, 0]);
    assert_eq!(step.next, Next::Continue);
}

#[test]
fn the_empty_name_is_the_first_export_and_an_unknown_one_is_none() {
    let mut talk = begun(Tls::Unavailable);
    assert_eq!(verdict(&mut talk, option::INFO, &go("", &[])), reply::ACK);
    assert_eq!(
        verdict(&mut talk, option::GO, &go("third", &[])),
        reply::ERR_UNKNOWN
    );
    let step = send(&mut talk, option::EXPORT_NAME, b"third");
    assert!(matches!(step.next, Next::Close(Some(_))));
}

#[test]
fn export_name_leaves_out_zeroes_only_when_that_was_agreed_on() {
    let mut talk = begun(Tls::Unavailable);
    assert_eq!(
        send(&mut talk, option::EXPORT_NAME, b"first").output.len(),
        10
    );
    let mut talk = Negotiation::new(menu(Tls::Unavailable));
    talk.step(&1u32.to_be_bytes());
    assert_eq!(
        send(&mut talk, option::EXPORT_NAME, b"first").output.len(),
        134
    );
}

#[test]
fn contexts_need_structured_replies_and_die_with_another_export() {
    let set = option::SET_META_CONTEXT;
    let mut talk = begun(Tls::Unavailable);
    let ask = meta(
        "first",
        &["qemu:dirty-bitmap:b", "base:allocation", "no:such"],
    );
    assert_eq!(verdict(&mut talk, set, &ask), reply::ERR_INVALID);
    assert_eq!(
        verdict(&mut talk, option::STRUCTURED_REPLY, &[]),
        reply::ACK
    );
    let step = send(&mut talk, set, &ask);
    let found = replies(set, &step.output);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].1, b"\0\0\0\0base:allocation");
    assert_eq!(found[1].1, b"\0\0\0\x02qemu:dirty-bitmap:b");
    let mut other = talk.clone();
    let chosen = |talk: &mut Negotiation, name| match send(talk, option::GO, &go(name, &[])).next {
        Next::Transmit(terms) => terms.contexts,
        next => panic!("{next:?}"),
    };
    assert_eq!(chosen(&mut talk, "first"), [0, 2]);
    assert!(chosen(&mut other, "second").is_empty());
}

#[test]
fn a_failed_choice_of_contexts_voids_the_one_before() {
    let set = option::SET_META_CONTEXT;
    let mut talk = begun(Tls::Unavailable);
    verdict(&mut talk, option::EXTENDED_HEADERS, &[]);
    let good = meta("first", &["base:allocation"]);
    assert_eq!(verdict(&mut talk, set, &good), reply::ACK);
    assert_eq!(verdict(&mut talk, set, b"rubbish"), reply::ERR_INVALID);
    let step = send(&mut talk, option::GO, &go("first", &[]));
    let Next::Transmit(terms) = step.next else {
        panic!("{step:?}")
    };
    assert_eq!((terms.mode, terms.contexts), (Mode::Extended, Vec::new()));
}

#[test]
fn a_namespace_can_be_listed_but_not_set() {
    let mut talk = begun(Tls::Unavailable);
    verdict(&mut talk, option::STRUCTURED_REPLY, &[]);
    let mut count = |option, queries: &[&str]| {
        let step = send(&mut talk, option, &meta("first", queries));
        replies(option, &step.output).len() - 1
    };
    let list = option::LIST_META_CONTEXT;
    assert_eq!(count(list, &[]), 3);
    assert_eq!(count(list, &["qemu:dirty-bitmap:"]), 2);
    assert_eq!(count(list, &["qemu:", "base:allocation"]), 3);
    assert_eq!(count(list, &["qemu"]), 0);
    assert_eq!(count(option::SET_META_CONTEXT, &["qemu:"]), 0);
    assert_eq!(count(option::SET_META_CONTEXT, &[]), 0);
}

#[test]
fn a_huge_option_is_skipped_without_being_kept() {
    let mut talk = begun(Tls::Unavailable);
    let header = words(&[
        &OPTION_MAGIC.to_be_bytes(),
        &option::LIST.to_be_bytes(),
        &u32::MAX.to_be_bytes(),
    ]);
    talk.step(&header);
    let zeroes = vec![0; MAX_OPTION];
    let mut left = u64::from(u32::MAX);
    loop {
        let now = talk.wants();
        assert!(now > 0 && now <= MAX_OPTION);
        left -= u64::try_from(now).unwrap();
        let step = talk.step(&zeroes[..now]);
        if left == 0 {
            let found = replies(option::LIST, &step.output);
            assert_eq!(found[0].0, reply::ERR_TOO_BIG);
            break;
        }
    }
    assert_eq!(verdict(&mut talk, option::LIST, &[]), reply::ACK);
}

#[test]
fn nothing_is_told_before_tls_where_tls_is_required() {
    let mut talk = begun(Tls::Required);
    for (option, data) in [
        (option::LIST, Vec::new()),
        (option::GO, go("first", &[])),
        (option::INFO, go("first", &[])),
        (option::STRUCTURED_REPLY, Vec::new()),
        (99, Vec::new()),
    ] {
        assert_eq!(verdict(&mut talk, option, &data), reply::ERR_TLS_REQD);
    }
    let mut bare = talk.clone();
    let step = send(&mut bare, option::EXPORT_NAME, b"first");
    assert!(matches!(step.next, Next::Close(Some(_))));
    assert_eq!(send(&mut talk, option::STARTTLS, &[]).next, Next::StartTls);
    assert_eq!(verdict(&mut talk, option::LIST, &[]), reply::ACK);
    assert_eq!(
        verdict(&mut talk, option::STARTTLS, &[]),
        reply::ERR_INVALID
    );
}

#[test]
fn what_was_agreed_on_in_the_clear_is_forgotten_under_tls() {
    let mut talk = begun(Tls::Offered);
    verdict(&mut talk, option::STRUCTURED_REPLY, &[]);
    verdict(
        &mut talk,
        option::SET_META_CONTEXT,
        &meta("", &["base:allocation"]),
    );
    send(&mut talk, option::STARTTLS, &[]);
    let step = send(&mut talk, option::GO, &go("", &[]));
    let terms = Terms {
        offer: 0,
        mode: Mode::Simple,
        contexts: Vec::new(),
    };
    assert_eq!(step.next, Next::Transmit(terms));
}

#[test]
fn structured_replies_and_extended_headers_are_agreed_on_once() {
    let mut talk = begun(Tls::Unavailable);
    let structured = option::STRUCTURED_REPLY;
    assert_eq!(verdict(&mut talk, structured, &[0]), reply::ERR_INVALID);
    assert_eq!(verdict(&mut talk, structured, &[]), reply::ACK);
    assert_eq!(verdict(&mut talk, structured, &[]), reply::ERR_INVALID);
    let extended = option::EXTENDED_HEADERS;
    assert_eq!(verdict(&mut talk, extended, &[]), reply::ACK);
    assert_eq!(verdict(&mut talk, extended, &[]), reply::ERR_INVALID);
    assert_eq!(
        verdict(&mut talk, structured, &[]),
        reply::ERR_EXT_HEADER_REQD
    );
    let step = send(&mut talk, option::EXPORT_NAME, b"first");
    assert!(matches!(step.next, Next::Close(Some(_))));
}

#[test]
fn an_unknown_option_is_answered_and_the_handshake_goes_on() {
    let mut talk = begun(Tls::Unavailable);
    assert_eq!(verdict(&mut talk, 4711, b"data"), reply::ERR_UNSUP);
    assert_eq!(verdict(&mut talk, option::STARTTLS, &[]), reply::ERR_POLICY);
    let step = send(&mut talk, option::ABORT, &[]);
    assert_eq!(step.next, Next::Close(None));
    assert_eq!(replies(option::ABORT, &step.output)[0].0, reply::ACK);
}

#[test]
fn a_wrong_magic_or_a_short_step_ends_it() {
    let mut talk = begun(Tls::Unavailable);
    assert!(matches!(talk.step(&[0; 16]).next, Next::Close(Some(_))));
    let mut talk = begun(Tls::Unavailable);
    assert!(matches!(talk.step(&[0; 15]).next, Next::Close(Some(_))));
}

proptest! {
    /// Options of any kind with any data, after anything else: bounded answers, no panic.
    #[test]
    fn whatever_a_client_says_the_answer_is_bounded(
        options in vec((0u32..14, vec(any::<u8>(), 0..64)), 0..24),
    ) {
        let mut talk = begun(Tls::Offered);
        for (option, data) in options {
            let step = send(&mut talk, option, &data);
            prop_assert!(step.output.len() < 4096);
            if !matches!(step.next, Next::Continue | Next::StartTls) {
                prop_assert!(talk.wants() == 0);
                break;
            }
        }
    }
}
