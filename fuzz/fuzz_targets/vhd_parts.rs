//! Footers, headers and names of VHD: any bytes keep their promises, with the right checksums.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("vhd_parts", input);
});
