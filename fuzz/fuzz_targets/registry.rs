//! What a registry of container images answers, and the names of images: digests and paths that lead
//! nowhere else, or a refusal.

#![no_main]

use diskferry::testkit::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    keep("registry", input);
});
