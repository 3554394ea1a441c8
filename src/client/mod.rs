//! Commands that talk to a running healthz, or to another health endpoint (feature `client`).
//!
//! Each is a module with a function that takes the arguments after the command's name. Their options are in
//! [`crate::usage`]. Imports nothing of the daemon. Called by `main`.

mod beat;
mod json;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::usage::UsageError;

/// Parses the arguments, does what they say, and returns the exit code.
pub type Run = fn(lexopt::Parser) -> Result<ExitCode, UsageError>;

/// The commands, by name.
const COMMANDS: &[(&str, Run)] = &[("beat", beat::run)];

/// The function of the command `name`.
pub fn find(name: &OsStr) -> Option<Run> {
    let mut commands = COMMANDS.iter();
    commands.find_map(|(known, run)| (name == *known).then_some(*run))
}

/// Prints to standard output. A closed pipe (`| head`) is not a failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Prints to standard error. If that fails, the exit code still shows the error.
fn print_error(what: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "healthz: {what}");
}
