//! What nbdcopy's options mean. Pure: words in, a request or a complaint out.

use super::getopt::{Spec, Takes, scan};
use super::text;
use crate::address::Address;

/// Smallest `--request-size`, in bytes.
const MIN_REQUEST_SIZE: u32 = 4096;
/// Largest `--request-size`, in bytes.
const MAX_REQUEST_SIZE: u32 = 32 << 20;

/// What an option asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Id {
    Help,
    LongOptions,
    ShortOptions,
    Version,
    Allocated,
    Connections,
    DestinationIsZero,
    Flush,
    NoExtents,
    Progress,
    QueueSize,
    RequestSize,
    Requests,
    Sparse,
    Synchronous,
    Threads,
    Verbose,
}

/// Every option, in the order in which `--long-options` lists them.
pub(super) const SPECS: &[Spec<Id>] = &[
    flag("help", None, Id::Help),
    flag("long-options", None, Id::LongOptions),
    flag("allocated", None, Id::Allocated),
    number("connections", Some('C'), Id::Connections),
    flag("destination-is-zero", None, Id::DestinationIsZero),
    flag("flush", None, Id::Flush),
    flag("no-extents", None, Id::NoExtents),
    Spec {
        long: "progress",
        short: Some('p'),
        takes: Takes::Maybe,
        id: Id::Progress,
    },
    number("queue-size", None, Id::QueueSize),
    number("request-size", None, Id::RequestSize),
    number("requests", Some('R'), Id::Requests),
    flag("short-options", None, Id::ShortOptions),
    number("sparse", Some('S'), Id::Sparse),
    flag("synchronous", None, Id::Synchronous),
    flag("target-is-zero", None, Id::DestinationIsZero),
    number("threads", Some('T'), Id::Threads),
    flag("verbose", Some('v'), Id::Verbose),
    flag("version", Some('V'), Id::Version),
];

const fn flag(long: &'static str, short: Option<char>, id: Id) -> Spec<Id> {
    Spec {
        long,
        short,
        takes: Takes::Nothing,
        id,
    }
}

const fn number(long: &'static str, short: Option<char>, id: Id) -> Spec<Id> {
    Spec {
        long,
        short,
        takes: Takes::Argument,
        id,
    }
}

/// What a command line asks for.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Request {
    /// Print this and succeed.
    Tell(String),
    /// Copy from one end to the other.
    Copy(Options, Ends),
}

/// Both ends of a copy. The source is never [`Address::Null`].
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Ends {
    pub(super) source: Address,
    pub(super) target: Address,
}

/// How to copy. Numbers are as nbdcopy has them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Options {
    pub(super) allocated: bool,
    pub(super) connections: u32,
    pub(super) destination_is_zero: bool,
    pub(super) extents: bool,
    pub(super) flush: bool,
    pub(super) progress: Option<Progress>,
    /// Bytes in flight per connection.
    pub(super) queue_size: u32,
    /// Bytes of one request; a power of two.
    pub(super) request_size: u32,
    /// Requests in flight per connection.
    pub(super) requests: u32,
    /// Granularity of zero detection in bytes, a power of two; 0 detects none.
    pub(super) sparse: u32,
    pub(super) synchronous: bool,
    /// 0 stands for the number of cores.
    pub(super) threads: u32,
    pub(super) verbose: bool,
}

/// Where progress goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// A bar on standard error.
    Bar,
    /// Lines such as `42/100` on this file descriptor.
    Fd(i32),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allocated: false,
            connections: 4,
            destination_is_zero: false,
            extents: true,
            flush: false,
            progress: None,
            queue_size: 16 << 20,
            request_size: 256 << 10,
            requests: 64,
            sparse: 4096,
            synchronous: false,
            threads: 0,
            verbose: false,
        }
    }
}

/// Why a command line was not understood.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Complaint {
    line: Option<String>,
    usage: bool,
}

impl Complaint {
    /// One line and nothing more.
    pub(super) fn line(line: String) -> Self {
        Self {
            line: Some(line),
            usage: false,
        }
    }

    /// The usage, after a line if there is one.
    fn usage(line: Option<String>) -> Self {
        Self { line, usage: true }
    }

    /// All of it, as it goes to standard error.
    pub(super) fn text(&self) -> String {
        let mut text = self.line.clone().unwrap_or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        if self.usage {
            text.push_str(text::USAGE);
        }
        text
    }
}

/// Reads the words after `program`'s name.
///
/// Options count in order: what stands after `--help` or after a mistake is never looked at.
pub(super) fn parse(program: &str, words: &[String], posix: bool) -> Result<Request, Complaint> {
    let (found, operands) = scan(SPECS, words, posix);
    let name = text::base_name(program);
    let mut options = Options::default();
    for one in found {
        let (id, argument) =
            one.map_err(|complaint| Complaint::usage(Some(format!("{program}: {complaint}"))))?;
        let told = match id {
            Id::Help => Some(text::USAGE.to_owned()),
            Id::LongOptions => Some(text::long_options(SPECS)),
            Id::ShortOptions => Some(text::short_options(SPECS)),
            Id::Version => Some(text::version()),
            _ => None,
        };
        if let Some(told) = told {
            return Ok(Request::Tell(told));
        }
        let argument = argument.as_deref();
        set(&mut options, id, argument)
            .map_err(|complaint| Complaint::line(format!("{name}: {complaint}")))?;
    }
    Ok(Request::Copy(options, ends(name, &operands)?))
}

/// Takes in one option.
fn set(options: &mut Options, id: Id, argument: Option<&str>) -> Result<(), String> {
    match (id, argument) {
        (Id::Allocated, _) => options.allocated = true,
        (Id::DestinationIsZero, _) => options.destination_is_zero = true,
        (Id::Flush, _) => options.flush = true,
        (Id::NoExtents, _) => options.extents = false,
        (Id::Synchronous, _) => options.synchronous = true,
        (Id::Verbose, _) => options.verbose = true,
        (Id::Progress, None) => options.progress = options.progress.or(Some(Progress::Bar)),
        (Id::Progress, Some(text)) => {
            let fd = signed(text).filter(|fd| *fd >= 0);
            let fd = fd.ok_or_else(|| format!("--progress: could not parse: {text}"))?;
            options.progress = Some(Progress::Fd(fd));
        }
        (_, None) => {}
        (Id::Connections, Some(text)) => options.connections = at_least_one("connections", text)?,
        (Id::Requests, Some(text)) => options.requests = at_least_one("requests", text)?,
        (Id::QueueSize, Some(text)) => options.queue_size = parsed("queue-size", text)?,
        (Id::Threads, Some(text)) => options.threads = parsed("threads", text)?,
        (Id::RequestSize, Some(text)) => options.request_size = request_size(text)?,
        (Id::Sparse, Some(text)) => options.sparse = sparse(text)?,
        (Id::Help | Id::LongOptions | Id::ShortOptions | Id::Version, _) => {}
    }
    Ok(())
}

fn request_size(text: &str) -> Result<u32, String> {
    let size = parsed("request-size", text)?;
    if (MIN_REQUEST_SIZE..=MAX_REQUEST_SIZE).contains(&size) && size.is_power_of_two() {
        return Ok(size);
    }
    Err(format!(
        "--request-size: must be a power of 2 within {MIN_REQUEST_SIZE}-{MAX_REQUEST_SIZE}"
    ))
}

fn sparse(text: &str) -> Result<u32, String> {
    let size = parsed("sparse", text)?;
    if size == 0 || (size >= 512 && size.is_power_of_two()) {
        return Ok(size);
    }
    Err("--sparse: must be a power of 2 and >= 512".to_owned())
}

fn at_least_one(option: &str, text: &str) -> Result<u32, String> {
    match parsed(option, text)? {
        0 => Err(format!("--{option}: could not parse: {text}")),
        number => Ok(number),
    }
}

fn parsed(option: &str, text: &str) -> Result<u32, String> {
    unsigned(text).ok_or_else(|| format!("--{option}: could not parse: {text}"))
}

/// A number as `sscanf` with `%u` reads it: blanks and a sign before it, anything after it, and
/// what does not fit wraps around. `1M` is 1; scripts depend on getting what they always got.
fn unsigned(text: &str) -> Option<u32> {
    let (negative, magnitude) = scanned(text)?;
    let wide = if negative {
        magnitude.wrapping_neg()
    } else {
        magnitude
    };
    u32::try_from(wide & u64::from(u32::MAX)).ok()
}

/// A number as `sscanf` with `%d` reads it; `None` also if it does not fit.
fn signed(text: &str) -> Option<i32> {
    let (negative, magnitude) = scanned(text)?;
    let magnitude = i32::try_from(magnitude).ok()?;
    Some(if negative {
        magnitude.saturating_neg()
    } else {
        magnitude
    })
}

/// A sign and the digits after it, as far as they go; too many count as the largest number.
fn scanned(text: &str) -> Option<(bool, u64)> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let digits = digits.get(..end).filter(|digits| !digits.is_empty())?;
    Some((negative, digits.parse().unwrap_or(u64::MAX)))
}

/// Schemes of NBD URIs. Whatever else an end looks like, it is a file.
const NBD_SCHEMES: [&str; 6] = [
    "nbd:",
    "nbds:",
    "nbd+unix:",
    "nbds+unix:",
    "nbd+vsock:",
    "nbds+vsock:",
];

/// Both ends out of the operands, each one word or `[ CMD ARGS… ]`.
fn ends(name: &str, operands: &[String]) -> Result<Ends, Complaint> {
    let mut rest = operands;
    let ends = end(&mut rest).zip(end(&mut rest));
    let nothing = |end: &Address| matches!(end, Address::Child(command) if command.is_empty());
    match (ends, rest) {
        (Some((source, target)), []) if nothing(&source) || nothing(&target) => {
            let line = format!("{name}: [ ]: missing command name in argv list: Invalid argument");
            Err(Complaint::line(line))
        }
        (Some((source, target)), []) => Ok(Ends {
            source,
            // Only a destination can be nowhere; a source of that name is a file.
            target: match target {
                Address::Path(path) if path.as_os_str() == "null:" => Address::Null,
                target => target,
            },
        }),
        _ => Err(Complaint::usage(None)),
    }
}

/// Takes one end off the front of `rest`; `None` if there is none or its bracket is open.
fn end(rest: &mut &[String]) -> Option<Address> {
    let (first, after) = rest.split_first()?;
    if first != "[" {
        *rest = after;
        return Some(match first.as_str() {
            "-" => Address::Stdio,
            word if NBD_SCHEMES.iter().any(|scheme| word.starts_with(scheme)) => {
                Address::Nbd(word.to_owned())
            }
            word => Address::Path(word.into()),
        });
    }
    let close = after.iter().position(|word| word == "]")?;
    let (command, after) = after.split_at_checked(close)?;
    *rest = after.get(1..)?;
    Some(Address::Child(command.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::{Address, Ends, Options, Progress, Request, parse, unsigned};
    use crate::cli::nbdcopy::text;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn options(text: &str) -> Options {
        match parse("nbdcopy", &words(&format!("{text} a b")), false) {
            Ok(Request::Copy(options, _)) => options,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn complaint(text: &str) -> String {
        parse("/bin/nbdcopy", &words(text), false)
            .unwrap_err()
            .text()
    }

    #[test]
    fn the_defaults_are_nbdcopys() {
        let found = options("");
        assert_eq!(found, Options::default());
        assert_eq!(
            (found.connections, found.requests, found.threads),
            (4, 64, 0)
        );
        assert_eq!(
            (found.queue_size, found.request_size, found.sparse),
            (16777216, 262144, 4096)
        );
    }

    #[test]
    fn every_option_is_taken_in() {
        let all = "--allocated -C 2 --destination-is-zero --flush --no-extents --progress=3 \
                   --queue-size=5 --request-size 32768 -R 7 -S 512 --synchronous -T8 -v";
        assert_eq!(
            options(all),
            Options {
                allocated: true,
                connections: 2,
                destination_is_zero: true,
                extents: false,
                flush: true,
                progress: Some(Progress::Fd(3)),
                queue_size: 5,
                request_size: 32768,
                requests: 7,
                sparse: 512,
                synchronous: true,
                threads: 8,
                verbose: true,
            }
        );
        assert!(options("--target-is-zero").destination_is_zero);
        assert_eq!(options("-p").progress, Some(Progress::Bar));
        assert_eq!(options("--progress=1 -p").progress, Some(Progress::Fd(1)));
    }

    #[test]
    fn numbers_are_read_as_sscanf_reads_them() {
        for (text, number) in [
            ("1M", Some(1)),
            (" 7", Some(7)),
            ("+7", Some(7)),
            ("-1", Some(u32::MAX)),
            ("4294967297", Some(1)),
            ("0x10", Some(0)),
            ("", None),
            ("x", None),
            ("-", None),
        ] {
            assert_eq!(unsigned(text), number, "{text:?}");
        }
        assert_eq!(options("-R 1k").requests, 1);
    }

    #[test]
    fn a_bad_value_is_one_line_and_no_usage() {
        for (text, line) in [
            ("-C 0 a b", "nbdcopy: --connections: could not parse: 0\n"),
            (
                "--requests=x a b",
                "nbdcopy: --requests: could not parse: x\n",
            ),
            (
                "--progress=-1 a b",
                "nbdcopy: --progress: could not parse: -1\n",
            ),
            (
                "--request-size=5",
                "nbdcopy: --request-size: must be a power of 2 within 4096-33554432\n",
            ),
            (
                "-S 256 a b",
                "nbdcopy: --sparse: must be a power of 2 and >= 512\n",
            ),
        ] {
            assert_eq!(complaint(text), line);
        }
    }

    #[test]
    fn a_bad_option_or_the_wrong_number_of_ends_shows_the_usage() {
        assert_eq!(
            complaint("--foo"),
            format!("/bin/nbdcopy: unrecognized option '--foo'\n{}", text::USAGE)
        );
        for text in [
            "", "a", "a b c", "-- [ a b", "-- a [ b", "-- [ ]", "-- [ a ]",
        ] {
            assert_eq!(complaint(text), text::USAGE, "{text:?}");
        }
    }

    #[test]
    fn a_bracket_without_a_command_is_told_as_such() {
        let line = "nbdcopy: [ ]: missing command name in argv list: Invalid argument\n";
        assert_eq!(complaint("-- [ ] b"), line);
        assert_eq!(complaint("-- a [ ]"), line);
    }

    #[test]
    fn what_stands_after_help_is_never_looked_at() {
        let told = parse("nbdcopy", &words("--help --foo"), false);
        assert_eq!(told, Ok(Request::Tell(text::USAGE.to_owned())));
        assert!(complaint("--foo --help").contains("unrecognized"));
    }

    #[test]
    fn an_end_is_a_file_unless_it_is_something_else() {
        let ends = |text: &str| match parse("nbdcopy", &words(text), false) {
            Ok(Request::Copy(_, Ends { source, target })) => (source, target),
            other => panic!("{text}: {other:?}"),
        };
        let path = |path: &str| Address::Path(path.into());
        let child = |command: &str| Address::Child(words(command));
        for (text, source, target) in [
            ("a null:", path("a"), Address::Null),
            ("null: null", path("null:"), path("null")),
            ("http://x -", path("http://x"), Address::Stdio),
            (
                "- nbd://h",
                Address::Stdio,
                Address::Nbd("nbd://h".to_owned()),
            ),
            ("-- [ a -b ] [ c ]", child("a -b"), child("c")),
            ("-- x [ c d ]", path("x"), child("c d")),
        ] {
            assert_eq!(ends(text), (source, target), "{text}");
        }
    }
}
