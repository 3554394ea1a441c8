//! The command line of `healthz probe`.

use std::ffi::OsStr;
use std::time::Duration;

use lexopt::Arg::{Long, Short, Value};

use crate::client::target::{Target, URL_DEFAULT};
use crate::units;
use crate::usage::{PROBE, UsageError, time};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// The resolution of the timer.
const DURATION_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// The command to run, with its options.
#[derive(Debug)]
pub enum Command {
    Probe(Options),
    Help,
    Version,
}

#[derive(Debug)]
pub struct Options {
    pub target: Target,
    pub timeout: Duration,
    /// More than one probe, with lines for each and a summary.
    pub series: Option<Series>,
    /// Print the body.
    pub is_verbose: bool,
    pub form: Form,
    /// Exit with 1 for every failure. A single probe prints any failure to standard output: as text and without the
    /// body, one line of at most 80 bytes.
    pub is_flat: bool,
}

/// How many probes, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// If `None`, until a signal.
    pub count: Option<u64>,
    pub interval: Duration,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    Nagios,
}

/// Parses the arguments after `probe`.
///
/// # Errors
/// The first argument that is wrong.
pub fn parse(mut parser: lexopt::Parser) -> Result<Command, UsageError> {
    let misuse = |error| UsageError::from_parser(&PROBE, error);
    let mut target = None;
    let mut timeout = TIMEOUT_DEFAULT;
    let (mut count, mut interval) = (None, None);
    let mut is_verbose = false;
    let (mut is_flat, mut is_json, mut is_nagios) = (false, false, false);
    while let Some(argument) = parser.next().map_err(misuse)? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short('v') | Long("verbose") => is_verbose = true,
            Long("flat") => is_flat = true,
            Long("json") => is_json = true,
            Long("nagios") => is_nagios = true,
            Long("timeout") => {
                let value = parser.value().map_err(misuse)?;
                timeout = time("--timeout", &value, DURATION_MIN..=TIMEOUT_MAX)?;
            }
            Long("count") => count = Some(number("--count", &parser.value().map_err(misuse)?)?),
            Long("interval") => {
                let value = parser.value().map_err(misuse)?;
                interval = Some(time("--interval", &value, DURATION_MIN..=INTERVAL_MAX)?);
            }
            Long(name) => return Err(UsageError::unknown_option(&PROBE, name)),
            Short(letter) => return Err(UsageError::unknown_letter(&PROBE, letter)),
            Value(url) if target.is_none() => target = Some(parse_target(&url)?),
            Value(extra) => return Err(UsageError::unexpected_argument(&PROBE, &extra)),
        }
    }
    let series = (count.is_some() || interval.is_some()).then(|| Series {
        count: count.filter(|count| *count != 0),
        interval: interval.unwrap_or(INTERVAL_DEFAULT),
    });
    let form = match (is_json, is_nagios) {
        (false, false) => Form::Text,
        (true, false) => Form::Json,
        (false, true) if series.is_none() && !is_flat => Form::Nagios,
        _ => {
            return Err(UsageError(
                "--nagios is for one probe; leave out --json, --flat, --count and --interval"
                    .into(),
            ));
        }
    };
    let target = match target {
        Some(target) => target,
        None => parse_target(OsStr::new(URL_DEFAULT))?,
    };
    Ok(Command::Probe(Options {
        target,
        timeout,
        series,
        is_verbose,
        form,
        is_flat,
    }))
}

fn parse_target(url: &OsStr) -> Result<Target, UsageError> {
    Target::parse(url).map_err(|why| UsageError::refused("URL", url, &why))
}

fn number(option: &str, value: &OsStr) -> Result<u64, UsageError> {
    let number = value.to_str().and_then(units::whole);
    number.ok_or_else(|| UsageError::refused(option, value, &"expected a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        super::parse(lexopt::Parser::from_args(line.split_whitespace()))
    }

    fn options(line: &str) -> Options {
        match parse(line) {
            Ok(Command::Probe(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let defaults = options("");
        assert_eq!(defaults.target.url, URL_DEFAULT);
        assert_eq!(defaults.series, None);
        assert_eq!(defaults.form, Form::Text);
        assert!(!defaults.is_verbose && !defaults.is_flat);
        for option in PROBE
            .options
            .iter()
            .filter(|option| !option.default.is_empty())
        {
            let given = options(&format!("--{} {}", option.long, option.default));
            assert_eq!(given.timeout, defaults.timeout);
            let interval = given.series.map(|series| series.interval);
            assert!(interval.is_none_or(|interval| interval == INTERVAL_DEFAULT));
        }
        let notes = PROBE.notes.join(" ");
        assert!(notes.contains(&format!("default is {URL_DEFAULT}.")));
    }

    #[test]
    fn every_option_is_parsed() {
        let all = options("unix:/x --timeout 2s --count 5 --interval 200ms -v --json --flat");
        assert_eq!(all.target.url, "unix:/x");
        assert_eq!(all.timeout, Duration::from_secs(2));
        let interval = Duration::from_millis(200);
        assert_eq!(
            all.series,
            Some(Series {
                count: Some(5),
                interval
            })
        );
        assert!(all.is_verbose && all.is_flat);
        assert_eq!(all.form, Form::Json);
        let endless = Some(Series {
            count: None,
            interval: INTERVAL_DEFAULT,
        });
        assert_eq!(options("--count 0").series, endless);
        assert_eq!(options("--interval 1s").series, endless);
        assert_eq!(options("--nagios -v").form, Form::Nagios);
        for option in PROBE.options {
            let value = if option.value == "N" { "1" } else { "1s" };
            let value = if option.value.is_empty() { "" } else { value };
            assert!(
                parse(&format!("--{} {value}", option.long)).is_ok(),
                "{}",
                option.long
            );
        }
        assert!(matches!(parse("--help"), Ok(Command::Help)));
        assert!(matches!(parse("-V"), Ok(Command::Version)));
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for (line, expected) in [
            (
                "--timeout 0s",
                "--timeout 0s: expected 1ms to 1h, written as 500ms, 10s, 2m or 1h",
            ),
            (
                "--interval 25h",
                "--interval 25h: expected 1ms to 1d, written as 500ms, 10s, 2m or 1h",
            ),
            ("--count -1", "--count -1: expected a whole number"),
            ("--count", "--count needs a value; see healthz help probe"),
            ("--cuont 3", "unknown option --cuont; did you mean --count?"),
            ("--frob", "unknown option --frob; see healthz help probe"),
            ("-x", "unknown option -x; see healthz help probe"),
            (
                "unix:/a unix:/b",
                "unexpected argument unix:/b; see healthz help probe",
            ),
            (
                "http://db/",
                "URL http://db/: names are not resolved; expected an IP address or localhost",
            ),
            (
                "--nagios --json",
                "--nagios is for one probe; leave out --json, --flat, --count and --interval",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), expected);
        }
        for line in [
            "--nagios --flat",
            "--nagios --count 1",
            "--interval 1s --nagios",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
