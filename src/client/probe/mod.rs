//! `healthz probe`: sends a request to a health endpoint, and reports with the exit code whether it is healthy.
//!
//! One probe prints nothing if the answer is healthy. [`series`] sends many, as ping(8) does. No thread is started.

mod histogram;
mod options;
mod outcome;
mod series;
mod summary;

use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use self::options::{Command, Form, Options};
use self::outcome::{NAGIOS_UNKNOWN, Outcome, nagios_line};
use super::exchange;
use super::output::{self, printable};
use crate::usage::{PROBE, UsageError};

/// Parses the arguments after `probe`, and does what they say.
///
/// # Errors
/// The first argument that is wrong. A Nagios plugin prints it instead, because Nagios reads only standard output.
pub fn run(parser: lexopt::Parser) -> Result<ExitCode, UsageError> {
    let mut arguments = parser.clone();
    match options::parse(parser) {
        Ok(Command::Help) => Ok(super::print_help(&PROBE)),
        Ok(Command::Version) => Ok(super::print_version()),
        Ok(Command::Probe(options)) => Ok(ExitCode::from(match options.series {
            Some(series) => series::run(&options, series),
            None => once(&options),
        })),
        Err(error) => {
            let is_nagios = arguments
                .raw_args()
                .is_ok_and(|mut all| all.any(|argument| argument == "--nagios"));
            if !is_nagios {
                return Err(error);
            }
            // If it cannot be printed, the exit code still says it.
            let _ = output::print(&nagios_line("UNKNOWN", &error.to_string(), ""));
            Ok(ExitCode::from(NAGIOS_UNKNOWN))
        }
    }
}

/// Sends one probe. Returns the exit code, which is the same if nothing can be printed.
fn once(options: &Options) -> u8 {
    let Options {
        target, timeout, ..
    } = options;
    let start = Instant::now();
    let result = exchange::get(target, &target.request(""), *timeout);
    let time = start.elapsed();
    let outcome = Outcome::new(target, result);
    let mut code = outcome.verdict.exit_code(options.is_flat);
    let mut text = String::new();
    match options.form {
        Form::Json => {
            let keys = outcome.json(target, time, options.is_verbose);
            let _ = writeln!(text, "{{\"time\":{},{keys}}}", unix_seconds());
        }
        Form::Nagios => {
            (text, code) = outcome.nagios(time, *timeout);
            if options.is_verbose {
                push_body(&mut text, &outcome.body);
            }
        }
        Form::Text => {
            if options.is_flat && !outcome.message.is_empty() || outcome.is_unhealthy() {
                text.extend([outcome.line().as_str(), "\n"]);
            } else if !outcome.message.is_empty() {
                super::print_error(&outcome.error());
            }
            if options.is_verbose {
                // The line is a part of the body.
                if outcome.is_unhealthy() && !outcome.body.is_empty() {
                    text.clear();
                }
                push_body(&mut text, &outcome.body);
            }
        }
    }
    let _ = output::print(&text);
    code
}

/// Appends a body, with a line end if it has none.
fn push_body(text: &mut String, body: &[u8]) {
    text.push_str(&printable(body));
    if !body.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// The time of day for JSON, with milliseconds.
fn unix_seconds() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    format!("{}.{:03}", now.as_secs(), now.subsec_millis())
}
