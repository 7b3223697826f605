//! A command line that makes no sense, told to people and to scripts.

use super::output::{self, Output};
use crate::error::{Error, Kind};
use std::ffi::OsString;
use std::process::ExitCode;

/// Whether the words ask for JSON; `--` and what is in brackets are no options.
pub(super) fn wants_json(words: &[OsString]) -> bool {
    let mut options = words.iter().take_while(|word| *word != "--");
    options.any(|word| word == "--json")
}

/// Says why nothing is run: help that was asked for, or what is wrong. Returns the exit code.
pub(super) fn tell(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        return Output::of_json().failed(&Error::new(Kind::Usage, line(error)));
    }
    match error.print() {
        Err(broken) if !error.use_stderr() => Output::default().failed(&output::failed(broken)),
        // Nothing can be told to somebody who cannot be written to.
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

/// What is wrong, on one line, without the usage that follows for people.
fn line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim);
    let wrong =
        lines.take_while(|line| !line.starts_with("Usage: ") && !line.starts_with("For more"));
    let words: Vec<&str> = wrong.filter(|line| !line.is_empty()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{line, wants_json};
    use crate::cli::grammar;
    use crate::cli::words::fold_brackets;
    use std::ffi::OsString;

    fn words(text: &str) -> Vec<OsString> {
        fold_brackets(text.split_whitespace().map(Into::into).collect())
    }

    #[test]
    fn what_is_wrong_is_one_line_and_no_usage() {
        for (text, told) in [
            (
                "diskferry copy --json a",
                "the following required arguments were not provided: <TARGET>",
            ),
            (
                "diskferry copy --json --memory lots a b",
                "invalid value 'lots' for '--memory <SIZE>': ",
            ),
            ("diskferry --json fly", "unrecognized subcommand 'fly'"),
            ("diskferry --json", "'diskferry' requires a subcommand"),
            (
                "diskferry --json copy --memry 1M a b",
                "unexpected argument '--memry' found tip: a similar argument exists: '--memory'",
            ),
        ] {
            let error = grammar().try_get_matches_from(words(text)).unwrap_err();
            let found = line(&error);
            assert!(found.starts_with(told), "{text}: {found}");
            assert!(
                !found.contains("Usage") && !found.contains("--help"),
                "{found}"
            );
        }
    }

    #[test]
    fn only_an_option_of_ours_asks_for_json() {
        assert!(wants_json(&words("diskferry copy a b --json")));
        assert!(!wants_json(&words("diskferry copy -- --json b")));
        assert!(!wants_json(&words("diskferry copy [ x --json ] b")));
    }
}
