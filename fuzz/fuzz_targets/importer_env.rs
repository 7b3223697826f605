//! The environment of an importer pod: any text is settings or a refusal, and shows no secret.

#![no_main]

use diskferry::importer::promises::keep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = keep(input);
});
