//! The daemon's own checks, `log` and `syncloop`, fail when the log or the sync loop fails, and only then.
#![cfg(feature = "daemon")]
#![cfg(test)]

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

/// A daemon whose stderr is a small pipe. The test reads its first line and then stops reading.
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
    let line = eventually("the `serving` line", || {
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
fn a_blocked_stderr_fails_log_and_delays_nothing_else() {
    // So many records that the pipe is full, and then the queue.
    let (daemon, address, stderr) = start_unread(&["--sync-period", "1ms", "--log-level", "trace"]);
    eventually("`log` to fail", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    // The server still answers and the sync loop still runs. Their records are dropped now or soon.
    let failing =
        "[+]ping ok\n[-]log failed: reason withheld\n[+]syncloop ok\nhealthz check failed\n";
    for _ in 0..100 {
        assert_eq!(get(address, "/healthz?verbose"), (500, failing.to_owned()));
    }
    assert_eq!(get(address, "/readyz").0, 500);
    assert_eq!(get(address, "/healthz/syncloop").0, 200);

    // A pipe of 4 KiB and a queue of 64 KiB at some 60 bytes a record are full after 1,200 rounds.
    // In steps with a timeout each: on a busy machine a round takes many milliseconds.
    let begun = rounds(&daemon);
    for step in 1..=10 {
        eventually("the sync loop to fill the queue", || {
            (rounds(&daemon) > begun + 250 * step).then_some(())
        });
    }
    assert_eq!(get(address, "/healthz/log"), blocked());

    daemon.read_from(stderr);
    eventually("`log` to pass again", || {
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
    // Only complete lines, before and after the gap. This test may read too slowly and see more gaps.
    for line in daemon.lines().all() {
        assert!(
            line.contains("Z TRACE healthz: ")
                || line.contains("Z INFO  healthz: ")
                || line.ends_with("Z WARN  healthz: check log fails: logging blocked")
                || (line.contains("Z WARN  healthz: ")
                    && line.ends_with(" dropped while standard error was blocked or failed")),
            "{line}"
        );
    }
}

/// How often the main thread has slept: at least once for each round of the sync loop.
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
fn a_full_pipe_fails_log_even_if_the_daemon_has_nothing_to_log() {
    let mut command = healthz(&["--listen", "127.0.0.1:0", "--log-limit", "300ms"]);
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (line, stderr) = daemon.first_line();
    let address = address_in(&line);
    // The test writes to the same pipe until it is full.
    let pid = daemon.pid();
    let other = std::fs::File::options()
        .write(true)
        .open(format!("/proc/{pid}/fd/2"))
        .unwrap();
    fill(other);
    eventually("`log` to fail", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    daemon.read_from(stderr);
    eventually("`log` to pass again", || {
        (get(address, "/healthz").0 == 200).then_some(())
    });
}

/// Writes complete lines until the pipe is full.
fn fill(pipe: std::fs::File) {
    use std::io::Write;
    // A new open file description, so that the daemon's stays blocking.
    fcntl(&pipe, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let line = [[b'x'; 127].as_slice(), b"\n"].concat();
    while (&pipe).write(&line).is_ok() {}
}

#[test]
fn a_daemon_with_a_blocked_stderr_stops_on_sigterm() {
    let (mut daemon, address, _stderr) =
        start_unread(&["--sync-period", "1ms", "--log-level", "trace"]);
    eventually("`log` to fail", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// After SIGSTOP and SIGCONT the kernel continues the wait with restart_syscall(2), which the sandbox must
/// allow.
#[cfg(target_os = "linux")]
#[test]
fn the_wait_for_a_blocked_stderr_continues_after_sigstop_and_sigcont() {
    use nix::libc::{SYS_futex, SYS_restart_syscall};
    let read = |daemon: &Daemon, name: &str| {
        let path = format!("/proc/{}/{name}", daemon.pid());
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let mut daemon = None;
    // The wait lasts one second. A machine that is slower than that tries again.
    eventually("the wait to continue with restart_syscall", || {
        let (daemon, address, _stderr) = daemon.insert(start_unread(&[
            "--sync-period",
            "1ms",
            "--log-level",
            "trace",
        ]));
        eventually("`log` to fail", || {
            (get(*address, "/healthz/log") == blocked()).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        // The number of the system call and its six arguments. The fourth is the timeout.
        let is_waiting = |call: &str| {
            let mut words = call.split(' ');
            words.next() == Some(&SYS_futex.to_string()) && words.nth(3) != Some("0x0")
        };
        eventually("the daemon to wait or exit", || {
            (is_waiting(&read(daemon, "syscall")) || !daemon.is_running()).then_some(())
        });
        if !daemon.is_running() {
            return None;
        }
        daemon.signal(Signal::SIGSTOP);
        eventually("the daemon to stop or exit", || {
            let state = read(daemon, "stat");
            (state.contains(") T ") || state.contains(") Z ")).then_some(())
        });
        daemon.signal(Signal::SIGCONT);
        let continues = eventually("the wait to continue, or the daemon to exit", || {
            let call = read(daemon, "syscall");
            let continues = call.starts_with(&SYS_restart_syscall.to_string());
            (continues || !daemon.is_running()).then_some(continues)
        });
        continues.then_some(())
    });
    let (daemon, ..) = daemon.as_mut().unwrap();
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_stderr_pipe_without_a_reader_fails_log_and_does_not_end_the_daemon() {
    let mut command = healthz(&["--listen", "127.0.0.1:0", "--log-limit", "300ms"]);
    command.stderr(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (line, stderr) = daemon.first_line();
    let address = address_in(&line);
    drop(stderr);
    eventually("`log` to fail", || {
        (get(address, "/healthz/log") == blocked()).then_some(())
    });
    assert_eq!(get(address, "/livez/ping").0, 200);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn log_passes_if_stderr_is_closed_or_dev_null() {
    for redirection in ["2>&-", "2>/dev/null"] {
        let path = daemon::temp_path();
        let script = format!(
            "exec \"$HEALTHZ\" --listen unix:{} --log-limit 100ms {redirection}",
            path.display()
        );
        let mut daemon = Daemon::of(daemon::shell(&script));
        eventually("the socket file", || path.exists().then_some(()));
        // If nothing can be written, `log` fails after its limit and stays failed. A delay by a busy
        // machine ends with the next write.
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 300 {
            daemon::get_unix(&path, "/healthz");
        }
        eventually("`log` to pass", || {
            (daemon::get_unix(&path, "/healthz").0 == 200).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn a_full_disk_fails_log() {
    let path = daemon::temp_path();
    let script = format!(
        "exec \"$HEALTHZ\" --listen unix:{} --log-limit 100ms 2>/dev/full",
        path.display()
    );
    let daemon = Daemon::of(daemon::shell(&script));
    eventually("the socket file", || path.exists().then_some(()));
    eventually("`log` to fail", || {
        (daemon::get_unix(&path, "/healthz/log") == blocked()).then_some(())
    });
    drop(daemon);
    std::fs::remove_file(path).unwrap();
}

/// Regression: SIGXFSZ ended the daemon when its log file reached the size limit.
#[test]
fn a_log_file_at_its_size_limit_fails_log_and_does_not_end_the_daemon() {
    let (path, file) = (daemon::temp_path(), daemon::temp_path());
    let script = format!(
        "ulimit -f 8; exec \"$HEALTHZ\" --listen unix:{} --log-limit 100ms --sync-period 1ms \
         --log-level trace 2>{}",
        path.display(),
        file.display()
    );
    let mut daemon = Daemon::of(daemon::shell(&script));
    eventually("the socket file", || path.exists().then_some(()));
    eventually("`log` to fail", || {
        (daemon::get_unix(&path, "/healthz/log") == blocked()).then_some(())
    });
    assert!(daemon.is_running());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    std::fs::remove_file(file).unwrap();
}

/// The limit counts from the start of the server, so a sync loop that is never entered fails as well.
#[test]
fn a_sync_loop_that_is_never_entered_fails_syncloop() {
    let path = daemon::temp_path();
    // The daemon waits for the tracer while main is its only thread.
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
    // Stops main after it has created its first thread, the server's.
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
    eventually("`syncloop` to fail", || {
        let (code, body) = daemon::get_unix(&path, "/healthz/syncloop");
        (code == 500 && body.contains("sync Loop took longer than expected")).then_some(())
    });
}

#[test]
fn a_sync_loop_that_hangs_fails_syncloop() {
    let daemon = Daemon::start(&["--sync-period", "10ms", "--sync-limit", "300ms"]);
    let address = daemon.address();
    eventually("`syncloop` to pass", || {
        (get(address, "/healthz/syncloop").0 == 200).then_some(())
    });
    // Stops only the main thread: its thread id is the process id.
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
    eventually("`syncloop` to fail", || {
        (get(address, "/healthz/syncloop") == failing).then_some(())
    });
    assert_eq!(get(address, "/livez").0, 500);
    assert_eq!(get(address, "/livez?exclude=syncloop").0, 200);
    ptrace::detach(main, None).unwrap();
    eventually("`syncloop` to pass again", || {
        (get(address, "/healthz").0 == 200).then_some(())
    });
    // The sync loop logs that it was late.
    let failed = daemon
        .lines()
        .wait("check syncloop fails: sync Loop took longer than expected");
    // Regression: a failing check was logged at `info`, so `--log-level warn` hid it.
    assert!(failed.contains("WARN"), "{failed}");
    let passed = daemon.lines().wait("check syncloop passes again");
    assert!(passed.contains("INFO"), "{passed}");
}
