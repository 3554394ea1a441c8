//! The daemon's own checks fail when what they are about fails, and only then.
#![cfg(feature = "daemon")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::process::Stdio;
use std::time::Instant;

use daemon::{Daemon, address_in, eventually, get, healthz, untried};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn blocked() -> (u16, String) {
    (500, "internal server error: logging blocked\n".to_owned())
}

/// A daemon whose stderr is a small pipe that nobody reads any more, after its first line.
fn start_unread(
    args: &[&str],
) -> (
    Daemon,
    std::net::SocketAddr,
    impl std::io::BufRead + Send + use<>,
) {
    let mut command = healthz(&["--listen", "127.0.0.1:0", "--log-limit", "300ms"]);
    command.args(args).stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let size = fcntl(
        daemon.child.stderr.as_ref().unwrap(),
        FcntlArg::F_SETPIPE_SZ(4096),
    );
    assert_eq!(size, Ok(4096));
    let mut stderr = None;
    let line = eventually("the line that says where", || {
        let (line, rest) = match stderr.take() {
            None => daemon.first_line(),
            Some(rest) => daemon::next_line(rest),
        };
        stderr = Some(rest);
        line.contains("serving").then_some(line)
    });
    (daemon, address_in(&line), stderr.unwrap())
}

#[test]
fn a_blocked_stderr_fails_log_and_nothing_else_waits() {
    // Enough to say to fill the pipe and then the queue.
    let (daemon, address, stderr) = start_unread(&["--sync-period", "1ms", "--log-level", "trace"]);
    eventually("log fails", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    // The door goes on, and so does the loop, whose records are dropped by now or soon.
    let failing =
        "[+]ping ok\n[-]log failed: reason withheld\n[+]syncloop ok\nhealthz check failed\n";
    for _ in 0..100 {
        assert_eq!(get(address, "/healthz?verbose"), (500, failing.to_owned()));
    }
    assert_eq!(get(address, "/readyz").0, 500);
    assert_eq!(get(address, "/healthz/syncloop").0, 200);

    // A pipe of 4 KiB and a queue of 64 KiB at some 60 bytes a record are full after 1,200 rounds.
    // In steps, each with patience of its own: on a busy machine a round takes many milliseconds.
    let begun = rounds(&daemon);
    for step in 1..=10 {
        eventually("the loop goes on until the queue is full", || {
            (rounds(&daemon) > begun + 250 * step).then_some(())
        });
    }
    assert_eq!(get(address, "/healthz/log"), blocked());

    daemon.read_from(stderr);
    eventually("log passes again", || {
        (get(address, "/healthz").0 == 200).then_some(())
    });
    let report = daemon
        .lines()
        .wait("dropped while standard error was blocked");
    let count = report
        .split("healthz: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert!(count.parse::<u32>().unwrap() > 100, "{report}");
    // Whole lines only, before and after the gap, and after others where this test reads too slowly.
    for line in daemon.lines().all() {
        assert!(
            line.contains("Z TRACE healthz: ")
                || line.contains("Z INFO  healthz: ")
                || line.ends_with("Z WARN  healthz: check log fails: logging blocked")
                || (line.contains("Z WARN  healthz: ")
                    && line.ends_with(" dropped while standard error was blocked")),
            "{line}"
        );
    }
}

/// How often the main thread has slept: at least as often as its loop went round.
fn rounds(daemon: &Daemon) -> u64 {
    let pid = daemon.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("voluntary_ctxt_switches"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_full_pipe_fails_log_though_there_is_nothing_to_say() {
    let mut command = healthz(&["--listen", "127.0.0.1:0", "--log-limit", "300ms"]);
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (line, stderr) = daemon.first_line();
    let address = address_in(&line);
    // Another writer to the same pipe fills it.
    let pid = daemon.pid();
    let other = std::fs::File::options()
        .write(true)
        .open(format!("/proc/{pid}/fd/2"))
        .unwrap();
    fill(other);
    eventually("log fails", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    daemon.read_from(stderr);
    eventually("log passes again", || {
        (get(address, "/healthz").0 == 200).then_some(())
    });
}

/// Writes full lines until the pipe takes no more.
fn fill(pipe: std::fs::File) {
    use std::io::Write;
    // A description of its own: what the daemon holds stays blocking.
    fcntl(&pipe, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let line = [[b'x'; 127].as_slice(), b"\n"].concat();
    while (&pipe).write(&line).is_ok() {}
}

#[test]
fn a_blocked_stderr_does_not_keep_it_from_stopping() {
    let (mut daemon, address, _stderr) =
        start_unread(&["--sync-period", "1ms", "--log-level", "trace"]);
    eventually("log fails", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// The kernel goes on with that wait by a call of its own, which the sandbox has to know.
#[cfg(target_os = "linux")]
#[test]
fn its_wait_for_a_blocked_stderr_goes_on_behind_a_stop() {
    use nix::libc::{SYS_futex, SYS_restart_syscall};
    let read = |daemon: &Daemon, name: &str| {
        let path = format!("/proc/{}/{name}", daemon.pid());
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let mut daemon = None;
    // It is a second long; a machine that is slower than that has another try.
    eventually("the wait goes on", || {
        let (daemon, address, _stderr) = daemon.insert(start_unread(&[
            "--sync-period",
            "1ms",
            "--log-level",
            "trace",
        ]));
        eventually("log fails", || {
            (get(*address, "/healthz/log") == blocked()).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        // Its number, and six arguments: the fourth is the limit.
        let is_waiting = |call: &str| {
            let mut words = call.split(' ');
            words.next() == Some(&SYS_futex.to_string()) && words.nth(3) != Some("0x0")
        };
        eventually("its last wait, or its end", || {
            (is_waiting(&read(daemon, "syscall")) || !daemon.is_running()).then_some(())
        });
        if !daemon.is_running() {
            return None;
        }
        daemon.signal(Signal::SIGSTOP);
        eventually("it stands still, or is at its end", || {
            let state = read(daemon, "stat");
            (state.contains(") T ") || state.contains(") Z ")).then_some(())
        });
        daemon.signal(Signal::SIGCONT);
        let goes_on = eventually("it goes on, or ends", || {
            let call = read(daemon, "syscall");
            let goes_on = call.starts_with(&SYS_restart_syscall.to_string());
            (goes_on || !daemon.is_running()).then_some(goes_on)
        });
        goes_on.then_some(())
    });
    let (daemon, ..) = daemon.as_mut().unwrap();
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_stderr_that_nobody_can_read_any_more_fails_log_and_is_no_end() {
    let mut command = healthz(&["--listen", "127.0.0.1:0", "--log-limit", "300ms"]);
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (line, stderr) = daemon.first_line();
    let address = address_in(&line);
    drop(stderr);
    eventually("log fails", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    assert_eq!(get(address, "/livez/ping").0, 200);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_stderr_that_is_closed_or_null_is_as_its_user_wants_it() {
    for redirection in ["2>&-", "2>/dev/null"] {
        let path = daemon::socket_path();
        let script = format!(
            "exec \"$HEALTHZ\" --listen unix:{} --log-limit 100ms {redirection}",
            path.display()
        );
        let mut daemon = Daemon::of(daemon::shell(&script));
        eventually("it serves", || path.exists().then_some(()));
        // After the limit a log that nothing can be written to fails for good; one that a busy machine
        // has kept waiting passes the next time.
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 300 {
            daemon::get_unix(&path, "/healthz");
        }
        eventually("log passes", || {
            (daemon::get_unix(&path, "/healthz").0 == 200).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn a_full_disk_fails_log() {
    let path = daemon::socket_path();
    let script = format!(
        "exec \"$HEALTHZ\" --listen unix:{} --log-limit 100ms 2>/dev/full",
        path.display()
    );
    let daemon = Daemon::of(daemon::shell(&script));
    eventually("it serves", || path.exists().then_some(()));
    eventually("log fails", || {
        (daemon::get_unix(&path, "/healthz/log") == blocked()).then_some(())
    });
    drop(daemon);
    std::fs::remove_file(path).unwrap();
}

/// SIGXFSZ used to end it.
#[test]
fn a_log_file_that_may_not_grow_any_more_fails_log_and_is_no_end() {
    let (path, file) = (daemon::socket_path(), daemon::socket_path());
    let script = format!(
        "ulimit -f 8; exec \"$HEALTHZ\" --listen unix:{} --log-limit 100ms --sync-period 1ms \
         --log-level trace 2>{}",
        path.display(),
        file.display()
    );
    let mut daemon = Daemon::of(daemon::shell(&script));
    eventually("it serves", || path.exists().then_some(()));
    eventually("log fails", || {
        (daemon::get_unix(&path, "/healthz/log") == blocked()).then_some(())
    });
    assert!(daemon.is_running());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    std::fs::remove_file(file).unwrap();
}

/// The limit counts from the start of the server: a loop that is never entered fails like one that hangs.
#[test]
fn a_sync_loop_that_never_begins_fails_syncloop() {
    let path = daemon::socket_path();
    // It waits to be traced before there is any thread but main.
    let script = format!(
        "kill -STOP $$; exec \"$HEALTHZ\" --listen unix:{} --sync-period 10ms --sync-limit 300ms",
        path.display()
    );
    let daemon = Daemon::start_as(daemon::shell(&script));
    let main = daemon.pid();
    waitpid(main, Some(WaitPidFlag::WUNTRACED)).unwrap();
    match ptrace::seize(main, ptrace::Options::PTRACE_O_TRACECLONE) {
        Err(error @ (Errno::EPERM | Errno::ENOSYS)) => {
            untried(&format!(
                "one thread cannot be stopped here, ptrace says {error}"
            ));
            return;
        }
        result => result.unwrap(),
    }
    daemon.signal(Signal::SIGCONT);
    // Main stays where it has made the server's thread, which is the first one.
    let server = loop {
        match waitpid(main, None).unwrap() {
            WaitStatus::PtraceEvent(_, _, event)
                if event == ptrace::Event::PTRACE_EVENT_CLONE as i32 =>
            {
                break Pid::from_raw(ptrace::getevent(main).unwrap() as i32);
            }
            WaitStatus::Stopped(_, Signal::SIGCONT) => ptrace::cont(main, Signal::SIGCONT).unwrap(),
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => {
                ptrace::cont(main, None).unwrap();
            }
            ended => panic!("{ended:?}"),
        }
    };
    waitpid(server, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::detach(server, None).unwrap();
    eventually("syncloop fails", || {
        let (code, body) = daemon::get_unix(&path, "/healthz/syncloop");
        (code == 500 && body.contains("sync Loop took longer than expected")).then_some(())
    });
}

#[test]
fn a_sync_loop_that_stands_still_fails_syncloop() {
    let daemon = Daemon::start(&["--sync-period", "10ms", "--sync-limit", "300ms"]);
    let address = daemon.address();
    eventually("syncloop passes", || {
        (get(address, "/healthz/syncloop").0 == 200).then_some(())
    });
    // Stops the thread whose number is the process's: main, and no other.
    let main = daemon.pid();
    match ptrace::seize(main, ptrace::Options::empty()) {
        Err(error @ (Errno::EPERM | Errno::ENOSYS)) => {
            untried(&format!(
                "one thread cannot be stopped here, ptrace says {error}"
            ));
            return;
        }
        result => result.unwrap(),
    }
    ptrace::interrupt(main).unwrap();
    waitpid(main, None).unwrap();
    let failing = (
        500,
        "internal server error: sync Loop took longer than expected\n".to_owned(),
    );
    eventually("syncloop fails", || {
        (get(address, "/healthz/syncloop") == failing).then_some(())
    });
    assert_eq!(get(address, "/livez").0, 500);
    assert_eq!(get(address, "/livez?exclude=syncloop").0, 200);
    ptrace::detach(main, None).unwrap();
    eventually("syncloop passes again", || {
        (get(address, "/healthz").0 == 200).then_some(())
    });
    // The loop itself notices that it was late.
    let failed = daemon
        .lines()
        .wait("check syncloop fails: sync Loop took longer than expected");
    // Regression: at `info`, `--log-level warn` hid it.
    assert!(failed.contains("WARN"), "{failed}");
    let passed = daemon.lines().wait("check syncloop passes again");
    assert!(passed.contains("INFO"), "{passed}");
}
