//! The bounded queue between threads that log and the thread that writes.
//!
//! Knows neither the format of records nor where they go. It has a fixed size, and a push never waits for
//! the sink. A record that does not fit is dropped and counted, and so is every later one until the writer has
//! written the rest and a report of the count. So there is one gap, at the place of the report. Used by
//! [`super`] and [`super::writer`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// About 500 records: enough for a series of warnings while the sink is slow.
pub const QUEUE_BYTES: usize = 64 * 1024;
/// Most bytes that are written at once: `PIPE_BUF`, which a pipe takes whole, so that lines of several
/// processes do not mix.
pub const CHUNK_BYTES: usize = 4096;

const _: () = assert!(CHUNK_BYTES <= QUEUE_BYTES);

/// What the writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Task {
    /// Nothing. It is the first variant, so its bytes are zero: otherwise a `static` queue would take 64 KiB
    /// of the program's file.
    None,
    /// Write this many bytes from the start of the chunk.
    Write(usize),
    /// Write that this many records were dropped.
    Report(u64),
    /// Test whether a write would succeed; there is nothing to write.
    Probe,
}

/// The result of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// This many records could not be written.
    Lost(u64),
}

/// See the module. Meant for a `static`: all its bytes are zero, so pages that were never used are not
/// resident. The bytes of the ring are at its end: as long as records are written at once, it uses one page.
#[repr(C)]
pub struct Queue {
    /// Signalled when there is a task.
    work: Condvar,
    /// Signalled when a task was finished.
    progress: Condvar,
    /// All records that were dropped since the start. Apart from the ring, so that it is read without the lock.
    dropped: AtomicU64,
    ring: Mutex<Ring>,
}

#[repr(C)]
struct Ring {
    start: usize,
    length: usize,
    /// Records that were dropped and not reported yet. While there are any, new records are dropped too.
    dropped: u64,
    /// The last write failed. The writer tries again only for a probe.
    is_failing: bool,
    is_probe_requested: bool,
    /// The writer's present task.
    task: Task,
    bytes: [u8; QUEUE_BYTES],
}

impl Queue {
    pub const fn new() -> Self {
        Queue {
            work: Condvar::new(),
            progress: Condvar::new(),
            dropped: AtomicU64::new(0),
            ring: Mutex::new(Ring {
                start: 0,
                length: 0,
                dropped: 0,
                is_failing: false,
                is_probe_requested: false,
                task: Task::None,
                bytes: [0; QUEUE_BYTES],
            }),
        }
    }

    /// Appends `record`, one line with its line end; or drops and counts it. Never waits for the sink.
    pub fn push(&self, record: &[u8]) {
        debug_assert!(record.ends_with(b"\n"), "a record is a line");
        if !self.lock().push(record) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.work.notify_one();
    }

    /// How many records were dropped since the start. Never waits.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Requests a test whether the sink still accepts writes.
    pub fn probe(&self) {
        self.lock().is_probe_requested = true;
        self.work.notify_one();
    }

    /// Waits for a task; `chunk` is where its bytes are copied. Only the writer calls this, and then [`finish`](Queue::finish).
    pub fn next(&self, chunk: &mut [u8]) -> Task {
        let mut ring = self.lock();
        loop {
            ring.task = ring.next(chunk);
            if ring.task != Task::None {
                return ring.task;
            }
            ring = self.work.wait(ring).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The task that [`next`](Queue::next) returned is finished.
    pub fn finish(&self, outcome: Outcome) {
        let lost = self.lock().finish(outcome);
        self.dropped.fetch_add(lost, Ordering::Relaxed);
        self.progress.notify_all();
    }

    /// Waits until everything is written, for at most `timeout`, and not if writes fail. Returns whether
    /// everything is written.
    pub fn flush(&self, timeout: Duration) -> bool {
        let ring = self.lock();
        let is_busy = |ring: &mut Ring| !ring.is_idle() && !ring.is_failing;
        let (ring, _) = self
            .progress
            .wait_timeout_while(ring, timeout, is_busy)
            .unwrap_or_else(PoisonError::into_inner);
        ring.is_idle()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic while the lock was held would poison it. Logging must go on even then.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Returns whether there was room for it.
    fn push(&mut self, record: &[u8]) -> bool {
        if self.dropped > 0 || record.len() > QUEUE_BYTES - self.length {
            self.dropped += 1;
            return false;
        }
        let end = (self.start + self.length) % QUEUE_BYTES;
        let (first, second) = record.split_at(record.len().min(QUEUE_BYTES - end));
        copy(self.bytes.get_mut(end..), first);
        copy(self.bytes.get_mut(..), second);
        self.length += record.len();
        true
    }

    fn next(&mut self, chunk: &mut [u8]) -> Task {
        if self.length > 0 && !self.is_failing {
            return Task::Write(self.take(chunk));
        }
        let is_wanted = self.is_probe_requested;
        if self.dropped > 0 && (is_wanted || !self.is_failing) {
            self.is_probe_requested = false;
            return Task::Report(self.dropped);
        }
        if is_wanted {
            self.is_probe_requested = false;
            return Task::Probe;
        }
        Task::None
    }

    /// Moves as many whole lines into `chunk` as fit, or a part of a line that is longer.
    fn take(&mut self, chunk: &mut [u8]) -> usize {
        let most = self.length.min(chunk.len());
        let (wrapped, linear) = self.bytes.split_at(self.start);
        let first = linear.len().min(most);
        copy(chunk.get_mut(..), linear.get(..first).unwrap_or_default());
        copy(
            chunk.get_mut(first..),
            wrapped.get(..most - first).unwrap_or_default(),
        );
        let lines = chunk.get(..most).unwrap_or_default();
        let taken = match lines.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None => most,
        };
        self.length -= taken;
        // Start at the beginning of an empty ring, so that few records touch only its first page.
        self.start = if self.length == 0 {
            0
        } else {
            (self.start + taken) % QUEUE_BYTES
        };
        taken
    }

    /// Returns how many records were lost.
    fn finish(&mut self, outcome: Outcome) -> u64 {
        let mut lost = 0;
        match (self.task, outcome) {
            (Task::Report(count), Outcome::Done) => {
                self.dropped -= count;
                self.is_failing = false;
            }
            (_, Outcome::Done) => {}
            // A report is not a record, so a lost report adds nothing to the count.
            (Task::Report(_), Outcome::Lost(_)) => self.is_failing = true,
            (_, Outcome::Lost(records)) => {
                lost = records;
                self.dropped += records;
                self.is_failing = self.dropped > 0;
            }
        }
        self.task = Task::None;
        lost
    }

    fn is_idle(&self) -> bool {
        self.length == 0 && self.dropped == 0 && matches!(self.task, Task::None | Task::Probe)
    }
}

/// Copies `source` to the start of `target`, which is long enough.
fn copy(target: Option<&mut [u8]>, source: &[u8]) {
    let target = target.and_then(|target| target.get_mut(..source.len()));
    debug_assert!(target.is_some(), "no room was left for what was measured");
    if let Some(target) = target {
        target.copy_from_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Box<Queue> {
        Box::new(Queue::new())
    }

    /// The next task and its bytes.
    fn next(queue: &Queue) -> (Task, Vec<u8>) {
        let mut chunk = [0; CHUNK_BYTES];
        let task = queue.next(&mut chunk);
        let length = match task {
            Task::Write(length) => length,
            _ => 0,
        };
        (task, chunk[..length].to_vec())
    }

    fn line(number: usize) -> Vec<u8> {
        format!("record {number} {}\n", "x".repeat(number % 90)).into_bytes()
    }

    #[test]
    fn lines_stay_whole_and_in_order_across_the_end_of_the_ring() {
        let queue = queue();
        let (mut pushed, mut written) = (Vec::new(), Vec::new());
        for number in 0..5000 {
            queue.push(&line(number));
            pushed.extend(line(number));
            // 72 lines are about one chunk, so later some lines stay in the ring, and it wraps around.
            if number % 72 == 71 {
                let (_, bytes) = next(&queue);
                assert!(bytes.ends_with(b"\n"));
                written.extend(bytes);
                queue.finish(Outcome::Done);
            }
        }
        while !queue.flush(Duration::ZERO) {
            let (task, bytes) = next(&queue);
            assert!(matches!(task, Task::Write(_)), "{task:?}");
            written.extend(bytes);
            queue.finish(Outcome::Done);
        }
        assert!(pushed == written);
    }

    #[test]
    fn records_that_do_not_fit_are_dropped_and_reported_after_those_that_did() {
        let queue = queue();
        let record = [b'a'; 1023]
            .iter()
            .chain(b"\n")
            .copied()
            .collect::<Vec<u8>>();
        for _ in 0..QUEUE_BYTES / 1024 + 5 {
            queue.push(&record);
        }
        for _ in 0..QUEUE_BYTES / CHUNK_BYTES {
            assert_eq!(next(&queue).0, Task::Write(CHUNK_BYTES));
            queue.finish(Outcome::Done);
            // There is space again, but this record would come before the report of the dropped ones.
            queue.push(&record);
        }
        let missing = 5 + (QUEUE_BYTES / CHUNK_BYTES) as u64;
        assert_eq!(next(&queue).0, Task::Report(missing));
        queue.push(&record);
        queue.finish(Outcome::Done);
        assert_eq!(next(&queue).0, Task::Report(1));
        queue.finish(Outcome::Done);
        assert!(queue.flush(Duration::ZERO));
        queue.push(&record);
        assert_eq!(next(&queue).0, Task::Write(1024));
        assert_eq!(queue.dropped(), missing + 1);
    }

    #[test]
    fn after_a_failed_write_the_sink_is_tried_again_only_for_a_probe() {
        let queue = queue();
        queue.push(b"one\n");
        assert_eq!(next(&queue).0, Task::Write(4));
        queue.finish(Outcome::Lost(1));
        queue.push(b"two\n");
        assert_eq!(queue.lock().next(&mut [0; CHUNK_BYTES]), Task::None);
        assert!(
            !queue.flush(Duration::from_secs(3600)),
            "flush waited, although writes fail"
        );
        queue.probe();
        assert_eq!(next(&queue).0, Task::Report(2));
        queue.finish(Outcome::Lost(1));
        assert_eq!(queue.lock().next(&mut [0; CHUNK_BYTES]), Task::None);
        queue.probe();
        assert_eq!(next(&queue).0, Task::Report(2));
        queue.finish(Outcome::Done);
        assert!(queue.flush(Duration::ZERO));
        queue.push(b"three\n");
        assert_eq!(next(&queue), (Task::Write(6), b"three\n".to_vec()));
        // A report that could not be written is not a record.
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn a_probe_comes_after_records_that_were_queued_before_it() {
        let queue = queue();
        queue.push(b"one\n");
        queue.probe();
        assert_eq!(next(&queue).0, Task::Write(4));
        queue.finish(Outcome::Done);
        assert_eq!(next(&queue).0, Task::Probe);
        queue.finish(Outcome::Done);
        assert_eq!(queue.lock().next(&mut [0; CHUNK_BYTES]), Task::None);
    }

    #[test]
    fn flush_does_not_wait_for_ever() {
        let queue = queue();
        queue.push(b"one\n");
        assert!(!queue.flush(Duration::from_millis(1)));
    }

    #[test]
    fn a_line_longer_than_a_chunk_is_written_in_parts() {
        let queue = queue();
        let mut long = vec![b'a'; CHUNK_BYTES + 9];
        long.push(b'\n');
        queue.push(b"short\n");
        queue.push(&long);
        for length in [6, CHUNK_BYTES, 10] {
            assert_eq!(next(&queue).0, Task::Write(length));
            queue.finish(Outcome::Done);
        }
    }
}
