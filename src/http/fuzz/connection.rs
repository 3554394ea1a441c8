//! One connection with arbitrary pieces of input, times and calls.
//!
//! Knows no checks: the answers are made here. Called by the fuzz target `connection` and for its corpus.

use std::vec;
use std::vec::Vec;

use super::super::cache::HeadCache;
use super::super::connection::{Connection, Context, Next, Phase, Progress};
use super::super::request::Request;
use super::super::response::{Answer, BufferFull, Date, Fields, StatusCode, Writer};
use super::Source;
use super::framing::{self, End, Seen};
use crate::limits::Limits;
use crate::time::Instant;
use core::time::Duration;

/// Room for the longest answer that [`answer`] writes.
const TX_BYTES: usize = 2048;
const STEPS_MAX: u8 = 24;

/// - The same bytes in any pieces, with or without the cache, with any room for answers if a longer one follows, get
///   the same answers.
/// - With any pieces, times and calls, every answer is complete. A request has at most one answer, and
///   bytes of a body have none. The limits hold. A deadline moves only when the phase changes. A closed
///   connection stays closed.
pub fn connection(data: &[u8]) {
    let mut source = Source(data);
    let limits = Limits {
        // Smaller than a server accepts, so that short inputs reach the limits.
        request_head_bytes: 40 + usize::from(source.byte()),
        body_drain_bytes: 2 * u64::from(source.byte()),
        head_duration: Duration::from_millis(1000),
        idle_duration: Duration::from_millis(3000),
        drain_duration: Duration::from_millis(200),
    };
    // The steps come first and the stream last, so that a longer stream does not change the steps.
    let steps: Vec<(u8, u8)> = (0..source.byte() % STEPS_MAX)
        .map(|_| (source.byte(), source.byte()))
        .collect();
    let stream = source.0;

    let mut whole = Driver::new(stream, &limits);
    whole.arrive(stream.len());
    whole.receive(false, TX_BYTES, 0);
    whole.check_all(End::Whole);

    let mut split = Driver::new(stream, &limits);
    for (how, size) in &steps {
        split.arrive(usize::from(*size));
        // Long answers do not fit in the first buffer.
        split.receive(how % 2 == 1, 2 * usize::from(*how), TX_BYTES);
    }
    split.arrive(stream.len());
    split.receive(true, TX_BYTES, 0);
    split.check_all(End::Whole);
    assert!(whole.written == split.written, "pieces change answers");
    assert_eq!(whole.seen, split.seen, "pieces change requests");
    let state = |driver: &Driver<'_>| {
        let phase = driver.connection.phase();
        (driver.consumed, driver.answered, phase)
    };
    assert_eq!(state(&whole), state(&split));

    let mut cut = Driver::new(stream, &limits);
    for (what, size) in &steps {
        cut.step(*what, *size);
    }
    cut.check_all(End::Cut);
}

/// Calls a connection as a server does, and records the results.
struct Driver<'s> {
    stream: &'s [u8],
    limits: &'s Limits,
    connection: Connection,
    cache: HeadCache,
    date: Date,
    now: u64,
    is_last: bool,
    /// Bytes of the stream that were received, and bytes of them that the connection has consumed.
    arrived: usize,
    consumed: usize,
    is_closed: bool,
    /// An answer did not fit in an empty buffer.
    gave_up: bool,
    written: Vec<u8>,
    answered: u32,
    /// Refusals among the answers of [`Connection::receive`].
    refused: u32,
    seen: Vec<Seen>,
}

impl<'s> Driver<'s> {
    fn new(stream: &'s [u8], limits: &'s Limits) -> Self {
        Driver {
            stream,
            limits,
            connection: Connection::new(Instant::ZERO),
            cache: HeadCache::new(),
            date: Date::from_unix_seconds(0),
            now: 0,
            is_last: false,
            arrived: 0,
            consumed: 0,
            is_closed: false,
            gave_up: false,
            written: Vec::new(),
            answered: 0,
            refused: 0,
            seen: Vec::new(),
        }
    }

    fn arrive(&mut self, count: usize) {
        self.arrived = self.stream.len().min(self.arrived + count);
    }

    fn step(&mut self, what: u8, size: u8) {
        let size = usize::from(size);
        match what % 8 {
            0..=2 => {
                self.arrive(size);
                self.receive(what % 2 == 0, TX_BYTES, 0);
            }
            // Little room for answers, or none, and sometimes a second buffer with a little more.
            3 => {
                self.arrive(size);
                let tx_bytes_max = usize::from(what / 8) * 64;
                self.receive(true, 4 * size, tx_bytes_max);
            }
            // Up to 4.3 s, more than any of the limits above.
            4 => {
                self.now += 17 * size as u64;
                self.end(Call::Expire, TX_BYTES);
            }
            5 => self.end(Call::Expire, 4 * size),
            6 => self.end(Call::ReceiveEnd, 4 * size),
            _ => {
                self.now += size as u64;
                self.is_last |= size % 4 == 0;
            }
        }
    }

    /// Passes the bytes of a buffer that is as long as the longest head, until nothing changes. The server
    /// does the same. An answer that does not fit in `tx_bytes` gets a buffer of `tx_bytes_max`.
    fn receive(&mut self, is_cached: bool, tx_bytes: usize, tx_bytes_max: usize) {
        let mut is_long = false;
        loop {
            let tx_bytes = match core::mem::take(&mut is_long) {
                true => tx_bytes_max,
                false => tx_bytes,
            };
            let date = self.date;
            let context = Context {
                now: Instant::from_millis(self.now),
                date: Some(&date),
                limits: self.limits,
                is_last: self.is_last,
                tx_bytes_max,
            };
            let rx = self.rx();
            let mut tx = vec![0; tx_bytes];
            let mut answers = 0;
            let mut has_room = true;
            let (stream, seen) = (self.stream, &mut self.seen);
            let mut answer = |request: &Request<'_>, writer: Writer<'_>| {
                let written = answer(request, writer);
                match written {
                    Ok(_) => {
                        answers += 1;
                        seen.push(Seen::new(stream, request));
                    }
                    Err(BufferFull) => has_room = false,
                }
                written
            };
            // A copy, to compare the phase and the deadline with those after the call.
            let before = self.connection.clone();
            let progress = if is_cached {
                let cache = &mut self.cache;
                self.connection
                    .receive_cached(&context, cache, rx, &mut tx, &mut answer)
            } else {
                self.connection.receive(&context, rx, &mut tx, &mut answer)
            };
            // An answer that neither the function nor a refusal has written is the 500 of a connection that
            // gave up. That is only allowed if an answer did not fit.
            let given_up = progress.answered - u32::from(progress.refusal.is_some()) - answers;
            let may_give_up = tx_bytes >= tx_bytes_max && !(has_room && tx_bytes == TX_BYTES);
            assert!(given_up == 0 || given_up == 1 && may_give_up);
            self.gave_up |= given_up == 1;
            self.refused += u32::from(progress.refusal.is_some());
            self.check_deadline(&before, &progress);
            self.check_receive(rx, &progress);
            let is_stuck = progress.consumed == 0 && progress.written == 0;
            // More of the stream may have been received than the buffer holds.
            let is_window = rx.len() == self.limits.request_head_bytes;
            self.take(rx, &tx, &progress);
            match progress.next {
                Next::Write if progress.written == 0 => {
                    assert!(
                        tx_bytes < tx_bytes_max,
                        "asked for a longer buffer than there is"
                    );
                    is_long = true;
                }
                Next::Write => {}
                Next::Read | Next::Close { .. } if is_window && !is_stuck => {}
                Next::Read | Next::Close { .. } => break,
            }
        }
    }

    /// One of the calls that end a connection.
    fn end(&mut self, call: Call, tx_bytes: usize) {
        let date = self.date;
        let context = Context {
            now: Instant::from_millis(self.now),
            date: Some(&date),
            limits: self.limits,
            is_last: self.is_last,
            tx_bytes_max: 0,
        };
        let rx = self.rx();
        let mut tx = vec![0; tx_bytes];
        let before = self.connection.clone();
        // Before its deadline, `expire` must change nothing.
        let is_due = self.connection.deadline(self.limits) <= context.now;
        let progress = match call {
            Call::Expire => self.connection.expire(&context, rx, &mut tx),
            Call::ReceiveEnd => self.connection.receive_end(&context, rx, &mut tx),
        };
        if matches!(call, Call::Expire) && !is_due {
            assert_eq!((progress.consumed, progress.written), (0, 0));
            assert_eq!((progress.answered, progress.next), (0, Next::Read));
            assert_eq!(self.connection.phase(), before.phase());
            assert_eq!(self.connection.since(), before.since());
            return;
        }
        assert_eq!(progress.next, Next::Close { lingers: false });
        assert_eq!(progress.consumed, rx.len());
        // Only an incomplete head gets an answer.
        let is_cut =
            before.phase() == Phase::Head && !(rx.is_empty() && matches!(call, Call::ReceiveEnd));
        assert!(
            progress.written == 0 || is_cut,
            "the end was answered in {:?}",
            before.phase()
        );
        assert_eq!(progress.answered, u32::from(progress.written > 0));
        self.take(rx, &tx, &progress);
    }

    fn rx(&self) -> &'s [u8] {
        let end = self
            .arrived
            .min(self.consumed + self.limits.request_head_bytes);
        &self.stream[self.consumed..end]
    }

    fn take(&mut self, rx: &[u8], tx: &[u8], progress: &Progress) {
        assert!(progress.consumed <= rx.len() && progress.written <= tx.len());
        assert!(progress.refusal.is_none() || progress.answered > 0);
        // A closed connection consumes all input and answers none of it.
        if self.is_closed {
            assert_eq!(
                (progress.written, progress.answered),
                (0, 0),
                "answered after it was closed"
            );
            assert_eq!(progress.consumed, rx.len());
            assert!(matches!(progress.next, Next::Close { .. }));
        }
        self.consumed += progress.consumed;
        self.written.extend_from_slice(&tx[..progress.written]);
        self.answered += progress.answered;
        self.is_closed |= matches!(progress.next, Next::Close { .. });
        assert_eq!(self.is_closed, self.connection.phase() == Phase::Closing);
    }

    fn check_receive(&self, rx: &[u8], progress: &Progress) {
        let rest = rx.len() - progress.consumed;
        let phase = self.connection.phase();
        match progress.next {
            Next::Read => {
                assert!(
                    rest < self.limits.request_head_bytes,
                    "waits with a full buffer"
                );
                assert!(
                    rest == 0 || phase == Phase::Head,
                    "{rest} bytes wait in {phase:?}"
                );
            }
            Next::Write => assert!(phase != Phase::Closing),
            Next::Close { .. } => assert_eq!(rest, 0, "input is left after the end"),
        }
    }

    /// Within a phase the deadline does not move, however many bytes come.
    fn check_deadline(&self, before: &Connection, progress: &Progress) {
        let after = &self.connection;
        assert!(
            after.since() >= before.since(),
            "a phase began before the one before it"
        );
        assert!(after.since() <= Instant::from_millis(self.now));
        if progress.answered == 0 && before.phase() == after.phase() {
            let [was, is] = [before, after].map(|connection| connection.deadline(self.limits));
            assert_eq!(was, is, "the deadline of {:?} moved", after.phase());
        }
    }

    /// Checks all answers, and the positions of the requests.
    fn check_all(&self, end: End) {
        let answers = framing::answers(&self.written, &self.seen);
        // The 500 of a connection that gave up may not have fit either.
        let missing = u32::from(self.gave_up);
        assert!(
            (self.answered - missing..=self.answered).contains(&answers),
            "{answers} answers"
        );
        let end = match self.refused {
            0 => end,
            1 => End::Refused,
            more => panic!("{more} were refused"),
        };
        framing::check(self.stream, &self.seen, end, self.limits);
    }
}

enum Call {
    Expire,
    ReceiveEnd,
}

/// An answer by each method of [`Writer`], chosen by the length of the path.
fn answer(request: &Request<'_>, writer: Writer<'_>) -> Result<Answer, BufferFull> {
    let length = request.target().path().len();
    match length % 5 {
        0 => writer.fixed(StatusCode::NOT_FOUND, Fields::Text, &[b'x'; 300]),
        1 => writer.rendered(Fields::TextSniffed, |text| {
            text.push(&vec![b'x'; length]);
            StatusCode::INTERNAL_SERVER_ERROR
        }),
        2 => writer.redirect(length % 2 == 0, |text| text.push(b"/x")),
        _ => writer.ok(),
    }
}
