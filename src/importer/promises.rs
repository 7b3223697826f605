//! What the parsers here promise for any bytes. For fuzz targets: a broken promise is a panic.

use super::settings::{PASSWORD, Settings};
use super::{Env, flags, quantity};
use crate::digest::Algorithm;

/// Takes `input` for the environment, one variable a line, with the flags in its first line; whether
/// an import would begin.
///
/// # Panics
/// A promise is broken.
#[must_use]
pub fn keep(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let words = lines
        .next()
        .unwrap_or_default()
        .split(' ')
        .map(str::to_owned);
    let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    let mut env: Env = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for value in env.values() {
        sizes(value);
    }
    // Of the input itself, so that no input holds it, however its words are changed on the way.
    let secret = format!("{} /5ecret", Algorithm::Blake3.digest(input));
    if let Some(password) = env.get_mut(PASSWORD).filter(|word| !word.is_empty()) {
        password.clone_from(&secret);
    }
    let Ok(flags) = flags::parse(&words) else {
        return false;
    };
    match Settings::read(&env, &flags) {
        Ok(settings) => {
            assert!(!format!("{settings:?}").contains(&secret));
            assert!(
                settings
                    .sessions
                    .is_none_or(|count| (1..=16).contains(&count))
            );
            true
        }
        Err(refusal) => {
            assert!(!refusal.line.contains(&secret));
            assert!(!refusal.line.contains(['\n', '\r']), "{:?}", refusal.line);
            false
        }
    }
}

/// A plain number is itself; nothing is more than 8 EiB.
fn sizes(text: &str) {
    let found = quantity::bytes(text);
    assert!(found.is_none_or(|bytes| bytes <= 1 << 63));
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(number) = text.parse::<u64>().ok().filter(|_| is_plain) {
        assert_eq!(found, Some(number).filter(|number| *number <= 1 << 63));
    }
}

#[cfg(test)]
mod tests {
    use super::keep;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_seed_of_the_fuzz_target_would_begin_an_import() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/importer_env");
        for seed in fs::read_dir(seeds).unwrap() {
            let path = seed.unwrap().path();
            assert!(keep(&fs::read(&path).unwrap()), "{path:?}");
        }
    }
}
