//! The checksum of an image's own bytes, as whoever published it wrote it down: `sha256:HEX`.
//!
//! Not a digest of the disk in it: a download is checked by this, and SHA-1 and MD5 are here only
//! because some images are published with nothing better.

use crate::error::{Error, Kind, Result};
use md5::{Digest as _, Md5};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

/// What bytes must add up to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checksum {
    name: &'static str,
    expected: Vec<u8>,
}

/// Bytes are not what was published. Found in the chain of causes of what a copy ended with.
#[derive(Debug)]
pub struct Unlike {
    expected: Checksum,
    found: String,
}

impl fmt::Display for Unlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, found } = self;
        write!(f, "checksum mismatch: expected {expected}, found {found}")
    }
}

impl StdError for Unlike {}

/// The algorithms: their names, and the bytes that come out.
const ALGORITHMS: &[(&str, usize)] = &[("sha256", 32), ("sha512", 64), ("sha1", 20), ("md5", 16)];

impl FromStr for Checksum {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let what = format!("{text:?} is not a checksum");
            Error::new(Kind::Usage, what).hint("sha256:HEX, sha512:HEX, sha1:HEX or md5:HEX")
        };
        let (name, digits) = text.trim().split_once(':').ok_or_else(bad)?;
        let name = name.to_ascii_lowercase();
        let known = ALGORITHMS.iter().find(|known| known.0 == name);
        let &(name, length) = known.ok_or_else(bad)?;
        let expected = unhex(digits).ok_or_else(bad)?;
        if expected.len() != length {
            let digits = length.saturating_mul(2);
            return Err(bad().because(format!("{name} has {digits} digits")));
        }
        Ok(Self { name, expected })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, hex(&self.expected))
    }
}

impl Checksum {
    /// Takes in bytes, in order, to be compared in the end.
    #[must_use]
    pub fn summer(&self) -> Summer {
        let sum = match self.name {
            "md5" => Sum::Md5(Md5::default()),
            "sha1" => Sum::Sha(Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            "sha512" => Sum::Sha(Context::new(&SHA512)),
            _ => Sum::Sha(Context::new(&SHA256)),
        };
        Summer {
            sum,
            checksum: self.clone(),
        }
    }
}

#[derive(Clone)]
enum Sum {
    Sha(Context),
    Md5(Md5),
}

/// Adds up bytes.
#[derive(Clone)]
pub struct Summer {
    sum: Sum,
    checksum: Checksum,
}

impl fmt::Debug for Summer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Summer({})", self.checksum)
    }
}

impl Summer {
    /// Takes in the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        match &mut self.sum {
            Sum::Sha(context) => context.update(bytes),
            Sum::Md5(context) => context.update(bytes),
        }
    }

    /// Compares, once all bytes were taken in.
    ///
    /// # Errors
    /// `Mismatch`: they are not what was published.
    pub fn check(&self, name: &str) -> Result<()> {
        let found = match self.sum.clone() {
            Sum::Sha(context) => context.finish().as_ref().to_vec(),
            Sum::Md5(context) => context.finalize().to_vec(),
        };
        if found == self.checksum.expected {
            return Ok(());
        }
        let unlike = Unlike {
            expected: self.checksum.clone(),
            found: hex(&found),
        };
        Err(Error::new(Kind::Mismatch, name.to_owned())
            .because(unlike)
            .hint("the target is not what was published; do not use it"))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let pairs = digits?;
    let byte = |pair: &[u32]| match pair {
        [high, low] => u8::try_from(high.saturating_mul(16).saturating_add(*low)).ok(),
        _ => None,
    };
    pairs.chunks(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Checksum, Unlike};
    use crate::error::Kind;

    /// Of "abc", as RFC 1321 and FIPS 180 have them.
    const ABC: [&str; 4] = [
        "md5:900150983cd24fb0d6963f7d28e17f72",
        "sha1:a9993e364706816aba3e25717850c26c9cd0d89d",
        "SHA256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ];

    #[test]
    fn every_algorithm_knows_its_bytes_and_no_others() {
        for text in ABC {
            let checksum: Checksum = text.parse().unwrap();
            let mut summer = checksum.summer();
            summer.add(b"a");
            summer.add(b"bc");
            summer.check("disk").unwrap();
            summer.add(b"d");
            let error = summer.check("disk").unwrap_err();
            assert_eq!(error.kind(), Kind::Mismatch);
            let start = "disk: checksum mismatch: expected ";
            assert!(error.line().starts_with(start), "{}", error.line());
            assert!(error.caused_by::<Unlike>().is_some());
        }
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        for text in [
            "",
            "sha256",
            "900150983cd24fb0d6963f7d28e17f72",
            "md5:900150983cd24fb0d6963f7d28e17f7",
            "md5:900150983cd24fb0d6963f7d28e17f7g",
            "sha256:900150983cd24fb0d6963f7d28e17f72",
            "crc32:00000000",
        ] {
            assert_eq!(
                text.parse::<Checksum>().unwrap_err().kind(),
                Kind::Usage,
                "{text}"
            );
        }
    }
}
