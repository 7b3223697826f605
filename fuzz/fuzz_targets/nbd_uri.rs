//! NBD URIs: any text is parsed or refused, and what is parsed says the same when printed.

#![no_main]

use diskferry::address::Address;
use diskferry::nbd::uri::Uri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text.parse::<Address>();
    let parsed = match text.parse::<Uri>() {
        Ok(uri) => uri,
        Err(error) => {
            let line = error.line();
            assert!(!line.contains(['\n', '\r']), "more than one line: {line:?}");
            return;
        }
    };
    let printed = parsed.to_string();
    let again: Uri = printed
        .parse()
        .unwrap_or_else(|error| panic!("{printed}: {error:?}"));
    assert_eq!(again.export(), parsed.export(), "{printed}");
    assert_eq!(again.place(), parsed.place(), "{printed}");
});
