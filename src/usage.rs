//! The commands of the program and their options, as one table.
//!
//! From the table follow `--help`, `healthz help COMMAND`, and the errors for names that are not in it. Opens
//! nothing and prints nothing. Used by `main`, and by the parsers of all commands.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use crate::nearest::nearest;
use crate::units::{self, Shown};

/// Columns of a screen, less one: some terminals break a line that fills the last column.
const COLUMNS: usize = 79;
/// Columns before the summary of a command.
const COMMAND_COLUMNS: usize = 36;
/// Columns before the text of an option.
const OPTION_COLUMNS: usize = 25;
/// Columns before the text of two options that share a line.
const PAIR_COLUMNS: usize = 32;

/// A command of the program.
#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// The arguments after the name and the options; empty if there are none.
    pub arguments: &'static str,
    /// What it does, in a few words.
    pub summary: &'static str,
    pub options: &'static [CommandOption],
    /// Lines about arguments and exit codes.
    pub notes: &'static [&'static str],
}

/// An option of a command.
#[derive(Debug)]
pub struct CommandOption {
    /// Without the dash.
    pub short: Option<char>,
    /// Without the dashes.
    pub long: &'static str,
    /// What the value is; empty if the option takes none.
    pub value: &'static str,
    /// The value if the option is not given; empty if there is none.
    pub default: &'static str,
    pub text: &'static str,
    /// Whether `healthz --help` lists it. That help has no room for all options.
    pub in_overview: bool,
}

impl Command {
    /// Whether this is `other`, which is one of the statics below.
    pub fn is(&self, other: &Command) -> bool {
        std::ptr::eq(self, other)
    }
}

impl CommandOption {
    const fn new(long: &'static str, value: &'static str, text: &'static str) -> Self {
        CommandOption {
            short: None,
            long,
            value,
            default: "",
            text,
            in_overview: false,
        }
    }

    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    const fn in_overview(mut self) -> Self {
        self.in_overview = true;
        self
    }
}

use CommandOption as Opt;

/// Options that every command has.
pub const COMMON: &[CommandOption] = &[
    Opt::new("help", "", "explain options").short('h'),
    Opt::new("version", "", "print the version").short('V'),
];

/// All commands. The first one runs if no command is named.
pub static COMMANDS: &[&Command] = &[
    &SERVE,
    #[cfg(all(feature = "sources", target_os = "linux"))]
    &CHECK_CONFIG,
    #[cfg(feature = "client")]
    &PROBE,
    #[cfg(feature = "client")]
    &STATUS,
    #[cfg(feature = "client")]
    &BEAT,
    &HELP,
];

/// Options that configure checks.
#[cfg(all(feature = "sources", target_os = "linux"))]
const CHECK: CommandOption = Opt::new(
    "check",
    "NAME=KIND:...",
    "add a check, such as var=disk:/var,min=10%; repeatable",
)
.in_overview();
#[cfg(all(feature = "sources", target_os = "linux"))]
const CONFIG: CommandOption = Opt::new(
    "config",
    "FILE",
    "file with checks (/etc/healthz.toml if it exists)",
)
.in_overview();

pub static SERVE: Command = Command {
    name: "serve",
    arguments: "",
    summary: "answer /healthz, /livez and /readyz",
    options: &[
        #[cfg(all(feature = "sources", target_os = "linux"))]
        CHECK,
        #[cfg(all(feature = "sources", target_os = "linux"))]
        CONFIG,
        Opt::new(
            "listen",
            "ADDR",
            "IP:PORT, localhost:PORT or unix:PATH; up to 16",
        )
        .in_overview(),
        Opt::new("allow-remote", "", "allow clients on other machines").in_overview(),
        Opt::new("no-metrics", "", "no /metrics"),
        Opt::new(
            "allow-host",
            "NAME",
            "answer 421 to requests for other hosts; repeatable",
        )
        .in_overview(),
        Opt::new("connections", "N", "most connections at once, 1 to 65535")
            .default("64")
            .in_overview(),
        Opt::new(
            "head-bytes",
            "N",
            "most bytes of a request head, 512 to 65535",
        )
        .default("8192"),
        Opt::new(
            "body-bytes",
            "N",
            "close connections that send a longer body",
        )
        .default("262144"),
        Opt::new(
            "head-timeout",
            "TIME",
            "longest wait for a whole request head",
        )
        .default("10s"),
        Opt::new(
            "idle-timeout",
            "TIME",
            "close connections that are idle for this long",
        )
        .default("1m"),
        Opt::new(
            "drain-timeout",
            "TIME",
            "longest wait for a body, and for requests at exit",
        )
        .default("2s"),
        Opt::new(
            "log-limit",
            "TIME",
            "log fails if stderr has blocked for this long",
        )
        .default("2m"),
        Opt::new(
            "sync-period",
            "TIME",
            "time between rounds of the sync loop",
        )
        .default("10s"),
        Opt::new(
            "sync-limit",
            "TIME",
            "syncloop fails after this long without a round",
        )
        .default("5m"),
        Opt::new(
            "shutdown-delay",
            "TIME",
            "time from failing /readyz to closing listeners",
        )
        .default("0s")
        .in_overview(),
        Opt::new(
            "ready-fd",
            "N",
            "write a newline to this descriptor when ready",
        )
        .in_overview(),
        Opt::new(
            "log-level",
            "LEVEL",
            "error, warn, info, debug or trace (RUST_LOG or info)",
        )
        .in_overview(),
        Opt::new(
            "oom-score-adj",
            "N",
            "-1000 to 1000; the OOM killer ends the highest first",
        ),
        Opt::new("lock-memory", "", "keep memory in RAM"),
        Opt::new("no-sandbox", "", "run without the sandbox").in_overview(),
    ],
    notes: &[
        "--listen 0.0.0.0:9249,paths=/metrics+/readyz serves only these paths there.",
        "TIME is 500ms, 10s, 2m or 1h. Exit: 0 stopped, 1 failed, 2 wrong usage",
    ],
};

#[cfg(all(feature = "sources", target_os = "linux"))]
pub static CHECK_CONFIG: Command = Command {
    name: "check-config",
    arguments: "[FILE]",
    summary: "print all checks with their defaults",
    options: &[CHECK, CONFIG],
    notes: &[
        "FILE is another way to write --config FILE. Options of serve are accepted too.",
        "Errors in a file begin with FILE:LINE:COLUMN and name the nearest known name.",
        "Exit: 0 no errors, 2 errors",
    ],
};

#[cfg(feature = "client")]
pub static PROBE: Command = Command {
    name: "probe",
    arguments: "[URL]",
    summary: "ask a health endpoint, once or like ping",
    options: &[
        Opt::new("timeout", "TIME", "longest wait for the whole answer").default("1s"),
        Opt::new(
            "count",
            "N",
            "send this many probes, then print a summary; 0: no end",
        ),
        Opt::new(
            "interval",
            "TIME",
            "time between probes; without --count, no end",
        )
        .default("1s"),
        Opt::new("verbose", "", "print the body of the answer").short('v'),
        Opt::new("json", "", "print JSON objects, one a line"),
        Opt::new(
            "flat",
            "",
            "every failure exits with 1; prints 80 bytes at most",
        ),
        Opt::new("nagios", "", "exit code and output of a Nagios plugin"),
    ],
    notes: &[
        "URL is http://HOST[:PORT][/PATH] or unix:SOCKET[:/PATH]; HOST is localhost or",
        "an IP address. The default is http://localhost:10248/healthz.",
        "Prints nothing if the answer is healthy, which is a status from 200 to 399.",
        "--flat limits only the text of a single probe without -v.",
        "Exit: 0 healthy, 1 unhealthy (status 500 to 599), 2 wrong usage, 3 no answer,",
        "4 another answer. Of many probes: 0 if all are healthy, else 1, 3 or 4, in",
        "this order. With --nagios: 0 healthy, 2 unhealthy or no answer, 3 otherwise.",
    ],
};

#[cfg(feature = "client")]
pub static STATUS: Command = Command {
    name: "status",
    arguments: "[URL]",
    summary: "show what fails, since when and why",
    options: &[
        Opt::new("json", "", "print one JSON object with all answers"),
        Opt::new(
            "prometheus",
            "",
            "print metrics for node_exporter's textfile collector",
        ),
        Opt::new(
            "output",
            "FILE",
            "put the metrics into this file, in one step",
        ),
    ],
    notes: &[
        "URL is http://HOST[:PORT] or unix:SOCKET; HOST is localhost or an IP address.",
        "The default is http://localhost:10248. A path selects one endpoint.",
        "A server that answers only with text gives no times and no reasons.",
        "Exit: 0 all endpoints pass, warnings included, 1 one fails, or the output",
        "cannot be written, 2 wrong usage, 3 no answer, 4 another answer",
    ],
};

#[cfg(feature = "client")]
pub static BEAT: Command = Command {
    name: "beat",
    arguments: "NAME [-- COMMAND...]",
    summary: "send a heartbeat from a script",
    options: &[
        Opt::new(
            "status",
            "TEXT",
            "shown in the reason if no other beat comes in time",
        ),
        Opt::new(
            "fail",
            "REASON",
            "make the check fail until READY=1 or healthz beat NAME",
        ),
        Opt::new("socket", "PATH", "the socket of the check").default("/run/healthz/NAME.sock"),
        Opt::new(
            "limit",
            "TIME",
            "WATCHDOG_USEC for COMMAND; use the limit of NAME",
        )
        .default("30s"),
    ],
    notes: &[
        "NAME is a check of kind heartbeat.",
        "COMMAND runs in place of healthz with NOTIFY_SOCKET and WATCHDOG_USEC set, so",
        "that its own calls of sd_notify(3) reach the check.",
        "Exit: 0 sent, 2 wrong usage, 3 not sent, 126 or 127 COMMAND cannot be run",
    ],
};

pub static HELP: Command = Command {
    name: "help",
    arguments: "[COMMAND]",
    summary: "explain a command and all its options",
    options: &[],
    notes: &[],
};

/// The first error in a command line. Its text names the option and says what is allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl UsageError {
    /// `name` is not a command.
    pub fn unknown_command(name: &OsStr) -> Self {
        let names = COMMANDS.iter().map(|command| command.name);
        let shown = shown(name);
        UsageError(match nearest(&name.to_string_lossy(), names) {
            Some(known) => format!("unknown command {shown}; did you mean {known}?"),
            None => format!("unknown command {shown}; see healthz --help"),
        })
    }

    /// `name`, without its dashes, is not an option of `command`.
    pub fn unknown_option(command: &Command, name: &str) -> Self {
        let names = command.options.iter().chain(COMMON);
        let meant = nearest(name, names.map(|option| option.long));
        let name = shown(&OsString::from_vec(name.as_bytes().to_vec()));
        UsageError(match meant {
            Some(known) => format!("unknown option --{name}; did you mean --{known}?"),
            None => format!("unknown option --{name}; {}", SeeHelp(command)),
        })
    }

    /// `letter` is not an option of `command`.
    pub fn unknown_letter(command: &Command, letter: char) -> Self {
        let option = shown(OsStr::new(&format!("-{letter}")));
        UsageError(format!("unknown option {option}; {}", SeeHelp(command)))
    }

    /// `command` takes no argument in the place of `value`.
    pub fn unexpected_argument(command: &Command, value: &OsStr) -> Self {
        let value = shown(value);
        UsageError(format!("unexpected argument {value}; {}", SeeHelp(command)))
    }

    /// `value` is wrong for `option`, or for an argument.
    #[inline(never)]
    pub fn refused(option: &str, value: &OsStr, why: &dyn fmt::Display) -> Self {
        UsageError(format!("{option} {}: {why}", shown(value)))
    }

    /// An option of `command` has no value, or one too many.
    pub fn from_parser(command: &Command, error: lexopt::Error) -> Self {
        UsageError(match error {
            lexopt::Error::MissingValue { option } => {
                let option = option.unwrap_or_default();
                format!("{option} needs a value; {}", SeeHelp(command))
            }
            lexopt::Error::UnexpectedValue { option, value } => {
                format!("{option} takes no value, not {}", shown(&value))
            }
            error => format!("{error}; {}", SeeHelp(command)),
        })
    }
}

/// Where the options of a command are explained.
struct SeeHelp<'a>(&'a Command);

impl fmt::Display for SeeHelp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "see healthz help {}", self.0.name)
    }
}

/// Parses the value of `option`: a duration within `times`.
///
/// # Errors
/// What is allowed.
#[inline(never)]
pub fn time(
    option: &str,
    value: &OsStr,
    times: RangeInclusive<Duration>,
) -> Result<Duration, UsageError> {
    match value.to_str().and_then(units::duration) {
        Some(time) if times.contains(&time) => Ok(time),
        _ => {
            let (min, max) = (Shown(*times.start()), Shown(*times.end()));
            let expected = format!("expected {min} to {max}, written as 500ms, 10s, 2m or 1h");
            Err(UsageError::refused(option, value, &expected))
        }
    }
}

/// `value` as it is if it is visible ASCII, else quoted and escaped.
pub fn shown(value: &OsStr) -> String {
    match value.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
            text.to_owned()
        }
        _ => format!("{value:?}"),
    }
}

/// The command of this name.
pub fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|command| name == command.name)
        .copied()
}

/// The text of `healthz --help`: all commands, and the options of the first one that are used most.
pub fn overview() -> String {
    let mut text = String::from(
        "healthz answers /healthz, /livez and /readyz on 127.0.0.1:10248 and [::1]:10248\n\n",
    );
    for command in COMMANDS {
        let is_default = command.is(&SERVE);
        let synopsis = match is_default {
            true => String::from("healthz [OPTION]..."),
            false => synopsis(command, false),
        };
        let summary = match is_default {
            true => "serve; healthz help serve has all options",
            false => command.summary,
        };
        let _ = writeln!(text, "{synopsis:<COMMAND_COLUMNS$}{summary}");
    }
    text.push('\n');
    let options = SERVE.options.iter();
    write_options(&mut text, options.filter(|option| option.in_overview));
    write_options(&mut text, COMMON.iter());
    text
}

/// The text of `healthz help` for a command.
pub fn details(command: &Command) -> String {
    let mut text = format!("{}: {}\n", synopsis(command, true), command.summary);
    write_options(&mut text, command.options.iter());
    for note in command.notes {
        text.extend([note, "\n"]);
    }
    text
}

/// `healthz probe [OPTION]... [URL]`
fn synopsis(command: &Command, with_options: bool) -> String {
    let mut text = format!("healthz {}", command.name);
    if with_options && !command.options.is_empty() {
        text.push_str(" [OPTION]...");
    }
    if !command.arguments.is_empty() {
        text.extend([" ", command.arguments]);
    }
    text
}

/// Writes a line for each option. Two options without values share a line if they fit.
fn write_options(text: &mut String, options: impl Iterator<Item = &'static CommandOption>) {
    let mut options = options.peekable();
    while let Some(option) = options.next() {
        let pair = options.peek().and_then(|next| pair_line(option, next));
        let line = match pair {
            Some(pair) => {
                options.next();
                pair
            }
            None => option_line(option),
        };
        text.extend([line.as_str(), "\n"]);
    }
}

fn option_line(option: &CommandOption) -> String {
    let names = option_names(option);
    let mut line = format!("{names:<OPTION_COLUMNS$}{}", option.text);
    if !option.default.is_empty() {
        line.extend([" (", option.default, ")"]);
    }
    line
}

fn pair_line(first: &CommandOption, second: &CommandOption) -> Option<String> {
    let names = format!("{}{}", option_names(first), option_names(second));
    let line = format!("{names:<PAIR_COLUMNS$}{}; {}", first.text, second.text);
    let has_no_values = first.value.is_empty() && second.value.is_empty();
    (has_no_values && names.len() < PAIR_COLUMNS && line.len() <= COLUMNS).then_some(line)
}

/// `  -v, --verbose`
fn option_names(option: &CommandOption) -> String {
    let mut names = String::from("  ");
    if let Some(short) = option.short {
        names.extend(['-', short, ',', ' ']);
    }
    names.extend(["--", option.long]);
    if !option.value.is_empty() {
        names.extend([" ", option.value]);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_every_command_fits_one_screen_and_names_every_option() {
        for command in COMMANDS {
            let text = details(command);
            // One line for the prompt, and one that the program adds.
            assert!(text.lines().count() <= 22, "{text}");
            for line in text.lines() {
                assert!(line.len() <= COLUMNS, "{line}");
            }
            for option in command.options {
                let names = option_names(option);
                assert!(text.contains(&names), "{names}");
            }
        }
    }

    #[test]
    fn the_overview_fits_one_screen_and_names_every_command() {
        let text = overview();
        assert!(text.lines().count() <= 22, "{text}");
        for line in text.lines() {
            assert!(line.len() <= COLUMNS, "{line}");
        }
        for command in COMMANDS {
            let name = format!(" {} ", command.name);
            assert!(text.contains(&name), "{name}");
        }
    }

    #[test]
    fn names_are_unique_and_texts_have_no_full_stop() {
        for command in COMMANDS {
            assert!(find(OsStr::new(command.name)).is_some_and(|found| found.is(command)));
            let mut names: Vec<_> = command.options.iter().chain(COMMON).collect();
            for option in &names {
                assert!(!option.text.ends_with('.'), "{}", option.long);
                assert!(option.default.is_empty() || !option.value.is_empty());
            }
            let all = names.len();
            names.sort_by_key(|option| option.long);
            names.dedup_by_key(|option| option.long);
            assert_eq!(names.len(), all, "{}", command.name);
            let mut letters: Vec<_> = names.iter().filter_map(|option| option.short).collect();
            let all = letters.len();
            letters.sort_unstable();
            letters.dedup();
            assert_eq!(letters.len(), all, "{}", command.name);
        }
    }

    #[test]
    fn an_unknown_command_gets_the_nearest_one() {
        let error = |name: &str| UsageError::unknown_command(OsStr::new(name)).to_string();
        assert_eq!(error("hlep"), "unknown command hlep; did you mean help?");
        assert_eq!(error("serv"), "unknown command serv; did you mean serve?");
        assert_eq!(error("frob"), "unknown command frob; see healthz --help");
        assert_eq!(
            error("\u{1b}"),
            "unknown command \"\\u{1b}\"; see healthz --help"
        );
    }
}
