//! A health server on the TCP sockets of smoltcp. It needs no operating system, heap or clock; the caller
//! gives it its memory.
//!
//! It knows nothing about the network device and the interface. Call [`HealthServer::turn`] after each
//! poll of the interface, and at the latest at the time that it returns; [`super::net`] does both.
//!
//! Received bytes stay in the buffer of their socket until they are processed: all connections share one
//! buffer into which they are copied to be parsed. A response is written to a second shared buffer and
//! then sent whole.

use healthz::http::{Connection, Context, Next, Phase, Progress};
use healthz::{Instant, Limits, Responder};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

pub const PORT: u16 = 10248;
/// Number of sockets. One of them is kept free for the next client, the others can have a connection.
pub const SOCKETS: usize = 3;
const HEAD_BYTES: usize = 512;
/// The longest response to such heads: a redirect to a path that consists of quotes.
const ANSWER_BYTES: usize = 4608;
const LIMITS: Limits = Limits {
    request_head_bytes: HEAD_BYTES,
    ..Limits::DEFAULT
};

/// The memory of the server: 20 KiB.
pub struct Memory {
    sockets: [([u8; HEAD_BYTES], [u8; ANSWER_BYTES]); SOCKETS],
    shared: ([u8; HEAD_BYTES], [u8; ANSWER_BYTES]),
}

impl Memory {
    pub const fn new() -> Self {
        Memory {
            sockets: [([0; HEAD_BYTES], [0; ANSWER_BYTES]); SOCKETS],
            shared: ([0; HEAD_BYTES], [0; ANSWER_BYTES]),
        }
    }
}

/// The server; see the module.
pub struct HealthServer<'a> {
    responder: Responder<'a>,
    slots: [Slot; SOCKETS],
    /// Connections accepted so far.
    count: u32,
    rx: &'a mut [u8],
    tx: &'a mut [u8],
}

/// A socket, and the connection in it.
struct Slot {
    socket: SocketHandle,
    connection: Option<Connection>,
    /// The number of the connection, counted from the first one accepted.
    number: u32,
}

impl<'a> HealthServer<'a> {
    /// Adds [`SOCKETS`] sockets to `sockets`, which must have room for them.
    ///
    /// # Panics
    /// If `responder` has so many checks that a response may not fit.
    pub fn new(
        responder: Responder<'a>,
        sockets: &mut SocketSet<'a>,
        memory: &'a mut Memory,
    ) -> Self {
        assert!(responder.response_bytes_max(&LIMITS) <= ANSWER_BYTES);
        let slots = memory.sockets.each_mut().map(|(rx, tx)| {
            let buffers = [&mut rx[..], &mut tx[..]].map(SocketBuffer::new);
            let [rx, tx] = buffers;
            let mut socket = Socket::new(rx, tx);
            socket.set_nagle_enabled(false);
            // Acknowledge the end of a connection at once, so that the socket can be used again.
            socket.set_ack_delay(None);
            Slot {
                socket: sockets.add(socket),
                connection: None,
                number: 0,
            }
        });
        HealthServer {
            responder,
            slots,
            count: 0,
            rx: &mut memory.shared.0,
            tx: &mut memory.shared.1,
        }
    }

    /// Answers received requests and ends connections that are finished or too slow. Returns the latest time
    /// for the next call.
    pub fn turn(&mut self, sockets: &mut SocketSet<'_>, now: Instant) -> Option<Instant> {
        for at in 0..SOCKETS {
            self.serve(at, sockets, now);
        }
        self.keep_one_free(sockets);
        let connections = self
            .slots
            .iter()
            .filter_map(|slot| slot.connection.as_ref());
        connections.map(|open| open.deadline(&LIMITS)).min()
    }

    fn serve(&mut self, at: usize, sockets: &mut SocketSet<'_>, now: Instant) {
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let socket = sockets.get_mut::<Socket>(slot.socket);
        if !socket.is_active() {
            slot.connection = None;
            if !socket.is_open() {
                // Can only fail for port 0.
                let _ = socket.listen(PORT);
            }
            return;
        }
        let connection = slot.connection.get_or_insert_with(|| {
            self.count = self.count.wrapping_add(1);
            slot.number = self.count;
            Connection::new(now)
        });
        let is_late = connection.deadline(&LIMITS) <= now;
        let is_full = socket.send_capacity() - socket.send_queue() < self.tx.len();
        match connection.phase() {
            // The client does not close after the last response, or does not read its responses.
            Phase::Closing if is_late => return socket.abort(),
            Phase::Closing => {}
            _ if is_full && is_late => return socket.abort(),
            _ if is_full => return,
            _ => {}
        }
        let context = Context {
            now,
            // There is no wall clock, so responses have no Date.
            date: None,
            limits: &LIMITS,
            is_last: false,
            tx_bytes_max: 0,
        };
        let size = socket.peek_slice(self.rx).unwrap_or(0);
        let rx = self.rx.get(..size).unwrap_or_default();
        let responder = &self.responder;
        let progress = connection.receive(&context, rx, self.tx, &mut |request, writer| {
            responder.respond(now, request, writer)
        });
        apply(socket, self.tx, &progress);
        if progress.written > 0 || progress.next != Next::Read {
            return;
        }
        // The rest is the beginning of a request head, or nothing.
        let rest = rx.get(progress.consumed..).unwrap_or_default();
        let progress = if has_ended(socket) {
            connection.receive_end(&context, rest, self.tx)
        } else {
            connection.expire(&context, rest, self.tx)
        };
        apply(socket, self.tx, &progress);
    }

    /// Ends a connection if all sockets have one. smoltcp has no backlog: if no socket listens, the next
    /// client is refused.
    ///
    /// Connections without unsent data go first; among them the one that has been idle longest, then the
    /// one whose request head began first. The newest connection stays, and so does one that is being sent
    /// its last response: it has `drain_duration` to read that.
    fn keep_one_free(&self, sockets: &mut SocketSet<'_>) {
        let mut victim = None;
        for slot in &self.slots {
            let socket = sockets.get::<Socket>(slot.socket);
            let Some(connection) = slot.connection.as_ref().filter(|_| socket.is_open()) else {
                return;
            };
            let phase = connection.phase();
            let has_unsent = socket.send_queue() > 0;
            if slot.number == self.count || has_unsent && phase == Phase::Closing {
                continue;
            }
            let rank = (has_unsent, phase as u8, connection.since());
            if victim.is_none_or(|(best, _)| rank < best) {
                victim = Some((rank, slot.socket));
            }
        }
        if let Some((_, socket)) = victim {
            sockets.get_mut::<Socket>(socket).abort();
        }
    }
}

/// Sends the response, removes the processed bytes from the receive buffer, and closes our direction if
/// `progress` requires it. After that, further bytes from the client are read and discarded.
fn apply(socket: &mut Socket<'_>, tx: &[u8], progress: &Progress) {
    let mut left = progress.consumed;
    // At most two passes, because the buffer is a ring.
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
    // Can only fail if the client has reset the connection.
    let _ = socket.send_slice(written);
    if matches!(progress.next, Next::Close { .. }) {
        socket.close();
    }
}

/// True if the client has closed its direction.
fn has_ended(socket: &Socket<'_>) -> bool {
    let state = socket.state();
    matches!(state, State::CloseWait | State::Closing | State::LastAck)
}
