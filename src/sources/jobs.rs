//! Threads for work that can block in the kernel: files, file systems, the check file.
//!
//! One thread is enough while nothing blocks. If a job has waited for a thread for [`STUCK_DURATION`], the worker
//! starts another thread. A check has at most one job at a time, and all but one of the threads end when they
//! have no job. So there are at most as many threads as checks, and one for the check file, until the file is read
//! again: a job that hangs keeps its thread, even if its check was removed or changed. So that reloads cannot add
//! threads without end, there is a largest number of them. If all of these hang, other jobs wait, also the one that
//! reads the check file. So the number of jobs that wait is bounded too.
//!
//! Knows no checks. Called by the worker's event loop, which a finished job wakes.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use healthz::Instant;
use mio::Waker;

/// If a job has waited for this long, all threads are considered stuck, and another one is started.
pub const STUCK_DURATION: Duration = Duration::from_millis(200);

/// Stack of each thread. The deepest job parses a check file.
const STACK_BYTES: usize = 256 * 1024;

type Job<R> = Box<dyn FnOnce() -> R + Send>;

/// A queue of jobs, and the threads that run them.
pub struct Jobs<R> {
    shared: Arc<Shared<R>>,
    /// When the first job of the queue was given, or the last thread was started for it.
    waits_since: Option<Instant>,
    threads_max: usize,
    /// [`advance`](Jobs::advance) has said that all threads hang, and the first job still waits.
    has_warned: bool,
}

struct Shared<R> {
    queue: Mutex<Queue<R>>,
    is_filled: Condvar,
    waker: Arc<Waker>,
}

struct Queue<R> {
    jobs: VecDeque<Job<R>>,
    /// Results that were not taken yet.
    results: VecDeque<R>,
    threads: usize,
    idle: usize,
}

impl<R: Send + 'static> Jobs<R> {
    /// Results wake `waker`. There are never more threads than `threads_max`.
    pub fn new(waker: Arc<Waker>, threads_max: usize) -> Self {
        let queue = Queue {
            jobs: VecDeque::new(),
            results: VecDeque::new(),
            threads: 0,
            idle: 0,
        };
        Jobs {
            shared: Arc::new(Shared {
                queue: Mutex::new(queue),
                is_filled: Condvar::new(),
                waker,
            }),
            waits_since: None,
            threads_max,
            has_warned: false,
        }
    }

    /// Gives a job to the threads.
    ///
    /// # Errors
    /// If there is no thread, and the system does not start one. The job waits, and [`advance`](Jobs::advance)
    /// tries again.
    pub fn give(
        &mut self,
        now: Instant,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<()> {
        self.add(now, Box::new(job))
    }

    fn add(&mut self, now: Instant, job: Job<R>) -> io::Result<()> {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        self.waits_since.get_or_insert(now);
        let needs_thread = queue.threads == 0;
        drop(queue);
        match needs_thread {
            true => self.start_thread(),
            // `advance` wakes it, once for all jobs that are given together.
            false => Ok(()),
        }
    }

    /// Starts another thread if a job has waited for [`STUCK_DURATION`]. Returns when to call it again.
    ///
    /// # Errors
    /// If the system does not start a thread. Call it again later. If there are as many threads as allowed, and none of
    /// them takes the jobs that wait; only once, until one does.
    pub fn advance(&mut self, now: Instant) -> io::Result<Option<Instant>> {
        let queue = self.shared.lock();
        let (is_empty, idle, threads) = (queue.jobs.is_empty(), queue.idle, queue.threads);
        drop(queue);
        if !is_empty && idle > 0 {
            self.shared.is_filled.notify_one();
        }
        let Some(since) = self.waits_since.filter(|_| !is_empty) else {
            self.waits_since = None;
            self.has_warned = false;
            return Ok(None);
        };
        let due = since.saturating_add(STUCK_DURATION);
        if now < due {
            return Ok(Some(due));
        }
        self.waits_since = Some(now);
        if idle == 0 && threads >= self.threads_max {
            return match std::mem::replace(&mut self.has_warned, true) {
                // The first thread whose job ends takes the next one, without a call of this function.
                true => Ok(None),
                false => Err(io::Error::other(format!("{threads} threads hang already"))),
            };
        }
        if idle == 0 {
            self.start_thread()?;
        }
        Ok(Some(now.saturating_add(STUCK_DURATION)))
    }

    /// The result of a job that has ended.
    pub fn result(&mut self) -> Option<R> {
        self.shared.lock().results.pop_front()
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.lock().threads += 1;
        let started = thread::Builder::new()
            .name("blocking".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.run());
        if let Err(error) = started {
            self.shared.lock().threads -= 1;
            return Err(error);
        }
        Ok(())
    }
}

impl<R> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, Queue<R>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs jobs until there are none and another thread waits for more.
    fn run(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                let result = job();
                queue = self.lock();
                queue.results.push_back(result);
                // Not after each job: jobs that do not block are done before the event loop has woken up. But the
                // last one may block, so the results before it must not wait for it. A job before the last
                // that blocks is noticed by `advance`.
                if queue.jobs.len() <= 1 {
                    let _ = self.waker.wake();
                }
            } else if queue.idle > 0 {
                queue.threads -= 1;
                return;
            } else {
                queue.idle += 1;
                queue = self
                    .is_filled
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use mio::{Events, Poll, Token};

    use super::*;

    const T0: Instant = Instant::from_millis(1000);
    const THREADS_MAX: usize = 3;

    struct Loop {
        poll: Poll,
        jobs: Jobs<thread::ThreadId>,
    }

    impl Loop {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let waker = Waker::new(poll.registry(), Token(0)).unwrap();
            let jobs = Jobs::new(Arc::new(waker), THREADS_MAX);
            Loop { poll, jobs }
        }

        /// The thread that ran the next job that ends.
        fn result(&mut self) -> thread::ThreadId {
            let mut events = Events::with_capacity(1);
            loop {
                if let Some(id) = self.jobs.result() {
                    return id;
                }
                let patience = Duration::from_secs(20);
                self.poll.poll(&mut events, Some(patience)).unwrap();
                assert!(!events.is_empty(), "a result wakes the loop");
            }
        }

        /// Waits until so many threads exist, and so many of them have nothing to do.
        fn wait(&self, threads: usize, idle: usize) {
            let began = std::time::Instant::now();
            let counts = || {
                let queue = self.jobs.shared.lock();
                (queue.threads, queue.idle)
            };
            while counts() != (threads, idle) {
                assert!(began.elapsed().as_secs() < 20, "{:?}", counts());
                thread::yield_now();
            }
        }
    }

    #[test]
    fn jobs_that_do_not_block_share_a_thread() {
        let mut jobs = Loop::new();
        let own = || thread::current().id();
        jobs.jobs.give(T0, own).unwrap();
        let first = jobs.result();
        jobs.wait(1, 1);
        assert_eq!(jobs.jobs.advance(T0).unwrap(), None);
        for _ in 0..3 {
            jobs.jobs.give(T0, own).unwrap();
        }
        jobs.jobs.advance(T0).unwrap();
        for _ in 0..3 {
            assert_eq!(jobs.result(), first);
        }
        jobs.wait(1, 1);
    }

    #[test]
    fn a_job_that_waits_for_one_that_blocks_gets_another_thread_after_a_while() {
        let mut jobs = Loop::new();
        let (begun, has_begun) = mpsc::channel();
        let (unblock, is_unblocked) = mpsc::channel::<()>();
        let blocks = move || {
            begun.send(()).unwrap();
            let _ = is_unblocked.recv();
            thread::current().id()
        };
        jobs.jobs.give(T0, blocks).unwrap();
        has_begun.recv().unwrap();
        let later = |ms| T0.saturating_add(Duration::from_millis(ms));
        assert_eq!(jobs.jobs.advance(later(500)).unwrap(), None);
        jobs.jobs
            .give(later(1000), || thread::current().id())
            .unwrap();
        for ms in [1000, 1199] {
            assert_eq!(jobs.jobs.advance(later(ms)).unwrap(), Some(later(1200)));
            jobs.wait(1, 0);
        }
        assert_eq!(jobs.jobs.advance(later(1200)).unwrap(), Some(later(1400)));
        let second = jobs.result();
        jobs.wait(2, 1);
        assert_eq!(jobs.jobs.advance(later(1200)).unwrap(), None);
        unblock.send(()).unwrap();
        assert_ne!(jobs.result(), second);
        // Of two threads that have nothing to do, one ends.
        jobs.wait(1, 1);
    }

    /// Regression: each reload during one hang could add as many threads as there are checks.
    #[test]
    fn jobs_wait_when_as_many_threads_as_allowed_hang() {
        let mut jobs = Loop::new();
        let (begun, has_begun) = mpsc::channel();
        let (unblock, is_unblocked) = mpsc::channel::<()>();
        let is_unblocked = Arc::new(Mutex::new(is_unblocked));
        let mut now = T0;
        for threads in 1..=THREADS_MAX {
            let (begun, is_unblocked) = (begun.clone(), Arc::clone(&is_unblocked));
            let hangs = move || {
                begun.send(()).unwrap();
                let _ = is_unblocked.lock().unwrap().recv();
                thread::current().id()
            };
            jobs.jobs.give(now, hangs).unwrap();
            now = now.saturating_add(STUCK_DURATION);
            if threads > 1 {
                assert!(jobs.jobs.advance(now).unwrap().is_some());
            }
            has_begun.recv().unwrap();
            jobs.wait(threads, 0);
        }
        jobs.jobs.give(now, || thread::current().id()).unwrap();
        now = now.saturating_add(STUCK_DURATION);
        let error = jobs.jobs.advance(now).unwrap_err();
        assert_eq!(error.to_string(), "3 threads hang already");
        // It says so once.
        now = now.saturating_add(STUCK_DURATION);
        assert_eq!(jobs.jobs.advance(now).unwrap(), None);
        jobs.wait(THREADS_MAX, 0);
        // The thread whose job ends takes the one that waits.
        unblock.send(()).unwrap();
        assert_eq!(jobs.result(), jobs.result());
        assert_eq!(jobs.jobs.advance(now).unwrap(), None);
        assert!(!jobs.jobs.has_warned);
        drop(unblock);
    }
}
