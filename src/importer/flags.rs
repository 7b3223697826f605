//! klog's flags as the original takes them, and those that a volume populator gets. Pure.
//!
//! Go's flags have one dash or two, `-name=value` or `-name value`; a flag that is true or false
//! takes no word of its own.

use std::path::PathBuf;

/// Flags that are true or false.
const SWITCHES: &[&str] = &[
    "add_dir_header",
    "alsologtostderr",
    "legacy_stderr_threshold_behavior",
    "logtostderr",
    "one_output",
    "skip_headers",
    "skip_log_headers",
];

/// Flags with a value that changes nothing here.
const IGNORED: &[&str] = &[
    "cr-name",
    "cr-namespace",
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "secret-name",
    "stderrthreshold",
    "vmodule",
];

/// What the words say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Flags {
    /// How much is logged.
    pub(super) verbosity: u32,
    /// Bytes of the volume, from a populator.
    pub(super) pvc_size: Option<u64>,
    /// Who owns the volume, from a populator.
    pub(super) owner_uid: Option<String>,
    /// Where the volume is, from a populator.
    pub(super) volume_path: Option<PathBuf>,
}

/// Reads the words after the program's name.
///
/// # Errors
/// What Go's own parser would say of a flag that is unknown or lacks its value.
pub(super) fn parse(words: &[String]) -> Result<Flags, String> {
    let mut flags = Flags::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            // The first word that is no flag ends them; the original has no use for others.
            break;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        if SWITCHES.contains(&name) {
            continue;
        }
        let value = || {
            let next = value.map(str::to_owned).or_else(|| rest.next().cloned());
            next.ok_or_else(|| format!("flag needs an argument: -{name}"))
        };
        take(&mut flags, name, value)?;
    }
    Ok(flags)
}

fn take(
    flags: &mut Flags,
    name: &str,
    value: impl FnOnce() -> Result<String, String>,
) -> Result<(), String> {
    let bad = |value: &str| format!("invalid value {value:?} for flag -{name}: parse error");
    match name {
        "v" => {
            let value = value()?;
            flags.verbosity = value.parse().map_err(|_| bad(&value))?;
        }
        "pvc-size" => {
            let value = value()?;
            flags.pvc_size = Some(value.parse().map_err(|_| bad(&value))?);
        }
        "owner-uid" => flags.owner_uid = Some(value()?),
        "volume-path" => flags.volume_path = Some(value()?.into()),
        name if IGNORED.contains(&name) => drop(value()?),
        _ => return Err(format!("flag provided but not defined: -{name}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Flags, parse};

    fn flags(text: &str) -> Result<Flags, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn the_flags_of_the_pod_are_taken_in_every_dress() {
        for text in [
            "-alsologtostderr -v=3",
            "--alsologtostderr=true -v 3",
            "-logtostderr --stderrthreshold INFO -v=3 stray",
        ] {
            assert_eq!(flags(text).unwrap().verbosity, 3, "{text}");
        }
        assert_eq!(flags("").unwrap(), Flags::default());
    }

    #[test]
    fn a_populator_says_size_owner_and_place() {
        let found = flags("--pvc-size=1024 --owner-uid=u --volume-path=/dev/block --cr-name x");
        let expected = Flags {
            pvc_size: Some(1024),
            owner_uid: Some("u".to_owned()),
            volume_path: Some("/dev/block".into()),
            ..Flags::default()
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn what_is_unknown_or_incomplete_is_said_as_go_says_it() {
        let said = |text: &str| flags(text).unwrap_err();
        assert_eq!(
            said("-nonsense"),
            "flag provided but not defined: -nonsense"
        );
        assert_eq!(said("-v"), "flag needs an argument: -v");
        assert_eq!(
            said("--pvc-size=1k"),
            "invalid value \"1k\" for flag -pvc-size: parse error"
        );
    }
}
