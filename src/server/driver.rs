//! Serves one connection at a time: reads, answers and sends.
//!
//! Knows no table. Unfinished heads and unsent answers are left in the shared buffers; the caller,
//! [`super::table`], copies them to the connection's own.

use core::ops::Range;
use std::io;

use super::buffers::Buffers;
use super::conn::Conn;
use super::counters::{LiveCounters, ServerCounters};
use super::memory::Managed;
use super::served::Served;
use super::socket::StreamSocket;
use crate::answer::Responder;
use crate::http::{Context, Date, HeadCache, Next, Phase, Progress, Request};
use crate::limits::Limits;
use crate::time::Instant;

/// Most reads from one connection each time it is served: leftover requests are answered before new bytes are
/// read, and the client's end comes after the bytes. But one buffer full of requests or answers is the quantum of
/// each connection, because a full buffer can hold requests that take a millisecond. The rest waits in the run
/// queue, so that new connections do not wait for it.
const READS_MAX: usize = 4;
/// If the first read of a connection fills the buffer, or if more connections wait to be accepted, process only
/// this many bytes when it is accepted. It is more than a probe sends. The rest waits in the run queue.
const FIRST_BYTES: usize = 512;

/// Most bytes of a request's path in a log record.
const LOGGED_PATH_BYTES_MAX: usize = 100;

/// The result of serving a connection.
pub(super) enum Outcome {
    /// It ended: drop it.
    Closed,
    /// It ended by an error of the socket.
    Failed,
    /// It waits for the next event. This many bytes at the start of `rx` must be kept.
    Waiting { received: usize },
    /// It has more to do than one quantum; as above.
    Runnable { received: usize },
    /// Sending is blocked: these bytes of `tx` must be kept as well.
    Blocked {
        received: usize,
        unsent: Range<usize>,
    },
}

/// Serves connections: everything that each answer needs.
pub(super) struct Driver<'a> {
    pub(super) responder: Served<'a>,
    pub(super) limits: Limits,
    pub(super) date: Option<Date>,
    pub(super) is_last: bool,
    /// More connections wait to be accepted than one call of `advance` accepts.
    pub(super) is_flooded: bool,
    /// Behind a pointer, because a server is moved a few times before it runs, and stacks are small.
    pub(super) heads: Managed<'a, HeadCache>,
    pub(super) buffers: Buffers<'a>,
    pub(super) counters: ServerCounters,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        responder: Responder<'a>,
        limits: Limits,
        buffers: Buffers<'a>,
        heads: Managed<'a, HeadCache>,
    ) -> Self {
        Driver {
            responder: Served::new(responder),
            limits,
            date: None,
            is_last: false,
            is_flooded: false,
            heads,
            buffers,
            counters: ServerCounters::Own(LiveCounters::default()),
        }
    }

    /// Reads, answers and sends until the connection has no more input, is blocked, has ended, or has used its
    /// quantum. The first `filled` bytes of `rx` are left from the last time.
    pub(super) fn serve<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        mut filled: usize,
        is_new: bool,
        now: Instant,
    ) -> Outcome {
        // After blocked answers, or more than one quantum, leftover requests come before new bytes.
        let mut is_behind = false;
        match core::mem::replace(&mut conn.after, Next::Read) {
            Next::Read => {}
            Next::Write => is_behind = true,
            Next::Close { lingers } => {
                conn.stream.shutdown();
                if !lingers {
                    return Outcome::Closed;
                }
            }
        }
        for _ in 0..READS_MAX {
            let mut is_drained = false;
            let mut is_short = false;
            let mut is_full = false;
            let mut share = usize::MAX;
            if !core::mem::take(&mut is_behind) {
                let (rx, _) = self.buffers.shared();
                let room = rx.get_mut(filled..).unwrap_or_default();
                let size = room.len();
                debug_assert!(size > 0, "a connection waits although its buffer is full");
                match conn.stream.read(room) {
                    Ok(0) => return self.read_end(conn, filled, now),
                    Ok(read) => {
                        // A short read took all bytes; but if the client has ended, its end is still to be read.
                        is_short = read < size;
                        is_full = !is_short;
                        is_drained = is_short && !conn.has_ended;
                        filled += read;
                        if is_new && (!is_short || self.is_flooded) {
                            share = FIRST_BYTES;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Outcome::Waiting { received: filled };
                    }
                    Err(_) => return Outcome::Failed,
                }
            }
            if let Some(outcome) = self.answer(conn, &mut filled, share, is_short, now) {
                return outcome;
            }
            // In the middle of a request, a short read may have ended at a mark in the stream (urgent data of
            // TCP; descriptors or credentials on a Unix socket), and epoll does not report the bytes after it.
            if is_drained && conn.connection.phase() == Phase::Idle {
                return Outcome::Waiting { received: filled };
            }
            if is_full {
                break;
            }
        }
        Outcome::Runnable { received: filled }
    }

    /// Answers the requests in `rx`, at most `share` bytes of it and one buffer of answers, and sends. Returns
    /// `None` if more can be read. The rest of `rx` is moved to its start. `is_short`: the last read took all
    /// bytes that had arrived.
    fn answer<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        filled: &mut usize,
        share: usize,
        is_short: bool,
        now: Instant,
    ) -> Option<Outcome> {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: self.is_last,
        };
        let was_closing = conn.connection.phase() == Phase::Closing;
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..share.min(*filled)).unwrap_or_default();
        let responder = &self.responder;
        let progress = conn.connection.receive_cached(
            &context,
            &mut self.heads,
            rx,
            tx,
            &mut |request, writer| {
                if log::log_enabled!(log::Level::Trace) {
                    log_request(request);
                }
                responder.respond(now, request, writer)
            },
        );
        let received = *filled - progress.consumed;
        let outcome = match send(&self.counters, tx, conn, &progress) {
            Ok(unsent) if !unsent.is_empty() => Some(Outcome::Blocked { received, unsent }),
            Err(_) => Some(Outcome::Failed),
            Ok(_) => match progress.next {
                Next::Read if share >= *filled => None,
                Next::Read | Next::Write => {
                    conn.after = Next::Write;
                    Some(Outcome::Runnable { received })
                }
                Next::Close { .. } if was_closing => None,
                // `lingers` speaks only of the bytes in `rx`; without a short read there may be more.
                Next::Close { lingers } => {
                    conn.stream.shutdown();
                    (is_short && !lingers).then_some(Outcome::Closed)
                }
            },
        };
        self.buffers.compact(progress.consumed..*filled);
        *filled = received;
        outcome
    }

    /// Handles the client's end.
    fn read_end<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        filled: usize,
        now: Instant,
    ) -> Outcome {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: true,
        };
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..filled).unwrap_or_default();
        let progress = conn.connection.receive_end(&context, rx, tx);
        // If sending is blocked, the rest is dropped: the client has closed.
        let _ = send(&self.counters, tx, conn, &progress);
        Outcome::Closed
    }

    /// Answers 408, because the head did not arrive in time. Its bytes are in `rx`.
    pub(super) fn send_timeout<S: StreamSocket>(&mut self, conn: &mut Conn<S>, now: Instant) {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: true,
        };
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..conn.received).unwrap_or_default();
        let progress = conn.connection.expire(&context, rx, tx);
        let _ = send(&self.counters, tx, conn, &progress);
        conn.stream.shutdown();
    }
}

/// Logs a request. Its path comes from the client, so it is cut and escaped.
#[cold]
fn log_request(request: &Request<'_>) {
    let path = request.target().path();
    let logged = path.get(..path.len().min(LOGGED_PATH_BYTES_MAX));
    let (method, path) = (request.method(), logged.unwrap_or_default());
    log::trace!("request: {method:?} {}", path.escape_ascii());
}

/// Counts and sends the answers in `tx`. Returns the part that could not be sent.
fn send<S: StreamSocket>(
    counters: &LiveCounters,
    tx: &[u8],
    conn: &mut Conn<S>,
    progress: &Progress,
) -> io::Result<Range<usize>> {
    counters.answered.add(u64::from(progress.answered));
    counters.refused.add(u64::from(progress.refused));
    let bytes = tx.get(..progress.written).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(0..0);
    }
    let sent = match conn
        .stream
        .send(bytes, matches!(progress.next, Next::Close { .. }))
    {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    if sent < bytes.len() {
        conn.after = match progress.next {
            // There may be whole requests after these answers.
            Next::Read | Next::Write => Next::Write,
            // More bytes may arrive while the answer waits.
            Next::Close { .. } => Next::Close { lingers: true },
        };
    }
    Ok(sent..bytes.len())
}
