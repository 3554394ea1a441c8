//! The loop for those who have none: `Poll`, `Events` and the clock; run, spawn and stop.
//!
//! The only room of the library that reads a clock.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::string::ToString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
/// The first call in a process may block on another thread's first call; later ones never do, and may
/// be made in a signal handler (they are one `clock_gettime`). [`Runner::new`] and [`spawn`] make it.
pub fn now() -> Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(std::time::Instant::now);
    Instant::ZERO.saturating_add(origin.elapsed())
}

/// A [`Server`] with a loop of its own.
///
/// Call [`run`](Runner::run) and it blocks, or [`turn`](Runner::turn) from any other loop: the
/// descriptor of [`AsFd`] is readable when there is something to do, and [`timeout`](Runner::timeout)
/// says when there is at the latest. In a loop of poll(2), which tells of a descriptor as long as it is
/// readable, one turn a report is enough:
///
/// ```
/// # use healthz::server::{Address, Config, Listeners, Runner, Server};
/// # use healthz::{Check, Endpoint, Responder};
/// # use std::io::{Read, Write};
/// # use std::time::Duration;
/// use nix::errno::Errno;
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut listeners = Listeners::new();
/// # listeners.bind(&"127.0.0.1:0".parse()?)?;
/// # let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
/// # let Some(Address::Tcp(address)) = server.local_addresses().next() else { return Ok(()) };
///
/// let mut runner = Runner::new(server)?;
/// # let mut probe = std::net::TcpStream::connect(address)?;
/// # probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// loop {
///     // None, for ever, is -1 in poll(2).
///     let timeout = runner.timeout().map(PollTimeout::try_from).transpose()?;
///     let mut watched = [PollFd::new(runner.as_fd(), PollFlags::POLLIN)]; // and yours
///     match poll(&mut watched, timeout) {
///         Err(Errno::EINTR) => continue,
///         result => result?,
///     };
///     runner.turn(Some(Duration::ZERO))?;
///     // and what is due for yours
///     # if runner.server().counters().answered == 1 { break; }
/// }
/// # let mut answer = String::new();
/// # probe.read_to_string(&mut answer)?;
/// # assert!(answer.ends_with("\r\n\r\nok"));
/// # Ok(())
/// # }
/// ```
///
/// A loop that is told only once (edge-triggered epoll, as tokio's and mio's) takes turns until one
/// says that there was nothing to do:
///
/// ```
/// # use healthz::server::{Address, Config, Listeners, Runner, Server};
/// # use healthz::{Check, Endpoint, Responder};
/// # use std::io::{Read, Write};
/// # use std::time::Duration;
/// use tokio::io::{Interest, unix::AsyncFd};
///
/// async fn serve(runner: Runner<'static>) -> std::io::Result<()> {
///     // SAFETY: a runner's descriptor is open, and the same, as long as the runner lives.
///     let mut runner = unsafe { AsyncFd::register_with_interest(runner, Interest::READABLE) }?;
///     while !runner.get_ref().server().is_finished() {
///         let timeout = runner.get_ref().timeout().unwrap_or(Duration::MAX);
///         match tokio::time::timeout(timeout, runner.readable_mut()).await {
///             Ok(ready) => {
///                 let mut ready = ready?;
///                 if ready.get_inner_mut().turn(Some(Duration::ZERO))? == 0 {
///                     ready.clear_ready();
///                 }
///             }
///             Err(_) => drop(runner.get_mut().turn(Some(Duration::ZERO))?),
///         }
///     }
///     Ok(())
/// }
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut listeners = Listeners::new();
/// # listeners.bind(&"127.0.0.1:0".parse()?)?;
/// # let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
/// # let Some(Address::Tcp(address)) = server.local_addresses().next() else { return Ok(()) };
/// # let runner = Runner::new(server)?;
/// # let stopper = runner.stopper();
/// # let probe = std::thread::spawn(move || {
/// #     let mut answer = String::new();
/// #     let mut probe = std::net::TcpStream::connect(address)?;
/// #     probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// #     let result = probe.read_to_string(&mut answer);
/// #     stopper.stop();
/// #     result.map(|_| answer)
/// # });
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(serve(runner))?;
/// # assert!(probe.join().expect("no panic")?.ends_with("\r\n\r\nok"));
/// # Ok(())
/// # }
/// ```
///
/// There the server is as late as everything else in that loop is; [`spawn`] is not.
pub struct Runner<'a> {
    poll: Poll,
    events: Events,
    server: Server<'a>,
    stopper: Stopper,
    is_stopping: bool,
    date_due: Instant,
    /// When the last turn began to work.
    now: Instant,
}

/// Asks the server of a [`Runner`] to end; from any thread, and from a signal handler.
///
/// Dropping it in a handler is not safe: the last one frees memory. Keep it in a `static`.
#[derive(Clone)]
pub struct Stopper(Arc<Stop>);

struct Stop {
    is_wanted: AtomicBool,
    waker: Waker,
    /// Begins and ends of turns: odd while there is work.
    turns: AtomicUsize,
}

/// Whether a [`Runner`] gets on, for a watchdog in another thread to ask.
///
/// A server that does not answer cannot say so itself. A turn takes a few milliseconds at most, unless
/// its thread has no CPU, or a system call that must not wait does.
#[derive(Clone)]
pub struct Pulse {
    stop: Arc<Stop>,
    seen: usize,
}

impl Pulse {
    fn of(stopper: &Stopper) -> Self {
        Pulse {
            stop: Arc::clone(&stopper.0),
            // An even number is none of a turn that is under way.
            seen: 0,
        }
    }

    /// Whether the runner waits for something to do, or has begun another turn since the last call; the
    /// first call finds that it has. Who is told `false` for seconds has a server that answers nobody, or
    /// none any more. That a host no longer calls [`Runner::turn`] is not seen: it is the same as waiting.
    pub fn has_moved(&mut self) -> bool {
        let turns = self.stop.turns.load(Ordering::Relaxed);
        let is_waiting = turns.is_multiple_of(2);
        core::mem::replace(&mut self.seen, turns) != turns || is_waiting
    }
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
        // The call that may block.
        let now = now();
        // The first turn may come much later, with the first connection.
        server.begin(now);
        Ok(Runner {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            server,
            stopper: Stopper(Arc::new(Stop {
                is_wanted: AtomicBool::new(false),
                waker,
                turns: AtomicUsize::new(0),
            })),
            is_stopping: false,
            date_due: Instant::ZERO,
            now,
        })
    }

    /// Waits for something to do for at most `timeout` (for ever if `None`) and does it. Bounded work.
    ///
    /// Returns how many events there were, or 1 if a signal came before one could be looked for. After
    /// a turn with none, the descriptor of [`AsFd`] is not readable until the next event.
    ///
    /// # Errors
    /// If epoll itself fails, or the last connection has ended after the last listener was shut down
    /// ([`Server::is_abandoned`]); no peer can cause either. A signal is no error: the call returns early.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.turn_from(now(), timeout)
    }

    /// How long a loop of the caller's may wait for the descriptor before it takes a
    /// [`turn`](Runner::turn) all the same; for ever if `None`. Whole milliseconds.
    pub fn timeout(&self) -> Option<Duration> {
        let deadline = self.server.deadline()?;
        Some(deadline.saturating_since(now()))
    }

    /// A turn that begins at `before`.
    fn turn_from(&mut self, before: Instant, timeout: Option<Duration>) -> io::Result<usize> {
        let deadline = self.server.deadline();
        let due = deadline.map(|deadline| deadline.saturating_since(before));
        let timeout = timeout.into_iter().chain(due).min();
        let mut count = 0;
        match self.poll.poll(&mut self.events, timeout) {
            // There are no events then, but time has passed: what is due is done all the same, or
            // signals that come often would keep it from ever being done. And nothing is known of the
            // descriptor: whoever counts on none has to look again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                count = 1;
            }
            result => result?,
        }
        self.count_turn();
        let now = now();
        self.now = now;
        self.set_date(now);
        for event in &self.events {
            count += 1;
            if event.token() != WAKER {
                self.server.handle(self.poll.registry(), event, now);
            }
        }
        self.server.turn(self.poll.registry(), now);
        if !self.is_stopping && self.stopper.0.is_wanted.load(Ordering::Acquire) {
            self.is_stopping = true;
            self.server.stop(self.poll.registry(), now);
        }
        // Those who are here are served to the end.
        if self.server.is_abandoned() && !self.is_stopping {
            self.is_stopping = true;
            self.server.stop(self.poll.registry(), now);
        }
        self.count_turn();
        if self.server.is_abandoned() && self.server.is_finished() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "no listener is left: each was shut down from outside",
            ));
        }
        Ok(count)
    }

    /// Serves until the server was stopped and its connections have ended; for ever if nobody has
    /// asked for a [`stopper`](Runner::stopper).
    ///
    /// ```
    /// # use healthz::server::{Address, Config, Listeners, Runner, Server};
    /// # use healthz::{Check, Endpoint, Responder};
    /// # use std::io::{Read, Write};
    /// # static PING: Check = Check::ping();
    /// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut listeners = Listeners::new();
    /// # listeners.bind(&"127.0.0.1:0".parse()?)?;
    /// # let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    /// # let Some(Address::Tcp(address)) = server.local_addresses().next() else { return Ok(()) };
    /// let mut runner = Runner::new(server)?;
    /// # let stopper = runner.stopper();
    /// # let probe = std::thread::spawn(move || {
    /// #     let mut answer = String::new();
    /// #     let mut probe = std::net::TcpStream::connect(address)?;
    /// #     probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    /// #     let result = probe.read_to_string(&mut answer);
    /// #     stopper.stop();
    /// #     result.map(|_| answer)
    /// # });
    /// runner.run()?;
    /// # assert!(probe.join().expect("no panic")?.ends_with("\r\n\r\nok"));
    /// # Ok(())
    /// # }
    /// ```
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

    /// What asks the server to end, from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What tells another thread whether it gets on.
    pub fn pulse(&self) -> Pulse {
        Pulse::of(&self.stopper)
    }

    /// The server.
    pub fn server(&self) -> &Server<'a> {
        &self.server
    }

    /// The begin or the end of a turn.
    fn count_turn(&self) {
        // Nobody else writes it.
        let turns = self.stopper.0.turns.load(Ordering::Relaxed);
        self.stopper
            .0
            .turns
            .store(turns.wrapping_add(1), Ordering::Relaxed);
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

/// Its [`Pulse`] ends.
impl Drop for Runner<'_> {
    fn drop(&mut self) {
        if self
            .stopper
            .0
            .turns
            .load(Ordering::Relaxed)
            .is_multiple_of(2)
        {
            self.count_turn();
        }
    }
}

/// It is the same descriptor as long as the runner lives.
impl AsFd for Runner<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// As [`AsFd`], for those who know descriptors as numbers.
impl AsRawFd for Runner<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Stopper {
    /// Asks the server to end in good order, see [`Server::stop`], and returns at once. It does so in
    /// the runner's next turn; the descriptor of its [`AsFd`] becomes readable for it.
    pub fn stop(&self) {
        self.0.is_wanted.store(true, Ordering::Release);
        let woken = loop {
            match self.0.waker.wake() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        // An eventfd that is written to fails only if it is not there. And a log record is nothing
        // for a signal handler.
        debug_assert!(woken.is_ok(), "cannot wake the server to stop it");
    }
}

/// A server on a thread of its own. Dropping it leaves the thread running.
pub struct Handle {
    stopper: Stopper,
    thread: JoinHandle<io::Result<Counters>>,
}

/// Runs `server` on a thread of its own, named `healthz`, with a stack of 128 KiB of which it touches
/// a few. It takes the signal mask of its caller, as every thread does: a host whose handlers need more
/// stack than that, or should run elsewhere, blocks those signals around this call.
///
/// ```
/// # use healthz::server::{Address, Config, Listeners, Server, spawn};
/// # use healthz::{Check, Endpoint, Responder};
/// # use std::io::{Read, Write};
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut listeners = Listeners::new();
/// # listeners.bind(&"127.0.0.1:0".parse()?)?;
/// # let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
/// # let Some(Address::Tcp(address)) = server.local_addresses().next() else { return Ok(()) };
/// let door = spawn(server)?;
/// // This thread does what it is there for. In the end:
/// # let mut answer = String::new();
/// # let mut probe = std::net::TcpStream::connect(address)?;
/// # probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// # probe.read_to_string(&mut answer)?;
/// # assert!(answer.ends_with("\r\n\r\nok"));
/// door.stop();
/// let counters = door.join()?;
/// # assert_eq!(counters.answered, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the system has no thread, descriptor or memory for it.
pub fn spawn(server: Server<'static>) -> io::Result<Handle> {
    let mut runner = Runner::new(server)?;
    let stopper = runner.stopper();
    let thread = std::thread::Builder::new()
        .name("healthz".to_string())
        .stack_size(STACK_BYTES);
    let thread = thread.spawn(move || {
        runner.run()?;
        Ok(runner.server.counters())
    })?;
    Ok(Handle { stopper, thread })
}

impl Handle {
    /// Asks the server to end in good order, see [`Server::stop`], and returns at once.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// What asks the same from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What tells whether it gets on.
    pub fn pulse(&self) -> Pulse {
        Pulse::of(&self.stopper)
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

#[cfg(test)]
mod tests {
    use super::super::{Config, Listeners};
    use super::*;
    use crate::answer::Responder;

    #[test]
    fn a_runner_gets_on_unless_it_is_still_in_the_same_turn() {
        let server = Server::new(Responder::new(&[]), Listeners::new(), Config::default());
        let mut runner = Runner::new(server).unwrap();
        let mut pulse = runner.pulse();
        for _ in 0..3 {
            assert!(pulse.has_moved(), "it waits");
            runner.count_turn();
            assert!(pulse.has_moved(), "it has just begun to work");
            assert!(!pulse.has_moved());
            assert!(!pulse.has_moved());
            runner.count_turn();
            runner.turn(Some(Duration::ZERO)).unwrap();
        }
        drop(runner);
        pulse.has_moved();
        assert!(!pulse.has_moved(), "it is no more");
    }
}
