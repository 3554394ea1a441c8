//! Threads for work that can block in the kernel: files, file systems, the check file.
//!
//! One thread is enough while nothing blocks. If jobs wait although a thread has had one for [`STUCK_DURATION`], the
//! worker starts another thread. There are never more threads than jobs, and a check has at most one job, so the number
//! of checks bounds the number of threads. All but one of the threads end when they have no job.
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
    /// Results wake `waker`.
    pub fn new(waker: Arc<Waker>) -> Self {
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
    /// If the system does not start a thread. Call it again later.
    pub fn advance(&mut self, now: Instant) -> io::Result<Option<Instant>> {
        let queue = self.shared.lock();
        let (is_empty, idle) = (queue.jobs.is_empty(), queue.idle);
        drop(queue);
        if !is_empty && idle > 0 {
            self.shared.is_filled.notify_one();
        }
        let Some(since) = self.waits_since.filter(|_| !is_empty) else {
            self.waits_since = None;
            return Ok(None);
        };
        let due = since.saturating_add(STUCK_DURATION);
        if now < due {
            return Ok(Some(due));
        }
        self.waits_since = Some(now);
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
