//! The door's thread, and word of its end.
//!
//! Knows nothing of why it ends. Called by [`super::serve`]; unlike the library's `spawn` it wakes the
//! main thread when it is over, so that nobody has to ask again and again.

use std::io;
use std::thread::JoinHandle;

use healthz::server::{Counters, Pulse, Runner, Server, Stopper};

use super::alive::Alive;
use super::signals::Ender;

/// Room for a request's fields and excludes on the stack, several times over, debug builds included.
pub const STACK_BYTES: usize = 128 * 1024;

/// The server on a thread of its own, named `healthz`. Dropping it leaves the thread running.
pub struct Door {
    stopper: Stopper,
    pulse: Pulse,
    thread: JoinHandle<io::Result<Counters>>,
}

impl Door {
    /// Runs `server`. That its thread lives is told to `alive`, and its end, for whatever reason, to
    /// `ender`.
    ///
    /// # Errors
    /// If the system has no thread, descriptor or memory for it.
    pub fn open(server: Server<'static>, alive: Alive, ender: Ender) -> io::Result<Self> {
        let mut runner = Runner::new(server)?;
        let (stopper, pulse) = (runner.stopper(), runner.pulse());
        let thread = spawn(alive, ender, move || {
            runner.run()?;
            Ok(runner.server().counters())
        })?;
        Ok(Door {
            stopper,
            pulse,
            thread,
        })
    }

    /// What tells whether it gets on.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Asks the server to end in good order and returns at once.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// What the server counted, once its end was told.
    ///
    /// # Errors
    /// If the server failed.
    pub fn join(self) -> io::Result<Counters> {
        // A panic has ended the process before anybody could learn of it here.
        let panicked = |_| Err(io::Error::other("the server panicked"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

fn spawn<T: Send + 'static>(
    alive: Alive,
    ender: Ender,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<JoinHandle<io::Result<T>>> {
    let thread = std::thread::Builder::new()
        .name("healthz".to_owned())
        .stack_size(STACK_BYTES);
    thread.spawn(move || {
        alive.tell();
        let result = run();
        ender.tell();
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::signals::{Wake, Wakes};
    use std::time::Duration;

    /// It used to be noticed at the next round of the sync loop, ten seconds later.
    #[test]
    fn the_end_of_the_door_is_told_at_once_and_stays_told() {
        let mut wakes = Wakes::new().unwrap();
        assert_eq!(wakes.wait(Duration::ZERO).unwrap(), Wake::Timeout);
        let thread = spawn(Alive::new(), wakes.ender(), || -> io::Result<()> {
            Err(io::Error::other("epoll is gone"))
        });
        // Without being told this would be a timeout.
        for _ in 0..2 {
            let wake = wakes.wait(Duration::from_secs(20)).unwrap();
            assert_eq!(wake, Wake::DoorEnded);
        }
        let result = thread.unwrap().join().unwrap();
        assert_eq!(result.unwrap_err().to_string(), "epoll is gone");
        let stop = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT];
        for signal in stop {
            signal_hook::low_level::raise(signal).unwrap();
            let wake = wakes.wait(Duration::from_secs(20)).unwrap();
            assert_eq!(wake, Wake::Stop, "somebody asked, which counts for more");
        }
    }
}
