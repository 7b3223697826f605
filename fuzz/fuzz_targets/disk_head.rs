//! The first bytes of a disk: any bytes are partitions and signatures that make sense, or none.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("disk_head", input);
});
