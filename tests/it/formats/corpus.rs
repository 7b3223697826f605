//! The images that fuzzing begins with, on every machine and in no time.

use diskferry::format::{FORMATS, probe};
use diskferry::testkit::image::{storage, wander};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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
