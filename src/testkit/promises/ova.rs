//! Tar file, descriptor and manifest of an OVA.

use super::length;
use crate::format::ova::{BLOCK, Digests, Next, Walk, choose, disks, manifest, padded};

/// Tries all three on `input`.
pub(super) fn keep(input: &[u8]) -> bool {
    tar(Walk::default(), input) | tar(Walk::of_layer(), input) | descriptor(input) | sums(input)
}

/// Members lie behind each other, and have names that lead nowhere but down.
fn tar(mut walk: Walk, input: &[u8]) -> bool {
    let (mut at, mut members) = (0u64, 0);
    while let Some(rest) = usize::try_from(at).ok().and_then(|at| input.get(at..)) {
        let Some(block) = rest.get(..512) else { break };
        at += BLOCK;
        let len = match walk.header(block) {
            Err(_) | Ok(Next::End) => break,
            Ok(Next::Header) => 0,
            Ok(Next::Extra(len)) => {
                assert!(len <= 64 << 10);
                let bytes = &rest[512..].get(..usize::try_from(len).unwrap_or(usize::MAX));
                if bytes.is_none_or(|bytes| walk.extra(bytes).is_err()) {
                    break;
                }
                len
            }
            Ok(Next::File(member) | Next::Other(member)) => {
                let name = member.name;
                assert!(!name.is_empty() && !name.starts_with('/'), "{name:?}");
                assert!(name.split('/').all(|part| part != ".."), "{name:?}");
                assert!(!name.contains(char::is_control), "{name:?}");
                members += 1;
                member.size
            }
        };
        let after = padded(len);
        assert!(after >= len && (after.is_multiple_of(BLOCK) || after == u64::MAX));
        at = at.saturating_add(after);
    }
    members > 0
}

/// A disk that is chosen is one of them, and found by any of its names.
fn descriptor(input: &[u8]) -> bool {
    let Ok(all) = disks(input) else { return false };
    let with_file = all.iter().filter(|disk| disk.file.is_some());
    match choose(&all, None) {
        Ok(disk) => assert!(all.contains(disk) && disk.file.is_some()),
        Err(_) => assert_ne!(with_file.clone().count(), 1),
    }
    for disk in with_file {
        let href = disk.file.as_ref().map(|file| file.href.as_str());
        let found = choose(&all, href).map(|found| &found.file);
        // Two disks may have one name.
        assert!(found.is_err() || found.is_ok_and(|file| file.is_some()));
    }
    true
}

fn sums(input: &[u8]) -> bool {
    let Ok(found) = manifest(input) else {
        return false;
    };
    assert!(length(found.len()) <= 4096);
    // Nothing has the digest that somebody made up.
    for sum in found.iter().take(4) {
        let both = [None, Some(sum)].map(|known| {
            let mut digests = Digests::of(known);
            digests.update(b"disk");
            digests.check(sum).is_ok()
        });
        assert_eq!(both[0], both[1]);
    }
    !found.is_empty()
}
