//! A server's half of the handshake: any bytes end in an agreement or an error.
//!
//! The first byte chooses what the client wants; the rest is what the server sends.

#![no_main]

use diskferry::nbd::handshake::{Action, Handshake, Wants};
use libfuzzer_sys::fuzz_target;

/// The longest option reply that may be read in one piece.
const MOST: usize = 16 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, mut rest)) = bytes.split_first() else {
        return;
    };
    let contexts = ["base:allocation", "qemu:dirty-bitmap:b"];
    let mut handshake = Handshake::new(Wants {
        export: if choice & 1 == 0 { "" } else { "disk" }.into(),
        tls: choice & 2 != 0,
        contexts: contexts[..usize::from(choice >> 2 & 3).min(2)]
            .iter()
            .map(|c| (*c).into())
            .collect(),
        list: choice & 16 != 0,
    });
    loop {
        let need = handshake.need();
        assert!(need <= MOST, "{need} bytes in one piece");
        let Some((now, later)) = rest.split_at_checked(need) else {
            return;
        };
        rest = later;
        let mut action = handshake.step(now);
        if matches!(action, Ok(Action::StartTls)) {
            assert!(choice & 2 != 0, "TLS that nobody asked for");
            action = handshake.tls_started();
        }
        match action {
            Ok(Action::Read) => {}
            Ok(Action::Write(bytes)) => assert!(!bytes.is_empty()),
            Ok(Action::Ready(agreed)) => {
                assert!(
                    choice & 16 == 0,
                    "an export was opened that was only to be listed"
                );
                assert!(agreed.contexts.len() <= contexts.len());
                return;
            }
            Ok(Action::Listed(..) | Action::StartTls) => return,
            Err(error) => {
                assert!(!error.line().contains(['\n', '\r']));
                return;
            }
        }
    }
});
