//! Options as GNU `getopt_long` takes them: abbreviations, clusters, options after operands.
//!
//! Scripts rely on all of it. Messages are glibc's, as of its manual and as seen. Pure.

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Takes {
    /// Never.
    Nothing,
    /// Always.
    Argument,
    /// After `=` only.
    Maybe,
}

/// One option. Names that mean the same have equal `id`s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec<I> {
    /// Its long name, without dashes.
    pub(super) long: &'static str,
    /// Its short name, for the first of the names that mean the same.
    pub(super) short: Option<char>,
    /// Whether the long name takes an argument.
    pub(super) takes: Takes,
    /// What it means.
    pub(super) id: I,
}

/// An option as found, with its argument.
pub(super) type Found<I> = (I, Option<String>);

/// Takes the options out of `words`, in order, up to the first that is wrong, and the operands.
///
/// Options may stand between and after operands, until `--`; with `posix` the first operand ends
/// them. What is wrong is told as glibc does, but without the program's name.
pub(super) fn scan<I: Copy + Eq>(
    specs: &[Spec<I>],
    words: &[String],
    posix: bool,
) -> (Vec<Result<Found<I>, String>>, Vec<String>) {
    let mut found = Vec::new();
    let mut operands = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            found.push(long_option(specs, long, &mut rest));
        } else if let Some(cluster) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            short_options(specs, cluster, &mut rest, &mut found);
        } else {
            operands.push(word.clone());
            if posix {
                break;
            }
        }
        if found.last().is_some_and(Result::is_err) {
            return (found, operands);
        }
    }
    operands.extend(rest.cloned());
    (found, operands)
}

fn long_option<'a, I: Copy + Eq>(
    specs: &[Spec<I>],
    text: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<Found<I>, String> {
    let (name, inline) = match text.split_once('=') {
        Some((name, argument)) => (name, Some(argument.to_owned())),
        None => (text, None),
    };
    let spec = resolve(specs, name, text)?;
    let argument = match (spec.takes, inline) {
        (Takes::Nothing, Some(_)) => {
            return Err(format!(
                "option '--{}' doesn't allow an argument",
                spec.long
            ));
        }
        (Takes::Argument, None) => match rest.next() {
            Some(next) => Some(next.clone()),
            None => return Err(format!("option '--{}' requires an argument", spec.long)),
        },
        (_, inline) => inline,
    };
    Ok((spec.id, argument))
}

/// The option that `name` is, or is an unambiguous beginning of.
fn resolve<'a, I: Copy + Eq>(
    specs: &'a [Spec<I>],
    name: &str,
    text: &str,
) -> Result<&'a Spec<I>, String> {
    if let Some(exact) = specs.iter().find(|spec| spec.long == name) {
        return Ok(exact);
    }
    let matching: Vec<&Spec<I>> = specs
        .iter()
        .filter(|spec| spec.long.starts_with(name))
        .collect();
    match matching.split_first() {
        None => Err(format!("unrecognized option '--{text}'")),
        Some((first, others)) if others.iter().all(|other| other.id == first.id) => Ok(first),
        Some(_) => {
            let names: String = matching
                .iter()
                .map(|spec| format!(" '--{}'", spec.long))
                .collect();
            Err(format!(
                "option '--{text}' is ambiguous; possibilities:{names}"
            ))
        }
    }
}

/// A cluster such as `pC4`: what follows a letter that takes an argument is its argument.
fn short_options<'a, I: Copy>(
    specs: &[Spec<I>],
    cluster: &str,
    rest: &mut impl Iterator<Item = &'a String>,
    found: &mut Vec<Result<Found<I>, String>>,
) {
    let mut letters = cluster.chars();
    while let Some(letter) = letters.next() {
        let Some(spec) = specs.iter().find(|spec| spec.short == Some(letter)) else {
            found.push(Err(format!("invalid option -- '{letter}'")));
            return;
        };
        if spec.takes != Takes::Argument {
            found.push(Ok((spec.id, None)));
            continue;
        }
        let argument = match letters.as_str() {
            "" => rest.next().cloned(),
            inline => Some(inline.to_owned()),
        };
        found.push(match argument {
            Some(argument) => Ok((spec.id, Some(argument))),
            None => Err(format!("option requires an argument -- '{letter}'")),
        });
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::{Spec, Takes, scan};

    const SPECS: &[Spec<char>] = &[
        Spec {
            long: "connections",
            short: Some('C'),
            takes: Takes::Argument,
            id: 'C',
        },
        Spec {
            long: "progress",
            short: Some('p'),
            takes: Takes::Maybe,
            id: 'p',
        },
        Spec {
            long: "request-size",
            short: None,
            takes: Takes::Argument,
            id: 'q',
        },
        Spec {
            long: "requests",
            short: Some('R'),
            takes: Takes::Argument,
            id: 'R',
        },
        Spec {
            long: "verbose",
            short: Some('v'),
            takes: Takes::Nothing,
            id: 'v',
        },
        Spec {
            long: "version",
            short: Some('V'),
            takes: Takes::Nothing,
            id: 'V',
        },
    ];

    /// Options as `p C=4 …`, a complaint as `!…`, then `|` and the operands.
    fn scanned(text: &str, posix: bool) -> String {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let (found, operands) = scan(SPECS, &words, posix);
        let mut told: Vec<String> = found
            .into_iter()
            .map(|one| match one {
                Ok((id, None)) => id.to_string(),
                Ok((id, Some(argument))) => format!("{id}={argument}"),
                Err(complaint) => format!("!{complaint}"),
            })
            .collect();
        told.push("|".to_owned());
        told.extend(operands);
        told.join(" ")
    }

    #[test]
    fn options_are_taken_as_getopt_long_takes_them() {
        for (text, expected) in [
            ("a b", "| a b"),
            ("-p a -C 4 b", "p C=4 | a b"),
            ("-pvC4 a", "p v C=4 | a"),
            ("-C -p a", "C=-p | a"),
            ("a -- -p b", "| a -p b"),
            ("-p -- [ x -U - ] b", "p | [ x -U - ] b"),
            ("- -p", "p | -"),
            ("--connections=4 a", "C=4 | a"),
            ("--connections 4 a", "C=4 | a"),
            ("--conn=4 --prog=3 --verb", "C=4 p=3 v |"),
            ("--progress 3", "p | 3"),
            ("-p3", "p !invalid option -- '3' |"),
            ("--requests=1 --request-=2", "R=1 q=2 |"),
            (
                "--req=4 -p a",
                "!option '--req=4' is ambiguous; possibilities: '--request-size' '--requests' |",
            ),
            (
                "--ver",
                "!option '--ver' is ambiguous; possibilities: '--verbose' '--version' |",
            ),
            ("--foo=1", "!unrecognized option '--foo=1' |"),
            (
                "--verbose=1",
                "!option '--verbose' doesn't allow an argument |",
            ),
            (
                "-v --conn",
                "v !option '--connections' requires an argument |",
            ),
            ("-C", "!option requires an argument -- 'C' |"),
            ("[ nbdkit -U - ] b", "!invalid option -- 'U' | [ nbdkit"),
        ] {
            assert_eq!(scanned(text, false).trim_end(), expected, "{text}");
        }
    }

    #[test]
    fn posixly_correct_ends_options_at_the_first_operand() {
        assert_eq!(scanned("-p a -v", true), "p | a -v");
    }
}
