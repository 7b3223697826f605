//! A client of our server: any bytes are negotiated, refused, or sent away, and a request is
//! granted only if it lies on the disk.
//!
//! The first byte chooses the menu; the rest is what the client sends.

#![no_main]

use diskferry::nbd::server::BlockSizes;
use diskferry::nbd::server::menu::{Menu, Offer, Tls};
use diskferry::nbd::server::negotiate::{MAX_OPTION, Negotiation, Next, Terms};
use diskferry::nbd::server::request::{header_len, parse};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = (1 << 20) + 1;

fn menu(choice: u8) -> Menu {
    let offer = |name: &str, flags, contexts: &[&str]| Offer {
        name: name.into(),
        size: SIZE,
        flags,
        blocks: BlockSizes::default(),
        description: "a disk".into(),
        contexts: contexts.iter().map(|name| (*name).into()).collect(),
    };
    Menu {
        offers: vec![
            offer(
                "disk",
                u16::MAX,
                &["base:allocation", "qemu:dirty-bitmap:b"],
            ),
            offer("", 3, &["base:allocation"]),
        ],
        tls: match choice % 3 {
            0 => Tls::Unavailable,
            1 => Tls::Offered,
            _ => Tls::Required,
        },
    }
}

fn transmit(menu: &Menu, terms: &Terms, mut rest: &[u8]) {
    let offer = &menu.offers[terms.offer];
    assert!(terms.contexts.iter().all(|id| *id < offer.contexts.len()));
    while let Some((header, after)) = rest.split_at_checked(header_len(terms.mode)) {
        let Some(asked) = parse(terms.mode, header) else {
            return;
        };
        if asked.check(offer, terms.mode, terms.contexts.len()).is_ok() && asked.length > 0 {
            let end = asked.offset.checked_add(asked.length);
            let flush = asked.command == 3;
            assert!(
                flush || end.is_some_and(|end| end <= SIZE),
                "past the end: {asked:?}"
            );
        }
        rest = after;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, mut rest)) = bytes.split_first() else {
        return;
    };
    let menu = menu(*choice);
    let mut negotiation = Negotiation::new(menu.clone());
    loop {
        let wants = negotiation.wants();
        assert!(wants <= MAX_OPTION);
        let (input, after) = rest.split_at(wants.min(rest.len()));
        rest = after;
        match negotiation.step(input).next {
            Next::Continue => assert!(input.len() == wants, "went on without input"),
            Next::StartTls => assert!(menu.tls != Tls::Unavailable),
            Next::Transmit(terms) => return transmit(&menu, &terms, rest),
            Next::Close(_) => return,
        }
    }
});
