//! The clock of the sources processes: monotonic, in milliseconds, not counting suspend. It begins at [`START`].

use std::time;

use healthz::Instant;

/// The first time of a clock. Not zero: the time of a beat that an earlier process has received is computed as the
/// present time minus the age of the beat, and must not be below zero.
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
