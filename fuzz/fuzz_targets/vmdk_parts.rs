//! Headers, tables, descriptors and streams of VMDK: any bytes keep their promises.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("vmdk_parts", input);
});
