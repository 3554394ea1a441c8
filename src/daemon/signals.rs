//! What wakes the main thread: signals, the end of the door, or time.
//!
//! Signals become bytes on a socket pair, so that nothing of ours runs in a signal handler. SIGHUP is
//! left alone: it ends a daemon whose terminal is gone, unless `nohup` said otherwise. SIGPIPE is
//! ignored by std.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

const SIGNALS: Token = Token(0);
const ENDER: Token = Token(1);

/// Why the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// SIGTERM or SIGINT, once for each.
    Stop,
    /// The door's thread is done, and will be when asked again.
    DoorEnded,
    /// It is time, or nearly.
    Timeout,
}

/// The receiving end.
pub struct Wakes {
    receiver: mio::net::UnixStream,
    poll: Poll,
    events: Events,
    /// Kept here as well: what it tells is lost when the last one is dropped.
    ender: Arc<Waker>,
    has_door_ended: bool,
}

/// What tells of the end of the door.
pub struct Ender(Arc<Waker>);

impl Ender {
    /// To be called at the end.
    pub fn tell(&self) {
        if let Err(error) = self.0.wake() {
            // An eventfd that is written to fails only if it is not there.
            log::error!("cannot tell that the server has ended: {error}");
        }
    }
}

impl Wakes {
    /// From now on SIGTERM and SIGINT no longer end the process.
    ///
    /// # Errors
    /// If the system has no descriptors for it.
    pub fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let mut receiver = mio::net::UnixStream::from_std(receiver);
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut receiver, SIGNALS, Interest::READABLE)?;
        pipe::register(SIGTERM, sender.try_clone()?)?;
        pipe::register(SIGINT, sender)?;
        let ender = Arc::new(Waker::new(poll.registry(), ENDER)?);
        Ok(Wakes {
            receiver,
            poll,
            events: Events::with_capacity(2),
            ender,
            has_door_ended: false,
        })
    }

    /// For the one door that there is.
    pub fn ender(&self) -> Ender {
        Ender(Arc::clone(&self.ender))
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
        let timeout = if self.has_door_ended {
            Duration::ZERO
        } else {
            timeout
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) => self.events.clear(),
            Ok(()) => {}
        }
        self.has_door_ended |= self.events.iter().any(|event| event.token() == ENDER);
        let otherwise = if self.has_door_ended {
            Wake::DoorEnded
        } else {
            Wake::Timeout
        };
        Ok(self.receive()?.unwrap_or(otherwise))
    }

    fn receive(&mut self) -> io::Result<Option<Wake>> {
        let mut byte = [0];
        loop {
            match self.receiver.read(&mut byte) {
                Ok(_) => return Ok(Some(Wake::Stop)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the system is short of now it has again later, and the byte stays.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
