//! Headers, regions, metadata and logs of VHDX: any bytes keep their promises, with the right
//! checksums. The first byte chooses which.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("vhdx_parts", input);
});
