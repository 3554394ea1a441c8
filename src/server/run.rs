//! The event loop for hosts that have none: [`Runner`], [`spawn`] and the clock.
//!
//! Knows nothing of connections or HTTP; [`Server`] does that work. It is the only module of the
//! library that reads a clock. Called by hosts, the C API and the daemon.

use core::cell::{Ref, RefCell};
use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::string::ToString;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use mio::{Events, Poll, Registry, Token, Waker};

use super::counters::LiveCounters;
use super::served::Mailbox;
use super::{Counters, EndpointsTooLarge, Server, TOKENS};
use crate::answer::{NoPaths, Paths};
use crate::check::EndpointSet;
use crate::time::Instant;

/// Most events that one call of epoll_wait(2) returns. More come with the next call.
const EVENTS_MAX: usize = 256;
const SERVER: Token = Token(0);
const WAKER: Token = Token(TOKENS);

/// Stack of the thread that [`spawn`] starts, in bytes: several times what parsing a request and its
/// `exclude` parameters takes, debug builds included.
pub const THREAD_STACK_BYTES: usize = 128 * 1024;

/// The current time of the clock that [`Runner`] uses: milliseconds since its first use in this process,
/// monotonic, not counting suspend on Linux. Pass it to [`Check::beat`](crate::Check::beat).
///
/// The first call in a process may block on another thread's first call. Later calls never block and can
/// be made in a signal handler: each is one `clock_gettime`. [`Runner::new`] and [`spawn`] make the first
/// call.
pub fn now() -> Instant {
    from_nanoseconds(elapsed_nanoseconds())
}

/// The same time, not rounded down to milliseconds.
#[inline]
fn elapsed_nanoseconds() -> u64 {
    static ORIGIN: OnceLock<u64> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(monotonic_nanoseconds);
    // If the clock goes back to before the origin, as on faulty hardware, the result is zero, as in std.
    monotonic_nanoseconds().saturating_sub(origin)
}

fn from_nanoseconds(nanoseconds: u64) -> Instant {
    Instant::from_millis(nanoseconds / 1_000_000)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::sys::monotonic_nanoseconds;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn monotonic_nanoseconds() -> u64 {
    // std gives only differences.
    static FIRST: OnceLock<std::time::Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(std::time::Instant::now);
    u64::try_from(first.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A [`Server`] with an event loop.
///
/// [`run`](Runner::run) blocks. In another loop, call [`poll_once`](Runner::poll_once) when the descriptor
/// of [`AsFd`] is readable, and after [`timeout`](Runner::timeout) at the latest. All methods take
/// `&self`, so that the runner can also live in a loop that gives out only shared references, such as
/// calloop (`examples/calloop.rs`). In a level-triggered loop, such as poll(2), one call for each report is
/// enough:
///
/// ```
/// # use healthz::server::{Runner, Server};
/// # use healthz::{Check, Endpoint, Responder};
/// # use std::io::{Read, Write};
/// # use std::time::Duration;
/// use nix::errno::Errno;
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Responder::new(&ENDPOINTS), &"127.0.0.1:0".parse()?)?;
/// # let address = server.local_addr().ok_or("no TCP address")?;
///
/// let runner = Runner::new(server)?;
/// # let mut probe = std::net::TcpStream::connect(address)?;
/// # probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// loop {
///     // None waits without a limit: -1 in poll(2).
///     let timeout = runner.timeout().map(PollTimeout::try_from).transpose()?;
///     let mut watched = [PollFd::new(runner.as_fd(), PollFlags::POLLIN)]; // and your descriptors
///     match poll(&mut watched, timeout) {
///         Err(Errno::EINTR) => continue,
///         result => result?,
///     };
///     runner.poll_once(Some(Duration::ZERO))?;
///     // and your timers
///     # if runner.server().counters().answered == 1 { break; }
/// }
/// # let mut answer = String::new();
/// # probe.read_to_string(&mut answer)?;
/// # assert!(answer.ends_with("\r\n\r\nok"));
/// # Ok(())
/// # }
/// ```
///
/// An edge-triggered loop, such as tokio's or mio's, reports a descriptor only once. Call
/// [`poll_once`](Runner::poll_once) there until it returns 0:
///
/// ```
/// # use healthz::server::{Runner, Server};
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
///                 if ready.get_inner().poll_once(Some(Duration::ZERO))? == 0 {
///                     ready.clear_ready();
///                 }
///             }
///             Err(_) => drop(runner.get_ref().poll_once(Some(Duration::ZERO))?),
///         }
///     }
///     Ok(())
/// }
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Responder::new(&ENDPOINTS), &"127.0.0.1:0".parse()?)?;
/// # let address = server.local_addr().ok_or("no TCP address")?;
/// # let runner = Runner::new(server)?;
/// # let handle = runner.handle();
/// # let probe = std::thread::spawn(move || {
/// #     let mut answer = String::new();
/// #     let mut probe = std::net::TcpStream::connect(address)?;
/// #     probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// #     let result = probe.read_to_string(&mut answer);
/// #     handle.stop();
/// #     result.map(|_| answer)
/// # });
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(serve(runner))?;
/// # assert!(probe.join().expect("no panic")?.ends_with("\r\n\r\nok"));
/// # Ok(())
/// # }
/// ```
///
/// In another loop the server waits for everything else that the loop does. On a thread of its own
/// ([`spawn`]) it does not.
pub struct Runner<'a, P = NoPaths> {
    /// A duplicate of the descriptor in [`Loop::poll`], because [`AsFd`] returns a reference and the loop
    /// is in a cell.
    registry: Registry,
    inner: RefCell<Loop<'a, P>>,
    handle: ServerHandle,
}

struct Loop<'a, P> {
    poll: Poll,
    events: Events,
    server: Server<'a, P>,
    is_stopping: bool,
    /// When the Date of answers is set again.
    date_due: Instant,
    /// When the last poll returned.
    now: Instant,
}

/// Stops a server, replaces its endpoints, and reads its state and counters, from any thread.
///
/// [`stop`](ServerHandle::stop) can also be called in a signal handler. Dropping a handle there is not
/// safe, because the last one frees memory: keep it in a `static`.
#[derive(Clone)]
pub struct ServerHandle(Arc<Shared>);

/// What a [`Runner`] and its handles share.
struct Shared {
    /// What the runner has to do: the bits [`STOP`] and [`ENDPOINTS`].
    commands: AtomicU32,
    waker: Waker,
    /// When the poll returned whose events are being handled, in milliseconds; or one of the two values
    /// below.
    busy_since_ms: AtomicU64,
    counters: Arc<LiveCounters>,
    endpoints: Mailbox,
}

/// Command: stop. It is never removed.
const STOP: u32 = 1;
/// Command: take the endpoints from the mailbox.
const ENDPOINTS: u32 = 2;

/// The runner waits for events.
const WAITING: u64 = u64::MAX;
/// The runner was dropped.
const ENDED: u64 = u64::MAX - 1;

impl ServerHandle {
    /// Asks the server to stop as [`Server::stop`] does, and returns at once. The runner does so in its
    /// next [`poll_once`](Runner::poll_once); the descriptor of its [`AsFd`] becomes readable for that.
    pub fn stop(&self) {
        self.command(STOP);
    }

    /// Gives the server other endpoints, and returns at once. The runner takes them at the beginning of its next
    /// [`poll_once`](Runner::poll_once), before it answers a request; the descriptor of its [`AsFd`] becomes readable
    /// for that. Otherwise as [`Server::replace_endpoints`].
    ///
    /// Requests that the server's thread is handling now are still answered with the previous endpoints. If `set`
    /// comes before the runner has taken the last one, only `set` is used. If two threads call this at the same
    /// time, the server may answer some more requests with the endpoints that it had before both calls.
    ///
    /// The server's thread frees no set. The next call frees the one that was replaced, or
    /// [`free_replaced_endpoints`](ServerHandle::free_replaced_endpoints) does, or the last handle when it is
    /// dropped. It does not wait until the server takes `set`. It may wait for a short time for another thread that
    /// calls this, or for the server's thread while it takes an earlier set. Not for signal handlers.
    ///
    /// # Errors
    /// As [`Server::replace_endpoints`].
    pub fn replace_endpoints(&self, set: Arc<EndpointSet>) -> Result<(), EndpointsTooLarge> {
        self.0.endpoints.put(set)?;
        self.command(ENDPOINTS);
        Ok(())
    }

    /// Frees the endpoints that the server no longer uses. Returns true if it answers with those of the last
    /// [`replace_endpoints`](ServerHandle::replace_endpoints), and false if it has not taken them yet: it is busy, or
    /// has ended.
    pub fn free_replaced_endpoints(&self) -> bool {
        self.0.endpoints.free_old()
    }

    /// Adds `what` to the commands, and wakes the runner.
    fn command(&self, what: u32) {
        self.0.commands.fetch_or(what, Ordering::Release);
        let woken = loop {
            match self.0.waker.wake() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        // Writing to an open eventfd does not fail. No log record: it could allocate, and this may be a
        // signal handler.
        debug_assert!(woken.is_ok(), "cannot wake the server");
    }

    /// False if the runner was dropped, or has been handling the events of one poll for longer than
    /// `limit`. That takes a few milliseconds, unless its thread gets no CPU time or a system call blocks
    /// that must not. For a watchdog in another thread.
    ///
    /// Also true for a runner that is not polled, unless [`wake`](ServerHandle::wake) was called.
    /// After the whole process was stopped (SIGSTOP), the first call may return false before the
    /// server's thread runs again; act on the second.
    pub fn is_responsive(&self, now: Instant, limit: Duration) -> bool {
        match self.0.busy_since_ms.load(Ordering::Relaxed) {
            WAITING => true,
            ENDED => false,
            since => now.saturating_since(Instant::from_millis(since)) <= limit,
        }
    }

    /// Wakes the runner if it waits, and counts it as busy from `now` until it has run. After that,
    /// [`is_responsive`](ServerHandle::is_responsive) also returns false for a thread that is stopped while it waits,
    /// and for a host that no longer calls [`Runner::poll_once`]. Each call costs the server one wake-up. Call it once
    /// for each message to the watchdog.
    pub fn wake(&self, now: Instant) {
        let busy_since_ms = &self.0.busy_since_ms;
        let waited = busy_since_ms.compare_exchange(
            WAITING,
            now.as_millis(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if waited.is_ok() {
            self.command(0);
        }
    }

    /// The server's counters. Each is read by itself, so while the server runs, one can be newer than another.
    pub fn counters(&self) -> Counters {
        self.0.counters.load()
    }

    fn set_busy_since(&self, ms: u64) {
        self.0.busy_since_ms.store(ms, Ordering::Relaxed);
    }
}

impl<'a, P: Paths> Runner<'a, P> {
    /// Registers `server` in a new `Poll`. Its counters begin at zero.
    ///
    /// # Errors
    /// If the system has no descriptor or memory for it.
    pub fn new(mut server: Server<'a, P>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        server.register(&registry, SERVER)?;
        let waker = Waker::new(&registry, WAKER)?;
        let counters = server.share_counters();
        let endpoints = Mailbox::new(server.room());
        // The first call of the clock, which may block.
        let now = now();
        // The first poll may return much later, with the first connection.
        server.begin(now);
        Ok(Runner {
            registry,
            inner: RefCell::new(Loop {
                poll,
                events: Events::with_capacity(EVENTS_MAX),
                server,
                is_stopping: false,
                date_due: Instant::ZERO,
                now,
            }),
            handle: ServerHandle(Arc::new(Shared {
                commands: AtomicU32::new(0),
                waker,
                busy_since_ms: AtomicU64::new(WAITING),
                counters,
                endpoints,
            })),
        })
    }

    /// Waits for events for at most `timeout` (without a limit if `None`) and handles them. Bounded work.
    ///
    /// Returns the number of events, or 1 if a signal interrupted the wait. After a call that returned 0,
    /// the descriptor of [`AsFd`] is not readable until the next event.
    ///
    /// # Errors
    /// If epoll itself fails, or if the last connection has ended after the last listener was shut down
    /// externally ([`Server::is_abandoned`]). No client can cause either. A signal is not an error.
    pub fn poll_once(&self, timeout: Option<Duration>) -> io::Result<usize> {
        self.borrow_mut()?.poll_once(&self.handle, now(), timeout)
    }

    /// How long another loop may wait for the descriptor before it calls
    /// [`poll_once`](Runner::poll_once) anyway; no limit if `None`. Whole milliseconds.
    pub fn timeout(&self) -> Option<Duration> {
        let deadline = self.inner.borrow().server.deadline()?;
        Some(deadline.saturating_since(now()))
    }

    /// Serves until the server was stopped through a [`handle`](Runner::handle) and its connections have
    /// ended.
    ///
    /// ```
    /// # use healthz::server::{Runner, Server};
    /// # use healthz::{Check, Endpoint, Responder};
    /// # use std::io::{Read, Write};
    /// # static PING: Check = Check::ping();
    /// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::bind(Responder::new(&ENDPOINTS), &"127.0.0.1:0".parse()?)?;
    /// # let address = server.local_addr().ok_or("no TCP address")?;
    /// let runner = Runner::new(server)?;
    /// # let handle = runner.handle();
    /// # let probe = std::thread::spawn(move || {
    /// #     let mut answer = String::new();
    /// #     let mut probe = std::net::TcpStream::connect(address)?;
    /// #     probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    /// #     let result = probe.read_to_string(&mut answer);
    /// #     handle.stop();
    /// #     result.map(|_| answer)
    /// # });
    /// runner.run()?;
    /// # assert!(probe.join().expect("no panic")?.ends_with("\r\n\r\nok"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`poll_once`](Runner::poll_once).
    pub fn run(&self) -> io::Result<()> {
        let mut inner = self.borrow_mut()?;
        inner.now = now();
        while !inner.server.is_finished() {
            // The last poll ended just now, so its time serves as the beginning of this one: one
            // clock_gettime less for each request.
            let before = inner.now;
            inner.poll_once(&self.handle, before, None)?;
        }
        Ok(())
    }

    /// A handle that stops the server, replaces its endpoints, and reads its state, from any thread.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// The server. Drop the reference before the next call of [`poll_once`](Runner::poll_once) or
    /// [`run`](Runner::run), which returns an error otherwise.
    pub fn server(&self) -> Ref<'_, Server<'a, P>> {
        Ref::map(self.inner.borrow(), |inner| &inner.server)
    }

    fn borrow_mut(&self) -> io::Result<core::cell::RefMut<'_, Loop<'a, P>>> {
        let in_use = |_| io::Error::other("a reference to the runner's server is still in use");
        self.inner.try_borrow_mut().map_err(in_use)
    }
}

impl<P: Paths> Loop<'_, P> {
    /// Polls once; `before` is the present time.
    fn poll_once(
        &mut self,
        handle: &ServerHandle,
        before: Instant,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let deadline = self.server.deadline();
        let due = deadline.map(|deadline| deadline.saturating_since(before));
        let timeout = timeout.into_iter().chain(due).min();
        let mut count = 0;
        match self.poll.poll(&mut self.events, timeout) {
            // No events are known then, but time has passed. Due work is done anyway, or frequent signals
            // would delay it for ever. The descriptor may be readable, so the result must not be 0.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                count = 1;
            }
            result => result?,
        }
        let started = elapsed_nanoseconds();
        let now = from_nanoseconds(started);
        handle.set_busy_since(now.as_millis());
        let is_measured = self.now != now;
        self.now = now;
        self.set_date(now, wall_clock);
        // Loaded once: a command that comes later also wakes the next poll.
        let commands = handle.0.commands.load(Ordering::Acquire);
        if commands & ENDPOINTS != 0 {
            self.take_endpoints(handle, now);
        }
        let counters = &handle.0.counters;
        let answered = counters.answered.get();
        for event in &self.events {
            count += 1;
            if event.token() != WAKER {
                self.server.handle(self.poll.registry(), event, now);
            }
        }
        self.server.advance(self.poll.registry(), now);
        // At most once a millisecond: under load, a second reading of the clock for each poll would show in its cost.
        if is_measured && counters.answered.get() != answered {
            let nanoseconds = elapsed_nanoseconds().saturating_sub(started);
            counters.durations.record(nanoseconds);
        }
        // Without listeners, the connections that exist are served to their end.
        if !self.is_stopping && (commands & STOP != 0 || self.server.is_abandoned()) {
            self.is_stopping = true;
            self.server.stop(self.poll.registry(), now);
        }
        handle.set_busy_since(WAITING);
        if self.server.is_abandoned() && self.server.is_finished() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "no listener is left: each was shut down by another process or by an administrator",
            ));
        }
        Ok(count)
    }

    /// Takes the endpoints that another thread has put into the mailbox.
    #[cold]
    fn take_endpoints(&mut self, handle: &ServerHandle, now: Instant) {
        // Cleared before the mailbox is locked, so that a set that is put later gives the command again.
        handle.0.commands.fetch_and(!ENDPOINTS, Ordering::Acquire);
        if self.server.deliver(&handle.0.endpoints, now).is_err() {
            // The thread that has the lock may not wake this one, so the next poll must not wait.
            handle.command(ENDPOINTS);
        }
    }

    /// Sets the Date of answers, if the wall clock's second has changed since the last call.
    /// `wall_clock` returns the time since 1970, or zero if it is not known.
    fn set_date(&mut self, now: Instant, wall_clock: impl FnOnce() -> Duration) {
        if now < self.date_due {
            return;
        }
        let since_1970 = wall_clock();
        // Due at the next full second. If the clock is set meanwhile, the Date follows within a second.
        let rest = Duration::from_secs(1) - Duration::from_nanos(since_1970.subsec_nanos().into());
        self.date_due = now.saturating_add(rest);
        if !since_1970.is_zero() {
            self.server.set_wall_clock(since_1970.as_secs());
        }
    }
}

/// The time since 1970; zero if the wall clock is before that, because then it was never set.
fn wall_clock() -> Duration {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap_or_default()
}

/// From then on, its [`ServerHandle`]s report that it is not responsive.
impl<P> Drop for Runner<'_, P> {
    fn drop(&mut self) {
        self.handle.set_busy_since(ENDED);
        self.handle.0.counters.open.set(0);
    }
}

/// It is the same descriptor as long as the runner lives.
impl<P> AsFd for Runner<'_, P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.registry.as_fd()
    }
}

/// As [`AsFd`], for hosts that keep descriptors as numbers.
impl<P> AsRawFd for Runner<'_, P> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A server on a thread of its own. Dropping it leaves the thread running.
pub struct ServerThread {
    handle: ServerHandle,
    thread: JoinHandle<io::Result<Counters>>,
}

/// Runs `server` on a thread of its own, named `healthz`, with a stack of [`THREAD_STACK_BYTES`] of which
/// it touches a few KiB. The thread inherits the caller's signal mask: a host whose signal handlers need a
/// larger stack, or must run elsewhere, blocks those signals around this call.
///
/// ```
/// # use healthz::server::{Server, spawn};
/// # use healthz::{Check, Endpoint, Responder};
/// # use std::io::{Read, Write};
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Responder::new(&ENDPOINTS), &"127.0.0.1:0".parse()?)?;
/// # let address = server.local_addr().ok_or("no TCP address")?;
/// let thread = spawn(server)?;
/// // The calling thread does its own work. At the end:
/// # let mut answer = String::new();
/// # let mut probe = std::net::TcpStream::connect(address)?;
/// # probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// # probe.read_to_string(&mut answer)?;
/// # assert!(answer.ends_with("\r\n\r\nok"));
/// thread.stop();
/// let counters = thread.join()?;
/// # assert_eq!(counters.answered, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the system has no thread, descriptor or memory for it.
pub fn spawn<P: Paths + Send + 'static>(server: Server<'static, P>) -> io::Result<ServerThread> {
    spawn_with(server, || {}, || {})
}

/// As [`spawn`]. The new thread calls `on_start` first and `on_exit` last, also when it panics and unwinds. If the
/// system cannot start the thread, the calling thread calls `on_exit`.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_with<P: Paths + Send + 'static>(
    server: Server<'static, P>,
    on_start: impl FnOnce() + Send + 'static,
    on_exit: impl FnOnce() + Send + 'static,
) -> io::Result<ServerThread> {
    // Boxed, because the new thread would move it twice, and then twice its size of the stack is in use for ever.
    let runner = Box::new(Runner::new(server)?);
    let handle = runner.handle();
    let on_exit = OnDrop(Some(on_exit));
    let thread = std::thread::Builder::new()
        .name("healthz".to_string())
        .stack_size(THREAD_STACK_BYTES);
    let thread = thread.spawn(move || {
        let _on_exit = on_exit;
        // Dropped before `_on_exit`, so that its sockets are closed by then.
        let runner = runner;
        on_start();
        runner.run()?;
        let counters = runner.server().counters();
        Ok(counters)
    })?;
    Ok(ServerThread { handle, thread })
}

/// Calls the function when it is dropped.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(function) = self.0.take() {
            function();
        }
    }
}

impl ServerThread {
    /// Asks the server to stop as [`Server::stop`] does, and returns at once.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// A handle that stops the server, replaces its endpoints, and reads its state, from any thread.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Whether the thread has ended; only [`stop`](ServerThread::stop) or a failure ends it.
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
    use super::super::{Address, Config, Listeners};
    use super::*;
    use crate::answer::Responder;

    /// Regression: the Date was renewed a second after the last renewal, so it was up to 1.85 s old.
    #[test]
    fn the_date_is_renewed_when_the_second_of_the_wall_clock_changes() {
        let server = Server::new(Responder::new(&[]), Listeners::new(), Config::default());
        let runner = Runner::new(server).unwrap();
        let mut inner = runner.inner.borrow_mut();
        let first = Instant::from_millis(5000);
        let noon = Duration::from_millis(1_800_000_000_400);
        inner.set_date(first, || noon);
        for (after_ms, is_renewed) in [(599, false), (600, true), (1599, false), (1600, true)] {
            // Only a renewal changes this one.
            inner.server.set_wall_clock(0);
            let of_1970 = inner.server.table.driver_mut().date;
            let after = Duration::from_millis(after_ms);
            inner.set_date(first.saturating_add(after), || noon + after);
            let date = inner.server.table.driver_mut().date;
            assert_eq!(date != of_1970, is_renewed, "after {after_ms} ms");
        }
    }

    #[test]
    fn a_runner_is_responsive_unless_it_handles_one_poll_for_too_long_or_was_dropped() {
        const LIMIT: Duration = Duration::from_secs(2);
        let server = Server::new(Responder::new(&[]), Listeners::new(), Config::default());
        let runner = Runner::new(server).unwrap();
        let handle = runner.handle();
        let at = |ms| Instant::from_millis(ms);
        assert!(handle.is_responsive(at(1_000_000), LIMIT), "it waits");
        handle.set_busy_since(5000);
        assert!(handle.is_responsive(at(7000), LIMIT));
        assert!(!handle.is_responsive(at(7001), LIMIT));
        runner.poll_once(Some(Duration::ZERO)).unwrap();
        assert!(handle.is_responsive(at(1_000_000), LIMIT), "it waits again");
        drop(runner);
        assert!(!handle.is_responsive(at(0), LIMIT), "it was dropped");
        handle.wake(at(0));
        assert!(!handle.is_responsive(at(0), LIMIT), "nothing runs");
    }

    /// Regression: a thread that was stopped while it waited looked responsive for ever.
    #[test]
    fn a_runner_that_does_not_poll_after_it_was_woken_is_not_responsive() {
        const LIMIT: Duration = Duration::from_secs(2);
        let server = Server::new(Responder::new(&[]), Listeners::new(), Config::default());
        let runner = Runner::new(server).unwrap();
        let handle = runner.handle();
        let at = |ms| Instant::from_millis(ms);
        handle.wake(at(5000));
        handle.wake(at(6000));
        assert!(handle.is_responsive(at(7000), LIMIT));
        assert!(!handle.is_responsive(at(7001), LIMIT));
        assert_eq!(runner.poll_once(None).unwrap(), 1, "it was woken");
        assert!(handle.is_responsive(at(1_000_000), LIMIT));
        assert_eq!(runner.poll_once(Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_set_in_a_locked_mailbox_is_taken_by_a_later_poll_that_does_not_wait() {
        let server = Server::new(Responder::new(&[]), Listeners::new(), Config::default());
        let runner = Runner::new(server).unwrap();
        let handle = runner.handle();
        let poll = || runner.poll_once(Some(Duration::ZERO)).unwrap();
        let mailbox = &handle.0.endpoints;
        // Without a command, the mailbox is left alone.
        mailbox.while_locked(|| assert_eq!([poll(), poll()], [0, 0]));
        let set = Arc::new(EndpointSet::new([]).unwrap());
        handle.replace_endpoints(set).unwrap();
        // Each poll wakes the next one.
        mailbox.while_locked(|| assert_eq!([poll(), poll(), poll()], [1, 1, 1]));
        assert!(!handle.free_replaced_endpoints());
        assert_eq!(poll(), 1);
        assert!(handle.free_replaced_endpoints());
        assert_eq!(handle.0.commands.load(Ordering::Relaxed), 0);
        assert_eq!(poll(), 0);
    }

    #[test]
    fn the_clock_advances() {
        let (first, began) = (now(), std::time::Instant::now());
        while now() == first {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert!(now() > first);
    }

    #[test]
    fn a_spawned_server_has_closed_its_sockets_when_it_calls_on_exit() {
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(Responder::new(&[]), &address).unwrap();
        let address = Address::Tcp(server.local_addr().unwrap());
        let (sender, receiver) = std::sync::mpsc::channel();
        let bind_again = move || {
            let again = Server::bind(Responder::new(&[]), &address);
            sender
                .send(again.map(drop).map_err(|error| error.kind()))
                .unwrap();
        };
        // A panic unwinds past the end of `run`.
        let thread = spawn_with(server, || panic!("on_start"), bind_again).unwrap();
        let timeout = Duration::from_secs(20);
        assert_eq!(receiver.recv_timeout(timeout), Ok(Ok(())));
        assert!(thread.join().is_err());
    }

    #[test]
    fn no_connection_is_counted_as_open_after_a_stop() {
        use std::io::{Read, Write};
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(Responder::new(&[]), &address).unwrap();
        let address = server.local_addr().unwrap();
        let thread = spawn(server).unwrap();
        let handle = thread.handle();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert!(client.read(&mut [0; 1024]).unwrap() > 0);
        // An answer is counted before it is sent.
        assert_eq!(handle.counters().answered, 1);
        thread.stop();
        assert_eq!(thread.join().unwrap().open, 0);
        assert_eq!(handle.counters().open, 0);
    }

    #[test]
    fn a_spawned_server_calls_on_start_first_and_on_exit_last() {
        let server = Server::new(Responder::new(&[]), Listeners::new(), Config::default());
        let (sender, receiver) = std::sync::mpsc::channel();
        let at_exit = sender.clone();
        let started = move || sender.send("started").unwrap();
        let thread = spawn_with(server, started, move || at_exit.send("ended").unwrap()).unwrap();
        let timeout = Duration::from_secs(20);
        assert_eq!(receiver.recv_timeout(timeout), Ok("started"));
        assert!(!thread.is_finished());
        thread.stop();
        let began = std::time::Instant::now();
        while !thread.is_finished() {
            assert!(began.elapsed() < timeout);
            std::thread::yield_now();
        }
        thread.join().unwrap();
        assert_eq!(receiver.recv_timeout(timeout), Ok("ended"));
    }
}
