//! What nbdcopy prints: help, version, option listings, sizes. Pure.

use super::getopt::Spec;

/// The release of nbdcopy whose behaviour this keeps. Scripts compare it with libnbd's version.
const VERSION: &str = "1.14.2";

/// `--help`, and what a wrong command line gets.
pub(super) const USAGE: &str = "
Copy to and from an NBD server:

    nbdcopy [--allocated] [-C N|--connections=N]
            [--destination-is-zero|--target-is-zero] [--flush]
            [--no-extents] [-p|--progress|--progress=FD]
            [--queue-size=N] [--request-size=N] [-R N|--requests=N]
            [-S N|--sparse=N] [--synchronous] [-T N|--threads=N]
            [-v|--verbose]
            SOURCE DESTINATION

    SOURCE, DESTINATION := - | FILE | DEVICE | NBD-URI | [ CMD ARGS ... ]
    DESTINATION += null:

Other options:

    nbdcopy --help
    nbdcopy -V|--version

Examples:

    nbdcopy nbd://example.com local.img
    nbdcopy local.img nbd://example.com
    nbdcopy -- [ qemu-nbd -r -f qcow2 disk.qcow2 ] disk.img
    nbdcopy -p nbd://example.com null:

This is diskferry in the place of nbdcopy: \"diskferry copy\" does more.

";

/// `--version`: the two lines that scripts look at.
pub(super) fn version() -> String {
    format!("nbdcopy {VERSION}\nlibnbd {VERSION}\n")
}

/// `--long-options`: one a line, but for the two listings themselves.
pub(super) fn long_options<I>(specs: &[Spec<I>]) -> String {
    specs
        .iter()
        .map(|spec| spec.long)
        .filter(|name| !matches!(*name, "long-options" | "short-options"))
        .map(|name| format!("--{name}\n"))
        .collect()
}

/// `--short-options`: one a line.
pub(super) fn short_options<I>(specs: &[Spec<I>]) -> String {
    let letters = specs.iter().filter_map(|spec| spec.short);
    letters.map(|letter| format!("-{letter}\n")).collect()
}

/// The last component of the path that a program was called by.
pub(super) fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// `line` with errors of the operating system as the original has them, without their numbers.
pub(super) fn without_numbers(line: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut parts = line.split(BEGIN);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.push_str(rest);
            }
            _ => text.extend([BEGIN, part]),
        }
    }
    text
}

/// A size in the largest unit of which it is a whole multiple: `1M`, `1536`.
pub(super) fn size(bytes: u64) -> String {
    let units = [
        (60, 'E'),
        (50, 'P'),
        (40, 'T'),
        (30, 'G'),
        (20, 'M'),
        (10, 'K'),
    ];
    units
        .into_iter()
        .find(|&(shift, _)| bytes != 0 && bytes.trailing_zeros() >= shift)
        .map_or_else(
            || bytes.to_string(),
            |(shift, unit)| format!("{}{unit}", bytes >> shift),
        )
}

#[cfg(test)]
mod tests {
    use super::{base_name, long_options, short_options, size, version, without_numbers};
    use crate::cli::nbdcopy::options::SPECS;

    #[test]
    fn listings_are_those_that_bash_completion_reads() {
        let long = long_options(SPECS);
        assert!(
            long.starts_with("--help\n--allocated\n--connections\n"),
            "{long}"
        );
        assert!(!long.contains("-options"));
        assert_eq!(long.lines().count(), 16);
        let mut short: Vec<_> = short_options(SPECS).lines().map(str::to_owned).collect();
        short.sort();
        assert_eq!(short, ["-C", "-R", "-S", "-T", "-V", "-p", "-v"]);
    }

    #[test]
    fn the_version_is_two_lines() {
        assert_eq!(version(), "nbdcopy 1.14.2\nlibnbd 1.14.2\n");
    }

    #[test]
    fn an_error_has_no_number() {
        for (line, told) in [
            ("a: Is a directory (os error 21)", "a: Is a directory"),
            ("a (os error 2): b (os error 13) (c)", "a: b (c)"),
            ("a (os error x) b", "a (os error x) b"),
            ("a (os error 5", "a (os error 5"),
        ] {
            assert_eq!(without_numbers(line), told);
        }
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in [
            (0, "0"),
            (1 << 20, "1M"),
            (1536, "1536"),
            (10240, "10K"),
            (u64::MAX, "18446744073709551615"),
            (3 << 60, "3E"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(base_name("/usr/bin/nbdcopy"), "nbdcopy");
        assert_eq!(base_name("nbdcopy"), "nbdcopy");
    }
}
