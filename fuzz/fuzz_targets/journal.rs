//! The journal after a crash, or after anything else: any bytes give records or an error.

#![no_main]

use diskferry::journal::{History, Record, recover};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(found) = recover(bytes) else { return };
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
