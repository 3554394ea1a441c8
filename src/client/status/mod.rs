//! `healthz status [URL]`: what fails, since when and why, as a table for people, as JSON, or as metrics in a file.
//!
//! [`report`] reads the answers and [`table`] formats them; both are pure. This module sends the requests. Called by
//! [`super`].

mod report;
mod table;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::Arg::{Long, Short, Value};

use self::report::{Endpoint, Report};
use super::exchange::{self, Failure, Response};
use super::output;
use super::target::Target;
use crate::usage::{STATUS, UsageError};

/// An endpoint fails.
const EXIT_UNHEALTHY: u8 = 1;
/// The file of `--output` cannot be written.
const EXIT_NOT_WRITTEN: u8 = 1;
/// No answer.
const EXIT_UNREACHABLE: u8 = 3;
/// An answer, but not that of a health endpoint.
const EXIT_NOT_HEALTH: u8 = 4;

/// The server if no URL is given.
const URL_DEFAULT: &str = "http://localhost:10248";
/// The requested paths if the URL does not name another one.
const PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];
/// For each request. Longer than that of a probe, because a person waits for the reasons.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer: several times that of a server with 1000 checks.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
    Prometheus,
}

struct Options {
    target: Target,
    format: Format,
    output: Option<PathBuf>,
}

enum Parsed {
    Options(Options),
    Help,
    Version,
}

/// Runs the command with these arguments.
///
/// # Errors
/// The first argument that is wrong.
pub fn run(parser: lexopt::Parser) -> Result<ExitCode, UsageError> {
    let options = match parse(parser)? {
        Parsed::Options(options) => options,
        Parsed::Help => return Ok(super::print_help(&STATUS)),
        Parsed::Version => return Ok(super::print_version()),
    };
    let result = match options.format {
        Format::Prometheus => metrics(&options),
        Format::Json | Format::Table => status(&options),
    };
    Ok(result.unwrap_or_else(|error| {
        super::print_error(&error.text);
        ExitCode::from(error.code)
    }))
}

fn parse(mut parser: lexopt::Parser) -> Result<Parsed, UsageError> {
    let misuse = |error| UsageError::from_parser(&STATUS, error);
    let mut url = None;
    let mut format = Format::Table;
    let mut output = None;
    while let Some(argument) = parser.next().map_err(misuse)? {
        let chosen = match argument {
            Short('h') | Long("help") => return Ok(Parsed::Help),
            Short('V') | Long("version") => return Ok(Parsed::Version),
            Long("json") => Format::Json,
            Long("prometheus") => Format::Prometheus,
            Long("output") => {
                output = Some(PathBuf::from(parser.value().map_err(misuse)?));
                continue;
            }
            Long(other) => return Err(UsageError::unknown_option(&STATUS, other)),
            Short(letter) => return Err(UsageError::unknown_letter(&STATUS, letter)),
            Value(value) if url.is_none() => {
                url = Some(value);
                continue;
            }
            Value(value) => return Err(UsageError::unexpected_argument(&STATUS, &value)),
        };
        if format != Format::Table && format != chosen {
            return Err(UsageError(
                "--json and --prometheus exclude each other".into(),
            ));
        }
        format = chosen;
    }
    if output.is_some() && format != Format::Prometheus {
        return Err(UsageError("--output is only for --prometheus".into()));
    }
    let url = url.unwrap_or_else(|| OsString::from(URL_DEFAULT));
    let target = Target::parse(&url).map_err(|why| UsageError::refused("status", &url, &why))?;
    Ok(Parsed::Options(Options {
        target,
        format,
        output,
    }))
}

/// Why there is nothing to print.
struct Error {
    text: String,
    code: u8,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost { tried, advice } => Error {
                text: format!("{tried}; {advice}"),
                code: EXIT_UNREACHABLE,
            },
            Failure::Invalid(text) => Error {
                text,
                code: EXIT_NOT_HEALTH,
            },
        }
    }
}

fn status(options: &Options) -> Result<ExitCode, Error> {
    let report = ask(&options.target)?;
    let text = match options.format {
        Format::Json => report.to_json() + "\n",
        _ => table::text(&report, columns(), output::has_colours()),
    };
    let printed = super::printed(output::print(&text));
    Ok(match report.passes() {
        true => printed,
        false => ExitCode::from(EXIT_UNHEALTHY),
    })
}

/// Requests all endpoints, or the one that the URL names.
fn ask(target: &Target) -> Result<Report, Error> {
    let paths: &[&str] = match target.has_path && target.path != "/" {
        true => &[&target.path],
        false => &PATHS,
    };
    let mut report = Report::new(&target.url);
    let mut other = None;
    for path in paths {
        let mut response = get(target, path, "Accept: application/health+json\r\n")?;
        let mut endpoint = Endpoint::new(path, &response);
        if report::is_plain(&response) {
            // Kubernetes lists its checks only with `verbose`. Another server may refuse it.
            let mark = if path.contains('?') { '&' } else { '?' };
            let verbose = get(target, &format!("{path}{mark}verbose"), "")?;
            if let Some(longer) = Endpoint::new(path, &verbose) {
                (endpoint, response) = (Some(longer), verbose);
            }
        }
        match endpoint {
            Some(endpoint) => report.add(endpoint, &response),
            None => other = other.or(Some((*path, response))),
        }
    }
    match (report.endpoints().is_empty(), other) {
        (true, Some((path, response))) => Err(Error {
            text: format!(
                "{} answered {} to {path}, which is not a health endpoint; pass the URL of one",
                response.address, response.status
            ),
            code: EXIT_NOT_HEALTH,
        }),
        _ => Ok(report),
    }
}

fn get(target: &Target, path: &str, fields: &str) -> Result<Response, Failure> {
    let target = Target {
        path: path.into(),
        ..target.clone()
    };
    exchange::get_long(&target, &target.request(fields), TIMEOUT, BODY_BYTES_MAX)
}

/// Prints the metrics, or puts them into a file.
fn metrics(options: &Options) -> Result<ExitCode, Error> {
    let path = match options.target.path.as_str() {
        "/" | "/healthz" => "/metrics",
        path => path,
    };
    let response = get(&options.target, path, "")?;
    if response.status != 200 || response.media_type != "text/plain" {
        return Err(Error {
            text: format!(
                "{} answered {} to {path}, not metrics; was healthz started with --no-metrics?",
                response.address, response.status
            ),
            code: EXIT_NOT_HEALTH,
        });
    }
    let text = without_process(&response.body);
    let Some(output) = &options.output else {
        return Ok(super::printed(io::stdout().write_all(&text)));
    };
    replace(output, &text).map_err(|error| Error {
        text: format!(
            "cannot write {}: {}",
            output.display(),
            exchange::error_text(&error)
        ),
        code: EXIT_NOT_WRITTEN,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The lines of `text` that are not about the process of the server: node_exporter has metrics of these names of its
/// own, and reports an error for each that comes twice.
fn without_process(text: &[u8]) -> Vec<u8> {
    let is_about_process = |line: &&[u8]| {
        let name = line
            .strip_prefix(b"# HELP ")
            .or(line.strip_prefix(b"# TYPE "));
        name.unwrap_or(line).starts_with(b"process_")
    };
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !is_about_process(line))
        .flatten()
        .copied()
        .collect()
}

/// Writes `file` in one step for its readers: a part of it is never seen under its name.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    // node_exporter reads only names that end in `.prom`.
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&name);
    let written = create_new(temporary)
        .and_then(|mut created| created.write_all(bytes))
        .and_then(|()| std::fs::rename(temporary, file));
    if written.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    written
}

/// Creates a file that did not exist: a link that another user put there is removed, and not followed.
fn create_new(path: &Path) -> io::Result<File> {
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            File::create_new(path)
        }
        result => result,
    }
}

/// Columns of the terminal if they are known; otherwise 80.
fn columns() -> usize {
    let columns = std::env::var("COLUMNS").ok();
    // The width in a format string is a u16.
    let columns = columns.and_then(|columns| columns.parse::<u16>().ok());
    columns
        .map_or(table::COLUMNS_DEFAULT, usize::from)
        .max(table::COLUMNS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_the_process_are_left_out_with_their_heads() {
        let text = "# HELP a A.\n# TYPE a gauge\na{name=\"process_x\"} 1\n# HELP process_b B.\n# TYPE process_b gauge\n\
                    process_b 2\nprocess_b{a=\"b\"} 2\n# a comment about process_b\nc 3\n";
        let want = "# HELP a A.\n# TYPE a gauge\na{name=\"process_x\"} 1\n# a comment about process_b\nc 3\n";
        assert_eq!(without_process(text.as_bytes()), want.as_bytes());
        assert_eq!(without_process(b"a 1"), b"a 1");
        assert_eq!(without_process(b""), b"");
    }
}
