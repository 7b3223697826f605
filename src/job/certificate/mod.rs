//! What was moved and how that is known, in a file that can be checked long after, without the
//! journal. `docs/certificate.md` has its fields.
//!
//! ```text
//!  mod.rs     what a certificate says, and how it gets into a file
//!  issue.rs   a journal and its manifest → what is certified of a disk
//!  check.rs   a target against what is certified of it
//! ```
//!
//! What a disk holds is one digest, made of the digests in its manifest, and the same that
//! `diskferry checksum` prints of it. A certificate is not signed: it shows that nothing was lost or
//! changed on the way, not who says so.

mod check;
mod issue;

pub use check::{CheckOptions, check};
pub use issue::certify;

use crate::changes::guest::Quiet;
use crate::digest::Algorithm;
use crate::endpoint::Identity;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// The version of the file that this build writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// A certificate longer than this was not written by us.
const MAX_FILE: u64 = 16 << 20;

/// What was moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// [`VERSION`].
    pub certificate: u32,
    /// The version of the program that wrote it.
    pub diskferry: String,
    /// When it was written, in seconds since 1970.
    pub at: u64,
    /// The VM, if the disks were moved as one.
    pub vm: Option<String>,
    /// How it is known that nothing wrote to the source any more.
    pub quiet: Option<Quiet>,
    /// The disks, in order.
    pub disks: Vec<DiskCertificate>,
}

/// What is certified of one disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskCertificate {
    /// As the migration, or the user, named it.
    pub name: String,
    /// The disk that was read in the last pass.
    pub source: Identity,
    /// The disk that was written.
    pub target: Identity,
    /// Bytes that are certified. The target may be larger.
    pub size: u64,
    /// How blocks are digested.
    pub algorithm: Algorithm,
    /// The digest of all of the disk, as `diskferry checksum` prints it.
    pub digest: String,
    /// Every block was read back from the target past its cache and compared.
    pub proven: bool,
    /// What led there, in order.
    pub passes: Vec<PassCertificate>,
}

/// A pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassCertificate {
    /// From 1.
    pub number: u32,
    /// `full`, `delta` or `final`.
    pub pass: String,
    /// What the changes are since; nothing is everything.
    pub since: Option<String>,
    /// The disk that was read.
    pub source: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it was complete; nothing if it never was and a later pass took over.
    pub ended: Option<u64>,
    /// Its tracker was caught leaving out a change, and so all of the disk was compared.
    pub distrusted: bool,
}

impl Certificate {
    /// Of these disks, written now.
    #[must_use]
    pub fn new(vm: Option<String>, quiet: Option<Quiet>, disks: Vec<DiskCertificate>) -> Self {
        Self {
            certificate: VERSION,
            diskferry: env!("CARGO_PKG_VERSION").to_owned(),
            at: super::copy::now(),
            vm,
            quiet,
            disks,
        }
    }

    /// Writes it to `path`: durable and whole when this returns, or not there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |error| Error::io(format!("write the certificate {}", path.display()), error);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(Kind::Io, "encode a certificate").because(error))?;
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".partial");
        let partial = path.with_file_name(name);
        let mut file = File::create(&partial).map_err(failed)?;
        file.write_all(&text)
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&partial, path))
            .map_err(failed)?;
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(failed)
    }

    /// Reads what is at `path`.
    ///
    /// # Errors
    /// It cannot be read, or is not a certificate of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let doing = || format!("read the certificate {}", path.display());
        let length = fs::metadata(path)
            .map_err(|error| Error::io(doing(), error))?
            .len();
        if length > MAX_FILE {
            return Err(Error::new(Kind::Corrupt, doing()).because("it is too long to be one"));
        }
        let text = fs::read(path).map_err(|error| Error::io(doing(), error))?;
        Self::parse(&text).map_err(|error| error.context(doing()))
    }

    /// What the bytes of a file say. Pure.
    ///
    /// # Errors
    /// They are not a certificate of this version.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let found: Self = serde_json::from_slice(text)
            .map_err(|error| Error::new(Kind::Corrupt, "it is not a certificate").because(error))?;
        if found.certificate != VERSION {
            let what = format!("it is of version {}", found.certificate);
            return Err(Error::new(Kind::Unsupported, what));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::{Certificate, VERSION};
    use crate::changes::guest::{Quiet, Shutdown};
    use crate::error::Kind;
    use std::fs;

    fn certificate() -> Certificate {
        let quiet = Quiet {
            how: Shutdown::Guest,
            evidence: "query-status: shutdown".into(),
        };
        Certificate::new(Some("web1".into()), Some(quiet), vec![])
    }

    #[test]
    fn what_is_written_is_read_back_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificate.json");
        fs::write(&path, "old").unwrap();
        let certificate = certificate();
        certificate.write(&path).unwrap();
        assert_eq!(Certificate::read(&path).unwrap(), certificate);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for text in ["", "{}", "[]", "null", "{\"certificate\":1}"] {
            let error = Certificate::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{text}");
        }
        let mut later = certificate();
        later.certificate = VERSION + 1;
        let text = serde_json::to_vec(&later).unwrap();
        let error = Certificate::parse(&text).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}
