//! The daemon under service managers: readiness, inherited sockets, status and watchdog.
#![cfg(feature = "daemon")]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Instant;

use daemon::{Daemon, TIMEOUT, TempPath, eventually, get, get_unix, shell, temp_path};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

/// A shell that passes its stdin and stdout to the daemon as descriptors 3 and 4.
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
fn inherited_sockets_replace_the_default_listeners() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = temp_path();
    let unix = UnixListener::bind(&path).unwrap();
    let mut daemon = Daemon::start_as(activate(tcp, unix, "LISTEN_FDS=2 LISTEN_PID=$$", ""));
    let line = daemon.lines().wait("serving");
    let expected = format!(" on http://{address} and unix:{}", path.display());
    assert!(line.ends_with(&expected), "{line}");
    assert_eq!(get(address, "/healthz"), (200, "ok".to_owned()));
    assert_eq!(get_unix(&path, "/healthz"), (200, "ok".to_owned()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        path.exists(),
        "the daemon removed a socket file that it did not create"
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
fn inherited_sockets_are_served_in_addition_to_those_of_listen() {
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
fn inherited_sockets_with_another_listen_pid_are_ignored() {
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
fn inherited_descriptors_that_cannot_serve_end_the_daemon_with_2() {
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let remote = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = remote.local_addr().unwrap();
    let not_loopback = format!(
        "LISTEN_FDS: descriptor 3: {address} is reachable from outside this machine; pass --allow-remote if that is intended"
    );
    let not_socket = format!(
        "LISTEN_FDS: descriptor 3: cannot use the socket: {}",
        std::io::Error::from(Errno::ENOTSOCK)
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
            not_socket.as_str(),
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
fn ready_fd_gets_one_newline_and_is_closed() {
    let mut command = shell("exec \"$HEALTHZ\" --listen 127.0.0.1:0 --ready-fd 5 5>&1 1>/dev/null");
    command.stdout(Stdio::piped());
    let mut daemon = Daemon::start_as(command);
    let mut received = Vec::new();
    daemon
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut received)
        .unwrap();
    assert_eq!(received, b"\n");
    // The daemon serves by then, and keeps running.
    assert_eq!(daemon.get("/healthz").0, 200);
    assert!(daemon.is_running());
}

const READY: &str = "READY=1\nSTATUS=healthz passes";
const STOPPING: &str = "STOPPING=1\nSTATUS=shutting down";

/// The notification socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: TempPath,
}

impl Manager {
    fn new() -> Self {
        let path = temp_path();
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

    /// The next message that is not a watchdog beat.
    fn next_message(&self) -> String {
        loop {
            match self.next() {
                beat if beat == "WATCHDOG=1" => {}
                message => return message,
            }
        }
    }
}

#[test]
fn a_service_manager_is_notified_of_ready_and_stopping() {
    let manager = Manager::new();
    let mut daemon = manager.start(&[], None);
    assert_eq!(manager.next(), READY);
    assert_eq!(
        daemon.get("/readyz").0,
        200,
        "READY=1 was sent before the daemon serves"
    );
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), STOPPING);
    assert_eq!(daemon.wait().code(), Some(0));
    manager.socket.set_nonblocking(true).unwrap();
    assert!(
        manager.socket.recv(&mut [0]).is_err(),
        "there was a third message"
    );
}

/// Regression: READY=1 was sent once and lost if the queue was full, and a manager that never gets it ends the daemon.
#[test]
fn ready_is_sent_again_if_the_managers_queue_was_full() {
    let manager = Manager::new();
    let others = UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send_to(b"X=1", &manager.path).is_ok() {}
    let mut daemon = manager.start(&[], None);
    daemon.lines().wait("cannot send READY=1");
    let message = std::iter::repeat_with(|| manager.next()).find(|message| message != "X=1");
    assert_eq!(message.as_deref(), Some(READY));
    daemon
        .lines()
        .wait("the service manager can be notified again");
    // Exactly once, and not again when the daemon stops.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), STOPPING);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn the_watchdog_gets_a_beat_at_half_of_its_limit() {
    let manager = Manager::new();
    let begun = Instant::now();
    let _daemon = manager.start(&[], Some("400000"));
    assert_eq!(manager.next(), READY);
    for beats in 0..4 {
        assert_eq!(manager.next(), "WATCHDOG=1");
        // Half of the limit for each beat, or later on a busy machine.
        let passed = begun.elapsed().as_millis();
        assert!(passed >= beats * 190, "{beats} beats before in {passed} ms");
    }
}

#[test]
fn no_watchdog_beats_are_sent_with_another_watchdog_pid() {
    let manager = Manager::new();
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0", "--sync-period", "5ms"]);
    command
        .args(["--log-level", "trace"])
        .env("NOTIFY_SOCKET", &manager.path);
    command
        .env("WATCHDOG_USEC", "2000")
        .env("WATCHDOG_PID", "1");
    let mut daemon = Daemon::start_as(command);
    assert_eq!(manager.next(), READY);
    // Each round logs a line. A daemon that beats would have sent some messages by then.
    eventually("some rounds of the sync loop", || {
        let lines = daemon.lines().all().into_iter();
        let rounds = lines.filter(|line| line.contains(" TRACE "));
        (rounds.count() >= 20).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), STOPPING);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_daemon_with_a_failing_check_does_not_beat_the_watchdog() {
    let manager = Manager::new();
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0", "--log-limit", "100ms"]);
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "20000");
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (line, stderr) = daemon.first_line();
    // On a busy machine a check may fail for a moment before.
    assert!(manager.next().starts_with("READY=1\n"));
    eventually("a watchdog beat", || {
        (manager.next() == "WATCHDOG=1").then_some(())
    });
    // Closes the read end of the log's pipe, so that `log` fails.
    drop(stderr);
    let address = daemon::address_in(&line);
    eventually("`log` to fail", || {
        (get(address, "/healthz").0 == 500).then_some(())
    });
    // Reads the messages sent before, and then waits many beat intervals without a message.
    let silence = Some(std::time::Duration::from_millis(200));
    manager.socket.set_read_timeout(silence).unwrap();
    eventually("no more messages", || {
        manager.socket.recv(&mut [0]).is_err().then_some(())
    });
    assert_eq!(get(address, "/healthz").0, 500);
    assert!(daemon.is_running());
}

#[test]
fn the_status_names_the_failing_check_and_reports_recovery() {
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
    // The test does not read the log, so the pipe is full soon.
    assert_eq!(
        manager.next_message(),
        "STATUS=healthz fails: log (logging blocked)"
    );
    daemon.read_on();
    assert_eq!(manager.next_message(), "STATUS=healthz passes");
}

#[test]
fn a_daemon_serves_if_the_managers_socket_does_not_exist() {
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", temp_path());
    let daemon = Daemon::start_as(command);
    daemon
        .lines()
        .wait("WARN  healthz: cannot send READY=1, STATUS=healthz passes to the service manager: No such file or directory");
    assert_eq!(daemon.get("/healthz").0, 200);
}
