//! What wakes the main thread: signals or time.
//!
//! Signals become bytes on a socket pair, so that nothing of ours runs in a signal handler. SIGHUP is
//! left alone: it ends a daemon whose terminal is gone, unless `nohup` said otherwise. SIGPIPE is
//! ignored by std.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Why the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// SIGTERM or SIGINT, once for each.
    Stop,
    /// It is time, or nearly.
    Timeout,
}

/// The receiving end.
pub struct Wakes {
    receiver: mio::net::UnixStream,
    poll: Poll,
    events: Events,
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
            .register(&mut receiver, Token(0), Interest::READABLE)?;
        pipe::register(SIGTERM, sender.try_clone()?)?;
        pipe::register(SIGINT, sender)?;
        Ok(Wakes {
            receiver,
            poll,
            events: Events::with_capacity(1),
        })
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
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(self.receive()?.unwrap_or(Wake::Timeout)),
        }
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
