//! The healthz program: finds the command, runs it, and chooses the exit code.
//!
//! Without a command it serves. Its exit codes: 0 if a signal stopped it, or if it printed help or the version; 1 if it
//! failed while running; 2 for wrong usage or configuration. The commands in `client` have their own exit codes, but
//! wrong usage is always 2.

#![deny(unsafe_code)]

#[cfg(feature = "client")]
mod client;
mod daemon;
#[cfg(test)]
#[cfg(all(feature = "client", feature = "sources", target_os = "linux"))]
mod manual;
mod nearest;
#[cfg(any(feature = "client", all(feature = "sources", target_os = "linux")))]
mod response;
#[cfg(all(feature = "sources", target_os = "linux"))]
mod sources;
mod units;
mod unneeded;
#[cfg(any(feature = "client", all(feature = "sources", target_os = "linux")))]
mod url;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use daemon::checks::Checks;
use daemon::options::{self, Command, Options};
use daemon::{EXIT_FAILED, EXIT_USAGE, Failure};
#[cfg(all(feature = "sources", target_os = "linux"))]
use sources::config;
use usage::UsageError;

const VERSION: &str = concat!("healthz ", env!("CARGO_PKG_VERSION"), "\n");

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    let result = match first.as_deref() {
        #[cfg(all(feature = "sources", target_os = "linux"))]
        Some(name) if name == sources::command::NAME => return sources::command::run(arguments),
        Some(name) if name == usage::HELP.name => help(arguments),
        #[cfg(feature = "client")]
        Some(name) if client::find(name).is_some() => run_client(name, arguments),
        _ => serve(first.into_iter().chain(arguments)),
    };
    result.unwrap_or_else(|error| {
        daemon::print_error(&error);
        ExitCode::from(EXIT_USAGE)
    })
}

/// Runs a command of `client`.
#[cfg(feature = "client")]
fn run_client(
    name: &std::ffi::OsStr,
    arguments: impl Iterator<Item = OsString>,
) -> Result<ExitCode, UsageError> {
    let Some(run) = client::find(name) else {
        return Err(UsageError::unknown_command(name));
    };
    run(lexopt::Parser::from_args(arguments))
}

/// Prints the help of the command that `arguments` names, or the overview of all commands if they name none.
fn help(mut arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, UsageError> {
    let command = match arguments.next() {
        None => None,
        Some(name) if name == "-h" || name == "--help" => Some(&usage::HELP),
        Some(name) if name == "-V" || name == "--version" => return Ok(print(VERSION)),
        Some(name) => match usage::find(&name) {
            None => return Err(UsageError::unknown_command(&name)),
            command => command,
        },
    };
    match arguments.next() {
        Some(extra) => Err(UsageError::unexpected_argument(&usage::HELP, &extra)),
        None => Ok(print_help(command, &Options::default())),
    }
}

fn print_help(command: Option<&usage::Command>, options: &Options) -> ExitCode {
    let responder = Checks::new(options).responder();
    let memory_bytes = options.config.memory_bytes_max(&responder);
    print(&options::help(command, memory_bytes))
}

/// Serves, or prints what the options of the daemon ask for.
fn serve(arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, UsageError> {
    Ok(match options::parse(arguments)? {
        Command::Help(command, options) => print_help(command, &options),
        Command::Version => print(VERSION),
        Command::CheckConfig(options) => check_config(&options),
        Command::Serve(options) => match daemon::serve(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Run(_)) => ExitCode::from(EXIT_FAILED),
            Err(Failure::Usage(_)) => ExitCode::from(EXIT_USAGE),
        },
    })
}

/// Prints the configured checks with all defaults, or every mistake in them.
#[cfg(all(feature = "sources", target_os = "linux"))]
fn check_config(options: &Options) -> ExitCode {
    match config::load(&options.checks, options.check_file.as_deref()) {
        Ok(specs) => print(&config::print(&specs)),
        Err(mistakes) => {
            // Without the program's name: editors and terminals find `FILE:LINE:COLUMN:`.
            for mistake in &mistakes {
                let _ = writeln!(std::io::stderr(), "{mistake}");
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The command line has no `check-config` here, so this is never called.
#[cfg(not(all(feature = "sources", target_os = "linux")))]
fn check_config(_: &Options) -> ExitCode {
    ExitCode::from(EXIT_USAGE)
}

/// Prints to standard output. A closed pipe (`| head`) is not a failure.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_FAILED),
        _ => ExitCode::SUCCESS,
    }
}
