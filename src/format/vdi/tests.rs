//! VDIs made by hand, in memory.

use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use crate::testkit::check_image;
use crate::testkit::image::{content, open, wander};
use crate::testkit::vdi::{Made, image};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Kinds 0 (free), 1 (zero) and 2 (data) → blocks; and what the disk holds.
fn blocks(kinds: &[u8], made: &Made) -> (Vec<Option<Vec<u8>>>, Vec<u8>) {
    let byte = |number: usize, at: usize| ((at / 9 + number * 7) % 250).to_le_bytes()[0] + 1;
    let block = |(number, kind): (usize, &u8)| {
        (*kind == 2).then(|| {
            (0..made.block)
                .map(|at| byte(number, at))
                .collect::<Vec<u8>>()
        })
    };
    let blocks: Vec<_> = kinds.iter().enumerate().map(block).collect();
    let zero = vec![0; made.block];
    let mut bytes: Vec<u8> = blocks
        .iter()
        .flat_map(|block| block.as_ref().unwrap_or(&zero).clone())
        .collect();
    bytes.truncate(usize::try_from(made.size).unwrap());
    (blocks, bytes)
}

fn made(blocks: usize) -> Made {
    Made {
        size: blocks as u64 * 8192 - 777,
        ..Made::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_disk_reads_as_its_blocks_whatever_is_before_them(
        kinds in vec(0u8..3, 1..30), extra in 0usize..3, mixed in any::<bool>(),
    ) {
        let made = Made { extra: extra * 512, backwards: mixed, ..made(kinds.len()) };
        let (blocks, bytes) = blocks(&kinds, &made);
        let image = wait(open("vdi", &image(&blocks, &made))).unwrap();
        prop_assert_eq!(wait(check_image(image.as_ref(), &bytes)), Ok(()));
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error() {
    let made = made(3);
    let bytes = image(&blocks(&[2, 0, 2], &made).0, &made);
    let read = |bytes: &[u8]| -> Result<Vec<u8>, Error> {
        let image = wait(open("vdi", bytes))?;
        wait(content(image.as_ref(), ByteRange::new(0, image.size())))
    };
    read(&bytes).unwrap();
    // The last block reaches 777 bytes beyond the disk.
    for end in (0..1100).chain((1100..bytes.len() - 777).step_by(97)) {
        assert!(read(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_difference_is_refused_by_the_name_of_its_parent() {
    let made = Made { kind: 4, ..made(1) };
    let error = wait(open("vdi", &image(&[None], &made))).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let line = error.line();
    assert!(
        line.contains("03020100-0504-0706-0809-0a0b0c0d0e0f"),
        "{line}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_damaged_image_neither_panics_nor_grows(
        flips in vec((64usize..700, any::<u8>()), 1..6),
    ) {
        let made = made(20);
        let mut bytes = image(&blocks(&[2; 20], &made).0, &made);
        for (at, value) in flips {
            bytes[at] = value;
        }
        let broken = wait(wander("vdi", &bytes)).err();
        prop_assert!(broken.is_none_or(|error| error.kind() != Kind::Mismatch));
    }
}
