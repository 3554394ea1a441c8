//! Serves one connection at a time: reads, answers and sends.
//!
//! Knows no table. Received bytes that are not processed yet, and unsent answers, are left in the shared buffers; the
//! caller, [`super::table`], copies them to the connection's own.

use core::ops::Range;
use std::io;

use super::buffers::{Buffers, LongBuffer};
use super::conn::{Conn, Origin};
use super::counters::{LiveCounters, ServerCounters};
use super::memory::Managed;
use super::paths::ListenerPaths;
use super::policy::{READS_MAX, first_bytes_max};
use super::served::Served;
use super::socket::StreamSocket;
use crate::answer::{Paths, Responder};
use crate::http::{
    Answer, BufferFull, Context, Date, HeadCache, Next, Phase, Progress, Request, Writer,
};
use crate::limits::{LISTENERS_MAX, Limits};
use crate::time::Instant;

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
    /// It has more to do than one quantum. `received` as above.
    Runnable { received: usize },
    /// Sending is blocked: these bytes of `tx` must be kept as well. If they are in a buffer for long answers, they
    /// stay there.
    Blocked {
        received: usize,
        unsent: Range<usize>,
        long: Option<LongBuffer>,
    },
    /// As `Runnable`, but its next answer does not fit in `tx`: call [`Driver::serve_long`] at once.
    Long { received: usize, step: ReadStep },
}

/// Which call of [`Driver::serve`] this is for a connection.
#[derive(Clone, Copy)]
pub(super) enum Visit {
    /// It was just accepted. `is_flooded`: more connections wait to be accepted than one call accepts.
    First { is_flooded: bool },
    /// It has a slot.
    Later,
}

/// One step of serving a connection: what was read before requests are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadStep {
    /// Nothing, because whole requests may be left in the buffer.
    Skipped,
    /// All bytes that had arrived.
    Drained,
    /// As above, but the client has ended its side. That is still to be read, perhaps after more bytes.
    BeforeEnd,
    /// As many bytes as the buffer had room for. There may be more.
    Filled,
}

/// Serves connections: everything that each answer needs.
pub(super) struct Driver<'a, P> {
    pub(super) responder: Served<'a, P>,
    pub(super) limits: Limits,
    pub(super) date: Option<Date>,
    /// The server stops: each answer is the last of its connection.
    pub(super) is_last: bool,
    /// Behind a pointer, because a server is moved a few times before it runs, and stacks are small.
    pub(super) heads: Managed<'a, HeadCache>,
    pub(super) buffers: Buffers<'a>,
    pub(super) counters: ServerCounters,
    /// The paths of each listener, if it does not serve all.
    pub(super) listener_paths: [Option<ListenerPaths>; LISTENERS_MAX],
}

impl<'a, P: Paths> Driver<'a, P> {
    pub(super) fn new(
        responder: Responder<'a, P>,
        limits: Limits,
        buffers: Buffers<'a>,
        heads: Managed<'a, HeadCache>,
    ) -> Self {
        Driver {
            responder: Served::new(responder),
            limits,
            date: None,
            is_last: false,
            heads,
            buffers,
            counters: ServerCounters::Own(LiveCounters::default()),
            listener_paths: [const { None }; LISTENERS_MAX],
        }
    }

    /// Reads, answers and sends until the connection has no more input, is blocked, has ended, or has used its
    /// quantum. The first `filled` bytes of `rx` are left from the last time.
    pub(super) fn serve<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        mut filled: usize,
        visit: Visit,
        now: Instant,
    ) -> Outcome {
        for _ in 0..READS_MAX {
            let step = match core::mem::take(&mut conn.is_behind) {
                true => ReadStep::Skipped,
                false => match self.read(conn, &mut filled, now) {
                    Ok(step) => step,
                    Err(outcome) => return outcome,
                },
            };
            let bytes_max = match visit {
                Visit::First { is_flooded } => {
                    first_bytes_max(step == ReadStep::Filled, is_flooded)
                }
                Visit::Later => usize::MAX,
            };
            if let Some(outcome) = self.answer(conn, &mut filled, bytes_max, step, now) {
                return outcome;
            }
            match step {
                // In the middle of a request, a short read may have ended at a mark in the stream (urgent data of
                // TCP; descriptors or credentials on a Unix socket), and epoll does not report the bytes after it.
                ReadStep::Drained if conn.connection.phase() == Phase::Idle => {
                    return Outcome::Waiting { received: filled };
                }
                ReadStep::Filled => break,
                ReadStep::Skipped | ReadStep::Drained | ReadStep::BeforeEnd => {}
            }
        }
        Outcome::Runnable { received: filled }
    }

    /// Reads once, behind the first `filled` bytes of `rx`. Fails with the outcome if there is nothing to answer.
    #[inline]
    fn read<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        filled: &mut usize,
        now: Instant,
    ) -> Result<ReadStep, Outcome> {
        let (rx, _) = self.buffers.shared();
        let room = rx.get_mut(*filled..).unwrap_or_default();
        let size = room.len();
        debug_assert!(size > 0, "a connection waits although its buffer is full");
        match conn.stream.read(room) {
            Ok(0) => Err(self.read_end(conn, *filled, now)),
            Ok(read) => {
                *filled += read;
                Ok(match read < size {
                    false => ReadStep::Filled,
                    true if conn.has_ended => ReadStep::BeforeEnd,
                    true => ReadStep::Drained,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Outcome::Waiting { received: *filled })
            }
            Err(_) => Err(Outcome::Failed),
        }
    }

    /// Answers the requests in `rx`, at most `bytes_max` bytes of it and one buffer of answers, and sends. Returns
    /// `None` if more can be read. The rest of `rx` is moved to its start.
    fn answer<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        filled: &mut usize,
        bytes_max: usize,
        step: ReadStep,
        now: Instant,
    ) -> Option<Outcome> {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: self.is_last,
            tx_bytes_max: self.buffers.long_bytes(),
        };
        let was_closing = conn.connection.phase() == Phase::Closing;
        let paths = match conn.origin.is_restricted {
            true => self.listener_paths.get(usize::from(conn.origin.listener)),
            false => None,
        };
        let json_room = self.json_room(&conn.origin);
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..bytes_max.min(*filled)).unwrap_or_default();
        let responder = &self.responder;
        let counters: &LiveCounters = &self.counters;
        let progress = conn.connection.receive_cached(
            &context,
            &mut self.heads,
            rx,
            tx,
            &mut |request, writer| {
                respond(responder, paths, counters, json_room, now, request, writer)
            },
        );
        let received = *filled - progress.consumed;
        let outcome = match send(&self.counters, tx, conn, &progress) {
            Ok(unsent) if !unsent.is_empty() => Some(Outcome::Blocked {
                received,
                unsent,
                long: None,
            }),
            Err(_) => Some(Outcome::Failed),
            Ok(_) => match progress.next {
                Next::Read if bytes_max >= *filled => None,
                Next::Read | Next::Write => {
                    conn.is_behind = true;
                    let is_long = progress.next == Next::Write && progress.written == 0;
                    // If many connections wait, a long answer waits in the run queue, as other work that takes longer.
                    Some(match is_long && bytes_max == usize::MAX {
                        true => Outcome::Long { received, step },
                        false => Outcome::Runnable { received },
                    })
                }
                Next::Close { .. } if was_closing => None,
                // `lingers` is about the bytes in `rx` only. After a short read the socket has no others, unless the
                // read ended at a mark in the stream (see `serve`). Then the close resets the connection, after the
                // answer and the end were sent. To find the mark would be a system call for each connection.
                Next::Close { lingers } => {
                    conn.stream.shutdown();
                    let has_read_all = matches!(step, ReadStep::Drained | ReadStep::BeforeEnd);
                    (has_read_all && !lingers).then_some(Outcome::Closed)
                }
            },
        };
        self.buffers.compact(progress.consumed..*filled);
        *filled = received;
        outcome
    }

    /// Bytes that an answer in JSON may have; 0 if the client does not get JSON.
    #[inline]
    fn json_room(&self, origin: &Origin) -> usize {
        match origin.is_local {
            true => self.buffers.response_bytes().max(self.buffers.long_bytes()),
            false => 0,
        }
    }

    /// Writes the next answer into `buffer`, which has no owner, and sends it. `outcome` is an [`Outcome::Long`] that
    /// [`serve`](Driver::serve) has just returned; another one is returned as it is. One long answer is a quantum.
    #[inline(never)]
    pub(super) fn serve_long<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        outcome: Outcome,
        buffer: LongBuffer,
        now: Instant,
    ) -> Outcome {
        let Outcome::Long {
            received: filled,
            step,
        } = outcome
        else {
            return outcome;
        };
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: self.is_last,
            tx_bytes_max: self.buffers.long_bytes(),
        };
        let paths = match conn.origin.is_restricted {
            true => self.listener_paths.get(usize::from(conn.origin.listener)),
            false => None,
        };
        let json_room = self.json_room(&conn.origin);
        let counters: &LiveCounters = &self.counters;
        let (rx, tx) = self.buffers.with_long(buffer);
        let rx = rx.get(..filled).unwrap_or_default();
        let responder = &self.responder;
        let mut is_answered = false;
        let progress = conn.connection.receive_cached(
            &context,
            &mut self.heads,
            rx,
            tx,
            &mut |request, writer| match core::mem::replace(&mut is_answered, true) {
                true => Err(BufferFull),
                false => respond_long(responder, paths, counters, json_room, now, request, writer),
            },
        );
        let received = filled - progress.consumed;
        conn.is_behind = received > 0;
        let outcome = match send(&self.counters, tx, conn, &progress) {
            Ok(unsent) if !unsent.is_empty() => Outcome::Blocked {
                received,
                unsent,
                long: Some(buffer),
            },
            Err(_) => Outcome::Failed,
            Ok(_) => match progress.next {
                Next::Read
                    if step == ReadStep::Drained && conn.connection.phase() == Phase::Idle =>
                {
                    Outcome::Waiting { received }
                }
                Next::Read | Next::Write => Outcome::Runnable { received },
                Next::Close { lingers } => {
                    conn.stream.shutdown();
                    let has_read_all = matches!(step, ReadStep::Drained | ReadStep::BeforeEnd);
                    match has_read_all && !lingers {
                        true => Outcome::Closed,
                        false => Outcome::Runnable { received },
                    }
                }
            },
        };
        self.buffers.compact(progress.consumed..filled);
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
            tx_bytes_max: 0,
        };
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..filled).unwrap_or_default();
        let progress = conn.connection.receive_end(&context, rx, tx);
        send_last(&self.counters, tx, conn, &progress);
        Outcome::Closed
    }

    /// Answers 408, because the head did not arrive in time. Its bytes are in `rx`.
    pub(super) fn send_timeout<S: StreamSocket>(&mut self, conn: &mut Conn<S>, now: Instant) {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: true,
            tx_bytes_max: 0,
        };
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..conn.received).unwrap_or_default();
        let progress = conn.connection.expire(&context, rx, tx);
        send_last(&self.counters, tx, conn, &progress);
        conn.stream.shutdown();
    }
}

/// As [`respond`], for [`Driver::serve_long`].
// Not inlined: long answers are rare.
#[inline(never)]
fn respond_long(
    responder: &Served<'_, impl Paths>,
    paths: Option<&Option<ListenerPaths>>,
    counters: &LiveCounters,
    json_room: usize,
    now: Instant,
    request: &Request<'_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    respond(responder, paths, counters, json_room, now, request, writer)
}

/// Answers a request on a listener that serves `paths`, and counts the answer.
// Always, because the compiler does not inline it in two places, and then each answer takes 40 instructions more.
#[inline(always)]
fn respond(
    responder: &Served<'_, impl Paths>,
    paths: Option<&Option<ListenerPaths>>,
    counters: &LiveCounters,
    json_room: usize,
    now: Instant,
    request: &Request<'_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    if log::log_enabled!(log::Level::Trace) {
        log_request(request);
    }
    let answer = match paths {
        Some(Some(paths)) if !paths.cover(request.target()) => {
            responder.respond_not_served(request, writer)
        }
        _ if request.accepts_health_json() && json_room > 0 => {
            responder.respond_health_json(now, request, writer, counters, json_room)
        }
        _ => responder.respond(now, request, writer, counters),
    }?;
    counters.answers.count(answer);
    Ok(answer)
}

/// Logs a request. Its path comes from the client, so it is cut and escaped.
#[cold]
fn log_request(request: &Request<'_>) {
    let path = request.target().path();
    let logged = path.get(..path.len().min(LOGGED_PATH_BYTES_MAX));
    let (method, path) = (request.method(), logged.unwrap_or_default());
    log::trace!("request: {method:?} {}", path.escape_ascii());
}

/// Counts and sends the last answer to a client that has ended its side or was too slow. If sending is blocked, the
/// rest is dropped.
// Not inlined: such answers are rare.
#[inline(never)]
fn send_last<S: StreamSocket>(
    counters: &LiveCounters,
    tx: &[u8],
    conn: &mut Conn<S>,
    progress: &Progress,
) {
    let _ = send(counters, tx, conn, progress);
}

/// Counts and sends the answers in `tx`. Returns the part that could not be sent.
// Always, as `respond`.
#[inline(always)]
fn send<S: StreamSocket>(
    counters: &LiveCounters,
    tx: &[u8],
    conn: &mut Conn<S>,
    progress: &Progress,
) -> io::Result<Range<usize>> {
    counters.answered.add(u64::from(progress.answered));
    if let Some(status) = progress.refusal {
        counters.refused.add(1);
        counters.answers.count_refusal(status);
    }
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
        // There may be whole requests after these answers.
        conn.is_behind = !matches!(progress.next, Next::Close { .. });
    }
    Ok(sent..bytes.len())
}
