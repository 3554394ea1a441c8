//! The door on smoltcp's TCP sockets: all of it, in memory of its caller's, without an operating
//! system, a heap or a clock.
//!
//! Knows no device and no interface. To be turned whenever the interface was polled, and when the
//! time has come that [`Door::turn`] names; [`super::net`] does both.
//!
//! Bytes stay in the sockets' own buffers: requests are looked at in a copy that all connections share,
//! and taken out when they are answered; answers are written to another, and are sent whole.

use healthz::http::{Connection, Context, Next, Phase, Progress};
use healthz::{Instant, Limits, Responder};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

pub const PORT: u16 = 10248;
/// Sockets: as many connections at once and one more, which is always kept free for the next probe.
pub const SEATS: usize = 3;
const HEAD_BYTES: usize = 512;
/// Room for the longest answer to such heads, a redirect of a target full of quotes.
const ANSWER_BYTES: usize = 4608;
const LIMITS: Limits = Limits {
    request_head_bytes: HEAD_BYTES,
    ..Limits::DEFAULT
};

/// What the door needs: 20 KiB.
pub struct Memory {
    sockets: [([u8; HEAD_BYTES], [u8; ANSWER_BYTES]); SEATS],
    shared: ([u8; HEAD_BYTES], [u8; ANSWER_BYTES]),
}

impl Memory {
    pub const fn new() -> Self {
        Memory {
            sockets: [([0; HEAD_BYTES], [0; ANSWER_BYTES]); SEATS],
            shared: ([0; HEAD_BYTES], [0; ANSWER_BYTES]),
        }
    }
}

/// The door: see the module.
pub struct Door<'a> {
    responder: Responder<'a>,
    seats: [Seat; SEATS],
    /// Connections that have come.
    count: u32,
    rx: &'a mut [u8],
    tx: &'a mut [u8],
}

/// A socket, and the connection in it.
struct Seat {
    socket: SocketHandle,
    connection: Option<Connection>,
    /// Which one it is of those that have come.
    number: u32,
}

impl<'a> Door<'a> {
    /// Puts the door's sockets into `sockets`, which has room for [`SEATS`] more.
    ///
    /// # Panics
    /// If `responder` has so many checks that an answer may not fit.
    pub fn new(
        responder: Responder<'a>,
        sockets: &mut SocketSet<'a>,
        memory: &'a mut Memory,
    ) -> Self {
        assert!(responder.response_bytes_max(&LIMITS) <= ANSWER_BYTES);
        let seats = memory.sockets.each_mut().map(|(rx, tx)| {
            let buffers = [&mut rx[..], &mut tx[..]].map(SocketBuffer::new);
            let [rx, tx] = buffers;
            let mut socket = Socket::new(rx, tx);
            socket.set_nagle_enabled(false);
            // What ends a connection is acknowledged at once, so that its socket can be used again.
            socket.set_ack_delay(None);
            Seat {
                socket: sockets.add(socket),
                connection: None,
                number: 0,
            }
        });
        Door {
            responder,
            seats,
            count: 0,
            rx: &mut memory.shared.0,
            tx: &mut memory.shared.1,
        }
    }

    /// Answers what has come, and ends what is over. Returns when it wants to be turned at the latest.
    pub fn turn(&mut self, sockets: &mut SocketSet<'_>, now: Instant) -> Option<Instant> {
        for at in 0..SEATS {
            self.serve(at, sockets, now);
        }
        self.keep_one_free(sockets);
        let connections = self
            .seats
            .iter()
            .filter_map(|seat| seat.connection.as_ref());
        connections.map(|open| open.deadline(&LIMITS)).min()
    }

    fn serve(&mut self, at: usize, sockets: &mut SocketSet<'_>, now: Instant) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let socket = sockets.get_mut::<Socket>(seat.socket);
        if !socket.is_active() {
            seat.connection = None;
            if !socket.is_open() {
                // Fails only for port 0.
                let _ = socket.listen(PORT);
            }
            return;
        }
        let connection = seat.connection.get_or_insert_with(|| {
            self.count = self.count.wrapping_add(1);
            seat.number = self.count;
            Connection::new(now)
        });
        let is_late = connection.deadline(&LIMITS) <= now;
        let is_full = socket.send_capacity() - socket.send_queue() < self.tx.len();
        match connection.phase() {
            // It was told, and does not go; or it does not take its answers, and is not asked for more.
            Phase::Closing if is_late => return socket.abort(),
            Phase::Closing => {}
            _ if is_full && is_late => return socket.abort(),
            _ if is_full => return,
            _ => {}
        }
        let context = Context {
            now,
            // There is no wall clock.
            date: None,
            limits: &LIMITS,
            is_last: false,
        };
        let size = socket.peek_slice(self.rx).unwrap_or(0);
        let rx = self.rx.get(..size).unwrap_or_default();
        let responder = &self.responder;
        let progress = connection.receive(&context, rx, self.tx, &mut |request, writer| {
            responder.respond(now, request, writer)
        });
        settle(socket, self.tx, &progress);
        if progress.written > 0 || progress.next != Next::Read {
            return;
        }
        // What is left is the beginning of a head, or nothing.
        let rest = rx.get(progress.consumed..).unwrap_or_default();
        let progress = if has_ended(socket) {
            connection.receive_end(&context, rest, self.tx)
        } else {
            connection.expire(&context, rest, self.tx)
        };
        settle(socket, self.tx, &progress);
    }

    /// smoltcp keeps no backlog: without a socket that listens a probe is refused. So when all are
    /// taken, the connection goes that is missed least: the longest idle one, then the one longest in
    /// its head; first of those that have taken what they were sent. Not the one that has just come,
    /// and none whose last answer is on its way: that one has `drain_duration` to take it.
    fn keep_one_free(&self, sockets: &mut SocketSet<'_>) {
        let mut victim = None;
        for seat in &self.seats {
            let socket = sockets.get::<Socket>(seat.socket);
            let Some(connection) = seat.connection.as_ref().filter(|_| socket.is_open()) else {
                return;
            };
            let phase = connection.phase();
            let has_unsent = socket.send_queue() > 0;
            if seat.number == self.count || has_unsent && phase == Phase::Closing {
                continue;
            }
            let rank = (has_unsent, phase as u8, connection.since());
            if victim.is_none_or(|(best, _)| rank < best) {
                victim = Some((rank, seat.socket));
            }
        }
        if let Some((_, socket)) = victim {
            sockets.get_mut::<Socket>(socket).abort();
        }
    }
}

/// Sends what was written, takes out what is done with, and ends our side if that is next. What the
/// peer still sends is read out and thrown away until it ends too.
fn settle(socket: &mut Socket<'_>, tx: &[u8], progress: &Progress) {
    let mut left = progress.consumed;
    // Twice at most: the buffer is a ring.
    while left > 0 {
        let taken = socket.recv(|bytes| {
            let size = bytes.len().min(left);
            (size, size)
        });
        match taken {
            Ok(size @ 1..) => left -= size,
            _ => break,
        }
    }
    let written = tx.get(..progress.written).unwrap_or_default();
    // Fails only if the peer has reset the connection.
    let _ = socket.send_slice(written);
    if matches!(progress.next, Next::Close { .. }) {
        socket.close();
    }
}

/// Whether the peer has ended its side.
fn has_ended(socket: &Socket<'_>) -> bool {
    let state = socket.state();
    matches!(state, State::CloseWait | State::Closing | State::LastAck)
}
