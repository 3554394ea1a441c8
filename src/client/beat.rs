//! `healthz beat NAME`: sends a heartbeat from a script, or runs a program that sends its own.
//!
//! Sends sd_notify(3) messages to the socket of a check of kind heartbeat, as `systemd-notify` does to systemd. Of the
//! check it knows only the path of the socket. Called by [`super`].
//!
//! | command | message |
//! |---|---|
//! | `beat NAME` | `READY=1`, `WATCHDOG=1`; `READY` also ends a failure that was reported before |
//! | `--status TEXT` | the same with `STATUS=TEXT` |
//! | `--fail REASON` | `WATCHDOG=trigger`, `STATUS=REASON`, and `ERRNO=0` so that no earlier error number is shown |
//! | `-- COMMAND` | none; the program sends its own |

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use healthz::Check;
use healthz::limits::REASON_BYTES_MAX;
use lexopt::Arg::{Long, Short, Value};
use socket2::{Domain, SockAddr, Socket, Type};

use super::exchange::error_text;
use crate::usage::{self, BEAT, UsageError, shown};

/// Longest wait for room in the queue of the socket. healthz reads it at once unless it hangs.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The default of the kind heartbeat, and its bounds.
const LIMIT_DEFAULT: Duration = Duration::from_secs(30);
const LIMITS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1000 * 24 * 3600);

/// As env(1): the command was found, but cannot be run.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// As env(1): the command was not found.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_UNREACHABLE: u8 = 3;

/// The values of the command line.
#[derive(Debug, Default)]
struct Options {
    /// The name of the check.
    name: String,
    /// The path of its socket, or an abstract name that begins with `@`.
    socket: OsString,
    status: Option<OsString>,
    fail: Option<OsString>,
    /// The limit for `WATCHDOG_USEC` of the program that is run.
    limit: Option<Duration>,
    command: Vec<OsString>,
}

/// Runs the command with these arguments.
///
/// # Errors
/// The first argument that is wrong.
pub fn run(parser: lexopt::Parser) -> Result<ExitCode, UsageError> {
    let options = match parse(parser)? {
        Parsed::Options(options) => options,
        Parsed::Help => return Ok(super::print_help(&BEAT)),
        Parsed::Version => return Ok(super::print_version()),
    };
    let done = match options.command.split_first() {
        None => send(&options),
        Some((program, arguments)) => {
            // A service must start even if healthz does not run yet.
            if let Err(error) = connect(&options.socket) {
                super::print_error(&unreachable(&options, &error).text);
                super::print_error(
                    &"running the command; its messages are lost until healthz can receive them",
                );
            }
            Err(exec(&options, program, arguments))
        }
    };
    Ok(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            super::print_error(&failure.text);
            ExitCode::from(failure.code)
        }
    })
}

enum Parsed {
    Options(Options),
    Help,
    Version,
}

fn parse(mut parser: lexopt::Parser) -> Result<Parsed, UsageError> {
    let misuse = |error| UsageError::from_parser(&BEAT, error);
    let mut name = None;
    let mut socket = None;
    let mut options = Options::default();
    loop {
        // The parser would take the arguments of the command for options of `healthz beat`.
        if let Some(rest) = parser.try_raw_args() {
            if rest.peek().is_some_and(|next| next == "--") {
                options.command = rest.skip(1).collect();
                if options.command.is_empty() {
                    return Err(UsageError("-- needs a command after it".into()));
                }
                break;
            }
        }
        let Some(argument) = parser.next().map_err(misuse)? else {
            break;
        };
        match argument {
            Short('h') | Long("help") => return Ok(Parsed::Help),
            Short('V') | Long("version") => return Ok(Parsed::Version),
            Long("status") => options.status = Some(parser.value().map_err(misuse)?),
            Long("fail") => options.fail = Some(parser.value().map_err(misuse)?),
            Long("socket") => socket = Some(path(parser.value().map_err(misuse)?)?),
            Long("limit") => {
                let value = parser.value().map_err(misuse)?;
                options.limit = Some(usage::time("--limit", &value, LIMITS)?);
            }
            Long(other) => return Err(UsageError::unknown_option(&BEAT, other)),
            Short(letter) => return Err(UsageError::unknown_letter(&BEAT, letter)),
            Value(value) if name.is_none() => name = Some(check_name(&value)?),
            Value(value) => {
                let value = shown(&value);
                let text = format!("unexpected argument {value}; write -- before a command to run");
                return Err(UsageError(text));
            }
        }
    }
    let Some(name) = name else {
        let text = "beat needs the name of a check of kind heartbeat; see healthz help beat";
        return Err(UsageError(text.into()));
    };
    let is_run = !options.command.is_empty();
    let wrong = match (&options.status, &options.fail, &options.limit) {
        (Some(_), Some(_), _) => {
            "--status and --fail exclude each other: a failure has its own reason"
        }
        (Some(_), _, _) | (_, Some(_), _) if is_run => {
            "--status and --fail cannot be used with a command, which sends its own messages"
        }
        (_, _, Some(_)) if !is_run => {
            "--limit is only for a command after --; the limit of the check is in its configuration"
        }
        _ => "",
    };
    if !wrong.is_empty() {
        return Err(UsageError(wrong.into()));
    }
    // As the daemon does: a name with a slash would be a path.
    let file = name.replace('/', "-");
    options.socket = socket.unwrap_or_else(|| format!("/run/healthz/{file}.sock").into());
    options.name = name;
    Ok(Parsed::Options(options))
}

fn check_name(value: &OsStr) -> Result<String, UsageError> {
    match value.to_str() {
        Some(name) if Check::is_name(name) => Ok(name.to_owned()),
        _ => Err(UsageError::refused(
            "beat",
            value,
            &"expected the name of a check, of letters, digits and ._/-",
        )),
    }
}

/// A path that the program finds from another directory too: sd_notify(3) refuses a relative one.
fn path(value: OsString) -> Result<OsString, UsageError> {
    if value.as_bytes().first() == Some(&b'@') {
        return Ok(value);
    }
    match std::path::absolute(PathBuf::from(&value)) {
        Ok(path) => Ok(path.into_os_string()),
        Err(error) => Err(UsageError::refused("--socket", &value, &error_text(&error))),
    }
}

/// The reason why no message was sent or no program was run.
struct Failure {
    text: String,
    code: u8,
}

fn send(options: &Options) -> Result<(), Failure> {
    let message = match (&options.fail, &options.status) {
        (Some(reason), _) => with_status(b"WATCHDOG=trigger\nERRNO=0", reason),
        (None, Some(text)) => with_status(b"READY=1\nWATCHDOG=1", text),
        (None, None) => b"READY=1\nWATCHDOG=1".to_vec(),
    };
    let sent = connect(&options.socket).and_then(|socket| socket.send(&message));
    sent.map(drop).map_err(|error| unreachable(options, &error))
}

/// `fields`, and the status: one line, because a line end would begin another field. It is UTF-8, because healthz
/// ignores others, and not longer than a reason can be, because it ignores a message that is too long.
fn with_status(fields: &[u8], text: &OsStr) -> Vec<u8> {
    let text = text.to_string_lossy();
    let line = text.replace(char::is_control, " ");
    let mut message = [fields, b"\nSTATUS="].concat();
    let end = message.len() + REASON_BYTES_MAX;
    for character in line.trim().chars() {
        if message.len() + character.len_utf8() > end {
            break;
        }
        message.extend(character.encode_utf8(&mut [0; 4]).bytes());
    }
    message
}

fn connect(name: &OsStr) -> io::Result<Socket> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat()))?,
        None => SockAddr::unix(name)?,
    };
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.connect(&address)?;
    Ok(socket)
}

/// Runs the program in place of this process, which keeps its process id: so `WATCHDOG_PID` is the id that
/// sd_watchdog_enabled(3) compares with its own. Returns only if that fails.
fn exec(options: &Options, program: &OsStr, arguments: &[OsString]) -> Failure {
    let limit = options.limit.unwrap_or(LIMIT_DEFAULT);
    let error = Command::new(program)
        .args(arguments)
        .env("NOTIFY_SOCKET", &options.socket)
        .env("WATCHDOG_USEC", limit.as_micros().to_string())
        .env("WATCHDOG_PID", std::process::id().to_string())
        .exec();
    Failure {
        text: format!("cannot run {}: {}", shown(program), error_text(&error)),
        code: match error.kind() {
            ErrorKind::NotFound => EXIT_NOT_FOUND,
            _ => EXIT_NOT_EXECUTABLE,
        },
    }
}

/// What was tried, what was wrong and what to do.
fn unreachable(options: &Options, error: &io::Error) -> Failure {
    let Options { name, socket, .. } = options;
    let socket = shown(socket);
    let text = match error.kind() {
        ErrorKind::NotFound => format!(
            "no such check {name}: {socket} does not exist; is there a check of kind heartbeat with this name, and \
             does healthz run?"
        ),
        ErrorKind::ConnectionRefused => format!(
            "check {name}: no process receives on {socket}; does healthz run, with a check of kind heartbeat with this \
             name?"
        ),
        ErrorKind::PermissionDenied => format!(
            "check {name}: not permitted to send to {socket}; run this as the owner of the socket or as root, or give \
             the check the options mode and uid"
        ),
        // A send that has timed out.
        ErrorKind::WouldBlock => format!(
            "check {name}: the queue of {socket} was full for {} s; healthz does not read it",
            SEND_TIMEOUT.as_secs()
        ),
        _ => format!("check {name}: {socket}: {}", error_text(error)),
    };
    Failure {
        text,
        code: EXIT_UNREACHABLE,
    }
}
