//! The first bytes of a disk: partitions and signatures.

use super::length;
use crate::target::partitions::partitions;
use crate::target::signature::{find, gpt_sector};

/// Looks at `input` as the start and as the end of a disk.
pub(super) fn keep(input: &[u8]) -> bool {
    let found = partitions(input);
    assert!(found.len() <= 128);
    for (before, partition) in (1..).zip(&found) {
        assert!(partition.number >= before && !partition.kind.is_empty());
        assert!(!partition.name.contains(char::is_control));
    }
    if !found.is_empty() {
        let named = find(input, &[], length(input.len()));
        assert!(named.is_some(), "partitions, and no table of them");
    }
    assert!(gpt_sector(input).is_none_or(|sector| sector == 512 || sector == 4096));
    let sizes = [0, length(input.len()), u64::MAX];
    let end = sizes.map(|size| find(&[], input, size).is_some());
    !found.is_empty() || end.contains(&true)
}
