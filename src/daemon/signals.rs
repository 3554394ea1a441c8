//! What wakes the main thread: signals, panics of other threads, or time.
//!
//! Signals become bytes on a socket pair, so that nothing of ours runs in a signal handler. SIGHUP is
//! left alone: it ends a daemon whose terminal is gone, unless `nohup` said otherwise. SIGPIPE is
//! ignored by std.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Other bytes come from signal handlers.
const PANIC: u8 = b'!';

/// Why the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// SIGTERM or SIGINT, once for each.
    Stop,
    /// A thread has panicked.
    Panic,
    /// It is time.
    Timeout,
}

/// The receiving end.
pub struct Wakes {
    receiver: UnixStream,
    poll: Poll,
    events: Events,
}

impl Wakes {
    /// From now on SIGTERM and SIGINT no longer end the process, and a panic is logged instead of
    /// printed, because stderr may block.
    ///
    /// # Errors
    /// If the system has no descriptors for it.
    pub fn new() -> io::Result<Self> {
        let (mut receiver, sender) = UnixStream::pair()?;
        let sender = std::os::unix::net::UnixStream::from(OwnedFd::from(sender));
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut receiver, Token(0), Interest::READABLE)?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = match (
                payload.downcast_ref::<&str>(),
                payload.downcast_ref::<String>(),
            ) {
                (Some(text), _) => text,
                (_, Some(text)) => text.as_str(),
                _ => "of unknown kind",
            };
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or("unnamed");
            match info.location() {
                Some(place) => log::error!("thread {thread} panicked at {place}: {text}"),
                None => log::error!("thread {thread} panicked: {text}"),
            }
            // Full means that main has enough to wake up for.
            let _ = (&sender).write(&[PANIC]);
        }));
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
        match self.receiver.read(&mut byte) {
            Ok(_) if byte == [PANIC] => Ok(Some(Wake::Panic)),
            Ok(_) => Ok(Some(Wake::Stop)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
