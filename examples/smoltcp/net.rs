//! The network of the example: a loopback device in static memory, an interface on it, and a simulated
//! clock. `main.rs`, `tests/smoltcp.rs` and `examples/cortex-m` use it.
//!
//! On a real board the device is a radio or an Ethernet controller, and the time comes from a timer. The
//! loopback device of smoltcp itself is not used because it allocates its packets.

use healthz::Instant;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};

const PACKETS: usize = 16;
const PACKET_BYTES: usize = 1500;

/// The loopback device: a ring of packets in transit, and a copy of the packet that is being received.
pub struct Wire {
    packets: [([u8; PACKET_BYTES], usize); PACKETS],
    first: usize,
    count: usize,
    received: [u8; PACKET_BYTES],
}

impl Wire {
    pub const fn new() -> Self {
        Wire {
            packets: [([0; PACKET_BYTES], 0); PACKETS],
            first: 0,
            count: 0,
            received: [0; PACKET_BYTES],
        }
    }
}

pub struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// A free entry of the ring, and the packet count to increment when it is filled.
pub struct Free<'a>(&'a mut ([u8; PACKET_BYTES], usize), &'a mut usize);

impl TxToken for Free<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let Free((bytes, size), count) = self;
        *size = length.min(PACKET_BYTES);
        *count += 1;
        // smoltcp sends no packet longer than the MTU given in `capabilities`.
        fill(bytes.get_mut(..length).unwrap_or_default())
    }
}

impl Device for Wire {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Free<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received<'_>, Free<'_>)> {
        if self.count == 0 {
            return None;
        }
        let (bytes, size) = self.packets.get(self.first)?;
        self.received = *bytes;
        let received = Received(self.received.get(..*size)?);
        self.first = (self.first + 1) % PACKETS;
        self.count -= 1;
        let free = self.packets.get_mut((self.first + self.count) % PACKETS)?;
        Some((received, Free(free, &mut self.count)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Free<'_>> {
        if self.count == PACKETS {
            return None;
        }
        let free = self.packets.get_mut((self.first + self.count) % PACKETS)?;
        Some(Free(free, &mut self.count))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = PACKET_BYTES;
        capabilities
    }
}

/// The interface, its sockets and the clock.
pub struct Net<'a> {
    wire: &'a mut Wire,
    interface: Interface,
    pub sockets: SocketSet<'a>,
    pub now: Instant,
    next_port: u16,
}

/// The first dynamic port (RFC 6335 section 6).
const FIRST_PORT: u16 = 49152;
const LOCALHOST: Ipv4Address = Ipv4Address::new(127, 0, 0, 1);

impl<'a> Net<'a> {
    pub fn new(wire: &'a mut Wire, sockets: SocketSet<'a>) -> Self {
        let now = Instant::ZERO;
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, wire, time(now));
        interface.update_ip_addrs(|addresses| {
            // Cannot fail: an interface has room for at least one address.
            let _ = addresses.push(IpCidr::new(LOCALHOST.into(), 8));
        });
        Net {
            wire,
            interface,
            sockets,
            now,
            next_port: FIRST_PORT,
        }
    }

    /// Adds a socket for a client.
    pub fn client(&mut self, rx: &'a mut [u8], tx: &'a mut [u8]) -> SocketHandle {
        let mut socket = Socket::new(SocketBuffer::new(rx), SocketBuffer::new(tx));
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// Connects a client to `port` of the same host.
    pub fn connect(&mut self, client: SocketHandle, port: u16) {
        let from = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        let socket = self.sockets.get_mut::<Socket>(client);
        let remote = (IpAddress::from(LOCALHOST), port);
        let connecting = socket.connect(self.interface.context(), remote, from);
        debug_assert!(connecting.is_ok(), "{connecting:?}");
    }

    /// Delivers packets and calls the server's `turn` until nothing is left to do at the current time.
    pub fn run_until_idle(
        &mut self,
        turn: &mut impl FnMut(&mut SocketSet<'_>, Instant) -> Option<Instant>,
    ) -> Option<Instant> {
        loop {
            let deadline = turn(&mut self.sockets, self.now);
            let now = time(self.now);
            let result = self.interface.poll(now, self.wire, &mut self.sockets);
            if result == PollResult::None && self.wire.count == 0 {
                return deadline;
            }
        }
    }

    /// Advances the clock, stopping at each deadline on the way to do what is due.
    pub fn advance(
        &mut self,
        milliseconds: u64,
        turn: &mut impl FnMut(&mut SocketSet<'_>, Instant) -> Option<Instant>,
    ) {
        let end = self.now.as_millis() + milliseconds;
        loop {
            let deadline = self.run_until_idle(turn).map(Instant::as_millis);
            let timer = self.interface.poll_at(time(self.now), &self.sockets);
            let timer = timer.map(|at| at.total_millis() as u64);
            let now = self.now.as_millis();
            if now >= end {
                return;
            }
            let next = deadline.into_iter().chain(timer).min().unwrap_or(end);
            self.now = Instant::from_millis(next.clamp(now + 1, end));
        }
    }
}

fn time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_millis(now.as_millis() as i64)
}
