//! Runs the real daemon and asks it, for the tests that do. No fixed sleeps: what is waited for is
//! polled, and not for longer than [`TIMEOUT`].
#![allow(dead_code, reason = "no test uses all of it")]

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

include!("untried.rs");

/// No test waits longer than this for any one thing, however busy the machine is.
pub const TIMEOUT: Duration = Duration::from_secs(20);

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

/// Runs healthz to its end, which must come on its own.
pub fn run(args: &[&str]) -> Output {
    end_of(healthz(args))
}

/// Runs `command` to its end, which must come on its own.
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

/// The one line of a failure, without its end.
pub fn complaint(output: &Output) -> &str {
    let text = std::str::from_utf8(&output.stderr).unwrap();
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than one line: {text}");
    line
}

/// Waits until `condition` gives something.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < TIMEOUT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A path that no other test uses. What is there is removed when this is dropped: a daemon in its sandbox
/// leaves the file of its socket behind.
pub struct TempPath(PathBuf);

/// A path for a socket.
pub fn socket_path() -> TempPath {
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

/// What it has said on stderr.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// The first line that has `text` in it, once there is one.
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
    /// Starts healthz on a port of its own, with what it says being read.
    pub fn start(args: &[&str]) -> Self {
        let mut command = healthz(&["--listen", "127.0.0.1:0"]);
        command.args(args);
        Daemon::start_as(command)
    }

    /// Starts `command`, with what it says being read.
    pub fn start_as(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let mut daemon = Daemon::of(command);
        daemon.read_on();
        daemon
    }

    /// Starts `command` and leaves its standard streams alone.
    pub fn of(mut command: Command) -> Self {
        Daemon {
            child: command.spawn().unwrap(),
            lines: Lines::default(),
        }
    }

    /// Reads the first line that it says, and no further.
    pub fn first_line(&mut self) -> (String, BufReader<ChildStderr>) {
        // A small buffer, so that the rest stays in the pipe.
        next_line(BufReader::with_capacity(
            1,
            self.child.stderr.take().unwrap(),
        ))
    }

    /// Reads what it says from now on.
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

    /// The first TCP address that it serves.
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

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        eventually("the end of healthz", || self.child.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Whoever has read that it serves has read this as well, if it was said.
        #[cfg(target_os = "linux")]
        if !std::thread::panicking() {
            let mut lines = self.lines.all().into_iter();
            let line = lines.find(|line| kernel::has_what_is_missed(line));
            assert_eq!(line, None, "this kernel has it");
        }
    }
}

/// What this kernel has of what the sandbox is made of, asked without the daemon: a fault of ours must
/// not look like a kernel that lacks something.
#[cfg(target_os = "linux")]
pub mod kernel {
    use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

    /// Whether it has Landlock, in any version.
    pub fn has_landlock() -> bool {
        let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        strict.handle_access(AccessFs::Execute).is_ok()
    }

    /// Whether its Landlock can keep a process from abstract names outside of it.
    pub fn has_landlock_scopes() -> bool {
        let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        strict.scope(Scope::AbstractUnixSocket).is_ok()
    }

    /// Whether it has filters for system calls, and we know one for this processor.
    pub fn has_filters() -> bool {
        let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
        cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
            && actions.is_ok_and(|actions| actions.contains("kill_process"))
    }

    /// Whether `line` says that the daemon goes without something that could be had.
    pub fn has_what_is_missed(line: &str) -> bool {
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

/// The next line, and the rest.
pub fn next_line(mut stderr: BufReader<ChildStderr>) -> (String, BufReader<ChildStderr>) {
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    (line, stderr)
}

/// The first TCP address in the line that announces where it serves.
pub fn address_in(line: &str) -> SocketAddr {
    let (_, url) = line
        .split_once("http://")
        .unwrap_or_else(|| panic!("no address: {line}"));
    let address = url.split([' ', ',', '\n']).next().unwrap();
    address
        .parse()
        .unwrap_or_else(|_| panic!("no address: {line}"))
}

/// Asks for `path` on a connection of its own: status code and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).unwrap()
}

/// As [`get`], for a daemon that may be gone.
pub fn try_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    ask(stream, path)
}

pub fn get_unix(path: &std::path::Path, target: &str) -> (u16, String) {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    ask(stream, target).unwrap()
}

fn ask(mut stream: impl Read + Write, path: &str) -> std::io::Result<(u16, String)> {
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

/// The arguments to run `script` in a shell that knows healthz as `$HEALTHZ`.
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
