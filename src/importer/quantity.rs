//! Sizes as Kubernetes writes them: `10Gi`, `1.5G`, `1e9`. Pure.

/// Bytes of a quantity, rounded up; `None` if it is none, or more than 8 EiB.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.strip_prefix(digits)?;
    let (number, suffix) = match exponent(text) {
        Some((number, power)) => (number, Suffix::Power(power)),
        None => (digits, Suffix::of(suffix)?),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(part) || (whole.is_empty() && part.is_empty()) || part.len() > 18 {
        return None;
    }
    let digits = format!("{whole}{part}");
    let number: u128 = digits.parse().ok()?;
    let divisor = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let (times, by) = suffix.ratio()?;
    let bytes = number
        .checked_mul(times)?
        .div_ceil(divisor.checked_mul(by)?);
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 63)
}

enum Suffix {
    Binary(u32),
    Power(i32),
}

impl Suffix {
    fn of(text: &str) -> Option<Self> {
        let place = |letter: &str| {
            let letters = ["", "k", "M", "G", "T", "P", "E"];
            let at = letters.iter().position(|known| *known == letter)?;
            i32::try_from(at).ok()
        };
        match text.strip_suffix('i') {
            Some("K") => Some(Self::Binary(10)),
            Some("") => None,
            Some(letter) => {
                let at = u32::try_from(place(letter).filter(|at| *at > 1)?).ok()?;
                Some(Self::Binary(at.checked_mul(10)?))
            }
            None if text == "m" => Some(Self::Power(-3)),
            None => Some(Self::Power(place(text)?.checked_mul(3)?)),
        }
    }

    /// What a number is multiplied with, and divided by.
    fn ratio(&self) -> Option<(u128, u128)> {
        match *self {
            Self::Binary(bits) => Some((1u128.checked_shl(bits)?, 1)),
            Self::Power(power) => {
                let ten = 10u128.checked_pow(power.unsigned_abs())?;
                Some(if power < 0 { (1, ten) } else { (ten, 1) })
            }
        }
    }
}

/// `1e9` and `1E9`; not `1E`, which is an exabyte.
fn exponent(text: &str) -> Option<(&str, i32)> {
    let (number, power) = text.split_once(['e', 'E'])?;
    Some((number, power.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_what_kubernetes_takes_them_for() {
        for (text, expected) in [
            ("0", 0),
            ("1073741824", 1 << 30),
            ("1Gi", 1 << 30),
            ("10G", 10_000_000_000),
            ("1.5Ki", 1536),
            (".5Mi", 1 << 19),
            ("1k", 1000),
            ("2e3", 2000),
            ("1E3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            ("0.1", 1),
            ("4Ti", 4 << 40),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in [
            "", "Gi", "-1", "1K", "1 Gi", "1gi", "1Xi", "9Ei", "1i", "+1", "1.1.1", "i",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
