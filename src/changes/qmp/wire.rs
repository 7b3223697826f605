//! QMP's bytes and messages: pure, nothing waits here.
//!
//! Follows QEMU's `docs/interop/qmp-spec.rst`: a stream of JSON objects in each direction, the
//! server's first being a greeting. Objects need not be on one line each (`-qmp-pretty`), so they
//! are told apart by their braces.

use serde::Deserialize;
use serde_json::Value;
use std::fmt;

/// Bytes of one message that are accepted. The list of all block nodes takes about 1 KiB a node.
pub const MESSAGE_MAX: usize = 16 << 20;

/// What a server sent that is no QMP.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// Something other than an object between two messages.
    #[error("a message begins with byte {found:#04x}: is that a QMP socket?")]
    NotAnObject {
        /// The byte.
        found: u8,
    },
    /// A message without an end.
    #[error("a message is longer than {MESSAGE_MAX} bytes")]
    TooLong,
    /// Braces that are no JSON.
    #[error("a message is no JSON: {why}")]
    NotJson {
        /// As the parser has it.
        why: String,
    },
    /// JSON that is no message.
    #[error("a message is neither greeting, answer nor event")]
    NotAMessage,
    /// An answer that is not of the shape that QMP's schema gives it.
    #[error("the answer of {command} is not as its schema says: {why}")]
    NotAsDescribed {
        /// What was asked.
        command: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A stream of bytes cut into JSON objects.
#[derive(Debug, Default)]
pub struct Framer {
    bytes: Vec<u8>,
    /// Bytes that were looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Framer {
    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole object.
    ///
    /// # Errors
    /// The stream is not QMP. It stays so: nothing after that can be told apart.
    pub fn cut(&mut self) -> Result<Option<Vec<u8>>, Wrong> {
        if self.depth == 0 {
            let blank = self.bytes.iter().take_while(|b| b.is_ascii_whitespace());
            let blank = blank.count();
            self.bytes.drain(..blank);
            self.seen = 0;
        }
        while let Some(&byte) = self.bytes.get(self.seen) {
            if self.depth == 0 && byte != b'{' {
                return Err(Wrong::NotAnObject { found: byte });
            }
            self.seen = self.seen.saturating_add(1);
            if self.closes(byte) {
                let rest = self.bytes.split_off(self.seen);
                self.seen = 0;
                return Ok(Some(std::mem::replace(&mut self.bytes, rest)));
            }
        }
        if self.bytes.len() > MESSAGE_MAX {
            return Err(Wrong::TooLong);
        }
        Ok(None)
    }

    /// Whether `byte` ends the object.
    fn closes(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first one.
    Greeting(Version),
    /// A command was carried out.
    Done {
        /// Which.
        id: u64,
        /// What it returns.
        value: Value,
    },
    /// A command was refused.
    Refused {
        /// Which; none if the server could not even read it.
        id: Option<u64>,
        /// Why.
        refusal: Refusal,
    },
    /// Something happened.
    Event(String),
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2 of 7.2.22.
    pub minor: u32,
    /// 22 of 7.2.22.
    pub micro: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Why QEMU did not carry out a command, in its own words.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, thiserror::Error)]
#[error("{desc}")]
pub struct Refusal {
    /// `GenericError`, `CommandNotFound`, `DeviceNotFound` …
    pub class: String,
    /// For people.
    pub desc: String,
}

impl Refusal {
    /// Whether this QEMU does not have the command at all.
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        self.class == "CommandNotFound"
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<RawGreeting>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
}

#[derive(Deserialize)]
struct RawGreeting {
    version: RawVersion,
}

#[derive(Deserialize)]
struct RawVersion {
    qemu: Version,
}

/// A message from the bytes of one object.
///
/// # Errors
/// They are none.
pub fn parse(bytes: &[u8]) -> Result<Message, Wrong> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| Wrong::NotJson {
        why: error.to_string(),
    })?;
    match raw {
        Raw {
            event: Some(name), ..
        } => Ok(Message::Event(name)),
        Raw {
            error: Some(refusal),
            id,
            ..
        } => Ok(Message::Refused { id, refusal }),
        Raw {
            value: Some(value),
            id: Some(id),
            ..
        } => Ok(Message::Done { id, value }),
        Raw {
            greeting: Some(greeting),
            ..
        } => Ok(Message::Greeting(greeting.version.qemu)),
        _ => Err(Wrong::NotAMessage),
    }
}

#[cfg(test)]
mod tests {
    use super::{Framer, MESSAGE_MAX, Message, Version, Wrong, parse};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use serde_json::json;

    fn all(framer: &mut Framer) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| framer.cut().unwrap()).collect()
    }

    #[test]
    fn braces_in_strings_and_line_breaks_in_objects_do_not_end_a_message() {
        let stream =
            "{\"event\": \"}{\\\"}\"}\r\n{\n  \"event\":\n  \"B\\\\\" }{\"event\":\"C\"}  ";
        let mut framer = Framer::default();
        framer.push(stream.as_bytes());
        let events: Vec<_> = all(&mut framer).iter().map(|m| parse(m).unwrap()).collect();
        let expected = ["}{\"}", "B\\", "C"].map(|name| Message::Event(name.to_owned()));
        assert_eq!(events, expected);
    }

    #[test]
    fn what_is_no_qmp_and_what_never_ends_is_refused() {
        let mut framer = Framer::default();
        framer.push(b"HTTP/1.1 400");
        assert_eq!(framer.cut(), Err(Wrong::NotAnObject { found: b'H' }));
        let mut framer = Framer::default();
        framer.push(b"{\"a\": \"");
        framer.push(&vec![b'x'; MESSAGE_MAX]);
        assert_eq!(framer.cut(), Err(Wrong::TooLong));
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        let deep = [b"{\"return\":".as_slice(), &deep, b"}"].concat();
        assert!(matches!(parse(&deep), Err(Wrong::NotJson { .. })));
        assert_eq!(parse(b"{}"), Err(Wrong::NotAMessage));
    }

    #[test]
    fn the_greeting_of_a_real_server_is_read() {
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}"#;
        let version = Version {
            major: 7,
            minor: 2,
            micro: 22,
        };
        assert_eq!(parse(greeting), Ok(Message::Greeting(version)));
    }

    proptest! {
        /// However the stream is cut on its way, the same messages come out.
        #[test]
        fn messages_do_not_depend_on_how_bytes_arrive(
            texts in prop::collection::vec(".{0,20}", 1..6), step in 1usize..40, pretty in any::<bool>(),
        ) {
            let objects: Vec<_> = texts.iter().map(|t| json!({"event": t, "data": [{t.as_str(): t}]})).collect();
            let stream: Vec<u8> = objects.iter().flat_map(|object| {
                let text = if pretty { format!("{object:#}\r\n") } else { format!("{object}\n") };
                text.into_bytes()
            }).collect();
            let mut framer = Framer::default();
            let mut found = Vec::new();
            for part in stream.chunks(step) {
                framer.push(part);
                found.extend(all(&mut framer));
            }
            let found: Vec<_> = found.iter().map(|m| parse(m).unwrap()).collect();
            let expected: Vec<_> = texts.into_iter().map(Message::Event).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
