//! Bytes and times in words for people. Pure.

use std::time::Duration;

/// Units above the byte, each 1024 of the one before.
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `bytes` in the largest unit of which there is at least one, with one decimal: `1.5 GiB`.
///
/// Rounded down, so that nothing looks complete before it is.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let mut unit = None;
    let mut scale = 1u64;
    for name in UNITS {
        match scale.checked_mul(1024) {
            Some(next) if bytes >= next => {
                scale = next;
                unit = Some(name);
            }
            _ => break,
        }
    }
    match unit {
        None => format!("{bytes} B"),
        Some(name) => {
            let tenths = u128::from(bytes) * 10 / u128::from(scale);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
    }
}

/// A number of bytes: digits, and k, M, G or T for powers of 1024: `64M`.
///
/// # Errors
/// For people: it is no such number, or larger than any disk.
pub fn parse_bytes(word: &str) -> Result<u64, String> {
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match word.strip_prefix(digits).unwrap_or("") {
        "" | "B" => 0,
        "k" | "K" | "KiB" => 10,
        "m" | "M" | "MiB" => 20,
        "g" | "G" | "GiB" => 30,
        "t" | "T" | "TiB" => 40,
        other => return Err(format!("{other:?} is none of k, M, G and T")),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("not a number of bytes".to_owned());
    }
    let number: u64 = digits.parse().map_err(|_| "too large".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

/// A time in the two largest units that matter: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
#[must_use]
pub fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0..10 => format!("{whole}.{} s", time.subsec_millis() / 100),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A percentage with up to four decimals, in millionths: `0.5`, `5%`.
///
/// # Errors
/// For people: it is none.
pub fn parse_ppm(word: &str) -> Result<u32, String> {
    let word = word.strip_suffix('%').unwrap_or(word);
    let (whole, part) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 4 {
        return Err("not a percentage with at most four decimals".to_owned());
    }
    let number: u32 = format!("{whole}{part:0<4}")
        .parse()
        .map_err(|_| "too large".to_owned())?;
    match number {
        0..=1_000_000 => Ok(number),
        _ => Err("at most 100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, seconds};
    use std::time::Duration;

    #[test]
    fn bytes_are_told_in_the_largest_unit_and_never_rounded_up() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (10 << 40, "10.0 TiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_time_is_told_as_exactly_as_its_length_deserves() {
        for (millis, text) in [
            (0, "0.0 s"),
            (9_990, "9.9 s"),
            (59_999, "59 s"),
            (65_000, "1 min 05 s"),
            (7_800_000, "2 h 10 min"),
        ] {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }
}
