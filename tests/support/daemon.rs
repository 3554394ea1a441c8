//! Starts the real daemon and sends it requests. [`eventually`] polls for the condition that a test needs, for
//! at most [`TIMEOUT`].
#![allow(dead_code, reason = "no test uses all of it")]

#[path = "timeout.rs"]
mod timeout;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
pub use timeout::TIMEOUT;

include!("untried.rs");

pub fn healthz(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthz"));
    command.args(args).stdin(Stdio::null());
    for name in [
        "RUST_LOG",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "LISTEN_PID",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs healthz until it exits by itself.
pub fn run(args: &[&str]) -> Output {
    end_of(healthz(args))
}

/// Runs `command` until it exits by itself.
pub fn end_of(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let code = daemon.wait();
    let mut stdout = Vec::new();
    daemon
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut stdout)
        .unwrap();
    let mut stderr = Vec::new();
    daemon
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut stderr)
        .unwrap();
    Output {
        status: code,
        stdout,
        stderr,
    }
}

/// The error message on stderr: exactly one line, returned without its line feed.
pub fn error_line(output: &Output) -> &str {
    let text = std::str::from_utf8(&output.stderr).unwrap();
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than one line: {text}");
    line
}

/// Polls `condition` until it returns a value. Fails after [`TIMEOUT`].
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < TIMEOUT, "timed out waiting for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A path that no other test uses. The file is removed on drop, because a daemon in its sandbox cannot
/// remove its own socket file.
pub struct TempPath(PathBuf);

/// Such a path, in the directory for temporary files.
pub fn temp_path() -> TempPath {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("healthz-test-{}-{count}", std::process::id());
    let path = TempPath(std::env::temp_dir().join(name));
    path.remove();
    path
}

impl TempPath {
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.0).or_else(|_| std::fs::remove_dir_all(&self.0));
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Deref for TempPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for TempPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<OsStr> for TempPath {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

/// A running daemon. It is killed when dropped.
pub struct Daemon {
    pub child: Child,
    lines: Lines,
}

/// The lines that the daemon wrote to stderr.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Waits for a line that contains `text` and returns the first one.
    #[track_caller]
    pub fn wait(&self, text: &str) -> String {
        eventually(text, || {
            let lines = self.0.lock().unwrap();
            lines.iter().find(|line| line.contains(text)).cloned()
        })
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn read(&self, from: impl BufRead) {
        for line in from.lines().map_while(Result::ok) {
            self.0.lock().unwrap().push(line);
        }
    }
}

impl Daemon {
    /// Starts healthz on a free port. A thread collects its stderr.
    pub fn start(args: &[&str]) -> Self {
        let mut command = healthz(&["--listen", "127.0.0.1:0"]);
        command.args(args);
        Daemon::start_as(command)
    }

    /// Starts `command`. A thread collects its stderr.
    pub fn start_as(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let mut daemon = Daemon::of(command);
        daemon.read_on();
        daemon
    }

    /// Starts `command` without changing its standard streams.
    pub fn of(mut command: Command) -> Self {
        Daemon {
            child: command.spawn().unwrap(),
            lines: Lines::default(),
        }
    }

    /// Reads the first line of stderr only; the rest stays in the pipe.
    pub fn first_line(&mut self) -> (String, BufReader<ChildStderr>) {
        // A small buffer, so that the rest stays in the pipe.
        next_line(BufReader::with_capacity(
            1,
            self.child.stderr.take().unwrap(),
        ))
    }

    /// Starts a thread that collects stderr from here on.
    pub fn read_on(&mut self) {
        let stderr = self.child.stderr.take().unwrap();
        self.read_from(BufReader::new(stderr));
    }

    pub fn read_from(&self, stderr: impl BufRead + Send + 'static) {
        let lines = self.lines.clone();
        std::thread::spawn(move || lines.read(stderr));
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// The first TCP address in the daemon's `serving` line. Waits for that line.
    pub fn address(&self) -> SocketAddr {
        address_in(&self.lines.wait("serving "))
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address(), path)
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Waits until the daemon exits.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        eventually("healthz to exit", || self.child.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The daemon logs this line before its `serving` line, so a test that waited for that one has both.
        #[cfg(target_os = "linux")]
        if !std::thread::panicking() {
            let mut lines = self.lines.all().into_iter();
            let line = lines.find(|line| kernel::reports_available_as_missing(line));
            assert_eq!(
                line, None,
                "the daemon reports a missing sandbox feature that this kernel has"
            );
        }
    }
}

/// Which features of the sandbox this kernel has, found out without the daemon, so that a fault of the
/// daemon cannot look like a kernel without the feature.
#[cfg(target_os = "linux")]
pub mod kernel {
    use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

    /// True if the kernel has Landlock, in any version.
    pub fn has_landlock() -> bool {
        let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        strict.handle_access(AccessFs::Execute).is_ok()
    }

    /// True if the kernel's Landlock can deny abstract Unix sockets of processes outside the sandbox.
    pub fn has_landlock_scopes() -> bool {
        let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        strict.scope(Scope::AbstractUnixSocket).is_ok()
    }

    /// True if the kernel has seccomp filters and the daemon has one for this processor.
    pub fn has_filters() -> bool {
        let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
        cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
            && actions.is_ok_and(|actions| actions.contains("kill_process"))
    }

    /// True if `line` reports a sandbox feature as missing that this kernel has.
    pub fn reports_available_as_missing(line: &str) -> bool {
        let Some((_, missing)) = line.split_once("the sandbox is not complete: ") else {
            return false;
        };
        missing
            .split("), ")
            .any(|what| match what.split_once(" (") {
                Some(("no Landlock", _)) => has_landlock(),
                Some(("no filter for system calls", _)) => has_filters(),
                _ => true,
            })
    }
}

/// Reads one line. Returns it and the reader.
pub fn next_line(mut stderr: BufReader<ChildStderr>) -> (String, BufReader<ChildStderr>) {
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    (line, stderr)
}

/// The first TCP address in a `serving` line.
pub fn address_in(line: &str) -> SocketAddr {
    let (_, url) = line
        .split_once("http://")
        .unwrap_or_else(|| panic!("no address: {line}"));
    let address = url.split([' ', ',', '\n']).next().unwrap();
    address
        .parse()
        .unwrap_or_else(|_| panic!("no address: {line}"))
}

/// Sends a GET for `path` on a new connection. Returns status code and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).unwrap()
}

/// As [`get`], for a daemon that may have exited.
pub fn try_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    request(stream, path)
}

/// The value of `sample` in `/metrics`, as `up{name="a"}`; `None` if it is not there.
pub fn metric(address: SocketAddr, sample: &str) -> Option<f64> {
    let (code, body) = get(address, "/metrics");
    assert_eq!(code, 200, "{body}");
    let mut lines = body.lines();
    let value = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

pub fn get_unix(path: &std::path::Path, target: &str) -> (u16, String) {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    request(stream, target).unwrap()
}

fn request(mut stream: impl Read + Write, path: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((
        status.unwrap_or_else(|| panic!("no status: {answer:?}")),
        body.to_owned(),
    ))
}

/// A shell that runs `script`, with the path of healthz in `$HEALTHZ`.
pub fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("HEALTHZ", OsString::from(env!("CARGO_BIN_EXE_healthz")));
    for name in [
        "RUST_LOG",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "LISTEN_PID",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}
