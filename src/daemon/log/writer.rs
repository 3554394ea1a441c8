//! The thread that writes queued records, and beats the `log` check for each write that succeeds.
//!
//! Knows the descriptor, and nothing of records. If a write blocks, it blocks only this thread. Started by
//! [`super::start`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};

use healthz::Check;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::queue::{Outcome, Queue, Task};

/// The descriptor that is written to: a pipe, a terminal, a file.
pub struct Sink {
    file: File,
    /// `None` if epoll does not support it: a regular file, `/dev/null`.
    poll: Option<Poll>,
    events: Events,
    /// The last write failed in the middle of a line.
    is_cut: bool,
}

impl Sink {
    /// A sink on a duplicate of `stream`. It takes no lock of std: with one, other threads that write to
    /// `stderr()` would wait for a blocked writer.
    ///
    /// # Errors
    /// If there is no descriptor left for it.
    pub fn new(stream: &impl AsFd) -> io::Result<Self> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let poll = Poll::new()?;
        let fd = file.as_raw_fd();
        let registered = poll
            .registry()
            .register(&mut SourceFd(&fd), Token(0), Interest::WRITABLE);
        let poll = match registered {
            Ok(()) => Some(poll),
            // epoll returns EPERM for files that are always ready.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        Ok(Sink {
            file,
            poll,
            events: Events::with_capacity(1),
            is_cut: false,
        })
    }

    /// Waits until a write would not block.
    ///
    /// # Errors
    /// If the pipe has no reader any more.
    fn wait_writable(&mut self) -> io::Result<()> {
        let Some(poll) = &mut self.poll else {
            return Ok(());
        };
        // mio reports only changes; registering again makes it report the present state.
        let fd = self.file.as_raw_fd();
        poll.registry()
            .reregister(&mut SourceFd(&fd), Token(0), Interest::WRITABLE)?;
        loop {
            match poll.poll(&mut self.events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            if let Some(event) = self.events.iter().next() {
                return if event.is_error() || event.is_write_closed() {
                    Err(io::ErrorKind::BrokenPipe.into())
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Writes all of `bytes`, however long that blocks. First ends a line that was cut. On an error, returns
    /// how many bytes were written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), usize> {
        if self.is_cut && self.write_all(b"\n").is_err() {
            return Err(0);
        }
        let result = self.write_all(bytes);
        self.is_cut = match result {
            Ok(()) => false,
            Err(written) => match written.checked_sub(1).and_then(|last| bytes.get(last)) {
                Some(last) => *last != b'\n',
                None => false,
            },
        };
        result
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(written),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares the descriptor may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.poll.is_some() => {
                    self.wait_writable().map_err(|_| written)?;
                }
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }
}

/// Runs the tasks of `queue` for ever. Each success beats `check`.
pub fn run(queue: &Queue, sink: &mut Sink, chunk: &mut [u8], check: &Check) -> ! {
    loop {
        run_task(queue, sink, chunk, check);
    }
}

fn run_task(queue: &Queue, sink: &mut Sink, chunk: &mut [u8], check: &Check) {
    let outcome = match queue.next(chunk) {
        Task::None => return,
        Task::Write(length) => {
            let lines = chunk.get(..length).unwrap_or_default();
            match sink.write(lines) {
                Ok(()) => Outcome::Done,
                Err(written) => {
                    Outcome::Lost(count_lines(lines.get(written..).unwrap_or_default()))
                }
            }
        }
        Task::Report(count) => match sink.write(super::dropped_report(count).as_bytes()) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Lost(0),
        },
        Task::Probe => match sink.wait_writable() {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Lost(0),
        },
    };
    if outcome == Outcome::Done {
        let now = healthz::server::now();
        // Observed before the beat: if the check fails until now, that is counted even if no request and no round of
        // the sync loop has seen it.
        check.observe(now, super::super::unix_seconds());
        check.beat(now);
    }
    queue.finish(outcome);
}

/// Counts lines; a cut line counts, because it is lost too.
fn count_lines(bytes: &[u8]) -> u64 {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    ends.max(1)
}

#[cfg(test)]
mod tests {
    use super::super::queue::CHUNK_BYTES;
    use super::*;
    use healthz::Instant;
    use healthz::server::now;
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::time::Duration;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::pthread::pthread_self;
    use nix::unistd::{gettid, pipe2};

    include!("../../../tests/support/interrupt.rs");

    const LIMIT: Duration = Duration::from_secs(60);

    fn run_next(queue: &Queue, sink: &mut Sink, check: &Check) {
        run_task(queue, sink, &mut [0; CHUNK_BYTES], check);
    }

    fn queue() -> Box<Queue> {
        Box::new(Queue::new())
    }

    fn is_beaten(check: &Check) -> bool {
        check.health(now()) == healthz::Health::Passing
    }

    #[test]
    fn a_write_beats_the_check() {
        let (mut reader, sink) = UnixStream::pair().unwrap();
        let (queue, check) = (queue(), Check::heartbeat("log", LIMIT));
        let mut sink = Sink::new(&sink).unwrap();
        queue.push(b"hello\n");
        run_next(&queue, &mut sink, &check);
        assert!(is_beaten(&check));
        let mut line = [0; 6];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
    }

    #[test]
    fn an_idle_sink_is_probed_without_writing() {
        let (reader, sink) = UnixStream::pair().unwrap();
        let (queue, check) = (queue(), Check::heartbeat("log", LIMIT));
        let mut sink = Sink::new(&sink).unwrap();
        for _ in 0..2 {
            queue.probe();
            run_next(&queue, &mut sink, &check);
            assert!(is_beaten(&check));
        }
        reader.set_nonblocking(true).unwrap();
        assert!((&reader).read(&mut [0]).is_err());
    }

    #[test]
    fn a_full_sink_is_waited_for_whether_it_blocks_or_not() {
        for is_nonblocking in [false, true] {
            let (mut reader, stream) = UnixStream::pair().unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut filled = 0;
            while let Ok(count) = (&stream).write(&[b'.'; 4096]) {
                filled += count;
            }
            stream.set_nonblocking(is_nonblocking).unwrap();
            let (queue, check) = (queue(), Check::heartbeat("log", LIMIT));
            let mut sink = Sink::new(&stream).unwrap();
            queue.probe();
            queue.push(b"after\n");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    run_next(&queue, &mut sink, &check);
                    run_next(&queue, &mut sink, &check);
                });
                assert!(!queue.flush(Duration::from_millis(20)));
                assert!(!is_beaten(&check));
                let mut bytes = vec![0; filled + 6];
                reader.read_exact(&mut bytes).unwrap();
                assert!(bytes.ends_with(b".after\n"));
                assert!(queue.flush(LIMIT));
            });
            assert!(is_beaten(&check));
        }
    }

    #[test]
    fn a_sink_without_a_reader_does_not_beat_the_check() {
        let (reader, stream) = UnixStream::pair().unwrap();
        let (queue, check) = (queue(), Check::heartbeat("log", LIMIT));
        let mut sink = Sink::new(&stream).unwrap();
        drop(reader);
        queue.probe();
        run_next(&queue, &mut sink, &check);
        queue.push(b"one\n");
        run_next(&queue, &mut sink, &check);
        queue.probe();
        run_next(&queue, &mut sink, &check);
        assert!(!is_beaten(&check));
        assert!(!queue.flush(Duration::ZERO), "the record was not written");
    }

    /// Regression: on a disk that was full for a while, the report followed half a record on the same line.
    #[test]
    fn a_write_after_a_cut_line_begins_a_new_line() {
        let (mut reader, stream) = UnixStream::pair().unwrap();
        let mut sink = Sink::new(&stream).unwrap();
        sink.is_cut = true;
        sink.write(b"whole\n").unwrap();
        sink.write(b"next\n").unwrap();
        drop((sink, stream));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nwhole\nnext\n");
    }

    #[test]
    fn a_write_that_fails_within_a_line_cuts_it() {
        for (last, is_cut) in [(b'a', true), (b'\n', false)] {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let mut reader = File::from(reader);
            let mut sink = Sink::new(&writer).unwrap();
            // The least that a pipe can hold.
            let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1)).unwrap() as usize;
            let mut bytes = vec![b'a'; size - 1];
            bytes.extend([last, b'a', b'\n']);
            let thread = std::thread::spawn(move || reader.read_exact(&mut [0]));
            assert_eq!(sink.write(&bytes), Err(size));
            assert_eq!(sink.is_cut, is_cut);
            thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn an_error_other_than_a_full_sink_ends_the_write() {
        let (_reader, writer) = UnixDatagram::pair().unwrap();
        let mut sink = Sink::new(&writer).unwrap();
        // More than a message can have.
        assert_eq!(sink.write(&vec![b'a'; 1 << 20]), Err(0));
    }

    #[test]
    fn every_line_that_was_not_written_counts_as_lost() {
        for (bytes, lines) in [("cut\n", 1), ("cut\nb\n", 2), ("a\nb\nc\n", 3), ("a", 1)] {
            assert_eq!(count_lines(bytes.as_bytes()), lines, "{bytes:?}");
        }
    }

    /// A signal that has a handler ends epoll_wait(2), and so does SIGCONT.
    #[test]
    fn a_signal_does_not_end_the_wait_for_a_full_sink() {
        let (mut reader, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while let Ok(count) = (&stream).write(&[b'.'; 4096]) {
            filled += count;
        }
        let (queue, check) = (queue(), Check::heartbeat("log", LIMIT));
        queue.push(b"after\n");
        let (sender, ids) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send((gettid(), pthread_self() as usize)).unwrap();
                run_next(&queue, &mut Sink::new(&stream).unwrap(), &check);
            });
            let (id, thread) = ids.recv().unwrap();
            interrupt(id, thread, &WAITS);
            let mut bytes = vec![0; filled + 6];
            reader.set_read_timeout(Some(LIMIT)).unwrap();
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes.ends_with(b".after\n"));
        });
        assert!(is_beaten(&check));
    }

    #[test]
    fn a_file_is_always_ready_and_a_full_disk_does_not_beat_the_check() {
        let null = File::create("/dev/null").unwrap();
        let (queue, check) = (queue(), Check::heartbeat("log", LIMIT));
        let mut sink = Sink::new(&null).unwrap();
        queue.probe();
        run_next(&queue, &mut sink, &check);
        assert!(is_beaten(&check));

        let full = File::options().write(true).open("/dev/full").unwrap();
        let (queue, check) = (self::queue(), Check::heartbeat("log", LIMIT));
        let mut sink = Sink::new(&full).unwrap();
        queue.push(b"one\n");
        run_next(&queue, &mut sink, &check);
        // After a failed write, only a successful write counts.
        queue.probe();
        run_next(&queue, &mut sink, &check);
        assert!(!is_beaten(&check));
        assert!(check.passes(Instant::ZERO), "no beat yet");
    }
}
