//! What a stream turns out to be.
//!
//! A file that somebody packed is believed when it says what it is. The bytes of a pipe may be those
//! of a disk, which a guest wrote: they decide nothing, but bytes that look like an image, where
//! nobody said that they are one, are more likely a mistake than a disk, and are not copied as one.

use super::footer::Unfooted;
use super::ova::OvaStream;
use super::{ByteStream, Peeked, Unwrap};
use crate::error::{Error, Kind, Result};
use crate::format::{Ends, HEAD, Wrapper, looks_like, may_be_raw, named, vmdk};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Wrappers in each other that are unpacked: `disk.raw.gz.xz` happens.
const DEPTH_MAX: usize = 2;

/// Bytes that are looked at.
fn head_len() -> usize {
    usize::try_from(HEAD).unwrap_or(usize::MAX)
}

/// What a stream is.
#[derive(Debug)]
pub enum Inside {
    /// The bytes of a disk.
    Raw(Box<dyn ByteStream>),
    /// A VMDK that can be read forward.
    Vmdk(Box<dyn ByteStream>),
    /// An image of the format named, which can only be read by those who can seek.
    Seeking(&'static str, Box<dyn ByteStream>),
}

/// Whether the first bytes of a stream decide what it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Belief {
    /// They do: it is a file.
    File,
    /// They do not: a guest may have written them.
    Disk,
}

/// How a stream is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// What it is, as `-f` takes it, if somebody said so.
    pub format: Option<&'a str>,
    /// Which disk, if there are several.
    pub disk: Option<&'a str>,
    /// What its first bytes count for.
    pub belief: Belief,
}

/// What `stream` is: what was said, else what it looks like.
///
/// # Errors
/// The stream cannot be read, or it looks like something that nobody said it is.
pub async fn inside(stream: Box<dyn ByteStream>, look: Look<'_>) -> Result<Inside> {
    let (wanted, wrapper) = match look.format {
        Some(format) => Wrapper::split(format),
        None => (None, None),
    };
    let mut belief = look.belief;
    let mut stream = stream;
    if let Some(wrapper) = wrapper {
        stream = Box::new(Unwrap::new(stream, wrapper));
        belief = Belief::File;
    }
    match wanted {
        Some("raw") => return Ok(Inside::Raw(stream)),
        Some("vmdk") => return Ok(of_vmdk(Peeked::new(stream, head_len()).await?)),
        Some("ova") => return of_ova(stream, look.disk).await,
        Some(other) => return Ok(Inside::Seeking(named(other)?.name(), stream)),
        None => {}
    }
    let peeked = unwrapped(stream, belief).await?;
    match (looks(&peeked), belief) {
        ("ova", Belief::File) => of_ova(Box::new(peeked), look.disk).await,
        ("raw", _) | (_, Belief::File) => of_image(peeked, belief),
        (name, Belief::Disk) => Err(doubtful(&peeked, &format!("a {name} image"), name)),
    }
}

/// An image that is in no archive.
///
/// # Errors
/// It is nothing that may be a disk.
fn of_image(peeked: Peeked, belief: Belief) -> Result<Inside> {
    Ok(match looks(&peeked) {
        "raw" => {
            may_be_raw(peeked.name(), &ends(&peeked))?;
            Inside::Raw(Box::new(Unfooted::new(Box::new(peeked), belief)))
        }
        "vmdk" => of_vmdk(peeked),
        name => Inside::Seeking(name, Box::new(peeked)),
    })
}

/// A VMDK: some are made to be sent, and others are not.
fn of_vmdk(peeked: Peeked) -> Inside {
    match vmdk::must_seek(&peeked.head) {
        true => Inside::Seeking("vmdk", Box::new(peeked)),
        false => Inside::Vmdk(Box::new(peeked)),
    }
}

/// What is in the wrappers around `stream`, whatever that is.
///
/// # Errors
/// The stream cannot be read, or it is compressed too often.
pub async fn unpacked(stream: Box<dyn ByteStream>) -> Result<Box<dyn ByteStream>> {
    Ok(Box::new(unwrapped(stream, Belief::File).await?))
}

/// What is in the wrappers around `stream`, and its first bytes.
async fn unwrapped(mut stream: Box<dyn ByteStream>, belief: Belief) -> Result<Peeked> {
    for _ in 0..=DEPTH_MAX {
        let peeked = Peeked::new(stream, head_len()).await?;
        let Some(wrapper) = Wrapper::of(&peeked.head) else {
            return Ok(peeked);
        };
        if belief == Belief::Disk {
            let (what, name) = (format!("{wrapper} data"), wrapper.to_string());
            return Err(doubtful(&peeked, &what, &name));
        }
        stream = Box::new(Unwrap::new(Box::new(peeked), wrapper));
    }
    let what = format!(
        "{} is compressed more than {DEPTH_MAX} times",
        stream.name()
    );
    Err(Error::new(Kind::Refused, what))
}

/// The name of the format that a stream looks like.
fn looks(peeked: &Peeked) -> &'static str {
    looks_like(&ends(peeked)).name()
}

/// What is known of a stream before it is read.
fn ends(peeked: &Peeked) -> Ends<'_> {
    Ends {
        head: &peeked.head,
        tail: &[],
        size: HEAD,
    }
}

/// The disk in an OVA: raw, or a VMDK that can be read forward.
async fn of_ova(stream: Box<dyn ByteStream>, disk: Option<&str>) -> Result<Inside> {
    let disk: Box<dyn ByteStream> = Box::new(OvaStream::open(stream, disk).await?);
    let peeked = unwrapped(disk, Belief::File).await?;
    of_image(peeked, Belief::File)
}

fn doubtful(peeked: &Peeked, what: &str, name: &str) -> Error {
    let what = format!(
        "{} looks like {what}, and nobody said that it is",
        peeked.name()
    );
    let hint = format!("-f {name}, or -f raw if those are the bytes of the disk");
    Error::new(Kind::Refused, what).hint(hint)
}

/// Whether the regular file at `path` is compressed as a whole. Blocks for a moment.
#[must_use]
pub fn is_wrapped(path: &Path) -> bool {
    let mut head = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read(&mut head));
    let count = read.unwrap_or(0);
    Wrapper::of(head.get(..count).unwrap_or_default()).is_some()
}
