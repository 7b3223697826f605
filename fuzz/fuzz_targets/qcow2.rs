//! A whole qcow2 image: any bytes are mapped and unpacked, or are an error.

#![no_main]

use diskferry::format::qcow2::header::Header;
use diskferry::testkit::image::wander;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The header alone, as if the file were large: limits that the file's size would hide.
    let _ = Header::wanted(bytes, u64::MAX);
    let _ = Header::parse(bytes, u64::MAX);

    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    if let Err(error) = runtime.block_on(wander("qcow2", bytes)) {
        assert!(!error.line().contains('\n'), "{error:?}");
    }
});
