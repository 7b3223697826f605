//! What is compressed: whole files, and runs of an image.

use crate::format::{Codec, Decoder, WRAPPERS, Wrapper};

/// A bomb goes on for as long as there is room: here there is not much.
const ROOM: usize = 1 << 20;

/// Unpacks `input` as a whole file, in whatever pieces, and as each kind of run.
pub(super) fn keep(input: &[u8]) -> bool {
    let whole = Wrapper::of(input).is_some_and(|wrapper| file(wrapper, input));
    let names = WRAPPERS.iter().flat_map(|(_, names)| names.iter());
    let text = std::str::from_utf8(input).unwrap_or_default();
    let (inner, wrapper) = Wrapper::split(text);
    assert_eq!(wrapper.is_none(), inner == Some(text));
    assert!(wrapper.is_none() || names.into_iter().any(|name| text.ends_with(name)));
    whole | runs(input)
}

/// The same comes out however it is cut.
fn file(wrapper: Wrapper, packed: &[u8]) -> bool {
    let whole = unpack(wrapper, packed, usize::MAX, 64 << 10);
    let pieces = unpack(wrapper, packed, 7, 1000);
    match (whole, pieces) {
        (Some(whole), Some(pieces)) => {
            // What is longer than there is room for ends where it happens to.
            let common = whole.0.len().min(pieces.0.len());
            assert!(whole.0[..common] == pieces.0[..common]);
            assert!(whole.1 == pieces.1 || common >= ROOM);
            whole.1
        }
        (None, Some((some, whole))) | (Some((some, whole)), None) => {
            assert!(!whole || some.len() >= ROOM);
            false
        }
        (None, None) => false,
    }
}

/// What comes out, and whether that is all; `None` if it is damaged.
fn unpack(wrapper: Wrapper, packed: &[u8], piece: usize, room: usize) -> Option<(Vec<u8>, bool)> {
    let mut decoder = Decoder::new(wrapper);
    let (mut all, mut out) = (Vec::new(), vec![0; room]);
    for input in packed.chunks(piece) {
        let mut at = 0;
        loop {
            let done = decoder.step(&input[at..], &mut out).ok()?;
            assert!(at + done.used <= input.len() && done.made <= out.len());
            at += done.used;
            all.extend(&out[..done.made]);
            if all.len() >= ROOM {
                return Some((all, false));
            }
            if done.used == 0 && done.made == 0 {
                assert_eq!(at, input.len(), "{wrapper}: not all of the input is used");
                break;
            }
        }
    }
    decoder.finish().ok().map(|()| (all, true))
}

/// What fits exactly fits in no other room, but for the two kinds that may be read in part.
fn runs(packed: &[u8]) -> bool {
    let (start, rest) = packed.split_at(packed.len().min(2));
    let len = start
        .iter()
        .fold(1, |len, byte| len * 256 + usize::from(*byte))
        & 0xffff;
    let mut taken = false;
    for codec in [Codec::Deflate, Codec::Zlib, Codec::Zstd] {
        let mut out = vec![0x5a; len];
        if codec.unpack(rest, &mut out).is_err() || len == 0 {
            continue;
        }
        taken = true;
        let mut again = vec![0xa5; len];
        assert!(codec.unpack(rest, &mut again).is_ok() && again == out);
        let mut longer = vec![0; len + 1];
        assert!(codec == Codec::Zstd || codec.unpack(rest, &mut longer).is_err());
    }
    let sector = rest
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let grain = |sector, least| {
        let least = u32::try_from(least).unwrap_or(u32::MAX);
        Codec::Grain { sector, least }
            .unpack(rest, &mut vec![0; len])
            .is_ok()
    };
    if grain(sector, len) {
        assert!(grain(sector, len / 2) && !grain(!sector, len));
        taken = true;
    }
    taken
}
