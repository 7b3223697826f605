//! Option replies: bytes to values that were checked. No state, no I/O.

use crate::error::{Error, Kind};
use crate::nbd::export::{BlockSize, Export, Flags};
use crate::nbd::lie::Lie;
use crate::nbd::wire::{InfoBlockSize, InfoExport, MAX_STRING, info, option, reply};
use zerocopy::FromBytes;

/// The longest option reply that is believed. Strings end at 4096 bytes; a name and a description
/// are two.
pub(super) const MAX_REPLY: u32 = 16 << 10;

/// One piece of information about an export.
#[derive(Debug)]
pub(super) enum Info {
    Export {
        size: u64,
        flags: Flags,
    },
    Name(String),
    Description(String),
    BlockSize(BlockSize),
    /// Of a kind that is not known, which the specification allows.
    Other,
}

/// One export of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What the server adds for people; often nothing.
    pub description: String,
}

pub(super) fn info(bytes: &[u8], option: u32) -> Result<Info, Lie> {
    let malformed = |what| Lie::Malformed { option, what };
    let kind = bytes
        .first_chunk::<2>()
        .ok_or_else(|| malformed("information without a kind"))?;
    let text = bytes.get(2..).unwrap_or(&[]);
    match u16::from_be_bytes(*kind) {
        info::EXPORT => {
            let wire = InfoExport::read_from_bytes(bytes)
                .map_err(|_| malformed("size and flags of a wrong length"))?;
            Ok(Info::Export {
                size: Export::check_size(wire.size.get())?,
                flags: Flags::check(wire.flags.get())?,
            })
        }
        info::BLOCK_SIZE => {
            let wire = InfoBlockSize::read_from_bytes(bytes)
                .map_err(|_| malformed("block sizes of a wrong length"))?;
            Ok(Info::BlockSize(BlockSize::check(&wire)?))
        }
        info::NAME => Ok(Info::Name(string(text, option)?)),
        info::DESCRIPTION => Ok(Info::Description(string(text, option)?)),
        _ => Ok(Info::Other),
    }
}

/// A meta context: the number by which this connection knows it, and its name.
pub(super) fn context(bytes: &[u8], option: u32) -> Result<(u32, String), Lie> {
    let malformed = |what| Lie::Malformed { option, what };
    let (id, name) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| malformed("a context without a number"))?;
    Ok((u32::from_be_bytes(*id), string(name, option)?))
}

pub(super) fn listed(bytes: &[u8]) -> Result<Listed, Lie> {
    let malformed = |what| Lie::Malformed {
        option: option::LIST,
        what,
    };
    let (length, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| malformed("an export without a name"))?;
    let (name, description) = usize::try_from(u32::from_be_bytes(*length))
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| malformed("a name that is longer than its reply"))?;
    Ok(Listed {
        name: string(name, option::LIST)?,
        description: for_people(description),
    })
}

/// A name, which must be given back to the server exactly, so it must be what the spec allows.
fn string(bytes: &[u8], option: u32) -> Result<String, Lie> {
    let malformed = |what| Lie::Malformed { option, what };
    if u32::try_from(bytes.len()).map_or(true, |length| length > MAX_STRING) {
        return Err(malformed("a string of more than 4096 bytes"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("a string that is not UTF-8"))
}

/// A text of the server as it may be shown: short, one line, nothing that steers a terminal.
pub fn for_people(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect();
    clean.trim().to_owned()
}

/// Name of an option for messages.
pub(super) fn name_of(option: u32) -> &'static str {
    match option {
        option::EXPORT_NAME => "choose the export",
        option::LIST => "list the exports",
        option::STARTTLS => "start TLS",
        option::INFO => "describe the export",
        option::GO => "open the export",
        option::STRUCTURED_REPLY => "ask for structured replies",
        option::SET_META_CONTEXT | option::LIST_META_CONTEXT => "ask for meta contexts",
        option::EXTENDED_HEADERS => "ask for extended headers",
        _ => "negotiate",
    }
}

/// What an error reply means to the user.
pub(super) fn refusal(sent: u32, code: u32, text: &[u8], export: &str) -> Error {
    let (kind, why, hint) = match code {
        reply::ERR_TLS_REQD => (
            Kind::Refused,
            "the server requires TLS",
            Some("use nbds:// or nbds+unix://"),
        ),
        _ if sent == option::STARTTLS => (
            Kind::Refused,
            "the server does not offer TLS",
            Some("nbd:// speaks without TLS, if you trust the network"),
        ),
        reply::ERR_UNKNOWN => (
            Kind::Io,
            "the server has no such export",
            Some("diskferry inspect nbd://SERVER lists the exports"),
        ),
        reply::ERR_POLICY => (Kind::Refused, "the server forbids it", None),
        reply::ERR_SHUTDOWN => (Kind::Transient, "the server is shutting down", None),
        reply::ERR_UNSUP | reply::ERR_PLATFORM => {
            (Kind::Unsupported, "the server does not support it", None)
        }
        reply::ERR_BLOCK_SIZE_REQD => (Kind::Unsupported, "the server wants block sizes", None),
        reply::ERR_INVALID => (Kind::Io, "the server finds the request invalid", None),
        reply::ERR_TOO_BIG => (Kind::Io, "the server finds the request too big", None),
        _ => (Kind::Io, "the server refuses", None),
    };
    let doing = match sent {
        option::GO | option::INFO | option::EXPORT_NAME => {
            format!("{} {export:?}", name_of(sent))
        }
        _ => name_of(sent).to_owned(),
    };
    let text = for_people(text);
    let mut cause = Error::new(kind, why);
    if !text.is_empty() {
        cause = cause.because(format!("it says {text:?}"));
    }
    if let Some(hint) = hint {
        cause = cause.hint(hint);
    }
    cause.context(doing)
}
