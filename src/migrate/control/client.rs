//! Asks the process that drives a migration.

use super::short_path;
use super::wire::{Answer, LONGEST, Request};
use crate::error::{Error, Kind, Result};
use crate::migrate::status::Status;
use crate::migrate::store;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the process may take to answer. It answers as soon as what is wished is recorded.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of asking.
#[derive(Debug)]
pub enum Asked {
    /// A process drives, and answered.
    Answer(Answer),
    /// None does. How far it is, as recorded.
    Nobody(Box<Status>),
}

/// Asks whoever drives the migration in `directory`.
///
/// # Errors
/// There is no migration, or the process does not answer.
pub fn ask(directory: &Path, request: Request) -> Result<Asked> {
    let nothing = || {
        let what = format!("there is no migration in {}", directory.display());
        Error::new(Kind::Refused, what).hint("diskferry migrate PLAN begins one")
    };
    if !directory.is_dir() {
        return Err(nothing());
    }
    let (path, _opened) = short_path(directory)?;
    match UnixStream::connect(&path) {
        Ok(stream) => converse(stream, request).map(Asked::Answer),
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind()) =>
        {
            let record = store::load(directory)?.ok_or_else(nothing)?;
            Ok(Asked::Nobody(Box::new(Status::of(&record, None))))
        }
        Err(error) => Err(Error::io("connect to the process that migrates", error)),
    }
}

fn converse(mut stream: UnixStream, request: Request) -> Result<Answer> {
    let failed = |error| Error::io("ask the process that migrates", error);
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = serde_json::to_vec(&request)
        .map_err(|error| Error::new(Kind::Io, "write a request").because(error))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST))
        .read_line(&mut line)
        .map_err(failed)?;
    if line.is_empty() {
        return Err(Error::new(
            Kind::Transient,
            "the process that migrates has just ended",
        ));
    }
    serde_json::from_str(&line).map_err(|error| {
        Error::new(
            Kind::Corrupt,
            "the process that migrates answered what makes no sense",
        )
        .because(error)
    })
}
