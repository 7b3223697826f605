//! Addresses, sizes and names, out of single words. Pure.

use crate::address::{Address, split_words};
use crate::digest::Algorithm;
use crate::error::Result;
use crate::job::options::Baseline;
pub(super) use crate::report::{parse_bytes as size, parse_ppm as ppm};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::ffi::OsString;

/// Stands between the words of one folded bracket; no word of a command line holds it by accident.
const FOLD: char = '\u{1f}';

/// Makes one word of each `[ CMD ARGS… ]`, so that what is inside is nobody's option.
///
/// Without this, the options of the server that is to be started would be taken for ours, and
/// every bracket would need a `--` before it. A bracket that is not closed stays as it is; the
/// parser of addresses complains about it.
pub(super) fn fold_brackets(words: Vec<OsString>) -> Vec<OsString> {
    let mut folded = Vec::with_capacity(words.len());
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        let close = rest.as_slice().iter().position(|word| word == "]");
        let (true, Some(close)) = (word == "[", close) else {
            folded.push(word);
            continue;
        };
        let mut whole = word;
        for inner in rest.by_ref().take(close.saturating_add(1)) {
            whole.push(FOLD.to_string());
            whole.push(inner);
        }
        folded.push(whole);
    }
    folded
}

/// An address, which may be a folded bracket.
pub(super) fn address(word: &str) -> Result<Address, String> {
    let words: Vec<String> = word.split(FOLD).map(str::to_owned).collect();
    let mut found = split_words(&words).map_err(|error| error.line())?;
    match (found.pop(), found.is_empty()) {
        (Some(address), true) => Ok(address),
        _ => Err("not one address".to_owned()),
    }
}

/// A size that is a power of two between `least` and `most`.
fn power_of_two(word: &str, least: u32, most: u32) -> Result<u32, String> {
    let size = u32::try_from(size(word)?).map_err(|_| "too large".to_owned())?;
    if size.is_power_of_two() && (least..=most).contains(&size) {
        Ok(size)
    } else {
        Err(format!("must be a power of two from {least} to {most}"))
    }
}

/// Bytes of one request.
pub(super) fn request_size(word: &str) -> Result<u32, String> {
    power_of_two(word, 4096, 32 << 20)
}

/// Granularity of zero detection; 0 turns it off.
pub(super) fn sparse(word: &str) -> Result<u32, String> {
    match word {
        "0" => Ok(0),
        _ => power_of_two(word, 512, 1 << 20),
    }
}

/// A number of connections or requests.
pub(super) fn count(word: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(count) if count > 1024 => Err("at most 1024".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("not a number".to_owned()),
    }
}

/// A digest algorithm by its name.
pub(super) fn digest() -> impl TypedValueParser<Value = Algorithm> {
    PossibleValuesParser::new(["xxh3", "blake3"]).map(|name| match name.as_str() {
        "blake3" => Algorithm::Blake3,
        _ => Algorithm::Xxh3,
    })
}

/// `nbd-bitmap:NAME`, `cbt:CHANGEID`, or `digest`.
pub(super) fn baseline(word: &str) -> Result<Baseline, String> {
    match word.split_once(':') {
        Some(("nbd-bitmap", "")) => Err("the bitmap has no name".to_owned()),
        Some(("nbd-bitmap" | "cbt", _)) => word.parse::<Baseline>().map_err(|error| error.line()),
        None if word == "digest" => Ok(Baseline::Digest),
        _ => Err("known trackers: nbd-bitmap:NAME, cbt:CHANGEID, digest".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{address, baseline, count, fold_brackets, ppm, request_size, size, sparse};
    use crate::address::Address;
    use crate::job::options::Baseline;
    use std::ffi::OsString;

    fn folded(text: &str) -> Vec<String> {
        let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        fold_brackets(words)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_bracket_becomes_one_word_and_back_one_address() {
        let words = folded("copy [ nbdkit -U - memory 1M ] -p [ b ] x");
        assert_eq!(words.len(), 5);
        assert_eq!(words[2], "-p");
        let command = ["nbdkit", "-U", "-", "memory", "1M"].map(str::to_owned);
        assert_eq!(address(&words[1]), Ok(Address::Child(command.to_vec())));
        assert_eq!(address("null:"), Ok(Address::Null));
    }

    #[test]
    fn a_bracket_that_is_open_or_empty_is_no_address() {
        assert_eq!(folded("[ a b"), ["[", "a", "b"]);
        assert!(address("[").unwrap_err().contains("missing \"]\""));
        assert!(
            address(&folded("[ ]")[0])
                .unwrap_err()
                .contains("no command")
        );
    }

    #[test]
    fn sizes_are_digits_and_a_power_of_1024() {
        for (word, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("1M", 1 << 20),
            ("2GiB", 2 << 30),
            ("8T", 8 << 40),
        ] {
            assert_eq!(size(word), Ok(bytes), "{word}");
        }
        for word in [
            "",
            "k",
            "-1",
            "1.5G",
            "1X",
            "1 M",
            "0x10",
            "+3",
            "99999999999999999999",
            "99999999T",
        ] {
            assert!(size(word).is_err(), "{word}");
        }
    }

    #[test]
    fn request_and_sparse_sizes_are_powers_of_two_within_limits() {
        assert_eq!(request_size("1M"), Ok(1 << 20));
        for word in ["2k", "64M", "300k", "8G"] {
            assert!(request_size(word).is_err(), "{word}");
        }
        assert_eq!(sparse("0"), Ok(0));
        assert_eq!(sparse("4k"), Ok(4096));
        assert!(sparse("256").is_err());
    }

    #[test]
    fn a_percentage_is_told_in_millionths() {
        for (word, millionths) in [
            ("0", 0),
            ("5", 50_000),
            ("0.1", 1000),
            ("0.0001", 1),
            ("99.5%", 995_000),
            ("100", 1_000_000),
        ] {
            assert_eq!(ppm(word), Ok(millionths), "{word}");
        }
        for word in [
            "",
            "%",
            "-1",
            "101",
            "1.",
            ".5",
            "1.23456",
            "1e2",
            "4294967296",
        ] {
            assert!(ppm(word).is_err(), "{word}");
        }
    }

    #[test]
    fn counts_are_at_least_one() {
        assert_eq!(count("4"), Ok(4));
        for word in ["0", "-1", "4k", "", "1025"] {
            assert!(count(word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_baseline_names_its_tracker_and_keeps_colons() {
        let name = |name: &str| Ok(Baseline::NbdBitmap(name.to_owned()));
        assert_eq!(baseline("nbd-bitmap:b0"), name("b0"));
        assert_eq!(baseline("nbd-bitmap:a:b"), name("a:b"));
        assert_eq!(baseline("digest"), Ok(Baseline::Digest));
        assert_eq!(
            baseline("cbt:52 de-61 d5/81").unwrap().to_string(),
            "cbt:52 de-61 d5/81"
        );
        for word in ["b0", "nbd-bitmap:", "cbt:", "cbt:*", "digest:x"] {
            assert!(baseline(word).is_err(), "{word}");
        }
    }
}
