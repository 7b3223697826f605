//! The images that fuzzing begins with, on every machine and in no time.

use super::seeds::seeds;
use diskferry::format::{FORMATS, probe};
use diskferry::testkit::image::{storage, wander};
use diskferry::testkit::promises::{PROMISES, keep};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::sample::Index;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// VHDX files are too long: they are made by their own fuzz target.
const OTHERS: [&str; 3] = ["raw", "vhdx", "qcow2"];

#[tokio::test]
async fn every_seed_opens_and_every_format_has_one() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/images");
    let mut seen = BTreeSet::new();
    for seed in fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() <= 65536, "{path:?} is longer than inputs are");
        let format = probe(storage(&bytes).as_ref()).await.unwrap().name();
        let opened = wander(format, &bytes).await;
        assert!(opened.is_ok(), "{path:?}: {opened:?}");
        seen.insert(format);
    }
    for format in FORMATS.iter().map(|format| format.name()) {
        assert!(
            seen.contains(format) || OTHERS.contains(&format),
            "{format}"
        );
    }
}

/// Where the seeds of a fuzz target are.
fn folder(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fuzz/seeds").join(target)
}

/// With `WRITE_SEEDS=1` they are written instead, as those who changed a maker of images want.
#[test]
fn every_parser_takes_its_seeds_which_are_made_as_images_of_tests_are() {
    let write = env::var_os("WRITE_SEEDS").is_some();
    let mut seen = BTreeSet::new();
    for (target, name, bytes) in seeds() {
        let path = folder(target).join(name);
        if write {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(keep(target, &bytes), "{target} takes nothing of {name}");
        assert!(
            path.exists(),
            "{path:?} is not there: run this with WRITE_SEEDS=1"
        );
        seen.insert(target);
    }
    for (target, _) in PROMISES {
        assert!(seen.contains(target), "{target} has no seeds");
        for seed in fs::read_dir(folder(target)).unwrap() {
            keep(target, &fs::read(seed.unwrap().path()).unwrap());
        }
    }
}

proptest! {
    /// A few changed bytes, a cut, and twice the same: what fuzzing does, for a moment.
    #[test]
    fn changed_seeds_keep_the_promises_of_their_parsers(
        changes in vec((any::<Index>(), any::<u8>()), 0..6), cut in any::<Index>(), whole in any::<bool>(),
    ) {
        for (target, _, mut bytes) in seeds() {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            keep(target, &bytes);
        }
    }
}
