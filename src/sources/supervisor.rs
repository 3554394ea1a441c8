//! The supervisor: starts the worker, starts it again if it ends, and leaves no process behind.
//!
//! A process of its own, because the server's sandbox forbids starting programs. It only waits for the worker and the
//! server. It is a *child subreaper* (prctl(2)): processes that the program of a check has left behind become its
//! children when the worker ends, and it kills them. When the server ends, it kills all its descendants and ends too.
//!
//! SIGTERM, SIGINT, SIGHUP and SIGQUIT have no effect, because a service manager sends SIGTERM to every process of the
//! service, and the checks must run while the server drains. Called by [`super::command`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::link::{Link, Message, encode};
use super::{descendants, sys};

/// A worker that ran for less than this is started again only after [`RESTART_PAUSE`].
const RUN_DURATION_MIN: Duration = Duration::from_secs(10);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a worker to end when the server has ended.
const END_DURATION_MAX: Duration = Duration::from_millis(300);

/// Runs until the server's end of `link` is closed. `start` starts a worker; its argument is true if one has run
/// before.
///
/// # Errors
/// If the system cannot wait for the worker.
pub fn run(
    link: &Link,
    mut start: impl FnMut(bool) -> io::Result<i32>,
    mut is_restart: bool,
) -> io::Result<()> {
    loop {
        let began = Instant::now();
        let ended = match start(is_restart) {
            Ok(worker) => match wait(link, worker) {
                Ok(Some(status)) => describe(status),
                Err(error) => {
                    descendants::kill_all();
                    return Err(error);
                }
                Ok(None) => {
                    end(worker);
                    descendants::kill_all();
                    return Ok(());
                }
            },
            Err(error) => format!("cannot start: {error}"),
        };
        descendants::kill_all();
        // Fails if the link is full or the server has ended. Then the checks fail when the last verdicts expire.
        let _ = link.send(&encode(&Message::WorkerEnded(&ended)));
        is_restart = true;
        if began.elapsed() < RUN_DURATION_MIN && is_closed_within(link, RESTART_PAUSE)? {
            return Ok(());
        }
    }
}

/// Waits for the worker's end; `None` if the server has ended.
fn wait(link: &Link, worker: i32) -> io::Result<Option<ExitStatus>> {
    let pidfd: OwnedFd = sys::pidfd_open(worker)?;
    // The wait can take years, so memory is given back first.
    crate::unneeded::give_back();
    loop {
        let mut watched = [
            // Only a hang-up: the messages are for the worker.
            PollFd::new(link.as_fd(), PollFlags::empty()),
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            result => drop(result?),
        }
        let [server, ended] = watched.map(|fd| fd.any().unwrap_or(false));
        if ended {
            return sys::wait(worker, true);
        }
        if server {
            return Ok(None);
        }
    }
}

/// Gives the worker a moment to end by itself and to remove the sockets of its heartbeats, and then kills it.
fn end(worker: i32) {
    let began = Instant::now();
    while matches!(sys::wait(worker, false), Ok(None)) {
        if began.elapsed() >= END_DURATION_MAX {
            let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
            let _ = sys::wait(worker, true);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the server has ended.
///
/// # Errors
/// If the system cannot say.
pub fn is_server_closed(link: &Link) -> io::Result<bool> {
    is_closed_within(link, Duration::ZERO)
}

/// Whether the server ends within `duration`.
fn is_closed_within(link: &Link, duration: Duration) -> io::Result<bool> {
    let mut watched = [PollFd::new(link.as_fd(), PollFlags::empty())];
    let timeout = PollTimeout::try_from(duration).unwrap_or(PollTimeout::ZERO);
    match poll(&mut watched, timeout) {
        Ok(count) => Ok(count > 0),
        // The pause is shorter then.
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("killed by signal {signal}"),
        (code, None) => format!("exit code {}", code.unwrap_or_default()),
    }
}
