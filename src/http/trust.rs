//! Whose certificate is believed.
//!
//! The system's authorities, those that a file or directories name, or exactly one certificate by
//! its thumbprint, as vCenter's own tools and VDDK pin it. Just anybody is believed only where the
//! contract of a pod says so; no command line can.

use crate::error::{Error, Kind, Result};
use crate::tls;
use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::{ClientConfig, RootCertStore};
use std::fmt::{self, Write};
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

const NAME_ONE: &str = "name one: --cacert FILE for https://, ?cacert=FILE or ?thumbprint=HEX in an address of vSphere";

/// Whose certificate is believed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Trust {
    /// One that an authority of this system signed.
    #[default]
    System,
    /// One that an authority in this PEM file signed.
    Authority(PathBuf),
    /// One that an authority of this system signed, or one in the PEM files of these directories.
    Directories(Vec<PathBuf>),
    /// This one.
    Pinned(Thumbprint),
    /// Anybody's.
    Anybody,
}

impl Trust {
    /// What TLS is done with.
    ///
    /// # Errors
    /// The authorities cannot be read, or there are none.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Pinned(thumbprint) => {
                let thumbprint = thumbprint.clone();
                tls::unsigned(move |certificate| thumbprint.judge(certificate))
            }
            Self::Authority(path) => signed_by(tls::authorities(path)?)?,
            Self::System => signed_by(system_authorities()?)?,
            Self::Directories(directories) => signed_by(also(directories)?)?,
            Self::Anybody => tls::unsigned(|_| Ok(())),
        };
        Ok(Arc::new(tls::client(verifier)?.with_no_client_auth()))
    }
}

fn signed_by(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|error| {
            Error::new(Kind::Usage, "no authority to check certificates by")
                .because(error)
                .hint(NAME_ONE)
        })
}

/// Those of the system. One of them that cannot be read does not hide the others.
fn system_authorities() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found
            .errors
            .into_iter()
            .next()
            .map(|error| error.to_string());
        let why = why.unwrap_or_else(|| "there are none".to_owned());
        return Err(Error::new(Kind::Usage, "read this system's authorities")
            .because(why)
            .hint(NAME_ONE));
    }
    Ok(roots)
}

/// Those of the system, and those in every file of `directories` that is not hidden. A file that
/// holds none is passed over, as a directory of certificates may hold a key or a note.
fn also(directories: &[PathBuf]) -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    for directory in directories {
        let unread = |error| {
            let what = format!("read authorities from {}", directory.display());
            Error::io(what, error).with_kind(Kind::Usage)
        };
        for entry in fs::read_dir(directory).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if hidden || !entry.path().is_file() {
                continue;
            }
            match tls::authorities(&entry.path()) {
                Ok(more) => roots.extend(more.roots),
                Err(error) => tracing::warn!("{}", error.line()),
            }
        }
    }
    Ok(roots)
}

/// SHA-1 (20 bytes) or SHA-256 (32 bytes) of a certificate.
///
/// SHA-1 is what vCenter and VDDK show and take; making a second certificate with a given one is
/// still out of reach, and who can, pins SHA-256.
#[derive(Clone, Eq, PartialEq)]
pub struct Thumbprint(Vec<u8>);

impl Thumbprint {
    /// The SHA-1 of `certificate`, which is what VDDK compares.
    #[must_use]
    pub fn sha1_of(certificate: &[u8]) -> Self {
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate);
        Self(sum.as_ref().to_vec())
    }

    /// Whether `certificate` has it, and what it has instead.
    fn judge(&self, certificate: &[u8]) -> Result<(), String> {
        let shown = self.same_kind_of(certificate);
        match shown == *self {
            true => Ok(()),
            false => Err(format!(
                "the server's thumbprint is {shown}, and {self} is expected"
            )),
        }
    }

    /// That of `certificate`, by the same algorithm as this one.
    fn same_kind_of(&self, certificate: &[u8]) -> Self {
        let algorithm: &'static Algorithm = match self.0.len() {
            20 => &SHA1_FOR_LEGACY_USE_ONLY,
            _ => &SHA256,
        };
        Self(digest(algorithm, certificate).as_ref().to_vec())
    }
}

impl FromStr for Thumbprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Kind::Usage, format!("{text:?} is not a thumbprint"))
                .hint("20 (SHA-1) or 32 (SHA-256) bytes in hexadecimal: AB:CD:…")
        };
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or_else(wrong))
            .collect::<Result<_>>()?;
        let byte = |pair: &[u32]| match pair {
            [high, low] => u8::try_from(high.saturating_mul(16).saturating_add(*low)).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        match bytes {
            Some(bytes) if [20, 32].contains(&bytes.len()) => Ok(Self(bytes)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_char(':')?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Thumbprint;

    #[test]
    fn a_thumbprint_is_read_with_and_without_colons_and_in_either_case() {
        let text = "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09";
        let bare = text.replace(':', "").to_lowercase();
        let thumbprint: Thumbprint = bare.parse().unwrap();
        assert_eq!(thumbprint.to_string(), text);
        assert_eq!(thumbprint.same_kind_of(b""), thumbprint, "SHA-1 of nothing");
    }

    #[test]
    fn a_thumbprint_of_another_length_is_refused() {
        for text in [
            "",
            "DA",
            "DA:3",
            &"00".repeat(21),
            &"00".repeat(16),
            &"zz".repeat(20),
        ] {
            assert!(text.parse::<Thumbprint>().is_err(), "{text}");
        }
        let long: Thumbprint = "ab".repeat(32).parse().unwrap();
        assert_ne!(long.same_kind_of(b"x"), long);
    }
}
