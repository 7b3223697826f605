//! Checksums as they are published, and addresses of objects.

use crate::digest::Algorithm;
use crate::digest::checksum::Checksum;
use crate::secret::Secret;
use crate::source::http::{Gcs, S3, Sign};

/// Takes `input` for each of them.
pub(super) fn keep(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    checksum(text) | object(text)
}

/// It says the same when printed, and nothing is what it is the checksum of by chance.
fn checksum(text: &str) -> bool {
    let Ok(checksum) = text.parse::<Checksum>() else {
        return false;
    };
    let again = checksum.to_string().parse::<Checksum>();
    assert!(again.is_ok_and(|again| again == checksum));
    true
}

/// What is signed is a URL of the web, and the secret is in nothing that is shown.
fn object(text: &str) -> bool {
    // Of the text itself, so that no text holds it, however an address may write it.
    let secret = Secret::new(Algorithm::Blake3.digest(text.as_bytes()).to_string());
    let hidden = |shown: &str| assert!(!shown.contains(secret.reveal()), "{shown}");
    let s3 = S3::parse(text, Some(("key", &secret)));
    let gcs = Gcs::parse(text, None);
    let signed = [
        s3.as_ref().ok().map(Sign::sign),
        gcs.as_ref().ok().map(Sign::sign),
    ];
    for signed in signed.into_iter().flatten().flatten() {
        let url = signed.url;
        assert!(matches!(url.scheme(), "http" | "https"), "{url}");
        assert!(url.host_str().is_some_and(|host| !host.is_empty()), "{url}");
        hidden(url.as_str());
    }
    hidden(&format!("{s3:?} {gcs:?}"));
    s3.is_ok() || gcs.is_ok()
}
