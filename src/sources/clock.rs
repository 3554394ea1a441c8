//! The clock of the sources processes: milliseconds since the process began to use it, monotonic, not counting
//! suspend.

use std::time;

use healthz::Instant;

/// A clock with an origin of its own. Times of two processes cannot be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: time::Instant,
}

impl Clock {
    pub fn new() -> Self {
        Clock {
            origin: time::Instant::now(),
        }
    }

    pub fn now(&self) -> Instant {
        Instant::ZERO.saturating_add(self.origin.elapsed())
    }
}
