//! One connection as a state machine: keep-alive, pipelining, bodies, limits, deadlines.
//!
//! Knows no socket, no clock and no answers: its caller supplies bytes, the time, and a function from
//! request to response. Called by [`crate::server`], or by a loop of your own.
//!
//! ```text
//!             bytes                whole head: answer at once        body drained
//!   Idle ------------------> Head ---------------------------> Body -------------> Idle
//!                             | refused: 4xx, 501, 505          | too long, malformed
//!                             v                                 v
//!                          Closing: no further answer; input is discarded until the client closes
//!                          or drain_duration is over
//! ```
//!
//! A phase that takes too long ends with a close at once: `Idle` after `idle_duration`, `Head` after `head_duration`
//! (with 408, except after empty lines alone), `Body` and `Closing` after `drain_duration`.
//!
//! | input | reaction | source |
//! |---|---|---|
//! | a head that announces a body | answered before the body comes | no probe waits for a body |
//! | a body of at most `body_drain_bytes` | discarded, then the next request | RFC 9112 9.3 |
//! | a longer body, a chunk whose size says that it is longer, or a body with `Expect: 100-continue` | answered, closed | RFC 9110 10.1.1 |
//! | a malformed chunk (see `body`) after the answer | closed without another answer | RFC 9112 7.1, 8 |
//! | `Connection: close`, HTTP/1.0 without keep-alive | the last answer; later bytes are never read as a request | RFC 9112 9.6 |
//! | empty lines before a request | up to [`LEADING_EMPTY_LINES_MAX`] ignored | RFC 9112 2.2 |
//! | the client's end in the middle of a head | 400, closed | as Go |
//! | nothing after empty lines for `head_duration` | closed without an answer | RFC 9112 2.2 |

use super::body::{Chunk, Malformed, drain_chunks};
use super::cache::HeadCache;
use super::request::{self, BodyLength, Parsed, Refusal, Request};
use super::response::{
    Answer, BodyWriter, BufferFull, Date, Fields, Persistence, StatusCode, Writer,
};
use crate::limits::{LEADING_EMPTY_LINES_MAX, Limits};
use crate::time::Instant;

/// The environment of a connection at one call.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The current time. Must not be earlier than in any call before.
    pub now: Instant,
    /// The Date field of answers; `None` if the caller has no wall clock (RFC 9110 section 6.6.1).
    pub date: Option<&'a Date>,
    /// The limits; must be the same in every call.
    pub limits: &'a Limits,
    /// True if the server is stopping: the next answer is the last of its connection.
    pub is_last: bool,
    /// The longest `tx` that the caller can provide, in bytes; 0 if it has none that is longer than the `tx` of this call.
    /// If an answer does not fit into an empty `tx` that is shorter, the result is [`Next::Write`] with nothing written.
    /// Call again with a `tx` of this size. So a caller can share a few buffers for long answers between its connections.
    pub tx_bytes_max: usize,
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Between requests: no byte of the next one was received.
    Idle,
    /// Part of a head was received.
    Head,
    /// The request was answered; part of its body has not arrived.
    Body,
    /// No further request is answered; further input is discarded.
    Closing,
}

/// What the caller must do next, after sending the written bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Call again when more bytes have come.
    Read,
    /// `tx` had no room for the next answer. Call again with the unconsumed bytes when all written bytes
    /// were sent. If none were written, call again with a `tx` of [`Context::tx_bytes_max`].
    Write,
    /// Shut down the sending side after the last byte.
    ///
    /// If `lingers`, the client may still be sending: continue to read (the bytes are discarded) until it
    /// ends or the deadline passes, then close. Otherwise close at once.
    Close {
        /// True if unread input is expected. Closing a socket with unread input resets the connection,
        /// and the answer may be lost.
        lingers: bool,
    },
}

/// The result of a call. Bytes after `consumed` must be passed again, followed by the bytes that come
/// after them.
#[must_use = "the bytes written must be sent and the rest of rx kept"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes at the start of `rx` that are no longer needed.
    pub consumed: usize,
    /// Bytes at the start of `tx` to send.
    pub written: usize,
    /// Answers written, refusals included.
    pub answered: u32,
    /// The status of the last of them if it is a refusal: 4xx, 501 or 505 for a head that is invalid, incomplete or
    /// too long. The function from request to response is not called for it, and the connection closes after it.
    pub refusal: Option<StatusCode>,
    /// What to do next.
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
    /// No further request is answered; `lingers` if the client is probably still sending.
    Closing {
        lingers: bool,
    },
}

/// A connection: its state between calls. It holds no bytes; see the [module](self).
///
/// Call [`receive`](Connection::receive) whenever bytes were received,
/// [`receive_end`](Connection::receive_end) when the client has ended its side, and
/// [`expire`](Connection::expire) when [`deadline`](Connection::deadline) has passed. After one of them
/// has returned [`Next::Close`], the connection stays closed: further input is consumed and never
/// answered.
#[derive(Clone, Debug)]
pub struct Connection {
    state: State,
    phase: Phase,
    /// The time when the phase began.
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

    /// Reads the received bytes, beginning with those that earlier calls did not consume. Answers each
    /// complete request, as long as `tx` has room. `rx` need not be longer than
    /// `limits.request_head_bytes`.
    ///
    /// The work is bounded by the sizes of `rx` and `tx`. `tx` should have room for the longest answer, or
    /// [`Context::tx_bytes_max`] should say that there is a longer one: an answer that does not fit into an empty `tx`
    /// becomes a 500.
    pub fn receive(
        &mut self,
        context: &Context<'_>,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<Answer, BufferFull>,
    ) -> Progress {
        self.receive_from(context, None, rx, tx, answer)
    }

    /// As [`receive`](Connection::receive), but does not parse a head again that is in `cache`. One cache
    /// serves any number of connections.
    pub fn receive_cached(
        &mut self,
        context: &Context<'_>,
        cache: &mut HeadCache,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<Answer, BufferFull>,
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
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<Answer, BufferFull>,
    ) -> Progress {
        let mut progress = Progress {
            consumed: 0,
            written: 0,
            answered: 0,
            refusal: None,
            next: Next::Read,
        };
        // Each round consumes input, writes an answer or leaves the loop, so the sizes of `rx` and `tx`
        // bound the number of rounds.
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
                        // The refused head is consumed by the state `Closing`, with all that follows it.
                        Step::Refused(answer) => {
                            progress.written += answer.bytes();
                            progress.answered += 1;
                            progress.refusal = Some(answer.status());
                        }
                        // The next call has all of `tx` for this answer, or a longer one.
                        Step::NoRoom if progress.written > 0 || tx.len() < context.tx_bytes_max => {
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
                    // No further byte is read as a request. If there is input, the client is still
                    // sending, and the caller must read it before closing.
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

    /// The client has ended its side: no more bytes will come. An incomplete head is answered with 400.
    pub fn receive_end(&mut self, context: &Context<'_>, rx: &[u8], tx: &mut [u8]) -> Progress {
        // In the other states no request waits for an answer.
        let is_cut = matches!(self.state, State::Head { .. }) && !rx.is_empty();
        let refusal = Refusal {
            status: StatusCode::BAD_REQUEST,
            detail: "the connection ended in the middle of the request head",
        };
        self.end(context, rx, tx, is_cut.then_some(refusal))
    }

    /// The deadline has passed. An incomplete head is answered with 408; without any byte of a head there
    /// is no answer. If the deadline has not passed at `context.now`, nothing happens and the result is
    /// [`Next::Read`].
    pub fn expire(&mut self, context: &Context<'_>, rx: &[u8], tx: &mut [u8]) -> Progress {
        if context.now < self.deadline(context.limits) {
            return Progress {
                consumed: 0,
                written: 0,
                answered: 0,
                refusal: None,
                next: Next::Read,
            };
        }
        let refusal = Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            detail: "the request head did not come in time",
        };
        // Empty lines alone are no head. A client that sends them after a body, for example, waits for
        // no answer.
        let is_cut = self.phase == Phase::Head && !matches!(rx, [] | [b'\r']);
        self.end(context, rx, tx, is_cut.then_some(refusal))
    }

    /// The time when [`expire`](Connection::expire) must be called.
    pub fn deadline(&self, limits: &Limits) -> Instant {
        self.since.saturating_add(match self.phase {
            Phase::Idle => limits.idle_duration,
            Phase::Head => limits.head_duration,
            Phase::Body | Phase::Closing => limits.drain_duration,
        })
    }

    /// The current phase.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The time when the current phase began.
    #[inline]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Enters `state`. Its phase begins at `now`.
    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.phase = match state {
            State::Head { .. } => Phase::Idle,
            State::Length { .. } | State::Chunked { .. } => Phase::Body,
            State::Closing { .. } => Phase::Closing,
        };
    }

    /// One step in the state `Head`: skips an empty line, answers or refuses one head, or waits.
    fn head(
        &mut self,
        context: &Context<'_>,
        cache: Option<&mut HeadCache>,
        empty_lines: u8,
        rx: &[u8],
        tx: &mut [u8],
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<Answer, BufferFull>,
    ) -> Step {
        // First, because nearly every head of a prober is in the cache.
        if let Some(request) = cache.as_ref().and_then(|cache| cache.get(rx)) {
            return self.answer(context, &request, rx.len(), tx, answer);
        }
        match rx {
            [] => {
                // After empty lines the deadline of a head continues to run. Otherwise a client could
                // keep the connection with an empty line from time to time.
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
            // The LF may come with the next bytes.
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
            // `rx` may be longer than the limit, and the head too.
            Ok(Parsed::Complete(request, used)) if used <= context.limits.request_head_bytes => {
                // A head that more bytes follow would not be found again: `get` compares all of `rx`.
                if let Some(cache) = cache.filter(|_| used == rx.len()) {
                    cache.insert(rx, &request);
                }
                self.answer(context, &request, used, tx, answer)
            }
            Ok(Parsed::Incomplete) if rx.len() < context.limits.request_head_bytes => {
                self.set_phase(Phase::Head, context.now);
                Step::Waiting
            }
            // The refusal depends on the bytes within the limit only, so it is the same for any pieces.
            Ok(_) => {
                let limit = context.limits.request_head_bytes;
                let refusal = request::refusal_of_long_head(rx.get(..limit).unwrap_or(rx));
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
        answer: &mut impl FnMut(&Request<'_>, Writer<'_>) -> Result<Answer, BufferFull>,
    ) -> Step {
        // The Connection field of the answer depends on what follows it.
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
            // The state changes only if the answer was written. Otherwise the next call parses the head
            // again and answers it.
            Ok(answer) => {
                self.enter(after, context.now);
                let written = answer.bytes();
                Step::Answered { used, written }
            }
            Err(BufferFull) => Step::NoRoom,
        }
    }

    /// The state after `request` is answered: its body, the next head, or the end.
    #[inline]
    fn state_after(&self, context: &Context<'_>, request: &Request<'_>) -> State {
        let budget = context.limits.body_drain_bytes;
        let stays = request.keep_alive && !request.is_framing_ambiguous && !context.is_last;
        match request.body {
            BodyLength::Known(0) if stays => State::Head { empty_lines: 0 },
            BodyLength::Known(0) => State::Closing { lingers: false },
            // After a final answer instead of 100, the client may send the body or not (RFC 9110
            // section 10.1.1). So the next byte may be of the body or of a request.
            _ if !stays || request.expects_continue => State::Closing { lingers: true },
            // Reading it would take longer than a new connection.
            BodyLength::Known(left) if left > budget => State::Closing { lingers: true },
            BodyLength::Known(left) => State::Length { left },
            BodyLength::Chunked => State::Chunked {
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
            // After an invalid head it is not known where the next request begins.
            Ok(answer) => {
                self.enter(State::Closing { lingers: true }, context.now);
                Step::Refused(answer)
            }
            Err(BufferFull) => Step::NoRoom,
        }
    }

    /// Closes the connection because `tx` is too small for the answer, with a 500 if that fits. This is a
    /// mistake of the caller, not of the client.
    fn give_up(&mut self, context: &Context<'_>, rx: &[u8], tx: &mut [u8]) -> usize {
        self.enter(State::Closing { lingers: true }, context.now);
        let writer = Writer::new(tx, context.date, Persistence::Close, !is_head(rx));
        writer
            .fixed(
                StatusCode::INTERNAL_SERVER_ERROR,
                Fields::Text,
                b"the answer does not fit in its buffer\n",
            )
            .map_or(0, |answer| answer.bytes())
    }

    fn end(
        &mut self,
        context: &Context<'_>,
        rx: &[u8],
        tx: &mut [u8],
        refusal: Option<Refusal>,
    ) -> Progress {
        // Without room for the refusal the connection closes without it: there is no later call.
        let written = refusal.and_then(|refusal| write_refusal(context, rx, tx, refusal).ok());
        self.enter(State::Closing { lingers: false }, context.now);
        Progress {
            consumed: rx.len(),
            written: written.map_or(0, |answer| answer.bytes()),
            answered: u32::from(written.is_some()),
            refusal: written.map(|answer| answer.status()),
            next: Next::Close { lingers: false },
        }
    }

    /// Enters `phase`. If it is the current one, the time when it began stays.
    fn set_phase(&mut self, phase: Phase, now: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    /// Discards bytes of the body; returns how many.
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
                // The length of a chunked body is not known in advance, so the bytes are counted.
                let affordable = rx.len().min(usize::try_from(budget).unwrap_or(usize::MAX));
                let rx = rx.get(..affordable).unwrap_or_default();
                let (used, step) = drain_chunks(chunk, rx);
                let left = budget - used as u64;
                // Do not wait for the data of a chunk that is longer than the budget.
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
                    // The body is too long, or its end cannot be found. The request was answered.
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

/// The result of one step in the state `Head`.
enum Step {
    /// An empty line of so many bytes was skipped.
    Skipped(usize),
    /// The head is incomplete.
    Waiting,
    Answered {
        used: usize,
        written: usize,
    },
    Refused(Answer),
    /// The answer does not fit into the rest of `tx`.
    NoRoom,
}

/// True if `rx` begins with the method HEAD. Its answer has no body, even if the rest of the head is
/// invalid.
fn is_head(rx: &[u8]) -> bool {
    rx.starts_with(b"HEAD ")
}

fn write_refusal(
    context: &Context<'_>,
    rx: &[u8],
    tx: &mut [u8],
    refusal: Refusal,
) -> Result<Answer, BufferFull> {
    let writer = Writer::new(tx, context.date, Persistence::Close, !is_head(rx));
    let Refusal { status, detail } = refusal;
    // The text helps the author of the client: `400 Bad Request: the Host field is missing`.
    writer.rendered(Fields::Text, |text: &mut BodyWriter<'_>| {
        text.push(status.line().as_bytes());
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
            tx_bytes_max: 0,
        }
    }

    /// A connection, the bytes that it has not consumed, and everything it wrote.
    struct TestConnection {
        connection: Connection,
        rx: Vec<u8>,
        written: Vec<u8>,
        tx_bytes: usize,
    }

    impl TestConnection {
        fn new() -> Self {
            TestConnection {
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
                // A small `tx` takes several calls, as in a server that sends in between.
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
    fn answers_are_the_same_and_in_order_with_little_room() {
        let mut wide = TestConnection::new();
        let mut narrow = TestConnection::new();
        narrow.tx_bytes = 150;
        for client in [&mut wide, &mut narrow] {
            assert_eq!(client.send(0, &GET.repeat(20)), Next::Read);
            assert_eq!(client.statuses().len(), 20);
            assert_eq!(client.connection.phase(), Phase::Idle);
        }
        assert_eq!(wide.written, narrow.written);
    }

    #[test]
    fn an_answer_that_does_not_fit_becomes_a_500_and_a_close() {
        let mut client = TestConnection::new();
        client.tx_bytes = 200;
        client.rx = GET.to_vec();
        let mut tx = [0; 200];
        let mut big = |_: &Request<'_>, writer: Writer<'_>| {
            writer.fixed(StatusCode::OK, Fields::Text, &[b'x'; 500])
        };
        let progress = client
            .connection
            .receive(&at(0), &client.rx, &mut tx, &mut big);
        assert!(tx[..progress.written].starts_with(b"HTTP/1.1 500 "));
        assert_eq!(progress.next, Next::Close { lingers: true });
    }

    #[test]
    fn an_answer_that_does_not_fit_has_no_body_for_head() {
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
    fn a_closed_connection_stays_closed() {
        let mut client = TestConnection::new();
        assert_eq!(
            client.send(0, b"GET / HTTP/1.0\r\n\r\n"),
            Next::Close { lingers: false }
        );
        let written = client.written.len();
        for _ in 0..3 {
            assert_eq!(client.send(1, GET), Next::Close { lingers: true });
        }
        assert_eq!(client.written.len(), written);
        let mut tx = [0; 512];
        let progress = client.connection.receive_end(&at(2), b"GET", &mut tx);
        assert_eq!(
            (progress.written, progress.next),
            (0, Next::Close { lingers: false })
        );
    }

    #[test]
    fn the_deadline_of_a_head_counts_from_its_first_byte() {
        let mut client = TestConnection::new();
        let limits = Limits::DEFAULT;
        let due = |client: &TestConnection| client.connection.deadline(&limits);
        assert_eq!(
            due(&client),
            Instant::ZERO.saturating_add(limits.idle_duration)
        );
        for (ms, byte) in GET[..10].iter().enumerate() {
            client.send(100 + ms as u64, &[*byte]);
            assert_eq!(
                due(&client),
                Instant::from_millis(100).saturating_add(limits.head_duration)
            );
        }
        client.send(500, &GET[10..]);
        assert_eq!(
            due(&client),
            Instant::from_millis(500).saturating_add(limits.idle_duration)
        );
    }

    #[test]
    fn an_incomplete_head_gets_408_and_an_idle_connection_no_answer() {
        let mut tx = [0; 512];
        let late = |client: &mut TestConnection, ms: u64, tx: &mut [u8]| {
            client.connection.expire(&at(ms), &client.rx, tx)
        };
        let mut client = TestConnection::new();
        client.send(0, b"GET");
        assert_eq!(late(&mut client, 9_999, &mut tx).next, Next::Read);
        let progress = late(&mut client, 10_000, &mut tx);
        assert!(tx[..progress.written].starts_with(b"HTTP/1.1 408 "));
        assert_eq!(progress.next, Next::Close { lingers: false });
        let mut silent = TestConnection::new();
        let progress = late(&mut silent, 60_000, &mut tx);
        assert_eq!(
            (progress.written, progress.next),
            (0, Next::Close { lingers: false })
        );
    }

    #[test]
    fn the_next_request_begins_where_a_chunked_body_ends() {
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (body, statuses, is_open) in [
            // The second number counts the answers: one to the POST and one to the GET after it.
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
            let mut client = TestConnection::new();
            let next = client.send(0, &[chunked, body, GET].concat());
            assert_eq!(
                client.statuses().len(),
                statuses,
                "{}",
                String::from_utf8_lossy(body)
            );
            assert_eq!(next == Next::Read, is_open);
        }
    }

    #[test]
    fn a_body_in_chunks_over_the_limit_closes_the_connection() {
        let budget = Limits::DEFAULT.body_drain_bytes;
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut client = TestConnection::new();
        client.send(0, chunked);
        let chunk = [&b"3e8\r\n"[..], &[b'x'; 1000], b"\r\n"].concat();
        let mut sent = 0;
        while client.send(0, &chunk) == Next::Read {
            sent += chunk.len() as u64;
            assert!(sent <= budget, "the limit is exceeded");
        }
        assert!(sent + chunk.len() as u64 >= budget);
        assert_eq!(client.statuses(), ["200"]);
        // The size line of a chunk is enough to know that its data is too long.
        for (size, is_open) in [(budget - 7, true), (budget - 6, false), (u64::MAX, false)] {
            let mut client = TestConnection::new();
            let size_line = std::format!("{size:x}\r\n");
            assert_eq!(client.send(0, chunked), Next::Read);
            let next = client.send(0, size_line.as_bytes());
            assert_eq!(next == Next::Read, is_open, "{size}");
            assert_eq!(client.statuses(), ["200"]);
        }
    }

    /// Otherwise a client could keep the connection open with an empty line from time to time.
    #[test]
    fn the_deadline_of_a_head_runs_after_empty_lines_alone() {
        let mut client = TestConnection::new();
        client.send(7, b"\r\n");
        assert_eq!(
            (client.connection.phase(), client.connection.since()),
            (Phase::Head, Instant::from_millis(7))
        );
    }
}
