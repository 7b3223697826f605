//! What the parsers here promise for any bytes. For fuzz targets: a broken promise is a panic.

use super::answers::{Challenge, LAYERS_MAX, Manifest, config, manifest};
use super::reference::Reference;

/// Takes `input` for each of them; whether any of them took it.
///
/// # Panics
/// A promise is broken.
#[must_use]
pub fn keep(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let challenged = match Challenge::parse(&text) {
        Some(Challenge::Bearer { query, .. }) => {
            assert!(query.len() <= text.len());
            true
        }
        Some(Challenge::Basic) => true,
        None => false,
    };
    named(&text) | described(input) | challenged | config(input).is_ok()
}

/// The name of an image is below the repository of its host, whatever stands in it.
fn named(text: &str) -> bool {
    let Ok(reference) = Reference::parse(text) else {
        return false;
    };
    let Reference {
        host,
        name,
        version,
    } = &reference;
    assert!(!host.contains(['/', '@', '?', '#']), "{reference:?}");
    assert!(
        !name
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
    );
    assert!(!version.is_empty() && !version.contains(['/', '?', '#', '%']));
    true
}

/// What an image is made of is named by strong digests, of which there is a bounded number.
fn described(input: &[u8]) -> bool {
    match manifest(input, "amd64") {
        Ok(Manifest::Index(digest)) => {
            let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
            assert!(hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
            true
        }
        Ok(Manifest::Image { layers, .. }) => {
            assert!((1..=LAYERS_MAX).contains(&layers.len()));
            true
        }
        Err(error) => {
            assert!(!error.line().contains(['\n', '\r']));
            false
        }
    }
}
