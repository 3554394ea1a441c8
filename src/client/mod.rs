//! Commands that talk to a running healthz, or to another health endpoint (feature `client`).
//!
//! Each is a module with a function that takes the arguments after the command's name. Their options are in
//! [`crate::usage`]. Imports nothing of the daemon. Called by `main`.

mod beat;
mod exchange;
mod json;
mod output;
mod probe;
mod status;
mod target;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::usage::{self, UsageError};

/// Parses the arguments, does what they say, and returns the exit code.
pub type Run = fn(lexopt::Parser) -> Result<ExitCode, UsageError>;

/// The commands, by name.
const COMMANDS: &[(&str, Run)] = &[
    ("probe", probe::run),
    ("status", status::run),
    ("beat", beat::run),
];

/// The function of the command `name`.
pub fn find(name: &OsStr) -> Option<Run> {
    let mut commands = COMMANDS.iter();
    commands.find_map(|(known, run)| (name == *known).then_some(*run))
}

/// The exit code of a command that printed something. A closed pipe (`| head`) is not a failure.
fn printed(result: io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let why = exchange::error_text(&error);
            print_error(&format_args!("cannot write to standard output: {why}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints the help of `command`.
fn print_help(command: &usage::Command) -> ExitCode {
    printed(output::print(&usage::details(command)))
}

fn print_version() -> ExitCode {
    printed(output::print(concat!(
        "healthz ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    )))
}

/// Prints to standard error. If that fails, the exit code still shows the error.
fn print_error(what: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "healthz: {what}");
}
