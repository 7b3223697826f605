//! The `diskferry` program: parse, run, exit code. Everything else is the library's.

use diskferry::cli;
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(env::args_os()) {
        Ok(call) => call.run(),
        Err(code) => code,
    }
}
