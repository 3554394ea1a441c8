//! Where connections are served, one at a time: bytes read, answered, sent.
//!
//! Knows one connection at a time and no table. What a connection leaves unfinished stays in the
//! shared buffers, and [`super::table`] keeps it.

use core::ops::Range;
use std::io;

use super::Counters;
use super::buffers::Buffers;
use super::memory::Managed;
use super::policy::Owner;
use super::socket::StreamSocket;
use crate::answer::Responder;
use crate::http::{Connection, Context, Date, HeadCache, Next, Phase, Progress};
use crate::limits::Limits;
use crate::time::Instant;

/// Reads from one connection in one turn, at most: behind what is left to answer there is more to read,
/// and behind what was read there is an end. But one bufferful, of requests or of answers, is everybody's
/// share, for a bufferful can hold requests that take a millisecond. Whoever asks for more waits for its
/// next turn, so that new connections wait for little.
const READS_PER_TURN: usize = 4;
/// If the first read of a connection fills the buffer, or more connections wait to be accepted behind it, so
/// many bytes are processed when it is accepted: more than a probe has. The rest comes in its turn, unless the
/// connection is evicted before.
const FIRST_BYTES: usize = 512;

/// One connection.
pub struct Conn<S> {
    pub(super) stream: S,
    pub(super) connection: Connection,
    /// Bytes of an unfinished head in the connection's own buffer.
    pub(super) received: usize,
    /// Unsent bytes of answers in the connection's own buffer.
    pub(super) unsent: Range<usize>,
    /// What follows once they are sent.
    pub(super) after: Next,
    /// Registered for writing too: it was not taking its answers once.
    pub(super) is_writing: bool,
    /// The conn has ended its side; the bytes before its end may not all have been read.
    pub(super) has_ended: bool,
    /// Which process made it, where the kernel says so; asked once it stays.
    pub(super) owner: Option<Owner>,
}

impl<S> Conn<S> {
    /// One that was just accepted.
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Conn {
            stream,
            connection: Connection::new(now),
            received: 0,
            unsent: 0..0,
            after: Next::Read,
            is_writing: false,
            has_ended: false,
            owner: None,
        }
    }
}

/// How serving a connection ended for this turn.
pub(super) enum Outcome {
    /// Over: drop it.
    Closed,
    /// Over, by an error of the socket.
    Failed,
    /// Drained; waits for the next event. So many bytes at the start of `rx` are to be kept.
    Waiting { received: usize },
    /// Not drained; wants another turn.
    Runnable { received: usize },
    /// The conn does not take its answers: these bytes of `tx` are to be kept as well.
    Blocked {
        received: usize,
        unsent: Range<usize>,
    },
}

/// Where connections are served, one at a time: what every answer needs.
pub(super) struct Driver<'a> {
    pub(super) responder: Responder<'a>,
    pub(super) limits: Limits,
    pub(super) date: Option<Date>,
    pub(super) is_last: bool,
    /// More connections wait to be accepted than one turn takes.
    pub(super) is_flooded: bool,
    /// Not here itself: a server is moved a few times before it runs, and stacks are small.
    pub(super) heads: Managed<'a, HeadCache>,
    pub(super) buffers: Buffers<'a>,
    pub(super) counters: Counters,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        responder: Responder<'a>,
        limits: Limits,
        buffers: Buffers<'a>,
        heads: Managed<'a, HeadCache>,
    ) -> Self {
        Driver {
            responder,
            limits,
            date: None,
            is_last: false,
            is_flooded: false,
            heads,
            buffers,
            counters: Counters::default(),
        }
    }

    /// Reads, answers and sends until the connection is drained, blocked, over, or has had its share.
    /// The first `filled` bytes of `rx` are left from before.
    pub(super) fn serve<S: StreamSocket>(
        &mut self,
        conn: &mut Conn<S>,
        mut filled: usize,
        is_new: bool,
        now: Instant,
    ) -> Outcome {
        // Answers that were blocked, or more than a share, leave something to do before more is read.
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
        for _ in 0..READS_PER_TURN {
            let mut is_drained = false;
            let mut is_short = false;
            let mut is_full = false;
            let mut share = usize::MAX;
            if !core::mem::take(&mut is_behind) {
                let (rx, _) = self.buffers.shared();
                let room = rx.get_mut(filled..).unwrap_or_default();
                let size = room.len();
                debug_assert!(size > 0, "a connection waits with a full buffer");
                match conn.stream.read(room) {
                    Ok(0) => return self.read_end(conn, filled, now),
                    Ok(read) => {
                        // A short read took all there was; but behind an end there is still the end.
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
            // In the midst of a request a short read may have ended at a mark in the stream (urgent data of
            // TCP, a message's descriptors or credentials on a Unix socket), and nobody tells of the rest.
            if is_drained && conn.connection.phase() == Phase::Idle {
                return Outcome::Waiting { received: filled };
            }
            if is_full {
                break;
            }
        }
        Outcome::Runnable { received: filled }
    }

    /// Answers what is in `rx`, at most `share` bytes of it and as far as one bufferful of answers goes,
    /// and sends; `None` if more can be read. What is left of `rx` is moved to its start. `is_short`: a
    /// read has shown that no more had come.
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
            &mut |request, writer| responder.respond(now, request, writer),
        );
        let received = *filled - progress.consumed;
        let outcome = match send(&mut self.counters, tx, conn, &progress) {
            Ok(unsent) if !unsent.is_empty() => Some(Outcome::Blocked { received, unsent }),
            Err(_) => Some(Outcome::Failed),
            Ok(_) => match progress.next {
                Next::Read if share >= *filled => None,
                Next::Read | Next::Write => {
                    conn.after = Next::Write;
                    Some(Outcome::Runnable { received })
                }
                Next::Close { .. } if was_closing => None,
                // The connection knows of no more than it was shown.
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

    /// The conn has ended its side.
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
        // What the conn does not take now it does not get: it has left.
        let _ = send(&mut self.counters, tx, conn, &progress);
        Outcome::Closed
    }

    /// The conn has not finished its head in time; what came of it is in `rx`.
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
        let _ = send(&mut self.counters, tx, conn, &progress);
        conn.stream.shutdown();
    }
}

/// Counts and sends what a connection wrote; returns the part of `tx` that the conn did not take.
fn send<S: StreamSocket>(
    counters: &mut Counters,
    tx: &[u8],
    conn: &mut Conn<S>,
    progress: &Progress,
) -> io::Result<Range<usize>> {
    counters.answered += u64::from(progress.answered);
    counters.refused += u64::from(progress.refused);
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
            // There may be whole requests left behind these answers, or not: it costs one look.
            Next::Read | Next::Write => Next::Write,
            // Nor is it known what comes while the answer waits.
            Next::Close { .. } => Next::Close { lingers: true },
        };
    }
    Ok(sent..bytes.len())
}
