//! Headers and maps of VDI: any bytes keep their promises.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("vdi_parts", input);
});
