//! A text that must not be seen: no `Display`, nothing in `Debug`, wiped from memory when dropped.
//!
//! A password comes from a file, an open descriptor or the environment, never from a command line,
//! which every user of the machine can list.

use crate::error::{Error, Kind, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// The variable that a password is taken from if nothing else is said.
pub const VARIABLE: &str = "DISKFERRY_VSPHERE_PASSWORD";

/// Longer than any password, shorter than a disk that was named by mistake.
const LONGEST: u64 = 4096;

/// A text that must not be seen.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over `text`; the caller's copy, if it keeps one, is the caller's to wipe.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a password is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A variable of the environment.
    Environment(String),
    /// A file; one line end after it does not count.
    File(PathBuf),
    /// An open descriptor, read to its end once.
    Descriptor(u32),
}

impl Default for Place {
    fn default() -> Self {
        Self::Environment(VARIABLE.to_owned())
    }
}

/// From now on neither this process nor one that it starts leaves a core file, which would hold the
/// secret. One byte and not none: only that is a limit for programs that take core files, too.
fn leave_no_core_file() {
    let limit = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    if let Err(error) = setrlimit(Resource::Core, limit) {
        tracing::debug!("core files are not limited: {error}");
    }
}

impl Place {
    /// Reads the password.
    ///
    /// # Errors
    /// It is not there, is empty, is not text, or is far too long.
    pub fn read(&self) -> Result<Secret> {
        leave_no_core_file();
        match self {
            Self::Environment(name) => match env::var(name) {
                Ok(text) => checked(text, &format!("${name}")),
                Err(error) => {
                    let what = format!("read the password from ${name}");
                    let hint = format!(
                        "set {name}, or add ?password-file=PATH or ?password-fd=N to the address"
                    );
                    Err(Error::new(Kind::Usage, what).because(error).hint(hint))
                }
            },
            Self::File(path) => {
                let place = path.display().to_string();
                let file = File::open(path).map_err(|error| unread(&place, error))?;
                read_from(file, &place)
            }
            // Through /proc the descriptor stays whose it is, and no `unsafe` is needed.
            Self::Descriptor(number) => {
                let place = format!("/proc/self/fd/{number}");
                let file = File::open(&place).map_err(|error| unread(&place, error))?;
                read_from(file, &place)
            }
        }
    }
}

fn read_from(file: File, place: &str) -> Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    let mut file = file.take(LONGEST.saturating_add(1));
    file.read_to_string(&mut text)
        .map_err(|error| unread(place, error))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    checked(line.to_owned(), place)
}

fn checked(text: String, place: &str) -> Result<Secret> {
    let secret = Secret::new(text);
    let length = u64::try_from(secret.reveal().len()).unwrap_or(u64::MAX);
    let wrong = match length {
        0 => "is empty",
        length if length > LONGEST => "is too long",
        _ => return Ok(secret),
    };
    Err(Error::new(
        Kind::Usage,
        format!("the password in {place} {wrong}"),
    ))
}

fn unread(place: &str, error: io::Error) -> Error {
    Error::io(format!("read the password from {place}"), error).with_kind(Kind::Usage)
}

#[cfg(test)]
mod tests {
    use super::{Place, Secret};
    use std::fs;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_secret_does_not_show_in_debug() {
        let shown = format!("{:?}", Some(Secret::new("hunter2".to_owned())));
        assert_eq!(shown, "Some(Secret)");
    }

    #[test]
    fn one_line_end_does_not_belong_to_the_password_and_spaces_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        for (text, password) in [("a b\r\n", "a b"), (" x ", " x "), ("y\n\n", "y\n")] {
            fs::write(&path, text).unwrap();
            let read = Place::File(path.clone()).read().unwrap();
            assert_eq!(read.reveal(), password);
        }
        let file = fs::File::open(&path).unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        assert_eq!(Place::Descriptor(number).read().unwrap().reveal(), "y\n");
    }

    #[test]
    fn an_empty_or_endless_password_file_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        fs::write(&path, "\n").unwrap();
        let error = Place::File(path.clone()).read().unwrap_err().line();
        assert!(error.ends_with("is empty"), "{error}");
        fs::write(&path, "s3cret".repeat(1000)).unwrap();
        let error = Place::File(path).read().unwrap_err().line();
        assert!(
            error.contains("too long") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
