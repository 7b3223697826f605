//! Checksums as they are published, and addresses of objects.

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
    let secret = Secret::new("never-shown-5ecret".to_owned());
    let hidden = |shown: String| assert!(!shown.contains(secret.reveal()), "{shown}");
    let s3 = S3::parse(text, Some(("key", &secret)));
    let signed = s3.as_ref().ok().map(Sign::sign);
    let gcs = Gcs::parse(text, None);
    for signed in [signed, gcs.as_ref().ok().map(Sign::sign)]
        .into_iter()
        .flatten()
    {
        let Ok(signed) = signed else { continue };
        assert!(
            matches!(signed.url.scheme(), "http" | "https"),
            "{}",
            signed.url
        );
        assert!(signed.url.host_str().is_some_and(|host| !host.is_empty()));
        hidden(signed.url.to_string());
    }
    let taken = s3.is_ok() || gcs.is_ok();
    if !text.contains(secret.reveal()) {
        hidden(format!("{s3:?} {gcs:?}"));
    }
    taken
}
