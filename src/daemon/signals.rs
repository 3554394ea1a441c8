//! What wakes the main thread: signals, panics of other threads, or time.
//!
//! Signals become bytes on a socket pair, so that nothing of ours runs in a signal handler. SIGHUP is
//! left alone: it ends a daemon whose terminal is gone, unless `nohup` said otherwise. SIGPIPE is
//! ignored by std.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

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
}

impl Wakes {
    /// From now on SIGTERM and SIGINT no longer end the process, and a panic is logged instead of
    /// printed, because stderr may block.
    ///
    /// # Errors
    /// If the system has no descriptors for it.
    pub fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
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
        Ok(Wakes { receiver })
    }

    /// Waits for at most `timeout`.
    ///
    /// # Errors
    /// If the socket pair fails, which nothing outside can cause.
    pub fn wait(&self, timeout: Duration) -> io::Result<Wake> {
        // Zero would mean for ever.
        let timeout = timeout.max(Duration::from_millis(1));
        self.receiver.set_read_timeout(Some(timeout))?;
        let mut byte = [0];
        match (&self.receiver).read(&mut byte) {
            Ok(_) if byte == [PANIC] => Ok(Wake::Panic),
            Ok(_) => Ok(Wake::Stop),
            Err(error) => match error.kind() {
                // The byte of a signal that interrupts is found by the next call.
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => Ok(Wake::Timeout),
                _ => Err(error),
            },
        }
    }
}
