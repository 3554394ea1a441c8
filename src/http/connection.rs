//! One connection as a state machine: keep-alive, pipelining, bodies, limits, deadlines.
//!
//! Knows no socket and no clock, and does not know what is answered: the caller hands in a function
//! from request to response. Used by [`crate::server`], and by whoever has bytes and a time.
//!
//! ```text
//!             bytes                whole head: answer at once        body drained
//!   Idle ------------------> Head ---------------------------> Body -------------> Idle
//!    | nothing for            | nothing whole for               | too late,
//!    | idle_duration          | head_duration: 408              | too long, malformed
//!    v                        v                                 v
//!   close                  Closing: nothing more is answered; what comes is thrown away until the
//!                          peer closes or drain_duration is over
//! ```
//!
//! | seen | done | source |
//! |---|---|---|
//! | a head with a body announced | answered before the body | so that no probe waits |
//! | a body of at most `body_drain_bytes` | thrown away, then the next request | RFC 9112 9.3 |
//! | a longer one, also a chunk whose size says so, or `Expect: 100-continue` | answered, closed | RFC 9110 10.1.1 |
//! | a malformed chunk (see `body`) after the answer | closed without another answer | RFC 9112 7.1, 8 |
//! | `Connection: close`, HTTP/1.0 without keep-alive | the last answer; what follows is never read as a request | RFC 9112 9.6 |
//! | empty lines before a request | up to [`LEADING_EMPTY_LINES_MAX`] ignored | RFC 9112 2.2 |
//! | the peer's end in the middle of a head | 400, closed | as Go |
//! | nothing behind empty lines for `head_duration` | closed without an answer | RFC 9112 2.2 |

use super::body::{Chunk, Malformed, drain_chunks};
use super::cache::HeadCache;
use super::request::{self, Body, Parsed, Refusal, Request};
use super::response::{Date, Fields, Full, Persistence, StatusCode, Text, Writer};
use crate::limits::{LEADING_EMPTY_LINES_MAX, Limits};
use crate::time::Instant;

/// What a connection needs to know of the world at one call.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The present. Must not be earlier than in any call before.
    pub now: Instant,
    /// The Date field for answers; `None` if the caller has no wall clock (RFC 9110 section 6.6.1).
    pub date: Option<&'a Date>,
    /// The bounds; must be the same in every call.
    pub limits: &'a Limits,
    /// The server is closing: every answer is its connection's last.
    pub is_last: bool,
}

/// Where a connection is in its life, in the order of what may be taken from it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Between requests; no byte of the next one has come.
    Idle,
    /// Some bytes of a head have come, but not all.
    Head,
    /// The answer is given; the request's body is still coming in.
    Body,
    /// The last answer is given; what still comes is thrown away.
    Closing,
}

/// What the caller has to do next, after sending what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Bring more bytes when there are some.
    Read,
    /// `tx` was too small for the next answer as well: call again with the unconsumed bytes once
    /// everything written was sent.
    Write,
    /// Shut down the sending side behind the last byte. If `lingers`, the peer may still be sending:
    /// go on reading (the bytes are thrown away) until it ends or the deadline passes, then close.
    /// Otherwise close at once.
    Close {
        /// Whether unread input is to be expected.
        lingers: bool,
    },
}

/// What a call did. Bytes beyond `consumed` must be offered again, together with what follows them.
#[must_use = "the bytes written must be sent and the rest of rx kept"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes at the start of `rx` that are done with.
    pub consumed: usize,
    /// Bytes at the start of `tx` to send.
    pub written: usize,
    /// Requests that were answered, refused ones included.
    pub answered: u32,
    /// Answers that told the peer of a mistake of its own before it was even asked (4xx and 501, 505
    /// for a head that is not acceptable).
    pub refused: u32,
    /// Then what.
    pub next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for a head, or reading one.
    Head {
        empty_lines: u8,
    },
    Length {
        left: u64,
    },
    Chunked {
        chunk: Chunk,
        budget: u64,
    },
    /// The last answer is given; `lingers` if the peer is known or likely to be still sending.
    Closing {
        lingers: bool,
    },
}

/// See the [module](self).
///
/// Call order: [`receive`](Connection::receive) with what came, as often as something comes;
/// [`receive_end`](Connection::receive_end) when the peer ended its side; [`expire`](Connection::expire)
/// when [`deadline`](Connection::deadline) has passed. Once any of them returned [`Next::Close`] the
/// connection stays closed: further input is consumed and never answered.
#[derive(Clone, Debug)]
pub struct Connection {
    state: State,
    phase: Phase,
    /// When the phase began.
    since: Instant,
}

impl Connection {
    /// A connection that was accepted at `now`.
    pub const fn new(now: Instant) -> Self {
        Connection {
            state: State::Head { empty_lines: 0 },
            phase: Phase::Idle,
            since: now,
        }
    }

    /// Takes the bytes that came, unconsumed ones of earlier calls first, and answers every request
    /// in them as far as `tx` has room. `rx` need never be longer than `limits.request_head_bytes`.
    ///
    /// Work is bounded by the size of `rx` and `tx`. `tx` should have room for the longest answer;
    /// one that does not fit even into an empty `tx` becomes a 500.
    pub fn receive(
        &mut self,
        context: &Context<'_>,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<usize, Full>,
    ) -> Progress {
        self.receive_from(context, None, rx, tx, answer)
    }

    /// As [`receive`](Connection::receive), and heads that `cache` remembers are not parsed again.
    /// One cache serves any number of connections.
    pub fn receive_cached(
        &mut self,
        context: &Context<'_>,
        cache: &mut HeadCache,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<usize, Full>,
    ) -> Progress {
        self.receive_from(context, Some(cache), rx, tx, answer)
    }

    #[inline]
    fn receive_from(
        &mut self,
        context: &Context<'_>,
        mut cache: Option<&mut HeadCache>,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<usize, Full>,
    ) -> Progress {
        let mut progress = Progress {
            consumed: 0,
            written: 0,
            answered: 0,
            refused: 0,
            next: Next::Read,
        };
        loop {
            let rx = rx.get(progress.consumed..).unwrap_or_default();
            let tx = tx.get_mut(progress.written..).unwrap_or_default();
            match self.state {
                State::Head { empty_lines } => {
                    match self.head(context, cache.as_deref_mut(), empty_lines, rx, tx, answer) {
                        Step::Skipped(used) => progress.consumed += used,
                        Step::Waiting => break,
                        Step::Answered { used, written } => {
                            progress.consumed += used;
                            progress.written += written;
                            progress.answered += 1;
                        }
                        Step::Refused { written } => {
                            progress.written += written;
                            progress.answered += 1;
                            progress.refused += 1;
                        }
                        Step::NoRoom if progress.written > 0 => {
                            progress.next = Next::Write;
                            return progress;
                        }
                        Step::NoRoom => {
                            progress.written = self.give_up(context, rx, tx);
                            progress.answered += 1;
                        }
                    }
                }
                State::Length { .. } | State::Chunked { .. } => {
                    if rx.is_empty() {
                        break;
                    }
                    progress.consumed += self.drain(context, rx);
                }
                State::Closing { lingers } => {
                    // Nothing more is a request; whoever still sends is read out by the caller.
                    progress.consumed += rx.len();
                    progress.next = Next::Close {
                        lingers: lingers || !rx.is_empty(),
                    };
                    return progress;
                }
            }
        }
        debug_assert!(
            self.phase != Phase::Closing,
            "a closing connection asked for more"
        );
        progress
    }

    /// The peer has ended its side: no more bytes will come. A head cut short is answered with 400.
    pub fn receive_end(&mut self, context: &Context<'_>, rx: &[u8], tx: &mut [u8]) -> Progress {
        let is_cut = matches!(self.state, State::Head { .. }) && !rx.is_empty();
        let refusal = Refusal {
            status: StatusCode::BAD_REQUEST,
            detail: "the connection ended in the middle of the request head",
        };
        self.end(context, rx, tx, is_cut.then_some(refusal))
    }

    /// The deadline has passed. A head that did not come in time is answered with 408, silence with
    /// silence. If the deadline has not passed at `context.now` nothing happens, and the result is
    /// [`Next::Read`].
    pub fn expire(&mut self, context: &Context<'_>, rx: &[u8], tx: &mut [u8]) -> Progress {
        if context.now < self.deadline(context.limits) {
            return Progress {
                consumed: 0,
                written: 0,
                answered: 0,
                refused: 0,
                next: Next::Read,
            };
        }
        let refusal = Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            detail: "the request head did not come in time",
        };
        // Empty lines are no head: who has sent nothing else, behind a body for example, waits for no answer.
        let is_cut = self.phase == Phase::Head && !matches!(rx, [] | [b'\r']);
        self.end(context, rx, tx, is_cut.then_some(refusal))
    }

    /// When [`expire`](Connection::expire) is due.
    pub fn deadline(&self, limits: &Limits) -> Instant {
        self.since.saturating_add(match self.phase {
            Phase::Idle => limits.idle_duration,
            Phase::Head => limits.head_duration,
            Phase::Body | Phase::Closing => limits.drain_duration,
        })
    }

    /// Where the connection is in its life.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the phase began.
    #[inline]
    pub fn since(&self) -> Instant {
        self.since
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.phase = match state {
            State::Head { .. } => Phase::Idle,
            State::Length { .. } | State::Chunked { .. } => Phase::Body,
            State::Closing { .. } => Phase::Closing,
        };
    }

    /// One step in the state `Head`.
    fn head(
        &mut self,
        context: &Context<'_>,
        cache: Option<&mut HeadCache>,
        empty_lines: u8,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<usize, Full>,
    ) -> Step {
        if let Some(request) = cache.as_ref().and_then(|cache| cache.get(rx)) {
            return self.answer(context, &request, rx.len(), tx, answer);
        }
        match rx {
            [] => {
                if empty_lines == 0 {
                    self.set_phase(Phase::Idle, context.now);
                }
                return Step::Waiting;
            }
            [b'\r', b'\n', ..] | [b'\n', ..] if empty_lines < LEADING_EMPTY_LINES_MAX => {
                self.set_phase(Phase::Head, context.now);
                self.state = State::Head {
                    empty_lines: empty_lines + 1,
                };
                return Step::Skipped(if rx.first() == Some(&b'\n') { 1 } else { 2 });
            }
            [b'\r'] if empty_lines < LEADING_EMPTY_LINES_MAX => {
                self.set_phase(Phase::Head, context.now);
                return Step::Waiting;
            }
            [b'\r' | b'\n', ..] => {
                let detail = "there is no request line";
                return self.refuse(
                    context,
                    rx,
                    tx,
                    Refusal {
                        status: StatusCode::BAD_REQUEST,
                        detail,
                    },
                );
            }
            _ => {}
        }
        match request::parse(rx) {
            Ok(Parsed::Complete(request, used)) if used <= context.limits.request_head_bytes => {
                if let Some(cache) = cache.filter(|_| used == rx.len()) {
                    cache.insert(rx, &request);
                }
                self.answer(context, &request, used, tx, answer)
            }
            Ok(Parsed::Incomplete) if rx.len() < context.limits.request_head_bytes => {
                self.set_phase(Phase::Head, context.now);
                Step::Waiting
            }
            Ok(_) => {
                let limit = context.limits.request_head_bytes;
                let refusal = request::too_long(rx.get(..limit).unwrap_or(rx));
                self.refuse(context, rx, tx, refusal)
            }
            Err(refusal) => self.refuse(context, rx, tx, refusal),
        }
    }

    fn answer(
        &mut self,
        context: &Context<'_>,
        request: &Request<'_>,
        used: usize,
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<usize, Full>,
    ) -> Step {
        let after = self.state_after(context, request);
        let persistence = match after {
            State::Closing { .. } => Persistence::Close,
            _ if request.is_http10 => Persistence::KeepAlive,
            _ => Persistence::Open,
        };
        let has_body = request.method != request::Method::Head;
        match answer(
            request,
            Writer::new(tx, context.date, persistence, has_body),
        ) {
            Ok(written) => {
                self.enter(after, context.now);
                Step::Answered { used, written }
            }
            Err(Full) => Step::NoRoom,
        }
    }

    /// What follows a request that is answered: its body, the next head, or nothing.
    fn state_after(&self, context: &Context<'_>, request: &Request<'_>) -> State {
        let budget = context.limits.body_drain_bytes;
        let stays = request.keep_alive && !request.is_framing_doubtful && !context.is_last;
        match request.body {
            Body::Length(0) if stays => State::Head { empty_lines: 0 },
            Body::Length(0) => State::Closing { lingers: false },
            // Whether a body follows an expectation that got a final answer is the client's choice.
            _ if !stays || request.expects_continue => State::Closing { lingers: true },
            Body::Length(left) if left > budget => State::Closing { lingers: true },
            Body::Length(left) => State::Length { left },
            Body::Chunked => State::Chunked {
                chunk: Chunk::start(),
                budget,
            },
        }
    }

    fn refuse(
        &mut self,
        context: &Context<'_>,
        rx: &[u8],
        tx: &mut [u8],
        refusal: Refusal,
    ) -> Step {
        match write_refusal(context, rx, tx, refusal) {
            Ok(written) => {
                self.enter(State::Closing { lingers: true }, context.now);
                Step::Refused { written }
            }
            Err(Full) => Step::NoRoom,
        }
    }

    /// Our own mistake: a `tx` too small for the answer. The connection closes with a 500 if that fits.
    fn give_up(&mut self, context: &Context<'_>, rx: &[u8], tx: &mut [u8]) -> usize {
        self.enter(State::Closing { lingers: true }, context.now);
        let writer = Writer::new(tx, context.date, Persistence::Close, !is_head(rx));
        writer
            .fixed(
                StatusCode::INTERNAL_SERVER_ERROR,
                Fields::Text,
                b"the answer does not fit in its buffer\n",
            )
            .unwrap_or(0)
    }

    fn end(
        &mut self,
        context: &Context<'_>,
        rx: &[u8],
        tx: &mut [u8],
        refusal: Option<Refusal>,
    ) -> Progress {
        let written = refusal.and_then(|refusal| write_refusal(context, rx, tx, refusal).ok());
        self.enter(State::Closing { lingers: false }, context.now);
        Progress {
            consumed: rx.len(),
            written: written.unwrap_or(0),
            answered: u32::from(written.is_some()),
            refused: u32::from(written.is_some()),
            next: Next::Close { lingers: false },
        }
    }

    /// Keeps the time at which the phase began if it is the same.
    fn set_phase(&mut self, phase: Phase, now: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    /// Throws body bytes away; returns how many.
    fn drain(&mut self, context: &Context<'_>, rx: &[u8]) -> usize {
        match self.state {
            State::Length { left } => {
                let used = rx.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match left - used as u64 {
                    0 => self.enter(State::Head { empty_lines: 0 }, context.now),
                    left => self.state = State::Length { left },
                }
                used
            }
            State::Chunked { chunk, budget } => {
                let affordable = rx.len().min(usize::try_from(budget).unwrap_or(usize::MAX));
                let rx = rx.get(..affordable).unwrap_or_default();
                let (used, step) = drain_chunks(chunk, rx);
                let left = budget - used as u64;
                // The data of a chunk that is longer than the budget is not waited for.
                let is_too_long =
                    matches!(step, Ok(Some(Chunk::Data { left: data })) if data > left);
                match step {
                    Ok(Some(chunk)) if left > 0 && !is_too_long => {
                        self.state = State::Chunked {
                            chunk,
                            budget: left,
                        }
                    }
                    Ok(None) => self.enter(State::Head { empty_lines: 0 }, context.now),
                    Ok(Some(_)) | Err(Malformed) => {
                        self.enter(State::Closing { lingers: true }, context.now)
                    }
                }
                used
            }
            State::Head { .. } | State::Closing { .. } => 0,
        }
    }
}

/// What one look at a head came to.
enum Step {
    Skipped(usize),
    Waiting,
    Answered { used: usize, written: usize },
    Refused { written: usize },
    NoRoom,
}

/// Whether `rx` begins with a HEAD, which gets no body even if the method is all that is right about it.
fn is_head(rx: &[u8]) -> bool {
    rx.starts_with(b"HEAD ")
}

fn write_refusal(
    context: &Context<'_>,
    rx: &[u8],
    tx: &mut [u8],
    refusal: Refusal,
) -> Result<usize, Full> {
    let writer = Writer::new(tx, context.date, Persistence::Close, !is_head(rx));
    let Refusal { status, detail } = refusal;
    writer.rendered(Fields::Text, |text: &mut Text<'_>| {
        text.push_number(u64::from(status.code()));
        text.push(b" ");
        text.push(status.phrase().as_bytes());
        text.push(b": ");
        text.push(detail.as_bytes());
        text.push(b"\n");
        status
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn at(ms: u64) -> Context<'static> {
        Context {
            now: Instant::from_millis(ms),
            date: None,
            limits: &Limits::DEFAULT,
            is_last: false,
        }
    }

    /// A connection, the bytes it has not consumed, and everything it wrote.
    struct Peer {
        connection: Connection,
        rx: Vec<u8>,
        written: Vec<u8>,
        tx_bytes: usize,
    }

    impl Peer {
        fn new() -> Self {
            Peer {
                connection: Connection::new(Instant::ZERO),
                rx: Vec::new(),
                written: Vec::new(),
                tx_bytes: 4096,
            }
        }

        fn send(&mut self, ms: u64, bytes: &[u8]) -> Next {
            self.rx.extend_from_slice(bytes);
            loop {
                let mut tx = std::vec![0; self.tx_bytes];
                let mut ok = |_: &Request<'_>, writer: Writer<'_>| writer.ok();
                let progress = self.connection.receive(&at(ms), &self.rx, &mut tx, &mut ok);
                self.rx.drain(..progress.consumed);
                self.written.extend_from_slice(&tx[..progress.written]);
                if progress.next != Next::Write {
                    return progress.next;
                }
            }
        }

        fn statuses(&self) -> Vec<String> {
            let text = String::from_utf8(self.written.clone()).unwrap();
            let answers = text.split("HTTP/1.1 ").skip(1);
            answers
                .map(|answer| answer.chars().take(3).collect())
                .collect()
        }
    }

    #[test]
    fn answers_come_in_order_however_little_room_there_is() {
        let mut wide = Peer::new();
        let mut narrow = Peer::new();
        narrow.tx_bytes = 150;
        for peer in [&mut wide, &mut narrow] {
            assert_eq!(peer.send(0, &GET.repeat(20)), Next::Read);
            assert_eq!(peer.statuses().len(), 20);
            assert_eq!(peer.connection.phase(), Phase::Idle);
        }
        assert_eq!(wide.written, narrow.written);
    }

    #[test]
    fn an_answer_that_fits_nowhere_becomes_a_500_and_a_close() {
        let mut peer = Peer::new();
        peer.tx_bytes = 200;
        peer.rx = GET.to_vec();
        let mut tx = [0; 200];
        let mut big = |_: &Request<'_>, writer: Writer<'_>| {
            writer.fixed(StatusCode::OK, Fields::Text, &[b'x'; 500])
        };
        let progress = peer.connection.receive(&at(0), &peer.rx, &mut tx, &mut big);
        assert!(tx[..progress.written].starts_with(b"HTTP/1.1 500 "));
        assert_eq!(progress.next, Next::Close { lingers: true });
    }

    #[test]
    fn an_answer_that_fits_nowhere_has_no_body_for_head() {
        let mut tx = [0; 200];
        let mut big = |_: &Request<'_>, writer: Writer<'_>| {
            writer.rendered(Fields::Text, |text| {
                text.push(&[b'x'; 500]);
                StatusCode::OK
            })
        };
        let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut connection = Connection::new(Instant::ZERO);
        let progress = connection.receive(&at(0), head, &mut tx, &mut big);
        let answer = &tx[..progress.written];
        assert!(answer.starts_with(b"HTTP/1.1 500 ") && answer.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn an_ended_connection_stays_ended() {
        let mut peer = Peer::new();
        assert_eq!(
            peer.send(0, b"GET / HTTP/1.0\r\n\r\n"),
            Next::Close { lingers: false }
        );
        let written = peer.written.len();
        for _ in 0..3 {
            assert_eq!(peer.send(1, GET), Next::Close { lingers: true });
        }
        assert_eq!(peer.written.len(), written);
        let mut tx = [0; 512];
        let progress = peer.connection.receive_end(&at(2), b"GET", &mut tx);
        assert_eq!(
            (progress.written, progress.next),
            (0, Next::Close { lingers: false })
        );
    }

    #[test]
    fn the_head_deadline_counts_from_its_first_byte() {
        let mut peer = Peer::new();
        let limits = Limits::DEFAULT;
        let due = |peer: &Peer| peer.connection.deadline(&limits);
        assert_eq!(
            due(&peer),
            Instant::ZERO.saturating_add(limits.idle_duration)
        );
        for (ms, byte) in GET[..10].iter().enumerate() {
            peer.send(100 + ms as u64, &[*byte]);
            assert_eq!(
                due(&peer),
                Instant::from_millis(100).saturating_add(limits.head_duration)
            );
        }
        peer.send(500, &GET[10..]);
        assert_eq!(
            due(&peer),
            Instant::from_millis(500).saturating_add(limits.idle_duration)
        );
    }

    #[test]
    fn a_late_head_gets_408_and_a_late_nothing_gets_nothing() {
        let mut tx = [0; 512];
        let late =
            |peer: &mut Peer, ms: u64, tx: &mut [u8]| peer.connection.expire(&at(ms), &peer.rx, tx);
        let mut peer = Peer::new();
        peer.send(0, b"GET");
        assert_eq!(late(&mut peer, 9_999, &mut tx).next, Next::Read);
        let progress = late(&mut peer, 10_000, &mut tx);
        assert!(tx[..progress.written].starts_with(b"HTTP/1.1 408 "));
        assert_eq!(progress.next, Next::Close { lingers: false });
        let mut silent = Peer::new();
        let progress = late(&mut silent, 60_000, &mut tx);
        assert_eq!(
            (progress.written, progress.next),
            (0, Next::Close { lingers: false })
        );
    }

    #[test]
    fn a_chunked_body_is_followed_to_its_end_and_not_beyond() {
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (body, statuses, is_open) in [
            (&b"0\r\n\r\n"[..], 2, true),
            (b"5;a=\"b\"\r\nGET /\r\n00\r\nX: y\r\n\r\n", 2, true),
            (b"5\r\nGET /X", 1, false),
            (b"5\nGET /\r\n0\r\n\r\n", 1, false),
            (b"5;\r\nGET /\r\n0\r\n\r\n", 1, false),
            (b"5;a=\"b\r\nGET /\r\n0\r\n\r\n", 1, false),
            (b"FFFFFFFFFFFFFFFFF\r\n", 1, false),
            (b"\r\n", 1, false),
            (b"0\r\n\n", 1, false),
            (b"0\r\nX : y\r\n\r\n", 1, false),
        ] {
            let mut peer = Peer::new();
            let next = peer.send(0, &[chunked, body, GET].concat());
            assert_eq!(
                peer.statuses().len(),
                statuses,
                "{}",
                String::from_utf8_lossy(body)
            );
            assert_eq!(next == Next::Read, is_open);
        }
    }

    #[test]
    fn a_body_beyond_the_bound_closes_the_connection() {
        let budget = Limits::DEFAULT.body_drain_bytes;
        let head = |length: u64| {
            std::format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
        };
        assert_eq!(Peer::new().send(0, head(budget).as_bytes()), Next::Read);
        assert_eq!(
            Peer::new().send(0, head(budget + 1).as_bytes()),
            Next::Close { lingers: true }
        );
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut peer = Peer::new();
        peer.send(0, chunked);
        let chunk = [&b"3e8\r\n"[..], &[b'x'; 1000], b"\r\n"].concat();
        let mut sent = 0;
        while peer.send(0, &chunk) == Next::Read {
            sent += chunk.len() as u64;
            assert!(sent <= budget, "the bound is not kept");
        }
        assert!(sent + chunk.len() as u64 >= budget);
        assert_eq!(peer.statuses(), ["200"]);
        // The size line of a chunk is enough to know that its data is too long.
        for (size, is_open) in [(budget - 7, true), (budget - 6, false), (u64::MAX, false)] {
            let mut peer = Peer::new();
            let size_line = std::format!("{size:x}\r\n");
            assert_eq!(peer.send(0, chunked), Next::Read);
            let next = peer.send(0, size_line.as_bytes());
            assert_eq!(next == Next::Read, is_open, "{size}");
            assert_eq!(peer.statuses(), ["200"]);
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_ignored_up_to_a_bound() {
        let lines = |count: u8| [b"\r\n".repeat(usize::from(count)), GET.to_vec()].concat();
        for count in 0..=LEADING_EMPTY_LINES_MAX {
            let mut peer = Peer::new();
            assert_eq!(peer.send(0, &lines(count)), Next::Read);
            assert_eq!(peer.statuses(), ["200"]);
        }
        let mut peer = Peer::new();
        peer.send(0, &lines(LEADING_EMPTY_LINES_MAX + 1));
        assert_eq!(peer.statuses(), ["400"]);
        // A client that sends nothing else is reading its head, and runs out of time for it.
        let mut peer = Peer::new();
        peer.send(7, b"\r\n");
        assert_eq!(
            (peer.connection.phase(), peer.connection.since()),
            (Phase::Head, Instant::from_millis(7))
        );
    }

    #[test]
    fn a_head_as_long_as_its_buffer_is_answered_and_a_longer_one_refused() {
        let limit = Limits::DEFAULT.request_head_bytes;
        let with_field = |bytes: usize| {
            let start = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
            let fill = std::vec![b'x'; bytes - start.len() - 4];
            [start, fill, b"\r\n\r\n".to_vec()].concat()
        };
        let with_target = |bytes: usize| {
            let fill = std::vec![b'x'; bytes - 28];
            [
                b"GET /".to_vec(),
                fill,
                b" HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            ]
            .concat()
        };
        for (head, status) in [
            (with_field(limit - 1), "200"),
            (with_field(limit), "200"),
            (with_field(limit + 1), "431"),
            (with_target(limit), "200"),
            (with_target(limit + 100), "414"),
        ] {
            let mut peer = Peer::new();
            for part in head.chunks(1000) {
                peer.send(0, part);
            }
            assert_eq!(peer.statuses(), [status], "{} bytes", head.len());
        }
    }
}
