//! One configured check: its kind, its options, how often it runs.
//!
//! Plain data. Made by [`super::config`] from `--check` and from the check file, and read by the worker and
//! the kinds. Two specs that are equal describe the same check, so a check whose spec has not changed keeps
//! its state when the file is read again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::url::Host;

/// Most checks in one configuration. Each costs the server about 1 KiB, and room for one line in the answer buffer of
/// each connection.
pub const SPECS_MAX: usize = 256;

/// One configured check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// A valid name of a check (`healthz::Check::is_name`).
    pub name: String,
    pub group: Option<String>,
    pub endpoints: Endpoints,
    pub severity: Severity,
    pub unsupported: Unsupported,
    pub timing: Timing,
    pub threshold: Threshold,
    pub kind: Kind,
}

/// The endpoints that list a check. Liveness must not depend on other programs, so a check is listed by `livez` only
/// if that is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub healthz: bool,
    pub livez: bool,
    pub readyz: bool,
}

/// Whether a failing check fails its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// Reported, but answers stay `ok`.
    Warning,
}

/// What a check does on a system that lacks what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The check fails.
    Fail,
    /// The check passes, and a warning is logged.
    Warn,
    /// The check passes.
    Skip,
}

/// When a check runs. The names are those of the Kubernetes `Probe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: Duration,
    pub period: Duration,
    /// At most `period`.
    pub timeout: Duration,
}

/// How many results change the state of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// This many successes in a row end a failure.
    pub success: u32,
    /// This many failures among the last `of_last` results begin a failure.
    pub failures: u32,
    /// At least `failures`, at most 32. If equal, the failures are in a row.
    pub of_last: u32,
}

/// The kind of a check, with the options of that kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Heartbeat(Heartbeat),
    File(File),
    Process(Process),
    Tcp(Tcp),
    Unix(Unix),
    Http(Http),
    Exec(Exec),
    Pressure(Pressure),
    Memory(Memory),
    Disk(Disk),
    Pids(Usage),
    Fds(Usage),
    Clock(Clock),
    Mount(Mount),
    Temperature(Temperature),
}

/// Messages of sd_notify(3), received on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The check fails if the last beat is older.
    pub limit: Duration,
    /// A path, or an abstract name that begins with `@`.
    pub socket: OsString,
    /// Permission bits of the socket's file.
    pub mode: u32,
    /// The user that may send besides the owner of the socket. Abstract sockets need one.
    pub uid: Option<u32>,
    /// Whether the check passes before the first `READY=1` or beat.
    pub passes_until_ready: bool,
    /// The socket of a service manager that gets every message too.
    pub forward: Option<PathBuf>,
}

/// A file that must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    /// Longest time since it was last modified.
    pub max_age: Option<Duration>,
    /// Text that its first 64 KiB must contain.
    pub contains: Option<String>,
    /// In bytes.
    pub min_size: Option<u64>,
}

/// Processes that must run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub target: ProcessTarget,
    /// Fewest processes, at least 1.
    pub min: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessTarget {
    /// The process whose number is in this file.
    PidFile(PathBuf),
    /// Every process whose executable has this file name, or this path if it has a slash.
    Exe(OsString),
}

/// A TCP port that must accept connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub host: Host,
    pub port: u16,
    pub dialogue: Dialogue,
}

/// A Unix stream socket that must accept connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unix {
    /// A path, or an abstract name that begins with `@`.
    pub path: OsString,
    pub dialogue: Dialogue,
}

/// What is sent after connecting, and what the answer must contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialogue {
    pub send: Option<Vec<u8>>,
    /// Must occur in the first 10 KiB that the peer sends.
    pub expect: Option<Vec<u8>>,
}

/// An HTTP service that must answer a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// As it was written, for messages.
    pub url: String,
    pub host: Host,
    pub port: u16,
    /// Path and query; begins with a slash.
    pub target: String,
    /// The value of the `Host` field: from the option `host`, else from the URL.
    pub host_field: String,
    /// More header fields: name and value, checked to be valid.
    pub headers: Vec<(String, String)>,
    /// Status codes that count as success, as inclusive ranges.
    pub status: Vec<(u16, u16)>,
    /// Text that the first 10 KiB of the body must contain.
    pub contains: Option<String>,
}

/// A program that must exit with 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program, an absolute path, and its arguments. Never empty.
    pub argv: Vec<OsString>,
    /// Run it as this user: a name or a number.
    pub user: Option<String>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
}

/// Pressure stall information of the kernel (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pressure {
    pub resource: Resource,
    /// True: all tasks wait at the same time (`full`). False: some of them.
    pub full: bool,
    /// The check fails if tasks wait for this long within `window`.
    pub stall: Duration,
    /// 500 ms to 10 s.
    pub window: Duration,
    pub scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Memory,
    Cpu,
    Io,
}

/// The whole machine, or a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole machine.
    Node,
    /// The control group of the daemon.
    Cgroup,
    /// The control group at this path below /sys/fs/cgroup.
    CgroupAt(PathBuf),
}

/// Memory that must be available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    pub min: Amount,
    pub scope: Scope,
}

/// Space on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub min: Amount,
    pub min_inodes: Amount,
}

/// Processes or descriptors in use. The check fails if fewer than `min` are free or more than `max` are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `None`: of the system. Else of this process: its descriptors, or its threads.
    pub process: Option<ProcessTarget>,
    pub min: Amount,
    pub max: Amount,
}

/// The kernel's own estimate of the clock's error (adjtimex(2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    pub max_error: Duration,
}

/// A mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub path: PathBuf,
    pub mounted: bool,
    /// Whether it must be writable; false: it must be read-only.
    pub rw: bool,
}

/// A thermal zone (/sys/class/thermal).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temperature {
    /// `thermal_zone0`, or the zone's type, such as `x86_pkg_temp`.
    pub zone: String,
    /// Share of the critical trip point, or millidegrees Celsius.
    pub max: Amount,
}

/// A number with a unit, or a share of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes, inodes, processes, descriptors or millidegrees.
    Absolute(u64),
    /// In thousandths of the whole.
    Share(u32),
}

/// The result of one attempt to check something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// What was measured and the limit, as `/var: 3.1% free, needs 10%`. May have any characters; the server
    /// escapes and cuts it.
    Fail(String),
    /// The system lacks what the check reads; see [`Unsupported`].
    Unsupported(String),
}
