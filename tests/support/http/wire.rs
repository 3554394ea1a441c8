//! One connection without sockets, driven like a server does. The receive buffer holds one head. Bytes that
//! were not consumed are passed again, and the transmit buffer is emptied between calls.

use std::time::Duration;

use healthz::http::{Connection, Context, Date, HeadCache, Next, Phase, Progress, Request, Writer};
use healthz::{Instant, Limits, Responder};

use super::rows::{End, Segment};

/// A connection and everything that it has sent.
pub struct Wire<'a> {
    responder: &'a Responder<'static>,
    limits: Limits,
    cache: Option<&'a mut HeadCache>,
    date: Date,
    now: Instant,
    connection: Connection,
    /// Received bytes that are not consumed yet.
    rx: Vec<u8>,
    tx: Vec<u8>,
    end: End,
    sent: Vec<u8>,
    answered: usize,
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub sent: Vec<u8>,
    pub end: End,
    pub phase: Phase,
    /// Received bytes that are not consumed.
    pub kept: Vec<u8>,
    /// The number of answers that the connection reported.
    pub answered: usize,
}

impl<'a> Wire<'a> {
    /// A connection with a transmit buffer of `tx_bytes`.
    pub fn new(
        responder: &'a Responder<'static>,
        cache: Option<&'a mut HeadCache>,
        tx_bytes: usize,
    ) -> Self {
        let now = Instant::from_millis(1_000_000);
        Wire {
            responder,
            limits: Limits::DEFAULT,
            cache,
            date: Date::from_unix_seconds(784_111_777),
            now,
            connection: Connection::new(now),
            rx: Vec::new(),
            tx: vec![0; tx_bytes],
            end: End::Open,
            sent: Vec::new(),
            answered: 0,
        }
    }

    /// Replaces the default limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    pub fn run(mut self, segments: &[Segment]) -> Self {
        for segment in segments {
            match segment {
                Segment::Bytes(bytes) => self.receive(bytes),
                Segment::Pause(duration) => self.pass(*duration),
                Segment::Shut => self.shut(),
            }
        }
        self
    }

    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.limits.request_head_bytes - self.rx.len();
            assert!(room > 0, "a full buffer, and the connection wants more");
            let (read, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            self.rx.extend_from_slice(read);
            self.answer();
        }
    }

    fn answer(&mut self) {
        let mut rx = std::mem::take(&mut self.rx);
        loop {
            let progress = self.call(&rx);
            assert!(progress.consumed <= rx.len());
            rx.drain(..progress.consumed);
            self.take(&progress);
            match progress.next {
                Next::Write => assert!(progress.written > 0, "wants to write, and wrote nothing"),
                Next::Read => break,
                Next::Close { .. } => {
                    assert!(rx.is_empty(), "a closed connection keeps unread bytes");
                    break;
                }
            }
        }
        self.rx = rx;
    }

    fn call(&mut self, rx: &[u8]) -> Progress {
        let context = context(self.now, &self.date, &self.limits);
        let (responder, now) = (self.responder, self.now);
        let mut answer =
            |request: &Request<'_>, writer: Writer<'_>| responder.respond(now, request, writer);
        let tx = &mut self.tx;
        match self.cache.as_deref_mut() {
            Some(cache) => self
                .connection
                .receive_cached(&context, cache, rx, tx, &mut answer),
            None => self.connection.receive(&context, rx, tx, &mut answer),
        }
    }

    /// The client shuts down its sending side.
    pub fn shut(&mut self) {
        let rx = std::mem::take(&mut self.rx);
        let context = context(self.now, &self.date, &self.limits);
        let progress = self.connection.receive_end(&context, &rx, &mut self.tx);
        assert!(matches!(progress.next, Next::Close { .. }));
        self.take(&progress);
    }

    /// Advances the clock, which may pass the deadline.
    pub fn pass(&mut self, duration: Duration) {
        self.now = self.now.saturating_add(duration);
        let context = context(self.now, &self.date, &self.limits);
        let is_due = self.now >= self.connection.deadline(&self.limits);
        if !is_due && self.end == End::Closed {
            return;
        }
        let progress = self.connection.expire(&context, &self.rx, &mut self.tx);
        assert_eq!(is_due, matches!(progress.next, Next::Close { .. }));
        assert!(is_due || (progress.written, progress.consumed) == (0, 0));
        self.take(&progress);
    }

    /// The time until the deadline.
    pub fn time_left(&self) -> Duration {
        self.connection
            .deadline(&self.limits)
            .saturating_since(self.now)
    }

    pub fn end(&self) -> End {
        self.end
    }

    pub fn outcome(self) -> Outcome {
        Outcome {
            sent: self.sent,
            end: self.end,
            phase: self.connection.phase(),
            kept: self.rx,
            answered: self.answered,
        }
    }

    fn take(&mut self, progress: &Progress) {
        let is_closed = self.end == End::Closed;
        assert!(
            !is_closed || progress.written == 0 && progress.answered == 0,
            "a closed connection answered"
        );
        assert!(
            !is_closed || matches!(progress.next, Next::Close { .. }),
            "a closed connection opened again"
        );
        assert!(progress.refusal.is_none() || progress.answered > 0);
        self.sent.extend_from_slice(&self.tx[..progress.written]);
        self.answered += progress.answered as usize;
        if matches!(progress.next, Next::Close { .. }) {
            self.end = End::Closed;
            assert_eq!(self.connection.phase(), Phase::Closing);
        }
    }
}

fn context<'a>(now: Instant, date: &'a Date, limits: &'a Limits) -> Context<'a> {
    Context {
        now,
        date: Some(date),
        limits,
        is_last: false,
        tx_bytes_max: 0,
    }
}
