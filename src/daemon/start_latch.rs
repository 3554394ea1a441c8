//! Lets the main thread wait until the other threads have started.
//!
//! A new thread allocates memory before its function runs, and can fail there. So the daemon reports that
//! it is ready only after each thread has run code of its own. Knows nothing of what the threads do.
//! [`super::serve`] makes it and waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How many threads start: the server's and the log's.
const THREADS: u32 = 2;

/// Counts threads that have started.
#[derive(Clone)]
pub struct StartLatch(Arc<Shared>);

struct Shared {
    main: Thread,
    count: AtomicU32,
}

impl StartLatch {
    /// A latch for threads that will start. Call this in the thread that will wait for them.
    pub fn new() -> Self {
        StartLatch(Arc::new(Shared {
            main: thread::current(),
            count: AtomicU32::new(0),
        }))
    }

    /// Reports that the calling thread has started. Each thread calls this once.
    pub fn report_started(&self) {
        self.0.count.fetch_add(1, Ordering::Release);
        self.0.main.unpark();
    }

    /// Whether all threads have started.
    pub fn have_all_started(&self) -> bool {
        self.0.count.load(Ordering::Acquire) >= THREADS
    }

    /// Waits until all threads have started, for at most `timeout`. Returns whether they have.
    pub fn wait(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        while !self.have_all_started() {
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
    fn the_wait_ends_when_the_last_thread_has_started() {
        let latch = StartLatch::new();
        assert!(!latch.wait(Duration::ZERO));
        latch.report_started();
        assert!(!latch.wait(Duration::from_millis(5)));
        let last = latch.clone();
        let thread = thread::spawn(move || last.report_started());
        assert!(latch.wait(Duration::from_secs(20)));
        thread.join().unwrap();
    }
}
