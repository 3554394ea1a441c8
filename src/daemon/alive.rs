//! Whether the other threads have begun: main says nothing before they have.
//!
//! A thread that is started is not there yet. Its first steps take memory, and may be its last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The door and the log.
const THREADS: u32 = 2;

/// What the threads tell, and main, which made it, waits for.
#[derive(Clone)]
pub struct Alive(Arc<Roll>);

struct Roll {
    main: Thread,
    count: AtomicU32,
}

impl Alive {
    /// None yet. To be called by the thread that will wait.
    pub fn new() -> Self {
        Alive(Arc::new(Roll {
            main: thread::current(),
            count: AtomicU32::new(0),
        }))
    }

    /// The calling thread is one more that has begun. To be called once by each.
    pub fn tell(&self) {
        self.0.count.fetch_add(1, Ordering::Release);
        self.0.main.unpark();
    }

    /// Whether all have begun.
    pub fn are_all(&self) -> bool {
        self.0.count.load(Ordering::Acquire) >= THREADS
    }

    /// Waits until all have begun, for at most `timeout`. Returns whether they have.
    pub fn wait_for_all(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        while !self.are_all() {
            let rest = timeout.saturating_sub(started.elapsed());
            if rest.is_zero() {
                return false;
            }
            thread::park_timeout(rest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_said_to_have_begun_before_all_have() {
        let alive = Alive::new();
        assert!(!alive.wait_for_all(Duration::ZERO));
        alive.tell();
        assert!(!alive.wait_for_all(Duration::from_millis(5)));
        let last = alive.clone();
        let thread = thread::spawn(move || last.tell());
        assert!(alive.wait_for_all(Duration::from_secs(20)));
        thread.join().unwrap();
    }
}
