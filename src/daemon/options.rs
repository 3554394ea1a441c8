//! The command line: options, their bounds, `--help`, and errors that say what is allowed.
//!
//! Opens nothing and starts nothing. Called by `main`; the other modules of the daemon read [`Options`].

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use healthz::Responder;
use healthz::limits::{CONNECTIONS_MAX, REQUEST_HEAD_BYTES_MAX, REQUEST_HEAD_BYTES_MIN};
use healthz::server::{Address, AddressError, Config, ListenerPaths, ListenerPathsError};
use log::LevelFilter;

use crate::units::Shown;
use crate::usage::{self, UsageError, time};

/// As in the kubelet, whose `log` check fails if nothing was flushed for two minutes.
const LOG_LIMIT_DEFAULT: Duration = Duration::from_secs(120);
/// The log is verified at half of the limit, in whole milliseconds. A thread can also get no CPU time for
/// some milliseconds, which must not look like a blocked log.
const LOG_LIMIT_MIN: Duration = Duration::from_millis(10);
/// Long enough for a small machine to sleep between rounds.
const SYNC_PERIOD_DEFAULT: Duration = Duration::from_secs(10);
/// As in the kubelet, the limit is twice the period, but at least this.
const SYNC_LIMIT_DEFAULT_MIN: Duration = Duration::from_secs(5 * 60);
/// The resolution of the clock.
const DURATION_MIN: Duration = Duration::from_millis(1);
/// A longer time probably has a wrong unit.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
const TIMES: RangeInclusive<Duration> = DURATION_MIN..=DURATION_MAX;
/// The default limit for the longest period.
const SYNC_LIMIT_MAX: Duration = Duration::from_secs(2 * 24 * 3600);

const _: () = assert!(LOG_LIMIT_MIN.as_millis() >= 2 * DURATION_MIN.as_millis());
const _: () = assert!(SYNC_LIMIT_MAX.as_millis() == 2 * DURATION_MAX.as_millis());
const _: () = assert!(SYNC_PERIOD_DEFAULT.as_millis() < SYNC_LIMIT_DEFAULT_MIN.as_millis());

/// The command to run, with its options.
#[derive(Debug)]
pub enum Command {
    Serve(Options),
    /// Print the help of a command, or the overview if no command was named; with the memory for these options.
    Help(Option<&'static usage::Command>, Options),
    Version,
    /// Print the configured checks with all defaults.
    CheckConfig(Options),
}

/// A value of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: Address,
    /// The paths to serve there, if not all.
    pub paths: Option<ListenerPaths>,
}

impl Listen {
    /// Serves every path at `address`.
    pub fn at(address: Address) -> Self {
        Listen {
            address,
            paths: None,
        }
    }
}

/// All options, with their defaults where the command line does not set them.
#[derive(Debug)]
pub struct Options {
    /// The values of `--check`.
    pub checks: Vec<OsString>,
    /// The check file; if `None`, the default one if it exists.
    pub check_file: Option<PathBuf>,
    /// If empty, the daemon uses inherited sockets, or else both addresses of localhost.
    pub listen: Vec<Listen>,
    pub allow_remote: bool,
    pub allow_hosts: Vec<String>,
    pub config: Config,
    pub log_limit: Duration,
    pub sync_period: Duration,
    pub sync_limit: Duration,
    pub shutdown_delay: Duration,
    pub ready_fd: Option<RawFd>,
    /// From `--log-level`. If `None`, `RUST_LOG` decides.
    pub log_level: Option<LevelFilter>,
    /// The value for /proc/self/oom_score_adj.
    pub oom_score_adj: Option<i32>,
    pub lock_memory: bool,
    /// Whether to answer `/metrics`.
    pub metrics: bool,
    /// Whether to use the sandbox.
    pub sandbox: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: Vec::new(),
            check_file: None,
            listen: Vec::new(),
            allow_remote: false,
            allow_hosts: Vec::new(),
            config: Config::default(),
            log_limit: LOG_LIMIT_DEFAULT,
            sync_period: SYNC_PERIOD_DEFAULT,
            sync_limit: sync_limit_default(SYNC_PERIOD_DEFAULT),
            shutdown_delay: Duration::ZERO,
            ready_fd: None,
            log_level: None,
            oom_score_adj: None,
            lock_memory: false,
            metrics: true,
            sandbox: true,
        }
    }
}

fn sync_limit_default(period: Duration) -> Duration {
    period.saturating_mul(2).max(SYNC_LIMIT_DEFAULT_MIN)
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// The first argument that is wrong.
#[inline(never)] // What it needs of the stack is free when it returns.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    let mut sync_limit = None;
    let mut wants_help = false;
    let mut wants_version = false;
    let mut named = None;
    loop {
        let command = named.unwrap_or(&usage::SERVE);
        let misuse = |error| UsageError::from_parser(command, error);
        let Some(arg) = parser.next().map_err(misuse)? else {
            break;
        };
        match arg {
            Short('h') | Long("help") => wants_help = true,
            Short('V') | Long("version") => wants_version = true,
            Long("allow-remote") => options.allow_remote = true,
            Long("lock-memory") => options.lock_memory = true,
            Long("no-metrics") => options.metrics = false,
            Long("no-sandbox") => options.sandbox = false,
            Long(name) => {
                let mut known = usage::SERVE.options.iter().map(|option| option.long);
                let Some(option) = known.find(|known| *known == name) else {
                    return Err(UsageError::unknown_option(&usage::SERVE, name));
                };
                let value = parser.value().map_err(misuse)?;
                if option == "sync-limit" {
                    sync_limit = Some(time("--sync-limit", &value, DURATION_MIN..=SYNC_LIMIT_MAX)?);
                } else {
                    set(&mut options, option, &value)?;
                }
            }
            Short(letter) => return Err(UsageError::unknown_letter(command, letter)),
            Value(word) if named.is_none() => match usage::find(&word) {
                Some(known) if is_own(known) => named = Some(known),
                _ => return Err(UsageError::unknown_command(&word)),
            },
            Value(file) if is_check_config(command) && options.check_file.is_none() => {
                options.check_file = Some(file.into());
            }
            Value(value) => return Err(UsageError::unexpected_argument(command, &value)),
        }
    }
    options.sync_limit = sync_limit.unwrap_or_else(|| sync_limit_default(options.sync_period));
    if options.sync_limit <= options.sync_period {
        let (limit, period) = (Shown(options.sync_limit), Shown(options.sync_period));
        return Err(UsageError(format!(
            "--sync-limit {limit}: expected more than --sync-period, which is {period}"
        )));
    }
    Ok(if wants_help {
        Command::Help(named, options)
    } else if wants_version {
        Command::Version
    } else if named.is_some_and(is_check_config) {
        Command::CheckConfig(options)
    } else {
        Command::Serve(options)
    })
}

/// Whether this parser knows the arguments of `command`.
fn is_own(command: &usage::Command) -> bool {
    command.is(&usage::SERVE) || is_check_config(command)
}

/// Whether `command` prints the configured checks.
#[cfg(all(feature = "sources", target_os = "linux"))]
fn is_check_config(command: &usage::Command) -> bool {
    command.is(&usage::CHECK_CONFIG)
}

/// In this program no check can be configured.
#[cfg(not(all(feature = "sources", target_os = "linux")))]
fn is_check_config(_: &usage::Command) -> bool {
    false
}

/// Sets the option `name` to `value`.
fn set(options: &mut Options, name: &str, value: &OsStr) -> Result<(), UsageError> {
    let option = &format!("--{name}");
    let config = &mut options.config;
    let limits = &mut config.limits;
    match name {
        "check" => options.checks.push(value.to_owned()),
        "config" => options.check_file = Some(value.into()),
        "listen" => options.listen.push(listen(option, value)?),
        "allow-host" => options.allow_hosts.push(host(option, value)?),
        "connections" => {
            config.connections = number(option, value, 1..=CONNECTIONS_MAX as u64)? as usize
        }
        "head-bytes" => {
            let bytes = REQUEST_HEAD_BYTES_MIN as u64..=REQUEST_HEAD_BYTES_MAX as u64;
            limits.request_head_bytes = number(option, value, bytes)? as usize;
        }
        "body-bytes" => limits.body_drain_bytes = number(option, value, 0..=u64::MAX)?,
        "head-timeout" => limits.head_duration = time(option, value, TIMES)?,
        "idle-timeout" => limits.idle_duration = time(option, value, TIMES)?,
        "drain-timeout" => limits.drain_duration = time(option, value, TIMES)?,
        "log-limit" => options.log_limit = time(option, value, LOG_LIMIT_MIN..=DURATION_MAX)?,
        "sync-period" => options.sync_period = time(option, value, TIMES)?,
        "shutdown-delay" => {
            options.shutdown_delay = time(option, value, Duration::ZERO..=DURATION_MAX)?
        }
        "ready-fd" => {
            // Smaller numbers are the standard streams.
            let fd = number(option, value, 3..=RawFd::MAX as u64)?;
            options.ready_fd = Some(fd as RawFd);
        }
        "log-level" => options.log_level = Some(level(option, value)?),
        "oom-score-adj" => options.oom_score_adj = Some(adjustment(option, value)?),
        _ => return Err(UsageError::unknown_option(&usage::SERVE, name)),
    }
    Ok(())
}

/// An address, and perhaps `,paths=` with the paths to serve there.
fn listen(option: &str, value: &OsStr) -> Result<Listen, UsageError> {
    let bytes = value.as_bytes();
    let at = bytes
        .windows(PATHS.len())
        .position(|window| window == PATHS.as_bytes());
    let (address, rest) = bytes
        .split_at_checked(at.unwrap_or(bytes.len()))
        .unwrap_or((bytes, &[]));
    let paths = match rest.strip_prefix(PATHS.as_bytes()) {
        Some(list) => {
            Some(paths(list).map_err(|error| UsageError::refused(option, value, &error))?)
        }
        None => None,
    };
    // A path of a socket need not be UTF-8.
    let address = match address.strip_prefix(b"unix:") {
        // `,path=` would become a part of the name, and the socket would serve everything.
        Some(path) if has_setting(path) => {
            let expected = "the only setting after an address is ,paths=/metrics+/readyz";
            return Err(UsageError::refused(option, value, &expected));
        }
        Some(path @ [first, ..]) if *first != b'@' => Address::Unix(OsStr::from_bytes(path).into()),
        _ => {
            let parsed = String::from_utf8_lossy(address).parse();
            parsed.map_err(|error: AddressError| {
                let has_comma = address.contains(&b',');
                let paths = "; ,paths=/metrics+/readyz after it serves only these";
                let hint = if has_comma { paths } else { "" };
                UsageError::refused(option, value, &format!("{error}{hint}"))
            })?
        }
    };
    Ok(Listen { address, paths })
}

/// Separates the address from the paths.
const PATHS: &str = ",paths=";

/// The paths of `list`, separated by `+`.
fn paths(list: &[u8]) -> Result<ListenerPaths, String> {
    let list = String::from_utf8_lossy(list);
    if list.contains(',') {
        return Err("separate several paths by +, as ,paths=/metrics+/readyz".to_owned());
    }
    list.parse()
        .map_err(|error: ListenerPathsError| error.to_string())
}

/// Whether `path` ends in `,NAME=` and a value.
fn has_setting(path: &[u8]) -> bool {
    let setting = path.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    let mut parts = setting.splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_lowercase);
    is_name && parts.next().is_some() && setting.len() < path.len()
}

/// A value for `--allow-host`. Lists and patterns are refused, because no client sends them in `Host`.
fn host(option: &str, value: &OsStr) -> Result<String, UsageError> {
    match value.to_str() {
        Some(host) if Responder::is_host(host) => Ok(host.to_owned()),
        _ => Err(UsageError::refused(
            option,
            value,
            &"expected one name or address without port, such as localhost, 127.0.0.1 or [::1]; repeat the option for more",
        )),
    }
}

fn level(option: &str, value: &OsStr) -> Result<LevelFilter, UsageError> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(LevelFilter::Off) | None => Err(UsageError::refused(
            option,
            value,
            &"expected error, warn, info, debug or trace",
        )),
        Some(level) => Ok(level),
    }
}

/// A whole number within `allowed`.
#[inline(never)] // One copy in the program, instead of one for each option.
fn number(option: &str, value: &OsStr, allowed: RangeInclusive<u64>) -> Result<u64, UsageError> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number) if allowed.contains(&number) => Ok(number),
        _ => {
            let (min, max) = (allowed.start(), allowed.end());
            let expected = format!("expected a whole number from {min} to {max}");
            Err(UsageError::refused(option, value, &expected))
        }
    }
}

/// A value for oom_score_adj (proc_pid_oom_score_adj(5)).
fn adjustment(option: &str, value: &OsStr) -> Result<i32, UsageError> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number @ -1000..=1000) => Ok(number),
        _ => Err(UsageError::refused(
            option,
            value,
            &"expected a whole number from -1000 to 1000",
        )),
    }
}

/// The help of a command, or the overview if it is `None`. It fits a screen of 24 lines of 80 characters.
/// `memory_bytes` is the most that connections can take with the given options.
pub fn help(command: Option<&usage::Command>, memory_bytes: usize) -> String {
    let mut text = command.map_or_else(usage::overview, usage::details);
    if command.is_none_or(|command| command.is(&usage::SERVE)) {
        let memory = memory_bytes.div_ceil(1024);
        text.push_str(&format!(
            "Connections take up to {memory} KiB with these options.\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use healthz::limits::{LISTENERS_MAX, Limits};

    use crate::usage::shown;

    fn parse(line: &str) -> Result<Command, UsageError> {
        super::parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match parse(line) {
            Ok(Command::Serve(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(line: &str) -> String {
        parse(line).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_kubelet() {
        let options = options("");
        assert!(options.listen.is_empty() && !options.allow_remote);
        assert_eq!(options.config, Config::default());
        assert_eq!(options.log_limit, Duration::from_secs(120));
        assert_eq!(options.sync_limit, Duration::from_secs(300));
        assert_eq!(options.shutdown_delay, Duration::ZERO);
    }

    #[test]
    fn the_default_sync_limit_depends_on_the_period() {
        assert_eq!(
            options("--sync-period 10m").sync_limit,
            Duration::from_secs(1200)
        );
        let options = options("--sync-limit 3s --sync-period=1s");
        assert_eq!(options.sync_limit, Duration::from_secs(3));
        assert_eq!(
            error("--sync-limit 10s"),
            "--sync-limit 10s: expected more than --sync-period, which is 10s"
        );
    }

    #[test]
    fn the_default_sync_limit_of_the_longest_period_can_be_set() {
        let followed = options("--sync-period 24h");
        assert_eq!(followed.sync_limit, SYNC_LIMIT_MAX);
        let given = options("--sync-period 24h --sync-limit 48h");
        assert_eq!(given.sync_limit, followed.sync_limit);
        assert_eq!(
            error("--sync-limit 49h"),
            "--sync-limit 49h: expected 1ms to 2d, written as 500ms, 10s, 2m or 1h"
        );
    }

    #[test]
    fn every_option_can_be_set() {
        let options = options(
            "--listen 127.0.0.1:1 --listen unix:/a --allow-remote --allow-host localhost \
             --allow-host [::1] --connections 3 --head-bytes 1024 --body-bytes 0 --head-timeout 1s \
             --idle-timeout 2s --drain-timeout 3s --log-limit 4s --shutdown-delay 5s --ready-fd 6 \
             --log-level debug --oom-score-adj -500 --lock-memory --no-sandbox",
        );
        assert_eq!(
            options.listen,
            ["127.0.0.1:1", "unix:/a"].map(|text| Listen::at(text.parse().unwrap()))
        );
        assert!(options.allow_remote);
        assert_eq!(options.allow_hosts, ["localhost", "[::1]"]);
        let limits = Limits {
            request_head_bytes: 1024,
            body_drain_bytes: 0,
            head_duration: Duration::from_secs(1),
            idle_duration: Duration::from_secs(2),
            drain_duration: Duration::from_secs(3),
        };
        assert_eq!(
            options.config,
            Config {
                limits,
                connections: 3,
                response_bytes_min: 0,
                long_response_bytes_min: 0,
            }
        );
        assert_eq!(options.log_limit, Duration::from_secs(4));
        assert_eq!(options.shutdown_delay, Duration::from_secs(5));
        assert_eq!(options.ready_fd, Some(6));
        assert_eq!(options.log_level, Some(LevelFilter::Debug));
        assert_eq!(options.oom_score_adj, Some(-500));
        assert!(options.lock_memory && !options.sandbox);
    }

    #[test]
    fn an_address_can_be_followed_by_the_paths_to_serve_there() {
        let listen = |value: &str| {
            let options = options(&format!("--listen {value}"));
            let [Listen { address, paths }] = options.listen.as_slice() else {
                panic!("{:?}", options.listen);
            };
            let paths = paths.iter().flat_map(ListenerPaths::iter);
            let paths: Vec<_> = paths.map(str::to_owned).collect();
            (address.to_string(), paths)
        };
        for (value, address, paths) in [
            ("[::1]:1", "[::1]:1", &[] as &[_]),
            ("0.0.0.0:9100,paths=/metrics", "0.0.0.0:9100", &["/metrics"]),
            (
                "localhost:1,paths=/metrics+/readyz",
                "localhost:1",
                &["/metrics", "/readyz"],
            ),
            ("unix:/a,b,paths=/m", "unix:/a,b", &["/m"]),
            ("unix:/a=b,c", "unix:/a=b,c", &[]),
        ] {
            let paths = paths.iter().map(|path: &&str| (*path).to_owned()).collect();
            assert_eq!(listen(value), (address.to_owned(), paths));
        }
        for (value, expected) in [
            (
                "[::1]:1,paths=metrics",
                r#"the path "metrics" cannot be served alone; expected one such as /metrics, without % and ?, and without / at its end"#,
            ),
            (
                "[::1]:1,paths=",
                r#"the path "" cannot be served alone; expected one such as /metrics, without % and ?, and without / at its end"#,
            ),
            (
                "[::1]:1,paths=/metrics,/readyz",
                "separate several paths by +, as ,paths=/metrics+/readyz",
            ),
            (
                "unix:/a,path=/m",
                "the only setting after an address is ,paths=/metrics+/readyz",
            ),
        ] {
            let error = error(&format!("--listen {value}"));
            assert_eq!(error, format!("--listen {value}: {expected}"));
        }
        let error = error("--listen [::1]:1,path=/m");
        assert!(error.starts_with("--listen [::1]:1,path=/m: expected an address"));
        assert!(
            error.ends_with("; ,paths=/metrics+/readyz after it serves only these"),
            "{error}"
        );
    }

    #[test]
    fn values_at_the_bounds_are_allowed_and_values_beyond_them_are_not() {
        for value in ["-1000", "0", "1000"] {
            let options = options(&format!("--oom-score-adj {value}"));
            assert_eq!(options.oom_score_adj, value.parse().ok());
        }
        for value in ["-1001", "1001", "high"] {
            assert_eq!(
                error(&format!("--oom-score-adj {value}")),
                format!("--oom-score-adj {value}: expected a whole number from -1000 to 1000")
            );
        }
        assert_eq!(options("--ready-fd 3").ready_fd, Some(3));
        assert_eq!(options("--log-limit 24h").log_limit, DURATION_MAX);
        assert!(error("--log-limit 9ms").contains("expected 10ms to 1d"));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_has_no_port() {
        for host in ["a", "a-b.c", "127.0.0.1", "[::1]"] {
            assert_eq!(options(&format!("--allow-host {host}")).allow_hosts, [host]);
        }
        for host in [
            "", "a b", "a:80", "a/b", "[::1", "[x]", "[::1]:80", "\u{e9}",
        ] {
            let args = ["--allow-host", host].map(OsString::from);
            let error = super::parse(args).unwrap_err().to_string();
            let expected = format!("--allow-host {}: ", shown(OsStr::new(host)));
            assert!(error.starts_with(&expected), "{error}");
        }
        assert_eq!(shown(OsStr::new("")), "\"\"");
        assert_eq!(shown(OsStr::new("a b")), "\"a b\"");
    }

    #[test]
    fn errors_name_the_option_the_value_and_what_is_allowed() {
        for (line, expected) in [
            (
                "--connections 0",
                "--connections 0: expected a whole number from 1 to 65535",
            ),
            (
                "--connections x",
                "--connections x: expected a whole number from 1 to 65535",
            ),
            (
                "--head-bytes=1",
                "--head-bytes 1: expected a whole number from 512 to 65535",
            ),
            (
                "--ready-fd 2",
                "--ready-fd 2: expected a whole number from 3 to 2147483647",
            ),
            (
                "--head-timeout 10",
                "--head-timeout 10: expected 1ms to 1d, written as 500ms, 10s, 2m or 1h",
            ),
            (
                "--log-level loud",
                "--log-level loud: expected error, warn, info, debug or trace",
            ),
            (
                "--log-level off",
                "--log-level off: expected error, warn, info, debug or trace",
            ),
            (
                "--allow-host [::1]:80",
                "--allow-host [::1]:80: expected one name or address without port, such as \
                 localhost, 127.0.0.1 or [::1]; repeat the option for more",
            ),
            (
                "--lisen x",
                "unknown option --lisen; did you mean --listen?",
            ),
            (
                "--frobnicate",
                "unknown option --frobnicate; see healthz help serve",
            ),
            ("-x", "unknown option -x; see healthz help serve"),
            ("serv", "unknown command serv; did you mean serve?"),
            (
                "serve serve",
                "unexpected argument serve; see healthz help serve",
            ),
            ("--listen", "--listen needs a value; see healthz help serve"),
            (
                "--allow-remote=yes",
                "--allow-remote takes no value, not yes",
            ),
        ] {
            assert_eq!(error(line), expected);
        }
        assert!(error("--listen 10248").starts_with("--listen 10248: expected an address such as"));
        assert!(error("--listen unix:").starts_with("--listen unix:: expected"));
    }

    #[test]
    fn control_characters_in_a_value_are_escaped() {
        let error = super::parse([OsString::from("--connections"), OsString::from("\u{1b}[2J")]);
        let error = error.unwrap_err().to_string();
        assert!(
            !error.contains('\u{1b}') && error.contains("\\u{1b}"),
            "{error}"
        );
    }

    #[test]
    fn a_short_option_that_is_a_control_character_is_escaped() {
        let error = super::parse([OsString::from("-\u{1b}[2J")]);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "unknown option \"-\\u{1b}\"; see healthz help serve");
    }

    /// Regression: lists and patterns were accepted, and no client could match them.
    #[test]
    fn a_host_that_clients_cannot_send_is_refused() {
        for host in [
            "localhost,127.0.0.1",
            "*.a",
            "",
            "a b",
            "a:80",
            "[::1",
            "::1",
        ] {
            let args = ["--allow-host", host].map(OsString::from);
            assert!(super::parse(args).is_err(), "{host}");
        }
        for host in ["localhost", "127.0.0.1", "[::1]", "my_host.example-1"] {
            let args = ["--allow-host", host].map(OsString::from);
            assert!(super::parse(args).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_path_need_not_be_utf8() {
        let path = OsString::from_vec(b"unix:/run/\xff".to_vec());
        let command = super::parse([OsString::from("--listen"), path]);
        let Ok(Command::Serve(options)) = command else {
            panic!("{command:?}");
        };
        let path = OsString::from_vec(b"/run/\xff".to_vec());
        assert_eq!(options.listen, [Listen::at(Address::Unix(path.into()))]);
    }

    #[test]
    fn help_fits_one_screen_with_the_memory_of_connections() {
        for command in [None, Some(&usage::SERVE)] {
            let help = help(command, 99_999_999 * 1024);
            assert!(help.lines().count() < 24, "{help}");
            let line = help.lines().last().unwrap();
            assert!(line.contains("99999999 KiB") && line.len() < 80, "{line}");
        }
        assert!(!help(Some(&usage::HELP), 1024).contains("KiB"));
    }

    /// The table of options has texts, and the bounds and defaults in them are those of the parser.
    #[test]
    fn the_help_has_the_right_defaults_and_bounds() {
        let shown = |options: &Options| format!("{options:?}");
        for option in usage::SERVE.options {
            if !option.default.is_empty() {
                let line = format!("--{} {}", option.long, option.default);
                assert_eq!(shown(&options(&line)), shown(&Options::default()), "{line}");
            }
            let words: Vec<&str> = option.text.split([' ', ';']).collect();
            let range = words.windows(3).find(|range| range[1] == "to");
            let Some(&[min, _, max]) = range else {
                continue;
            };
            let (Ok(min), Ok(max)) = (min.parse::<i64>(), max.parse::<i64>()) else {
                continue;
            };
            let is_allowed = |value| parse(&format!("--{} {value}", option.long)).is_ok();
            assert!(is_allowed(min) && is_allowed(max), "{}", option.long);
            assert!(
                !is_allowed(min - 1) && !is_allowed(max + 1),
                "{}",
                option.long
            );
        }
        let listen = usage::SERVE
            .options
            .iter()
            .find(|option| option.long == "listen");
        assert!(
            listen
                .unwrap()
                .text
                .ends_with(&format!("up to {LISTENERS_MAX}"))
        );
    }

    #[cfg(all(feature = "sources", target_os = "linux"))]
    #[test]
    fn check_config_takes_a_file_and_the_options_of_checks() {
        let command = |line| match parse(line) {
            Ok(Command::CheckConfig(options)) => Some((options.checks, options.check_file)),
            Ok(_) => None,
            Err(error) => panic!("{error}"),
        };
        let file = Some(PathBuf::from("f"));
        assert_eq!(command("check-config"), Some((vec![], None)));
        assert_eq!(command("check-config f"), Some((vec![], file.clone())));
        assert_eq!(
            command("--check a --check b check-config --config f"),
            Some((vec!["a".into(), "b".into()], file.clone()))
        );
        assert_eq!(command("check-config -h"), None);
        assert_eq!(command("--config f"), None);
        assert_eq!(options("--config f").check_file, file);
        assert_eq!(
            error("check-config a b"),
            "unexpected argument b; see healthz help check-config"
        );
        assert_eq!(
            error("--check"),
            "--check needs a value; see healthz help serve"
        );
    }

    #[cfg(not(all(feature = "sources", target_os = "linux")))]
    #[test]
    fn without_the_feature_the_options_of_checks_are_unknown() {
        assert!(error("--config f").starts_with("unknown option --config"));
        assert!(error("--check a=clock").starts_with("unknown option --check"));
        assert!(error("check-config").starts_with("unknown command check-config"));
        assert!(!help(None, 0).contains("check-config"));
    }

    #[test]
    fn help_and_version_replace_serving_but_not_errors() {
        assert!(matches!(
            parse("--connections 9 -h"),
            Ok(Command::Help(None, _))
        ));
        for line in ["serve --help", "-h --connections 9 serve"] {
            assert!(
                matches!(parse(line), Ok(Command::Help(Some(command), _)) if command.is(&usage::SERVE)),
                "{line}"
            );
        }
        assert!(matches!(parse("serve"), Ok(Command::Serve(_))));
        assert!(matches!(parse("-V"), Ok(Command::Version)));
        assert!(parse("--help --lisen").is_err());
    }
}
