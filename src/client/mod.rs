//! Commands that talk to a running healthz, or to another health endpoint (feature `client`).
//!
//! Each is a module with a function that takes the arguments after the command's name. Their options are in
//! [`crate::usage`]. Imports nothing of the daemon. Called by `main`.

use std::ffi::OsStr;
use std::process::ExitCode;

use crate::usage::UsageError;

/// Parses the arguments, does what they say, and returns the exit code.
pub type Run = fn(lexopt::Parser) -> Result<ExitCode, UsageError>;

/// The commands, by name.
const COMMANDS: &[(&str, Run)] = &[];

/// The function of the command `name`.
pub fn find(name: &OsStr) -> Option<Run> {
    let mut commands = COMMANDS.iter();
    commands.find_map(|(known, run)| (name == *known).then_some(*run))
}
