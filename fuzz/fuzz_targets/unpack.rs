//! Compressed files and runs: what comes out of any bytes does not hang on how they are cut.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("unpack", input);
});
