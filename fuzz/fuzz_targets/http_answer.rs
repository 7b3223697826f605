//! The head of an answer of a web server: the first byte says which status, the lines after it are
//! headers. What is taken for part of an object is that part.

#![no_main]

use diskferry::extent::ByteRange;
use diskferry::http::answer::{Found, Part, Version, check_part, look, pause};
use hyper::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;

const STATUSES: [u16; 8] = [200, 206, 302, 401, 404, 412, 416, 503];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let status = STATUSES[usize::from(*first) % STATUSES.len()];
    let status = StatusCode::from_u16(status).unwrap();
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().map(HeaderName::from_bytes);
        let value = parts.next().map(HeaderValue::from_bytes);
        if let (Some(Ok(name)), Some(Ok(value))) = (name, value) {
            headers.append(name, value);
        }
    }
    let version = Version::of(&headers);
    if let Some(pause) = pause(&headers) {
        assert!(pause.as_secs() <= 60);
    }
    let (size, wanted) = match look(status, &headers) {
        Ok(Found::InParts { size, .. }) => (size, ByteRange::new(0, size.min(1))),
        Ok(Found::Whole { size, .. }) => (size.unwrap_or(0), ByteRange::new(0, 1)),
        Err(error) => {
            assert!(!error.line().contains(['\n', '\r']));
            (16, ByteRange::new(4, 8))
        }
    };
    if check_part(status, &headers, wanted, size, &version).is_ok() {
        let text = headers[CONTENT_RANGE].to_str().unwrap();
        let part = Part::parse(text).unwrap();
        assert_eq!(part.range, Some(wanted));
        assert!(
            part.total
                .is_none_or(|total| total == size && wanted.end <= size)
        );
        let coded = headers.get(CONTENT_ENCODING);
        assert!(coded.is_none_or(|it| it.is_empty()
            || it.to_str().unwrap().trim().is_empty()
            || it.to_str().unwrap().trim().eq_ignore_ascii_case("identity")));
    }
});
