//! The command line: options, their bounds, `--help`, and errors that say what is allowed.
//!
//! Opens nothing and starts nothing. Called by `main`; the other modules of the daemon read [`Options`].

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use healthz::Responder;
use healthz::limits::{
    CONNECTIONS_MAX, LISTENERS_MAX, Limits, REQUEST_HEAD_BYTES_MAX, REQUEST_HEAD_BYTES_MIN,
};
use healthz::server::{Address, AddressError, Config, ListenerPaths, ListenerPathsError};
use log::LevelFilter;

use super::listen::Listen;
use crate::units::{self, Shown};

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
/// A longer time is probably a wrong unit.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
const TIMES: RangeInclusive<Duration> = DURATION_MIN..=DURATION_MAX;
/// The default limit for the longest period.
const SYNC_LIMIT_MAX: Duration = Duration::from_secs(2 * 24 * 3600);

const _: () = assert!(LOG_LIMIT_MIN.as_millis() >= 2 * DURATION_MIN.as_millis());
const _: () = assert!(SYNC_LIMIT_MAX.as_millis() == 2 * DURATION_MAX.as_millis());
const _: () = assert!(SYNC_PERIOD_DEFAULT.as_millis() < SYNC_LIMIT_DEFAULT_MIN.as_millis());

/// Whether this program checks real things. Without, it does not know the first two options.
const SOURCES: bool = cfg!(all(feature = "sources", target_os = "linux"));
/// All long options. An error suggests one of them for a name that is misspelt.
const NAMES: &[&str] = ALL_NAMES.split_at(if SOURCES { 0 } else { 2 }).1;
const ALL_NAMES: &[&str] = &[
    "check",
    "config",
    "listen",
    "allow-remote",
    "allow-host",
    "connections",
    "head-bytes",
    "body-bytes",
    "head-timeout",
    "idle-timeout",
    "drain-timeout",
    "log-limit",
    "sync-period",
    "sync-limit",
    "shutdown-delay",
    "ready-fd",
    "log-level",
    "oom-score-adj",
    "lock-memory",
    "no-sandbox",
    "help",
    "version",
];

/// What the command line says to do.
#[derive(Debug)]
pub enum Command {
    Serve(Options),
    /// Print the help, with the memory for these options.
    Help(Options),
    Version,
    /// Print the checks of real things as they are understood.
    CheckConfig(Options),
}

/// All options, with their defaults where the command line does not set them.
#[derive(Debug)]
pub struct Options {
    /// Checks of real things, as they are written.
    pub checks: Vec<OsString>,
    /// The file with checks of real things; if `None`, the default one if it exists.
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
            sandbox: true,
        }
    }
}

fn sync_limit_default(period: Duration) -> Duration {
    period.saturating_mul(2).max(SYNC_LIMIT_DEFAULT_MIN)
}

/// The first error in a command line. Its text names the option and says what is allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Parses the arguments after the program's name.
///
/// # Errors
/// The first argument that is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    let mut sync_limit = None;
    let mut wants_help = false;
    let mut wants_version = false;
    let mut is_check_config = false;
    while let Some(arg) = parser.next().map_err(misuse)? {
        match arg {
            Short('h') | Long("help") => wants_help = true,
            Short('V') | Long("version") => wants_version = true,
            Long("allow-remote") => options.allow_remote = true,
            Long("lock-memory") => options.lock_memory = true,
            Long("no-sandbox") => options.sandbox = false,
            Long(name) => match NAMES.iter().find(|known| **known == name) {
                None => return Err(unknown(name)),
                Some(name) => {
                    let value = parser.value().map_err(misuse)?;
                    if *name == "sync-limit" {
                        sync_limit =
                            Some(time("--sync-limit", &value, DURATION_MIN..=SYNC_LIMIT_MAX)?);
                    } else {
                        set(&mut options, name, &value)?;
                    }
                }
            },
            Short(letter) => {
                let option = shown(OsStr::new(&format!("-{letter}")));
                return Err(UsageError(format!("unknown option {option}; {SEE_HELP}")));
            }
            Value(word) if SOURCES && !is_check_config && word == CHECK_CONFIG => {
                is_check_config = true;
            }
            Value(file) if is_check_config && options.check_file.is_none() => {
                options.check_file = Some(file.into());
            }
            Value(value) => {
                let value = shown(&value);
                return Err(UsageError(format!(
                    "unexpected argument {value}; {SEE_HELP}"
                )));
            }
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
        Command::Help(options)
    } else if wants_version {
        Command::Version
    } else if is_check_config {
        Command::CheckConfig(options)
    } else {
        Command::Serve(options)
    })
}

/// The command that prints the checks of real things.
const CHECK_CONFIG: &str = "check-config";
const SEE_HELP: &str = "see healthz --help";

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
        _ => return Err(unknown(name)),
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
        Some(list) => Some(paths(list).map_err(|error| refused(option, value, &error))?),
        None => None,
    };
    // A path of a socket need not be UTF-8.
    let address = match address.strip_prefix(b"unix:") {
        // `,path=` would become a part of the name, and the socket would serve everything.
        Some(path) if has_setting(path) => {
            let expected = "the only setting after an address is ,paths=/metrics+/readyz";
            return Err(refused(option, value, &expected));
        }
        Some(path @ [first, ..]) if *first != b'@' => Address::Unix(OsStr::from_bytes(path).into()),
        _ => {
            let parsed = String::from_utf8_lossy(address).parse();
            parsed.map_err(|error: AddressError| {
                let has_comma = address.contains(&b',');
                let paths = "; ,paths=/metrics+/readyz after it serves only these";
                let hint = if has_comma { paths } else { "" };
                refused(option, value, &format!("{error}{hint}"))
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
        _ => Err(refused(
            option,
            value,
            &"expected one name or address without port, such as localhost, 127.0.0.1 or [::1]; repeat the option for more",
        )),
    }
}

fn level(option: &str, value: &OsStr) -> Result<LevelFilter, UsageError> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(LevelFilter::Off) | None => Err(refused(
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
            Err(refused(option, value, &expected))
        }
    }
}

/// A value for oom_score_adj (proc_pid_oom_score_adj(5)).
fn adjustment(option: &str, value: &OsStr) -> Result<i32, UsageError> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number @ -1000..=1000) => Ok(number),
        _ => Err(refused(
            option,
            value,
            &"expected a whole number from -1000 to 1000",
        )),
    }
}

/// A duration within `times`.
#[inline(never)]
fn time(
    option: &str,
    value: &OsStr,
    times: RangeInclusive<Duration>,
) -> Result<Duration, UsageError> {
    match value.to_str().and_then(units::duration) {
        Some(time) if times.contains(&time) => Ok(time),
        _ => {
            let (min, max) = (Shown(*times.start()), Shown(*times.end()));
            let expected = format!("expected {min} to {max}, written as 500ms, 10s, 2m or 1h");
            Err(refused(option, value, &expected))
        }
    }
}

#[inline(never)]
fn refused(option: &str, value: &OsStr, why: &dyn fmt::Display) -> UsageError {
    UsageError(format!("{option} {}: {why}", shown(value)))
}

/// `value` as it is if it is visible ASCII, else quoted and escaped.
fn shown(value: &OsStr) -> String {
    match value.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
            text.to_owned()
        }
        _ => format!("{value:?}"),
    }
}

fn unknown(name: &str) -> UsageError {
    let meant = NAMES.iter().map(|known| (distance(name, known), *known));
    let name = shown(&OsString::from_vec(name.as_bytes().to_vec()));
    UsageError(match meant.min() {
        Some((0..=2, known)) => format!("unknown option --{name}; did you mean --{known}?"),
        _ => format!("unknown option --{name}; {SEE_HELP}"),
    })
}

/// The edit distance: how many bytes must be inserted, deleted or changed to make `from` into `to`.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let best = (diagonal + usize::from(a != b))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
    }
    row.last().copied().unwrap_or_default()
}

fn misuse(error: lexopt::Error) -> UsageError {
    UsageError(match error {
        lexopt::Error::MissingValue { option } => {
            let option = option.unwrap_or_default();
            format!("{option} needs a value; {SEE_HELP}")
        }
        lexopt::Error::UnexpectedValue { option, value } => {
            format!("{option} takes no value, not {}", shown(&value))
        }
        error => format!("{error}; {SEE_HELP}"),
    })
}

// A backslash at the end of a line would remove the indentation of the next.
const HELP_OF_SOURCES: &str =
    "  --check NAME=KIND:...  check something, as var=disk:/var,min=10%; repeatable
  --config FILE          file with checks (/etc/healthz.toml if it exists)
  check-config [FILE]    print the checks with all defaults, or what is wrong
";

/// The text of `--help`. It fits a screen of 24 lines of 80 characters. `memory_bytes` is the most that
/// connections can take with the given options.
pub fn help(memory_bytes: usize) -> String {
    let Limits {
        request_head_bytes,
        body_drain_bytes,
        head_duration,
        idle_duration,
        drain_duration,
    } = Limits::DEFAULT;
    let connections = Config::default().connections;
    let [head, idle, drain, log, period, sync] = [
        head_duration,
        idle_duration,
        drain_duration,
        LOG_LIMIT_DEFAULT,
        SYNC_PERIOD_DEFAULT,
        sync_limit_default(SYNC_PERIOD_DEFAULT),
    ]
    .map(Shown);
    let memory = memory_bytes.div_ceil(1024);
    let sources = if SOURCES { HELP_OF_SOURCES } else { "" };
    format!(
        "\
healthz answers /healthz, /livez and /readyz on 127.0.0.1:10248 and [::1]:10248
{sources}  --listen ADDR[,paths=/A+/B]  IP:PORT, localhost:PORT or unix:PATH; {LISTENERS_MAX} times
  --allow-remote         allow addresses that other machines can reach
  --allow-host NAME      answer 421 to requests for other hosts; repeatable
  --connections N        most connections at once, 1 to {CONNECTIONS_MAX} ({connections})
  --head-bytes N         most bytes of a request head, {REQUEST_HEAD_BYTES_MIN} to {REQUEST_HEAD_BYTES_MAX} ({request_head_bytes})
  --body-bytes N         close connections that send a longer body ({body_drain_bytes})
  --head-timeout TIME    longest wait for a whole request head ({head})
  --idle-timeout TIME    close connections that are idle for this long ({idle})
  --drain-timeout TIME   longest wait for a body, and for requests at exit ({drain})
  --log-limit TIME       log fails if stderr has blocked for this long ({log})
  --sync-period TIME     time between rounds of the sync loop ({period})
  --sync-limit TIME      syncloop fails after this long without a round ({sync})
  --shutdown-delay TIME  time from failing /readyz to closing listeners (0s)
  --ready-fd N           write a newline to this descriptor when ready
  --log-level LEVEL      error, warn, info, debug or trace (RUST_LOG or info)
  --oom-score-adj N      -1000 to 1000; the OOM killer takes the highest first
  --lock-memory  --no-sandbox   keep memory in RAM; allow all calls and files
  -h, --help  -V, --version     TIME is 500ms, 10s, 2m or 1h
Connections take up to {memory} KiB. Exit: 0 stopped, 1 failed, 2 wrong usage
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let said = options("--sync-period 24h --sync-limit 48h");
        assert_eq!(said.sync_limit, followed.sync_limit);
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
    fn the_distance_counts_bytes_inserted_deleted_and_changed() {
        for (from, to, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "xabc", 1),
            ("xabc", "abc", 1),
            ("abcdef", "ace", 3),
            ("kitten", "sitting", 3),
            ("sunday", "saturday", 3),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
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
                "unknown option --frobnicate; see healthz --help",
            ),
            ("-x", "unknown option -x; see healthz --help"),
            ("serve", "unexpected argument serve; see healthz --help"),
            ("--listen", "--listen needs a value; see healthz --help"),
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
        assert_eq!(error, "unknown option \"-\\u{1b}\"; see healthz --help");
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
    fn help_fits_one_screen_and_names_every_option() {
        let help = help(99_999_999 * 1024);
        assert!(help.lines().count() < 24, "{help}");
        for line in help.lines() {
            assert!(line.chars().count() < 80, "{line}");
        }
        for name in NAMES {
            assert!(help.contains(&format!("--{name} ")), "{name}");
        }
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
            "unexpected argument b; see healthz --help"
        );
        assert_eq!(
            error("--check"),
            "--check needs a value; see healthz --help"
        );
    }

    #[cfg(not(all(feature = "sources", target_os = "linux")))]
    #[test]
    fn without_the_feature_the_options_of_checks_are_unknown() {
        assert!(error("--config f").starts_with("unknown option --config"));
        assert!(error("--check a=clock").starts_with("unknown option --check"));
        assert!(error("check-config").starts_with("unexpected argument check-config"));
        assert!(!help(0).contains("check-config"));
    }

    #[test]
    fn help_and_version_replace_serving_but_not_errors() {
        assert!(matches!(parse("--connections 9 -h"), Ok(Command::Help(_))));
        assert!(matches!(parse("-V"), Ok(Command::Version)));
        assert!(parse("--help --lisen").is_err());
    }
}
