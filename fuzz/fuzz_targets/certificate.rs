//! Certificates, which come from anywhere by the time they are checked: any bytes are a certificate or
//! a complaint of one line, and what was read is written and read back the same.

#![no_main]

use diskferry::job::certificate::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Certificate::parse(bytes) {
        Ok(found) => {
            let text = serde_json::to_vec_pretty(&found).expect("what was read can be written");
            let again = Certificate::parse(&text).expect("what was written can be read");
            assert_eq!(again, found);
        }
        Err(error) => {
            let line = error.line();
            assert!(!line.contains(['\n', '\r']), "more than one line: {line:?}");
        }
    }
});
