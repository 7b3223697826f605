//! Options to bytes. No state, no I/O.

use crate::nbd::wire::{OPTION_MAGIC, OptionHeader, handshake_flag, info};
use zerocopy::IntoBytes;

/// Bytes of the answer to `EXPORT_NAME`: size and flags.
pub(super) const EXPORT_NAME_REPLY: usize = 10;
/// The same with the zeroes that follow unless both sides leave them out.
pub(super) const EXPORT_NAME_REPLY_PADDED: usize = 134;

/// The four bytes that answer the greeting.
pub(super) fn client_flags(no_zeroes: bool) -> Vec<u8> {
    let mut flags = u32::from(handshake_flag::FIXED_NEWSTYLE);
    if no_zeroes {
        flags |= u32::from(handshake_flag::NO_ZEROES);
    }
    flags.to_be_bytes().to_vec()
}

/// An option with its data, which is shorter than 4 GiB by construction.
pub(super) fn encode(option: u32, data: &[u8]) -> Vec<u8> {
    let header = OptionHeader {
        magic: OPTION_MAGIC.into(),
        option: option.into(),
        length: length(data).into(),
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

/// Data of `INFO` and `GO`: the export, and what to tell of it besides size and flags.
pub(super) fn info_request(export: &str) -> Vec<u8> {
    let mut data = Vec::new();
    push_string(&mut data, export);
    let asked = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
    data.extend_from_slice(&[0, 3]);
    for kind in asked {
        data.extend_from_slice(&kind.to_be_bytes());
    }
    data
}

/// Data of `SET_META_CONTEXT` and `LIST_META_CONTEXT`: the export and one query for each context.
pub(super) fn meta_contexts(export: &str, contexts: &[String]) -> Vec<u8> {
    let mut data = Vec::new();
    push_string(&mut data, export);
    let count = u32::try_from(contexts.len()).unwrap_or(u32::MAX);
    data.extend_from_slice(&count.to_be_bytes());
    for context in contexts {
        push_string(&mut data, context);
    }
    data
}

fn push_string(data: &mut Vec<u8>, text: &str) {
    data.extend_from_slice(&length(text.as_bytes()).to_be_bytes());
    data.extend_from_slice(text.as_bytes());
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
