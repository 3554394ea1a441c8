//! The daemon under service managers: readiness, sockets handed in, the watchdog.
#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Instant;

use daemon::{Daemon, TIMEOUT, TempPath, eventually, get, get_unix, shell, socket_path};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

/// A shell that hands its stdin and stdout over as descriptors 3 and 4.
fn activate(
    stdin: impl Into<OwnedFd>,
    stdout: impl Into<OwnedFd>,
    environment: &str,
    args: &str,
) -> Command {
    let script =
        format!("exec 3<&0 4<&1 0</dev/null 1>/dev/null; {environment} exec \"$HEALTHZ\" {args}");
    let mut command = shell(&script);
    command
        .stdin(Stdio::from(stdin.into()))
        .stdout(Stdio::from(stdout.into()));
    command
}

#[test]
fn sockets_handed_in_are_served_instead_of_the_default() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = socket_path();
    let unix = UnixListener::bind(&path).unwrap();
    let mut daemon = Daemon::start_as(activate(tcp, unix, "LISTEN_FDS=2 LISTEN_PID=$$", ""));
    let line = daemon.lines().wait("serving");
    let expected = format!(" on http://{address} and unix:{}", path.display());
    assert!(line.ends_with(&expected), "{line}");
    assert_eq!(get(address, "/healthz"), (200, "ok".to_owned()));
    assert_eq!(get_unix(&path, "/healthz"), (200, "ok".to_owned()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(path.exists(), "the file is its maker's");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn sockets_handed_in_come_beside_what_was_asked_for() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let command = activate(
        tcp,
        null,
        "LISTEN_FDS=1 LISTEN_PID=$$",
        "--listen 127.0.0.1:0",
    );
    let daemon = Daemon::start_as(command);
    assert_eq!(daemon.address(), address);
    let line = daemon.lines().wait("serving");
    let (_, second) = line.rsplit_once("http://").unwrap();
    assert_ne!(second, address.to_string());
    assert_eq!(get(second.parse().unwrap(), "/healthz").0, 200);
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let command = activate(
        tcp,
        null,
        "LISTEN_FDS=1 LISTEN_PID=1",
        "--listen 127.0.0.1:0",
    );
    let daemon = Daemon::start_as(command);
    assert_ne!(daemon.address(), address);
}

#[test]
fn what_is_handed_in_is_checked() {
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let remote = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = remote.local_addr().unwrap();
    let not_loopback = format!(
        "LISTEN_FDS: descriptor 3: {address} is reachable from outside this machine; pass --allow-remote if that is intended"
    );
    let datagram = UnixDatagram::unbound().unwrap();
    for (socket, environment, args, expected) in [
        (
            remote.into(),
            "LISTEN_FDS=1 LISTEN_PID=$$",
            "",
            not_loopback.as_str(),
        ),
        (
            datagram.into(),
            "LISTEN_FDS=1 LISTEN_PID=$$",
            "",
            "LISTEN_FDS: descriptor 3: cannot use the socket: it is not a listening TCP or Unix stream socket",
        ),
        (
            null(),
            "LISTEN_FDS=1 LISTEN_PID=$$",
            "",
            "LISTEN_FDS: descriptor 3: cannot use the socket: Socket operation on non-socket",
        ),
        (
            null(),
            "LISTEN_FDS=3 LISTEN_PID=$$",
            "",
            "LISTEN_FDS: descriptor 5: Bad file descriptor",
        ),
        (
            null(),
            "LISTEN_FDS=17 LISTEN_PID=$$",
            "",
            "LISTEN_FDS=17: expected 0 to 16",
        ),
        (
            null(),
            "LISTEN_FDS=2 LISTEN_PID=$$",
            "--ready-fd 4",
            "--ready-fd 4 is one of the 2 sockets of LISTEN_FDS",
        ),
    ] {
        let mut daemon = Daemon::start_as(activate(socket, null(), environment, args));
        daemon.lines().wait(&format!("healthz: {expected}"));
        assert_eq!(daemon.wait().code(), Some(2), "{expected}");
    }
}

#[test]
fn readiness_is_one_newline_and_then_the_end() {
    let mut command = shell("exec \"$HEALTHZ\" --listen 127.0.0.1:0 --ready-fd 5 5>&1 1>/dev/null");
    command.stdout(Stdio::piped());
    let mut daemon = Daemon::start_as(command);
    let mut told = Vec::new();
    daemon
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut told)
        .unwrap();
    assert_eq!(told, b"\n");
    // It serves by then, and goes on.
    assert_eq!(daemon.get("/healthz").0, 200);
    assert!(daemon.is_running());
}

const READY: &str = "READY=1\nSTATUS=healthz passes";
const STOPPING: &str = "STOPPING=1\nSTATUS=shutting down";

/// A service manager's socket.
struct Manager {
    socket: UnixDatagram,
    path: TempPath,
}

impl Manager {
    fn new() -> Self {
        let path = socket_path();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Manager { socket, path }
    }

    fn start(&self, args: &[&str], watchdog: Option<&str>) -> Daemon {
        let mut command = daemon::healthz(&["--listen", "127.0.0.1:0"]);
        command.args(args).env("NOTIFY_SOCKET", &self.path);
        if let Some(microseconds) = watchdog {
            command.env("WATCHDOG_USEC", microseconds);
        }
        Daemon::start_as(command)
    }

    fn next(&self) -> String {
        let mut state = [0; 256];
        let length = self.socket.recv(&mut state).unwrap();
        String::from_utf8(state[..length].to_vec()).unwrap()
    }

    /// The next that is no beat of the watchdog.
    fn next_word(&self) -> String {
        loop {
            match self.next() {
                beat if beat == "WATCHDOG=1" => {}
                word => return word,
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_of_both_ends() {
    let manager = Manager::new();
    let mut daemon = manager.start(&[], None);
    assert_eq!(manager.next(), READY);
    assert_eq!(daemon.get("/readyz").0, 200, "ready when it says so");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), STOPPING);
    assert_eq!(daemon.wait().code(), Some(0));
    manager.socket.set_nonblocking(true).unwrap();
    assert!(
        manager.socket.recv(&mut [0]).is_err(),
        "nothing else was said"
    );
}

/// It was said once, and a manager that never hears it ends what it has started.
#[test]
fn a_manager_whose_queue_was_full_is_told_of_readiness_later() {
    let manager = Manager::new();
    let others = UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send_to(b"X=1", &manager.path).is_ok() {}
    let mut daemon = manager.start(&[], None);
    daemon.lines().wait("cannot send READY=1");
    let word = std::iter::repeat_with(|| manager.next()).find(|word| word != "X=1");
    assert_eq!(word.as_deref(), Some(READY));
    daemon
        .lines()
        .wait("the service manager can be notified again");
    // Once, and not again when it ends.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), STOPPING);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn the_watchdog_is_beaten_in_time() {
    let manager = Manager::new();
    let begun = Instant::now();
    let _daemon = manager.start(&[], Some("400000"));
    assert_eq!(manager.next(), READY);
    for beats in 0..4 {
        assert_eq!(manager.next(), "WATCHDOG=1");
        // Half of the limit, and what a busy machine adds to all of them.
        let passed = begun.elapsed().as_millis();
        assert!(passed >= beats * 190, "{beats} beats before in {passed} ms");
    }
}

#[test]
fn the_watchdog_of_another_process_is_not_beaten() {
    let manager = Manager::new();
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0", "--sync-period", "5ms"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    command
        .env("WATCHDOG_USEC", "2000")
        .env("WATCHDOG_PID", "1");
    let mut daemon = Daemon::start_as(command);
    assert_eq!(manager.next(), READY);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), STOPPING);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_daemon_that_is_not_well_does_not_beat_the_watchdog() {
    let manager = Manager::new();
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0", "--log-limit", "100ms"]);
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "20000");
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (line, stderr) = daemon.first_line();
    // A busy machine may have it fail for a moment before.
    assert!(manager.next().starts_with("READY=1\n"));
    eventually("it beats", || {
        (manager.next() == "WATCHDOG=1").then_some(())
    });
    // Its log has no reader any more.
    drop(stderr);
    let address = daemon::address_in(&line);
    eventually("log fails", || {
        (get(address, "/healthz").0 == 500).then_some(())
    });
    // What was said until then, and after it nothing for a time of many beats.
    let silence = Some(std::time::Duration::from_millis(200));
    manager.socket.set_read_timeout(silence).unwrap();
    eventually("nothing more is said", || {
        manager.socket.recv(&mut [0]).is_err().then_some(())
    });
    assert_eq!(get(address, "/healthz").0, 500);
    assert!(daemon.is_running());
}

#[test]
fn the_status_tells_what_fails_and_when_it_is_over() {
    let manager = Manager::new();
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0", "--log-limit", "300ms"]);
    command
        .args(["--sync-period", "1ms", "--log-level", "trace"])
        .env("NOTIFY_SOCKET", &manager.path);
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let stderr = daemon.child.stderr.as_ref().unwrap();
    assert_eq!(fcntl(stderr, FcntlArg::F_SETPIPE_SZ(4096)), Ok(4096));
    assert!(manager.next().starts_with("READY=1\n"));
    // Nobody reads the log, and it is full soon.
    assert_eq!(
        manager.next_word(),
        "STATUS=healthz fails: log (logging blocked)"
    );
    daemon.read_on();
    assert_eq!(manager.next_word(), "STATUS=healthz passes");
}

#[test]
fn a_service_manager_that_is_gone_is_no_trouble() {
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", socket_path());
    let daemon = Daemon::start_as(command);
    daemon
        .lines()
        .wait("WARN  healthz: cannot send READY=1, STATUS=healthz passes to the service manager: No such file or directory");
    assert_eq!(daemon.get("/healthz").0, 200);
}
