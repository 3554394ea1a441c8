//! What wakes the main thread: signals, the end of the door, or time.
//!
//! Signals become bytes on a socket pair, so that nothing of ours runs in a signal handler; and a flag,
//! because the byte is lost where the system is short of memory for it. SIGHUP has a socket pair of its
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
const ENDS: Token = Token(1);
const HANGUPS: Token = Token(2);

/// Why the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// SIGTERM or SIGINT, once for each.
    Stop,
    /// SIGHUP, one or more.
    Hangup,
    /// The door's thread is done, and will be when asked again.
    DoorEnded,
    /// A thread has panicked, and is saying so itself.
    Panicked,
    /// It is time, or nearly.
    Timeout,
}

/// The receiving end.
pub struct Wakes {
    receiver: mio::net::UnixStream,
    stops: Stops,
    hangup_receiver: mio::net::UnixStream,
    is_hangup: Arc<AtomicBool>,
    poll: Poll,
    events: Events,
    /// Kept here as well: what it tells is lost when the last one is dropped.
    ends: Arc<Ends>,
}

struct Ends {
    waker: Waker,
    has_door_ended: AtomicBool,
    has_panicked: AtomicBool,
}

/// What tells of the end of another thread.
pub struct Ender(Arc<Ends>);

impl Ender {
    /// The door has ended. To be called at the end.
    pub fn tell(&self) {
        self.0.has_door_ended.store(true, Ordering::Release);
        if let Err(error) = self.wake() {
            // An eventfd that is written to fails only if it is not there.
            log::error!("cannot tell that the server has ended: {error}");
        }
    }

    /// The calling thread panics, and nobody else will say so.
    pub fn tell_panic(&self) {
        self.0.has_panicked.store(true, Ordering::Release);
        // Main's next round comes anyway.
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

/// Counts wishes to stop, each of which is a flag first and then a byte.
#[derive(Default)]
struct Stops {
    is_wanted: Arc<AtomicBool>,
    /// A flag was taken without its byte, which may come yet, and then is no wish of its own.
    is_byte_late: bool,
}

impl Stops {
    /// Whether there is one more wish, now that a byte has come, or none. To be asked after looking for
    /// a byte: its flag is there by then.
    fn take(&mut self, has_byte: bool) -> bool {
        let is_flagged = self.is_wanted.swap(false, Ordering::AcqRel);
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

impl Wakes {
    /// From now on SIGTERM, SIGINT and SIGHUP no longer end the process.
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
            flag::register(signal, Arc::clone(&stops.is_wanted))?;
            pipe::register(signal, sender.try_clone()?)?;
        }
        unblock()?;
        let waker = Waker::new(poll.registry(), ENDS)?;
        let ends = Arc::new(Ends {
            waker,
            has_door_ended: AtomicBool::new(false),
            has_panicked: AtomicBool::new(false),
        });
        Ok(Wakes {
            receiver,
            stops,
            hangup_receiver,
            is_hangup,
            poll,
            events: Events::with_capacity(3),
            ends,
        })
    }

    /// For other threads.
    pub fn ender(&self) -> Ender {
        Ender(Arc::clone(&self.ends))
    }

    /// Waits for at most `timeout`.
    ///
    /// # Errors
    /// If the system cannot wait, which nothing outside can cause.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Wake> {
        // First what has come already: readiness is told once, and each byte counts.
        if let Some(wake) = self.receive()? {
            return Ok(wake);
        }
        let timeout = match self.ended() {
            Some(_) => Duration::ZERO,
            None => timeout,
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) => self.events.clear(),
            Ok(()) => {}
        }
        let signal = self.receive()?;
        Ok(signal.or(self.ended()).unwrap_or(Wake::Timeout))
    }

    /// Which end other threads have told of.
    fn ended(&self) -> Option<Wake> {
        if self.ends.has_panicked.load(Ordering::Acquire) {
            return Some(Wake::Panicked);
        }
        let has_door_ended = self.ends.has_door_ended.load(Ordering::Acquire);
        has_door_ended.then_some(Wake::DoorEnded)
    }

    /// The next signal, if there is one. A request to stop comes first.
    fn receive(&mut self) -> io::Result<Option<Wake>> {
        loop {
            let has_byte = has_byte(&mut self.receiver)?;
            if self.stops.take(has_byte) {
                return Ok(Some(Wake::Stop));
            }
            if !has_byte {
                break;
            }
        }
        let mut is_hangup = self.is_hangup.swap(false, Ordering::AcqRel);
        while has_byte(&mut self.hangup_receiver)? {
            is_hangup = true;
        }
        Ok(is_hangup.then_some(Wake::Hangup))
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
            // What the system is short of now it has again later, and the byte stays.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Lets through what whoever started us may have blocked, for itself or by mistake: a new program begins
/// with its parent's mask.
#[cfg(target_os = "linux")]
fn unblock() -> io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    Ok(SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).thread_unblock()?)
}

/// As above, where it is not known to happen.
#[cfg(not(target_os = "linux"))]
fn unblock() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signal is a flag and then a byte, of which the latter may be lost, or come after main has looked.
    #[test]
    fn each_wish_to_stop_counts_once_whatever_becomes_of_its_byte() {
        let mut stops = Stops::default();
        let wanted = Arc::clone(&stops.is_wanted);
        let flag = || wanted.store(true, Ordering::Release);
        assert!(!stops.take(false));
        // As it should be; and again, where the second flag finds the first.
        flag();
        assert!(stops.take(true));
        flag();
        flag();
        assert!(stops.take(true) && stops.take(true) && !stops.take(false));
        // Late.
        flag();
        assert!(stops.take(false) && !stops.take(true) && !stops.take(false));
        // Lost, and again with and without its byte.
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
        let mut wakes = Wakes::new().unwrap();
        assert_eq!(wakes.wait(Duration::ZERO).unwrap(), Wake::Timeout);
        wakes.ender().tell();
        let timeout = Duration::from_secs(20);
        for _ in 0..2 {
            assert_eq!(wakes.wait(timeout).unwrap(), Wake::DoorEnded);
        }
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::low_level::raise(signal).unwrap();
            let wake = wakes.wait(timeout).unwrap();
            assert_eq!(wake, Wake::Stop, "a signal counts for more");
        }
    }
}
