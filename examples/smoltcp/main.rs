//! The door where there is no operating system: `healthz::http::Connection` on smoltcp's TCP sockets, in
//! static memory. The client is in the same program, on the same stack, over a loopback device.
//!
//! `cargo run --example smoltcp` prints what a client sees. `door.rs` is the part to copy; it builds for
//! any target that has 64-bit atomics, with healthz without features and smoltcp without std.
//!
//! Without the standard library, but for the lock on the memory and the lines that are printed.
#![no_std]

extern crate std;

mod door;
mod net;

use core::fmt::Write as _;
use std::sync::Mutex;

use healthz::{Check, Endpoint, Responder};
use smoltcp::iface::{SocketSet, SocketStorage};
use smoltcp::socket::tcp::Socket;

use door::{Door, Memory, PORT, SEATS};
use net::{Net, Wire};

static PING: Check = Check::ping();
static SENSOR: Check = Check::manual("sensor");
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &SENSOR]);

static DOOR: Mutex<Memory> = Mutex::new(Memory::new());
static WIRE: Mutex<Wire> = Mutex::new(Wire::new());
static CLIENT: Mutex<([u8; 1024], [u8; 1024])> = Mutex::new(([0; 1024], [0; 1024]));

fn main() -> Result<(), std::boxed::Box<dyn core::error::Error>> {
    let (mut memory, mut wire, mut client) = (DOOR.lock()?, WIRE.lock()?, CLIENT.lock()?);
    let (rx, tx) = &mut *client;
    let mut storage = [SocketStorage::EMPTY; SEATS + 1];
    let mut net = Net::new(&mut wire, SocketSet::new(&mut storage[..]));
    let mut door = Door::new(Responder::new(&ENDPOINTS), &mut net.sockets, &mut memory);
    let client = net.client(rx, tx);
    let turn = &mut |sockets: &mut SocketSet<'_>, now| door.turn(sockets, now);
    net.settle(turn);

    // The last of them forgets the end of its head, and is told so when its time is up.
    for request in [
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz/sensor HTTP/1.0\r\n\r\n",
        "GET /readyz?verbose HTTP/1.0\r\n\r\n",
        "GET /readyz HTTP/1.0\r\n",
    ] {
        net.connect(client, PORT);
        net.settle(turn);
        net.sockets.get_mut::<Socket>(client).write_str(request)?;
        net.settle(turn);
        if !net.sockets.get::<Socket>(client).can_recv() {
            net.pass(10_000, turn);
        }
        let mut answer = [0; 1024];
        let socket = net.sockets.get_mut::<Socket>(client);
        let size = socket.recv_slice(&mut answer).unwrap_or(0);
        let answer = core::str::from_utf8(answer.get(..size).unwrap_or_default())?;
        std::println!("at {} ms: {request}{answer}", net.now.as_millis());
        net.sockets.get_mut::<Socket>(client).close();
        net.settle(turn);
        SENSOR.pass();
    }
    Ok(())
}
