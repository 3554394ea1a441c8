//! The clock of the sources processes: milliseconds since the process began to use it, monotonic, not counting
//! suspend.

use std::time;

use healthz::Instant;

/// The first time of a clock. Not zero, so that a beat that an earlier process has received has a time as well.
const START: Instant = Instant::from_millis(1000 * 24 * 3600 * 400);

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
        START.saturating_add(self.origin.elapsed())
    }
}
