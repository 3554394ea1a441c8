//! The option table: every kind of check, its argument, its options, their defaults and one line of help.
//!
//! Data. The parser, its messages, `check-config` and the test of the documents read it. A new option needs a line
//! here, a field in [`super::super::spec`], and a line in each half of [`super::build`].

use super::super::spec::Kind;
use super::build::{self, Values};
use super::value::{Syntax, Unit};

/// One kind of check.
pub struct KindDef {
    pub name: &'static str,
    pub argument: Argument,
    pub options: &'static [OptionDef],
    /// Defaults of options in [`GENERIC`] that are different for this kind.
    pub defaults: &'static [(&'static str, &'static str)],
    #[allow(dead_code, reason = "for manual pages, which only tests write")]
    pub help: &'static str,
    /// Makes the kind of the values; `None` if one that it needs is missing.
    pub build: fn(&mut Values) -> Option<Kind>,
}

/// What follows `KIND:` on the command line, and is the value of the kind's key in the file.
pub struct Argument {
    /// In messages; empty if the kind has no argument.
    pub name: &'static str,
    pub syntax: Syntax,
    pub is_required: bool,
}

/// One option.
pub struct OptionDef {
    pub name: &'static str,
    /// As it is written on the command line; empty if there is no default. In that of a socket, `NAME`
    /// is the name of the check.
    pub default: &'static str,
    pub syntax: Syntax,
    #[allow(
        dead_code,
        reason = "for manual pages; a test compares docs/checks.md with it"
    )]
    pub help: &'static str,
}

const NO_ARGUMENT: Argument = Argument {
    name: "",
    syntax: Syntax::Text,
    is_required: false,
};

const fn needs(name: &'static str, syntax: Syntax) -> Argument {
    Argument {
        name,
        syntax,
        is_required: true,
    }
}

const fn option(
    name: &'static str,
    default: &'static str,
    syntax: Syntax,
    help: &'static str,
) -> OptionDef {
    OptionDef {
        name,
        default,
        syntax,
        help,
    }
}

const MS: u64 = 1;
const SECOND: u64 = 1000 * MS;
const DAY: u64 = 24 * 3600 * SECOND;
/// A longer time probably has a wrong unit.
const LONG: u64 = 1000 * DAY;

/// A period of 100 ms for the most checks is 2,560 results a second; less would load the machine.
const PERIOD_MIN: u64 = 100 * MS;

/// Options of every kind. The first five have the names and the meaning of the fields of the Kubernetes `Probe`.
pub const GENERIC: &[OptionDef] = &[
    option(
        "initial-delay",
        "0s",
        Syntax::Duration(0, DAY),
        "time from the start to the first attempt",
    ),
    option(
        "period",
        "10s",
        Syntax::Duration(PERIOD_MIN, DAY),
        "time between attempts",
    ),
    option(
        "timeout",
        "1s",
        Syntax::Duration(10 * MS, DAY),
        "an attempt that takes longer has failed; at most the period",
    ),
    option(
        "success-threshold",
        "1",
        Syntax::Number(1, 1000),
        "successes in a row that end a failure",
    ),
    option(
        "failure-threshold",
        "3",
        Syntax::Threshold,
        "failures in a row that begin a failure; 3/5: 3 failures among the last 5 results",
    ),
    option(
        "endpoints",
        "healthz+readyz",
        Syntax::Endpoints,
        "endpoints that list the check: healthz, livez, readyz",
    ),
    option(
        "group",
        "",
        Syntax::Name,
        "another name for ?exclude, shared by some checks",
    ),
    option(
        "severity",
        "error",
        Syntax::Choice(&["error", "warning"]),
        "warning: a failure is reported, but answers stay ok",
    ),
    option(
        "unsupported",
        "fail",
        Syntax::Choice(&["fail", "warn", "skip"]),
        "if the system lacks what it reads: fail, warn (log it and pass) or skip (pass)",
    ),
];

/// The state of a file system or of pressure can change with each measurement, so a failure ends only after three
/// successes.
const STEADY: &[(&str, &str)] = &[("success-threshold", "3")];
/// The state is known exactly, so that one failure is enough.
const EXACT: &[(&str, &str)] = &[("failure-threshold", "1")];

const SEND: OptionDef = option(
    "send",
    "",
    Syntax::Bytes,
    "bytes to send after connecting; \\r, \\n, \\t, \\\\ and \\xNN are escapes",
);
const EXPECT: OptionDef = option(
    "expect",
    "",
    Syntax::Bytes,
    "bytes that the first 10 KiB of the answer must contain",
);
const SCOPE: OptionDef = option(
    "scope",
    "node",
    Syntax::Scope,
    "node, cgroup (that of the daemon), or cgroup:PATH below /sys/fs/cgroup",
);

/// The options of `pids` and `fds`.
const USAGE: &[OptionDef] = &[
    option(
        "min",
        "10%",
        Syntax::Amount(Unit::Count),
        "fewest that must be free, as a number or a share of the lowest limit",
    ),
    option(
        "max",
        "90%",
        Syntax::Amount(Unit::Count),
        "most that may be used, as a number or a share of the lowest limit",
    ),
];
/// The process whose usage is checked.
const USAGE_TARGET: Argument = Argument {
    name: "PIDFILE or exe:NAME",
    syntax: Syntax::Target,
    is_required: false,
};

/// Every kind.
pub const KINDS: &[KindDef] = &[
    KindDef {
        name: "heartbeat",
        argument: NO_ARGUMENT,
        options: &[
            option(
                "limit",
                "30s",
                Syntax::Duration(100 * MS, LONG),
                "longest time between two beats",
            ),
            option(
                "socket",
                "/run/healthz/NAME.sock",
                Syntax::Socket,
                "the socket's path, or an abstract name that begins with @",
            ),
            option(
                "mode",
                "0600",
                Syntax::Mode,
                "permission bits of the socket's file",
            ),
            option(
                "uid",
                "",
                Syntax::Number(0, u32::MAX as u64 - 1),
                "a user that may send besides the owner of the socket",
            ),
            option(
                "until-ready",
                "fail",
                Syntax::Choice(&["fail", "pass"]),
                "the state before the first READY=1 or beat: fail or pass",
            ),
            option(
                "forward",
                "",
                Syntax::Path,
                "the socket of a service manager that gets every message too",
            ),
        ],
        defaults: EXACT,
        help: "a program that sends sd_notify messages",
        build: build::heartbeat,
    },
    KindDef {
        name: "file",
        argument: needs("PATH", Syntax::Path),
        options: &[
            option(
                "max-age",
                "",
                Syntax::Duration(SECOND, LONG),
                "longest time since it was last modified",
            ),
            option(
                "contains",
                "",
                Syntax::Text,
                "text that its first 64 KiB must contain",
            ),
            option(
                "min-size",
                "",
                Syntax::Size,
                "its least size, in bytes or as 512Ki",
            ),
        ],
        defaults: &[],
        help: "a file that must exist",
        build: build::file,
    },
    KindDef {
        name: "process",
        argument: needs("PIDFILE or exe:NAME", Syntax::Target),
        options: &[option(
            "min",
            "1",
            Syntax::Number(1, 1 << 22),
            "fewest processes of that name",
        )],
        defaults: EXACT,
        help: "a process that must run",
        build: build::process,
    },
    KindDef {
        name: "tcp",
        argument: needs("IP:PORT", Syntax::Address),
        options: &[SEND, EXPECT],
        defaults: &[],
        help: "a TCP port that must accept connections",
        build: build::tcp,
    },
    KindDef {
        name: "unix",
        argument: needs("PATH", Syntax::Socket),
        options: &[SEND, EXPECT],
        defaults: &[],
        help: "a Unix socket that must accept connections",
        build: build::unix,
    },
    KindDef {
        name: "http",
        argument: needs("URL", Syntax::Url),
        options: &[
            option(
                "status",
                "200-399",
                Syntax::Status,
                "status codes that count as success, as 200-399,404",
            ),
            option(
                "contains",
                "",
                Syntax::Text,
                "text that the first 10 KiB of the body must contain",
            ),
            option(
                "header",
                "",
                Syntax::Headers,
                "a header field to send, as Name: value; repeatable",
            ),
            option(
                "host",
                "",
                Syntax::HostField,
                "the value of the Host field, instead of the URL's host",
            ),
        ],
        defaults: &[],
        help: "an HTTP service that must answer a GET",
        build: build::http,
    },
    KindDef {
        name: "exec",
        argument: needs("PROGRAM", Syntax::Argv),
        options: &[
            option(
                "user",
                "",
                Syntax::User,
                "the user that it runs as, a name or a number",
            ),
            option(
                "env",
                "",
                Syntax::Env,
                "a variable of its environment, as NAME=VALUE; repeatable",
            ),
        ],
        defaults: &[("period", "30s"), ("timeout", "5s")],
        help: "a program that must exit with 0",
        build: build::exec,
    },
    KindDef {
        name: "pressure",
        argument: needs("RESOURCE", Syntax::Choice(&["memory", "cpu", "io"])),
        options: &[
            option(
                "kind",
                "some",
                Syntax::Choice(&["some", "full"]),
                "some: at least one task waits; full: all tasks wait",
            ),
            option(
                "stall",
                "200ms",
                Syntax::Duration(MS, 10 * SECOND),
                "the check fails if tasks wait for this long within the window",
            ),
            option(
                "window",
                "2s",
                Syntax::Duration(500 * MS, 10 * SECOND),
                "the time over which waiting is measured",
            ),
            SCOPE,
        ],
        defaults: STEADY,
        help: "tasks that wait for memory, CPU or I/O",
        build: build::pressure,
    },
    KindDef {
        name: "memory",
        argument: NO_ARGUMENT,
        options: &[
            option(
                "min",
                "100Mi",
                Syntax::Amount(Unit::Bytes),
                "least memory that must be available, as a size or a share",
            ),
            SCOPE,
        ],
        defaults: &[],
        help: "memory that must be available",
        build: build::memory,
    },
    KindDef {
        name: "disk",
        argument: needs("PATH", Syntax::Path),
        options: &[
            option(
                "min",
                "10%",
                Syntax::Amount(Unit::Bytes),
                "least free space for users, as a size or a share",
            ),
            option(
                "min-inodes",
                "5%",
                Syntax::Amount(Unit::Count),
                "fewest free inodes for users, as a number or a share",
            ),
        ],
        defaults: STEADY,
        help: "space on a file system",
        build: build::disk,
    },
    KindDef {
        name: "pids",
        argument: USAGE_TARGET,
        options: USAGE,
        defaults: &[],
        help: "processes and threads, below their limit",
        build: build::pids,
    },
    KindDef {
        name: "fds",
        argument: USAGE_TARGET,
        options: USAGE,
        defaults: &[],
        help: "open files, below their limit",
        build: build::fds,
    },
    KindDef {
        name: "clock",
        argument: NO_ARGUMENT,
        // The kernel counts the error up to 16 s, and then calls the clock unsynchronised.
        options: &[option(
            "max-error",
            "16s",
            Syntax::Duration(MS, 16 * SECOND),
            "largest error of the clock, by the kernel's own estimate",
        )],
        defaults: &[],
        help: "a clock that is synchronised",
        build: build::clock,
    },
    KindDef {
        name: "mount",
        argument: needs("PATH", Syntax::Path),
        options: &[
            option(
                "mounted",
                "true",
                Syntax::Flag,
                "whether a file system must be mounted there",
            ),
            option(
                "rw",
                "true",
                Syntax::Flag,
                "whether it must be writable; false: it must be read-only",
            ),
        ],
        defaults: &[],
        help: "a mount point",
        build: build::mount,
    },
    KindDef {
        name: "temperature",
        argument: needs("ZONE", Syntax::Zone),
        options: &[option(
            "max",
            "90%",
            Syntax::Amount(Unit::Celsius),
            "highest temperature, as 85C or a share of the critical trip point",
        )],
        defaults: &[],
        help: "a thermal zone",
        build: build::temperature,
    },
];

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static KindDef> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The option of this name among `options`.
pub fn find(options: &'static [OptionDef], name: &str) -> Option<&'static OptionDef> {
    options.iter().find(|option| option.name == name)
}

impl KindDef {
    /// `a disk check`, `an exec check`.
    pub fn article(&self) -> &'static str {
        match self.name {
            "exec" | "http" => "an",
            _ => "a",
        }
    }

    /// The default of an option, as it is written on the command line.
    pub fn default_of(&self, option: &OptionDef) -> &'static str {
        let own = self.defaults.iter().find(|(name, _)| *name == option.name);
        own.map_or(option.default, |(_, default)| default)
    }
}
