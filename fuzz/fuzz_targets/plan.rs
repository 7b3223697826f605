//! Plan files: any text is a plan or a complaint of one line, and neither takes long.

#![no_main]

use diskferry::migrate::plan::Plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Plan::parse(text) {
        let line = error.line();
        assert!(!line.contains(['\n', '\r']), "more than one line: {line:?}");
    }
});
