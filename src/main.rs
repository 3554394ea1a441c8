//! The healthz program: parses its command line, serves, and chooses the exit code.
//!
//! 0: stopped by a signal, or printed help or the version. 1: failed while running. 2: wrong usage or
//! configuration.

#![deny(unsafe_code)]

mod daemon;
#[cfg(all(feature = "sources", target_os = "linux"))]
mod sources;
mod units;
mod unneeded;

use std::io::Write;
use std::process::ExitCode;

use daemon::checks::Checks;
use daemon::options::{self, Command, Options};
use daemon::{EXIT_FAILED, EXIT_USAGE, Failure};
#[cfg(all(feature = "sources", target_os = "linux"))]
use sources::config;

fn main() -> ExitCode {
    #[cfg(all(feature = "sources", target_os = "linux"))]
    {
        let mut arguments = std::env::args_os().skip(1);
        if arguments
            .next()
            .is_some_and(|first| first == sources::command::NAME)
        {
            return sources::command::run(arguments);
        }
    }
    match options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help(options)) => {
            let responder = Checks::new(&options).responder();
            print(&options::help(options.config.memory_bytes_max(&responder)))
        }
        Ok(Command::Version) => print(concat!("healthz ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::CheckConfig(options)) => check_config(&options),
        Ok(Command::Serve(options)) => match daemon::serve(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Run(_)) => ExitCode::from(EXIT_FAILED),
            Err(Failure::Usage(_)) => ExitCode::from(EXIT_USAGE),
        },
        Err(error) => {
            daemon::print_error(&error);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Prints the checks of real things with all defaults, or every mistake in them.
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

/// The command line never asks for this.
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
