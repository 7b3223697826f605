//! VHDX files that were changed: no input of a fuzzer is long enough to be one, and none has the
//! right checksums. So an input is a list of changes to a sound file, which is then sealed again.
//!
//! A change is four bytes: which structure, where in it (two), and the new value.

#![no_main]

use diskferry::error::Kind;
use diskferry::testkit::image::wander;
use diskferry::testkit::vhdx::{BLOCK_TABLE, Block, Change, Made, file, seal, write_log};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tokio::runtime::Builder;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Where structures are, and how many bytes their checksum covers.
const PLACES: [(usize, usize); 8] = [
    (64 * KIB, 4096),
    (128 * KIB, 4096),
    (192 * KIB, 64 * KIB),
    (256 * KIB, 64 * KIB),
    (MIB, 8192),
    (BLOCK_TABLE, 0),
    (3 * MIB, 0),
    (3 * MIB + 64 * KIB, 0),
];

/// A small disk whose block table is in its log.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let made = Made {
        size: 3 << 20,
        ..Made::default()
    };
    let mut bytes = file(
        &[Block::Data(vec![7; MIB]), Block::Below, Block::Zero(2)],
        &made,
    );
    let table = bytes[BLOCK_TABLE..][..4096].to_vec();
    write_log(
        &mut bytes,
        &[vec![Change::Data(BLOCK_TABLE as u64, table)]],
        0,
        5,
    );
    bytes
});

fuzz_target!(|input: &[u8]| {
    let mut bytes = SOUND.clone();
    for change in input.as_chunks::<4>().0 {
        let [place, low, high, value] = *change;
        let (start, _) = PLACES[usize::from(place) % PLACES.len()];
        let at = start + usize::from(u16::from_le_bytes([low, high]));
        bytes[at] = value;
    }
    for (at, len) in PLACES.into_iter().filter(|(_, len)| *len > 0) {
        seal(&mut bytes, at..at + len);
    }
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    if let Err(error) = runtime.block_on(wander("vhdx", &bytes)) {
        // What the map promised did not hold.
        assert_ne!(error.kind(), Kind::Mismatch, "{error:?}");
    }
});
