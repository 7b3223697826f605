//! Heads of answers as servers send them, and as none should.

use super::{Found, Part, Version, check_part, look, pause};
use crate::error::Kind;
use crate::extent::ByteRange;
use hyper::{HeaderMap, StatusCode};
use std::time::Duration;

fn head(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}

const PARTIAL: StatusCode = StatusCode::PARTIAL_CONTENT;

#[test]
fn a_content_range_is_read_and_nonsense_is_not() {
    let part = |first: u64, last: u64, total| {
        let range = Some(ByteRange::new(first, last + 1));
        Some(Part { range, total })
    };
    assert_eq!(Part::parse("bytes 0-99/200"), part(0, 99, Some(200)));
    assert_eq!(Part::parse("Bytes 5-5/6"), part(5, 5, Some(6)));
    assert_eq!(Part::parse("bytes 0-0/*"), part(0, 0, None));
    let none = Part {
        range: None,
        total: Some(7),
    };
    assert_eq!(Part::parse("bytes */7"), Some(none));
    for text in [
        "",
        "bytes",
        "bytes 0-99",
        "bytes */*",
        "bytes 5-4/9",
        "bytes 0-9/9",
        "bytes -1/9",
        "bytes 0-/9",
        "bytes +0-1/9",
        "bytes 0-18446744073709551615/*",
        "bytes 0-99999999999999999999/*",
        "items 0-1/9",
        "bytes 0-1,3-4/9",
    ] {
        assert_eq!(Part::parse(text), None, "{text}");
    }
}

#[test]
fn the_first_answer_tells_whether_parts_can_be_asked_for() {
    let version = Version {
        etag: Some("\"a\"".to_owned()),
        modified: None,
    };
    let parts = head(&[("content-range", "bytes 0-0/9"), ("etag", "\"a\"")]);
    let found = look(PARTIAL, &parts).unwrap();
    assert_eq!(found, Found::InParts { size: 9, version });
    let version = Version::default;
    let whole = head(&[("content-length", "9"), ("accept-ranges", "bytes")]);
    let all = Found::Whole {
        size: Some(9),
        version: version(),
    };
    assert_eq!(look(StatusCode::OK, &whole).unwrap(), all);
    for (status, line) in [
        (StatusCode::OK, ("content-length", "0")),
        (
            StatusCode::RANGE_NOT_SATISFIABLE,
            ("content-range", "bytes */0"),
        ),
    ] {
        let version = version();
        let empty = Found::InParts { size: 0, version };
        assert_eq!(look(status, &head(&[line])).unwrap(), empty);
    }
}

#[test]
fn what_no_server_should_say_at_first_is_an_error_of_its_kind() {
    let gzip = ("content-encoding", "gzip");
    for (status, lines, kind) in [
        (404, &[][..], Kind::Io),
        (403, &[], Kind::Refused),
        (503, &[], Kind::Transient),
        (304, &[], Kind::Io),
        (416, &[("content-range", "bytes */9")], Kind::Io),
        (200, &[gzip], Kind::Unsupported),
        (
            206,
            &[("content-range", "bytes 0-0/9"), gzip],
            Kind::Unsupported,
        ),
        (206, &[("content-range", "bytes 0-0/*")], Kind::Unsupported),
        (206, &[("content-range", "bytes 1-1/9")], Kind::Corrupt),
        (
            206,
            &[("content-type", "multipart/byteranges")],
            Kind::Corrupt,
        ),
        (200, &[("content-length", "many")], Kind::Corrupt),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let error = look(status, &head(lines)).unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {lines:?}: {error:?}");
    }
}

/// The answer to a request for bytes 4 to 8 of an object of 16.
fn part(status: u16, lines: &[(&str, &str)]) -> Result<(), (Kind, String)> {
    let version = Version {
        etag: Some("\"a\"".to_owned()),
        modified: Some("Thu, 01 Jan 2026 00:00:00 GMT".to_owned()),
    };
    let status = StatusCode::from_u16(status).unwrap();
    let range = ByteRange::new(4, 8);
    check_part(status, &head(lines), range, 16, &version)
        .map_err(|error| (error.kind(), error.line()))
}

const GOOD: (&str, &str) = ("content-range", "bytes 4-7/16");
const TAG: (&str, &str) = ("etag", "\"a\"");

#[test]
fn a_part_is_taken_only_out_of_the_object_that_was_found() {
    assert_eq!(part(206, &[GOOD, TAG]), Ok(()));
    assert_eq!(part(206, &[GOOD, TAG, ("content-length", "4")]), Ok(()));
    assert_eq!(part(206, &[("content-range", "bytes 4-7/*"), TAG]), Ok(()));
    for (status, lines) in [
        (206, &[GOOD, ("etag", "\"b\"")][..]),
        (206, &[GOOD]),
        (206, &[("content-range", "bytes 4-7/17"), TAG]),
        (416, &[("content-range", "bytes */3")]),
        (412, &[]),
        (200, &[("etag", "\"b\"")]),
        (200, &[TAG, ("content-length", "17")]),
    ] {
        let (kind, line) = part(status, lines).unwrap_err();
        assert_eq!(kind, Kind::Io, "{status} {lines:?}");
        assert!(line.starts_with("the object changed"), "{line}");
    }
}

#[test]
fn a_part_that_is_another_than_was_asked_for_is_not_taken() {
    for (status, lines, kind) in [
        (
            206,
            &[("content-range", "bytes 0-3/16"), TAG][..],
            Kind::Corrupt,
        ),
        (
            206,
            &[("content-range", "bytes 4-8/16"), TAG],
            Kind::Corrupt,
        ),
        (206, &[TAG], Kind::Corrupt),
        (206, &[GOOD, TAG, ("content-length", "5")], Kind::Corrupt),
        (
            206,
            &[GOOD, TAG, ("content-encoding", "br")],
            Kind::Unsupported,
        ),
        (200, &[TAG], Kind::Transient),
        (404, &[], Kind::Io),
        (500, &[], Kind::Transient),
    ] {
        let error = part(status, lines).unwrap_err();
        assert_eq!(error.0, kind, "{status} {lines:?}: {}", error.1);
    }
}

#[test]
fn only_a_strong_tag_or_a_date_makes_a_range_conditional() {
    let validator = |lines: &[(&str, &str)]| {
        let version = Version::of(&head(lines));
        version.validator().map(str::to_owned)
    };
    let date = ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    assert_eq!(validator(&[TAG, date]).unwrap(), "\"a\"");
    assert_eq!(validator(&[("etag", "W/\"a\""), date]).unwrap(), date.1);
    assert_eq!(validator(&[("etag", "W/\"a\"")]), None);
}

#[test]
fn a_busy_server_may_ask_for_a_pause_that_is_bounded() {
    let pause = |text| pause(&head(&[("retry-after", text)]));
    assert_eq!(pause("7"), Some(Duration::from_secs(7)));
    assert_eq!(pause("86400"), Some(Duration::from_secs(60)));
    assert_eq!(pause("Fri, 31 Dec 1999 23:59:59 GMT"), None);
}
