//! The loop for those who have none: `Poll`, `Events` and the clock; run, spawn and stop.
//!
//! The only room of the library that reads a clock.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::string::ToString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use mio::{Events, Poll, Token, Waker};

use super::{Counters, Server, TOKENS};
use crate::time::Instant;

/// Events taken from the kernel at once. More come with the next call.
const EVENTS_PER_TURN: usize = 256;
const SERVER: Token = Token(0);
const WAKER: Token = Token(TOKENS);

/// Room for a request's fields and excludes on the stack, several times over, debug builds included.
const STACK_BYTES: usize = 128 * 1024;

/// The present on the clock that [`Runner`] uses: milliseconds since its first use in this process,
/// monotonic, not counting suspend on Linux. Give it to [`Check::beat`](crate::Check::beat).
///
/// The first call in a process may block on another thread's first call; later ones never do.
pub fn now() -> Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(std::time::Instant::now);
    Instant::ZERO.saturating_add(origin.elapsed())
}

/// A [`Server`] with a loop of its own.
///
/// Call [`run`](Runner::run) and it blocks, or [`turn`](Runner::turn) from any other loop: the
/// descriptor of [`AsFd`] is readable when there is something to do.
pub struct Runner<'a> {
    poll: Poll,
    events: Events,
    server: Server<'a>,
    stop: Arc<Stop>,
    is_stopping: bool,
    date_due: Instant,
    /// When the last turn began to work.
    now: Instant,
}

/// What a [`Handle`] shares with its thread.
struct Stop {
    is_wanted: AtomicBool,
    waker: Waker,
}

impl<'a> Runner<'a> {
    /// Registers `server` in a new `Poll`.
    ///
    /// # Errors
    /// If the system has no descriptor or memory for it.
    pub fn new(mut server: Server<'a>) -> io::Result<Self> {
        let poll = Poll::new()?;
        server.register(poll.registry(), SERVER)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok(Runner {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            server,
            stop: Arc::new(Stop {
                is_wanted: AtomicBool::new(false),
                waker,
            }),
            is_stopping: false,
            date_due: Instant::ZERO,
            now: Instant::ZERO,
        })
    }

    /// Waits for something to do for at most `timeout` (for ever if `None`) and does it. Bounded work.
    ///
    /// # Errors
    /// If epoll itself fails, which no peer can cause. A signal is no error: the call returns early.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.turn_from(now(), timeout)
    }

    /// A turn that begins at `before`.
    fn turn_from(&mut self, before: Instant, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = self.server.deadline();
        let due = deadline.map(|deadline| deadline.saturating_since(before));
        let timeout = timeout.into_iter().chain(due).min();
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let now = now();
        self.now = now;
        self.set_date(now);
        for event in &self.events {
            if event.token() != WAKER {
                self.server.handle(self.poll.registry(), event, now);
            }
        }
        self.server.turn(self.poll.registry(), now);
        if !self.is_stopping && self.stop.is_wanted.load(Ordering::Acquire) {
            self.is_stopping = true;
            self.server.stop(self.poll.registry(), now);
        }
        Ok(())
    }

    /// Serves until the server was stopped and its connections have ended.
    ///
    /// # Errors
    /// As [`turn`](Runner::turn).
    pub fn run(&mut self) -> io::Result<()> {
        self.now = now();
        while !self.server.is_finished() {
            // One look at the clock a turn is enough here: the last turn ended just now.
            self.turn_from(self.now, None)?;
        }
        Ok(())
    }

    /// The server.
    pub fn server(&self) -> &Server<'a> {
        &self.server
    }

    fn set_date(&mut self, now: Instant) {
        if now < self.date_due {
            return;
        }
        self.date_due = now.saturating_add(Duration::from_secs(1));
        // A wall clock before 1970 is no clock.
        if let Ok(since) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.server.set_wall_clock(since.as_secs());
        }
    }
}

impl AsFd for Runner<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// A server on a thread of its own. Dropping it leaves the thread running.
pub struct Handle {
    stop: Arc<Stop>,
    thread: JoinHandle<io::Result<Counters>>,
}

/// Runs `server` on a thread of its own, named `healthz`, with a stack of 128 KiB of which it touches
/// a few.
///
/// # Errors
/// If the system has no thread, descriptor or memory for it.
pub fn spawn(server: Server<'static>) -> io::Result<Handle> {
    let mut runner = Runner::new(server)?;
    let stop = runner.stop.clone();
    let thread = std::thread::Builder::new()
        .name("healthz".to_string())
        .stack_size(STACK_BYTES);
    let thread = thread.spawn(move || {
        runner.run()?;
        Ok(runner.server.counters())
    })?;
    Ok(Handle { stop, thread })
}

impl Handle {
    /// Asks the server to end in good order, see [`Server::stop`], and returns at once.
    pub fn stop(&self) {
        self.stop.is_wanted.store(true, Ordering::Release);
        if let Err(error) = self.stop.waker.wake() {
            log::error!("cannot wake the server to stop it: {error}");
        }
    }

    /// Whether the thread has ended; only [`stop`](Handle::stop) or a failure ends it.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread to end.
    ///
    /// # Errors
    /// Of [`Runner::run`]; and one of kind `Other` if the thread panicked.
    pub fn join(self) -> io::Result<Counters> {
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("the server's thread panicked")),
        }
    }
}
