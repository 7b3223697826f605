//! A server's replies: any bytes give answers that fit what was asked, or end the connection, and
//! it makes no difference in which pieces they come.
//!
//! The first byte chooses the shape of replies and the order of requests; the rest is what the
//! server sends.

#![no_main]

use bytes::Bytes;
use diskferry::buffer::Buffer;
use diskferry::extent::ByteRange;
use diskferry::nbd::client::{Answer, Transmission, Work};
use diskferry::nbd::handshake::Style;
use libfuzzer_sys::fuzz_target;

const CONTEXT: u32 = 5;

fn work(kind: usize) -> Work {
    match kind % 8 {
        0 => Work::Read {
            offset: 4096,
            buffer: zeroes(600),
            window: 0..600,
            whole: true,
            part: None,
        },
        1 => Work::Status {
            range: ByteRange::new(0, 1 << 20),
            context: CONTEXT,
        },
        2 => Work::Write {
            offset: 0,
            data: Bytes::from_static(&[7; 16]),
            fua: true,
        },
        3 => Work::Flush,
        4 => Work::Zero {
            range: ByteRange::new(0, 512),
            no_hole: true,
            fast: true,
        },
        5 => Work::Read {
            offset: 0,
            buffer: zeroes(96),
            window: 32..64,
            whole: false,
            part: None,
        },
        6 => Work::Trim {
            range: ByteRange::new(512, 1024),
        },
        _ => Work::Read {
            offset: 8192,
            buffer: zeroes(96),
            window: 16..96,
            whole: false,
            part: Some(32),
        },
    }
}

/// A buffer whose content does not depend on the memory that it happens to get.
fn zeroes(length: usize) -> Buffer {
    let mut buffer = Buffer::unbudgeted(length);
    buffer.fill(0);
    buffer
}

/// All that can be seen of a connection on which the server sent `pieces`.
fn outcome<'a>(choice: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let style = [Style::Simple, Style::Structured, Style::Extended][usize::from(choice % 3)];
    let mut connection = Transmission::new(style, vec![CONTEXT]);
    for number in 0..8 {
        connection.issue(work(number + usize::from(choice / 3)), number, 0, |_, _| ());
    }
    let mut seen = Vec::new();
    for piece in pieces {
        let fed = connection.feed(piece);
        while let Some((number, finished)) = connection.finished() {
            seen.push(match finished {
                Ok(answer) => format!("{number} {}", checked(answer)),
                Err(failure) => format!("{number} {:?}", failure.0),
            });
        }
        if let Err(lie) = fed {
            seen.push(lie.to_string());
            break;
        }
    }
    seen
}

fn checked(answer: Answer) -> String {
    if let Answer::Status(found) = &answer {
        let mut at = 0;
        for (range, _) in found {
            assert_eq!(range.start, at, "a gap");
            assert!(
                !range.is_empty() && range.end <= 1 << 20,
                "past what was asked"
            );
            at = range.end;
        }
        assert!(at > 0, "an answer that says nothing");
    }
    match answer {
        Answer::Read(buffer) => format!("{:?}", &*buffer),
        other => format!("{other:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let whole = outcome(*choice, std::iter::once(rest));
    let pieces = outcome(*choice, rest.chunks(1));
    assert_eq!(whole, pieces, "it depends on how the bytes come");
});
