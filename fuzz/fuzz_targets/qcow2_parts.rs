//! Headers, tables and lists of qcow2: any bytes keep their promises. The first two choose the
//! units of the image.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("qcow2_parts", input);
});
