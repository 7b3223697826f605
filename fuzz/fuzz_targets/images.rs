//! Disk images: any bytes are an image that keeps the contract of the map, or an error.
//!
//! The bytes choose their format themselves, as a probe does, so one corpus serves all formats: a
//! new one is fuzzed as soon as the seeds have an image of it. What an image names cannot be opened.

#![no_main]

use diskferry::error::Kind;
use diskferry::format::probe;
use diskferry::format::vmdk::Forward;
use diskferry::testkit::image::{storage, wander};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

fuzz_target!(|input: &[u8]| {
    let mut stream = Forward::default();
    let _ = stream.push(input).and_then(|_| stream.finish());
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let format = runtime.block_on(probe(storage(input).as_ref()));
    let format = match format {
        Ok(format) => format,
        // Nothing that is a disk.
        Err(error) => return assert_eq!(error.kind(), Kind::Refused, "{error:?}"),
    };
    match runtime.block_on(wander(format.name(), input)) {
        Ok(()) => {}
        Err(error) => {
            // What the map promised did not hold.
            assert_ne!(error.kind(), Kind::Mismatch, "{error:?}");
            let line = error.line();
            assert!(!line.contains(['\n', '\r']), "more than one line: {line:?}");
        }
    }
});
