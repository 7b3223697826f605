//! The journal after a crash, or after anything else: any bytes give records or an error.
//!
//! Input that begins with `{` is taken for payloads, one a line, and framed here: no fuzzer finds
//! a CRC by chance, and what records mean would never be reached.

#![no_main]

use diskferry::journal::{History, Record, recover};
use libfuzzer_sys::fuzz_target;

fn framed(payloads: &[u8]) -> Vec<u8> {
    let mut journal = b"diskferry log 1\n".to_vec();
    for payload in payloads.split(|byte| *byte == b'\n') {
        let length = u32::try_from(payload.len()).expect("an input is short");
        journal.extend(length.to_le_bytes());
        journal.extend(crc32fast::hash(payload).to_le_bytes());
        journal.extend(payload);
    }
    journal
}

fuzz_target!(|input: &[u8]| {
    let made;
    let bytes = if input.first() == Some(&b'{') {
        made = framed(input);
        &made
    } else {
        input
    };
    let Ok(found) = recover(bytes) else {
        return;
    };
    assert!(found.valid <= bytes.len(), "more was valid than there was");

    // Cutting off the torn tail, as recovery does, must lose nothing that was read.
    if found.valid > 0 {
        let again = recover(&bytes[..found.valid]).expect("what was valid is not");
        assert_eq!(again.records, found.records);
        assert_eq!(again.valid, found.valid);
    }

    let _ = History::of(&found.records);
    for record in &found.records {
        if let Record::Barrier { done } = record {
            let _ = done.to_set();
            let _ = done.bytes();
        }
    }
});
