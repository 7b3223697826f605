//! Names of files in images: whatever the name is, it does not lead out of the directory.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("names", input);
});
