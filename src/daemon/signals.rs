//! The events that the main thread waits for: signals, the exit of another thread, a message, or a timeout.
//!
//! A signal handler sets a flag and writes a byte to a socket pair. The byte wakes the main thread, and can
//! be lost if the system has no memory for it; the flag cannot. SIGHUP has a socket pair of its
//! own, so that it is never counted as a request to stop. SIGPIPE is ignored by std.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

const SIGNALS: Token = Token(0);
const EXITS: Token = Token(1);
const HANGUPS: Token = Token(2);
const MESSAGES: Token = Token(3);

/// Why the wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// SIGTERM or SIGINT; once for each signal.
    Stop,
    /// One or more SIGHUP.
    Hangup,
    /// The server's thread has exited. Returned again by each later wait.
    ServerExited,
    /// A thread has panicked. It prints the message itself.
    Panicked,
    /// The descriptor of [`EventWaiter::watch`] has become readable.
    Message,
    /// Nothing has happened: the timeout has passed, or the wait has ended early, as after a signal that was counted
    /// before.
    Timeout,
}

/// Waits for events. The main thread has it.
pub struct EventWaiter {
    receiver: mio::net::UnixStream,
    stops: Stops,
    hangup_receiver: mio::net::UnixStream,
    is_hangup: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    has_message: bool,
    /// Held here too, because dropping the last reference would close the waker.
    exits: Arc<ExitFlags>,
}

struct ExitFlags {
    waker: Waker,
    has_server_exited: AtomicBool,
    has_panicked: AtomicBool,
}

/// Reports the exit of another thread to the main thread.
pub struct ExitNotifier(Arc<ExitFlags>);

impl ExitNotifier {
    /// Reports that the server's thread exits.
    pub fn notify_server_exit(&self) {
        self.0.has_server_exited.store(true, Ordering::Release);
        if let Err(error) = self.wake() {
            // Writing to an open eventfd does not fail.
            log::error!("cannot report to the main thread that the server has exited: {error}");
        }
    }

    /// Reports that the calling thread panics. That thread prints the message itself.
    pub fn notify_panic(&self) {
        self.0.has_panicked.store(true, Ordering::Release);
        // If this fails, the sync loop's next round sees the flag.
        let _ = self.wake();
    }

    fn wake(&self) -> io::Result<()> {
        loop {
            match self.0.waker.wake() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Counts requests to stop. Each is a flag first and then a byte.
#[derive(Default)]
struct Stops {
    is_requested: Arc<AtomicBool>,
    /// A flag was taken without its byte. If the byte still comes, it is not another request.
    is_byte_late: bool,
}

impl Stops {
    /// Whether there is one more request. `has_byte`: whether a byte was read just now. Call this after
    /// reading, because the flag of a byte is set before the byte is written.
    fn take(&mut self, has_byte: bool) -> bool {
        let is_flagged = self.is_requested.swap(false, Ordering::AcqRel);
        match (has_byte, is_flagged) {
            (false, true) => self.is_byte_late = true,
            (true, false) if self.is_byte_late => {
                self.is_byte_late = false;
                return false;
            }
            _ => {}
        }
        has_byte || is_flagged
    }
}

impl EventWaiter {
    /// Installs the signal handlers: SIGTERM, SIGINT and SIGHUP no longer end the process.
    ///
    /// # Errors
    /// If the system has no descriptors for it.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let (receiver, sender) = signal_pair(&poll, SIGNALS)?;
        let (hangup_receiver, hangup_sender) = signal_pair(&poll, HANGUPS)?;
        let is_hangup = Arc::new(AtomicBool::new(false));
        flag::register(SIGHUP, Arc::clone(&is_hangup))?;
        pipe::register(SIGHUP, hangup_sender)?;
        let stops = Stops::default();
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, Arc::clone(&stops.is_requested))?;
            pipe::register(signal, sender.try_clone()?)?;
        }
        unblock()?;
        let waker = Waker::new(poll.registry(), EXITS)?;
        let exits = Arc::new(ExitFlags {
            waker,
            has_server_exited: AtomicBool::new(false),
            has_panicked: AtomicBool::new(false),
        });
        Ok(EventWaiter {
            receiver,
            stops,
            hangup_receiver,
            is_hangup,
            poll,
            events: Events::with_capacity(4),
            has_message: false,
            exits,
        })
    }

    /// Waits for this descriptor too. Read it until it would block.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub fn watch(&self, fd: std::os::fd::RawFd) -> io::Result<()> {
        let mut source = mio::unix::SourceFd(&fd);
        self.poll
            .registry()
            .register(&mut source, MESSAGES, Interest::READABLE)
    }

    /// The next wait does not block. It returns [`Wakeup::Message`], unless a signal or an exit comes first. For a
    /// descriptor that was not read until it would block.
    pub fn expect_message(&mut self) {
        self.has_message = true;
    }

    /// Returns a notifier, with which another thread reports its exit.
    pub fn exit_notifier(&self) -> ExitNotifier {
        ExitNotifier(Arc::clone(&self.exits))
    }

    /// Waits for the next event, for at most `timeout`.
    ///
    /// # Errors
    /// If epoll itself fails.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Wakeup> {
        // Read before waiting: mio reports once that bytes have arrived, and each byte is a request.
        if let Some(wakeup) = self.receive()? {
            return Ok(wakeup);
        }
        let timeout = match self.has_message || self.exited().is_some() {
            true => Duration::ZERO,
            false => timeout,
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) => self.events.clear(),
            Ok(()) => {}
        }
        self.has_message |= self.events.iter().any(|event| event.token() == MESSAGES);
        if let Some(wakeup) = self.receive()?.or(self.exited()) {
            return Ok(wakeup);
        }
        Ok(match std::mem::take(&mut self.has_message) {
            true => Wakeup::Message,
            false => Wakeup::Timeout,
        })
    }

    /// Which thread has exited.
    fn exited(&self) -> Option<Wakeup> {
        if self.exits.has_panicked.load(Ordering::Acquire) {
            return Some(Wakeup::Panicked);
        }
        let has_server_exited = self.exits.has_server_exited.load(Ordering::Acquire);
        has_server_exited.then_some(Wakeup::ServerExited)
    }

    /// The next signal, if there is one. A request to stop comes first.
    fn receive(&mut self) -> io::Result<Option<Wakeup>> {
        loop {
            let has_byte = has_byte(&mut self.receiver)?;
            if self.stops.take(has_byte) {
                return Ok(Some(Wakeup::Stop));
            }
            if !has_byte {
                break;
            }
        }
        let mut is_hangup = self.is_hangup.swap(false, Ordering::AcqRel);
        while has_byte(&mut self.hangup_receiver)? {
            is_hangup = true;
        }
        Ok(is_hangup.then_some(Wakeup::Hangup))
    }
}

/// A socket pair for the bytes of a signal; the first end is in `poll`.
fn signal_pair(poll: &Poll, token: Token) -> io::Result<(mio::net::UnixStream, UnixStream)> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    let mut receiver = mio::net::UnixStream::from_std(receiver);
    poll.registry()
        .register(&mut receiver, token, Interest::READABLE)?;
    Ok((receiver, sender))
}

fn has_byte(receiver: &mut mio::net::UnixStream) -> io::Result<bool> {
    let mut byte = [0];
    loop {
        match receiver.read(&mut byte) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The byte stays in the socket until the system has memory again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Unblocks the signals. A program inherits the signal mask of the process that starts it.
#[cfg(target_os = "linux")]
fn unblock() -> io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    Ok(SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).thread_unblock()?)
}

/// On other systems, no service manager is known that blocks these signals.
#[cfg(not(target_os = "linux"))]
fn unblock() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use nix::unistd::gettid;
    use signal_hook::low_level::raise;

    include!("../../tests/support/interrupt.rs");

    /// A signal reaches every waiter of the process, so tests that raise one or wait run one after another.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The byte of a signal can be lost, or come after the main thread has looked.
    #[test]
    fn each_request_to_stop_counts_once_even_if_its_byte_is_late_or_lost() {
        let mut stops = Stops::default();
        let requested = Arc::clone(&stops.is_requested);
        let flag = || requested.store(true, Ordering::Release);
        assert!(!stops.take(false));
        // Flag and byte; then two signals whose flags coincide.
        flag();
        assert!(stops.take(true));
        flag();
        flag();
        assert!(stops.take(true) && stops.take(true) && !stops.take(false));
        // The byte is late.
        flag();
        assert!(stops.take(false) && !stops.take(true) && !stops.take(false));
        // The byte is lost; then signals with and without their bytes.
        flag();
        assert!(stops.take(false) && !stops.take(false));
        flag();
        assert!(stops.take(true) && !stops.take(false));
        flag();
        assert!(stops.take(false) && !stops.take(false));
    }

    /// Regression: the end of the server's thread was noticed only in the next round of the sync loop, ten
    /// seconds later.
    #[test]
    fn the_end_of_the_server_thread_is_reported_at_once_and_stays_reported() {
        let _alone = alone();
        let mut waiter = EventWaiter::new().unwrap();
        assert_eq!(waiter.wait(Duration::ZERO).unwrap(), Wakeup::Timeout);
        waiter.exit_notifier().notify_server_exit();
        let timeout = Duration::from_secs(20);
        for _ in 0..2 {
            assert_eq!(waiter.wait(timeout).unwrap(), Wakeup::ServerExited);
        }
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::low_level::raise(signal).unwrap();
            let wakeup = waiter.wait(timeout).unwrap();
            assert_eq!(wakeup, Wakeup::Stop, "a signal is reported first");
        }
    }

    #[test]
    fn each_request_to_stop_ends_one_wait_even_if_they_come_together() {
        let _alone = alone();
        let mut waiter = EventWaiter::new().unwrap();
        for signal in [SIGHUP, SIGTERM, SIGTERM, SIGINT] {
            raise(signal).unwrap();
        }
        for expected in [
            Wakeup::Stop,
            Wakeup::Stop,
            Wakeup::Stop,
            Wakeup::Hangup,
            Wakeup::Timeout,
        ] {
            assert_eq!(waiter.wait(Duration::ZERO).unwrap(), expected);
        }
    }

    #[test]
    fn a_read_that_fails_is_an_error() {
        let (receiver, mut sender) = UnixStream::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let mut receiver = mio::net::UnixStream::from_std(receiver);
        assert!(!has_byte(&mut receiver).unwrap());
        sender.write_all(b"a").unwrap();
        assert!(has_byte(&mut receiver).unwrap());
        // A socket that is closed before its bytes were read resets the connection.
        receiver.write_all(b"a").unwrap();
        drop(sender);
        let error = has_byte(&mut receiver).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_notification_ends_a_wait_that_has_begun() {
        let _alone = alone();
        let timeout = Duration::from_secs(20);
        let mut waiter = EventWaiter::new().unwrap();
        for expected in [Wakeup::ServerExited, Wakeup::Panicked] {
            let notifier = waiter.exit_notifier();
            // The next wait is for the next notification.
            waiter
                .exits
                .has_server_exited
                .store(false, Ordering::Release);
            let id = gettid();
            let thread = std::thread::spawn(move || {
                await_call(id, &WAITS);
                match expected {
                    Wakeup::Panicked => notifier.notify_panic(),
                    _ => notifier.notify_server_exit(),
                }
            });
            let begun = std::time::Instant::now();
            assert_eq!(waiter.wait(timeout).unwrap(), expected);
            assert!(begun.elapsed() < timeout);
            thread.join().unwrap();
        }
    }
}
