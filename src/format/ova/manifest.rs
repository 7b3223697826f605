//! The manifest of an OVA: the digests of its files. Pure.
//!
//! DSP0243, section 6: lines of `SHA256(disk.vmdk)= 0123…`.

use super::Fault;
use ring::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};

/// Lines of a manifest: one a file.
const LINES_MAX: usize = 4096;

/// Every algorithm that manifests name.
const ALGORITHMS: [(&str, &Algorithm); 4] = [
    ("SHA1", &SHA1_FOR_LEGACY_USE_ONLY),
    ("SHA256", &SHA256),
    ("SHA384", &SHA384),
    ("SHA512", &SHA512),
];

/// What a manifest says of one file.
#[derive(Clone, Debug)]
pub struct Sum {
    /// The file.
    pub name: String,
    /// Name of the algorithm.
    pub algorithm: &'static str,
    how: &'static Algorithm,
    digest: Vec<u8>,
}

/// Reads a manifest.
///
/// # Errors
/// A line of it makes no sense.
pub fn manifest(text: &[u8]) -> Result<Vec<Sum>, Fault> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let sums: Result<Vec<_>, _> = lines
        .take(LINES_MAX)
        .map(|line| {
            let bad = || Fault::Manifest(line.chars().take(80).collect());
            let (algorithm, rest) = line.split_once('(').ok_or_else(bad)?;
            let (name, digest) = rest.rsplit_once(")=").ok_or_else(bad)?;
            let algorithm = algorithm.trim().replace('-', "").to_uppercase();
            let known = ALGORITHMS.iter().find(|(name, _)| *name == algorithm);
            let (algorithm, how) = known.ok_or_else(bad)?;
            let digest = hex(digest.trim()).filter(|digest| digest.len() == how.output_len());
            Ok(Sum {
                name: name.to_owned(),
                algorithm,
                how,
                digest: digest.ok_or_else(bad)?,
            })
        })
        .collect();
    sums
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pair = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    rest.is_empty().then(|| pairs.iter().map(pair).collect())?
}

/// The bytes of a file on their way, digested by all that a manifest might name.
#[derive(Clone)]
pub struct Digests(Vec<Context>);

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digests({})", self.0.len())
    }
}

impl Digests {
    /// For a file of which `sum` is known; of which nothing is known yet, if it is `None`.
    #[must_use]
    pub fn of(sum: Option<&Sum>) -> Self {
        Self(match sum {
            Some(sum) => vec![Context::new(sum.how)],
            None => ALGORITHMS
                .iter()
                .map(|(_, algorithm)| Context::new(algorithm))
                .collect(),
        })
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|context| context.update(bytes));
    }

    /// Compares with what the manifest says.
    ///
    /// # Errors
    /// The file is another one.
    pub fn check(self, sum: &Sum) -> Result<(), Fault> {
        let mut contexts = self.0.into_iter();
        let same = |context: &Context| context.algorithm() == sum.how;
        let found = contexts.find(same).map(Context::finish);
        match found {
            Some(digest) if digest.as_ref() == sum.digest.as_slice() => Ok(()),
            _ => Err(Fault::Digest {
                name: sum.name.clone(),
                algorithm: sum.algorithm,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Digests, manifest};

    const TEXT: &str = "SHA1(a.ovf)= a9993e364706816aba3e25717850c26c9cd0d89d\r\n\
        SHA256 (b (1).vmdk) = x\n";

    #[test]
    fn a_file_is_compared_with_its_line() {
        let text = TEXT.lines().next().unwrap();
        let sums = manifest(text.as_bytes()).unwrap();
        assert_eq!(
            (sums[0].name.as_str(), sums[0].algorithm),
            ("a.ovf", "SHA1")
        );
        for sum in [None, Some(&sums[0])] {
            let mut digests = Digests::of(sum);
            digests.update(b"a");
            let mut more = digests.clone();
            more.update(b"bc");
            assert!(more.check(&sums[0]).is_ok());
            assert!(digests.check(&sums[0]).is_err());
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_errors() {
        assert!(manifest(TEXT.as_bytes()).is_err());
        for line in [
            "SHA1(a)=",
            "MD5(a)= 00",
            "SHA1(a)= 00",
            "SHA256 a 00",
            "SHA1(a)= zz",
        ] {
            assert!(manifest(line.as_bytes()).is_err(), "{line}");
        }
        let sha256 = format!("SHA256(x y).vmdk)= {}", "0f".repeat(32));
        assert_eq!(manifest(sha256.as_bytes()).unwrap()[0].name, "x y).vmdk");
    }
}
