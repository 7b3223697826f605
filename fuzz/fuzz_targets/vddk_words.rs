//! What nbdkit and VDDK say may be any text.
#![no_main]

use diskferry::source::vddk::words::Heard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut heard = Heard::default();
    text.lines().for_each(|line| heard.hear(line));
    if let Some(cause) = heard.cause() {
        assert!(text.contains(&cause.line), "made up: {cause:?}");
    }
});
