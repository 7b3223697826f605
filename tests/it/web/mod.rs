//! Disk images on a web server: nginx, with and without TLS, and with rules that make it a bad one.

mod bad;
mod copy;
mod login;
mod pod;
mod registry;
mod scratch;
mod store;

use crate::rig::{Room, Web, random_disk};
use std::path::Path;

const SIZE: u64 = 24 << 20;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const MISMATCH: i32 = 3;
const REFUSED: i32 = 4;

/// A room, and a web server with a random disk.
fn web(rules: &str) -> (Room, Web) {
    let web = Web::with(rules);
    random_disk(&web.file("disk"), SIZE, 51);
    (Room::new(), web)
}

fn copy<'a>(url: &'a str, target: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let patience: &[&str] = match more.contains(&"--retry") {
        true => &[],
        false => &["--retry", "1"],
    };
    [&["copy", url, target.to_str().unwrap()], patience, more].concat()
}
