//! A health server without an operating system: `healthz::http::Connection` on the TCP sockets of smoltcp,
//! in static memory. A client in the same program sends requests over a loopback device.
//!
//! `cargo run --example smoltcp` prints the requests and responses and ends. Copy `server.rs` to use it: it
//! builds for any target, with healthz without features and smoltcp without std; see `examples/cortex-m`.
//!
//! This file uses the standard library only for locks, for printing and for the error of `main`.
#![no_std]

extern crate std;

mod net;
mod server;

use core::fmt::Write as _;
use std::sync::Mutex;

use healthz::{Check, Endpoint, Responder};
use smoltcp::iface::{SocketSet, SocketStorage};
use smoltcp::socket::tcp::Socket;

use net::{Net, Wire};
use server::{HealthServer, Memory, PORT, SOCKETS};

static PING: Check = Check::ping();
static SENSOR: Check = Check::manual("sensor");
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &SENSOR]);

static SERVER: Mutex<Memory> = Mutex::new(Memory::new());
static WIRE: Mutex<Wire> = Mutex::new(Wire::new());
static CLIENT: Mutex<([u8; 1024], [u8; 1024])> = Mutex::new(([0; 1024], [0; 1024]));

fn main() -> Result<(), std::boxed::Box<dyn core::error::Error>> {
    let (mut memory, mut wire, mut client) = (SERVER.lock()?, WIRE.lock()?, CLIENT.lock()?);
    let (rx, tx) = &mut *client;
    let mut storage = [SocketStorage::EMPTY; SOCKETS + 1];
    let mut net = Net::new(&mut wire, SocketSet::new(&mut storage[..]));
    let mut server = HealthServer::new(Responder::new(&ENDPOINTS), &mut net.sockets, &mut memory);
    let client = net.client(rx, tx);
    let turn = &mut |sockets: &mut SocketSet<'_>, now| server.turn(sockets, now);
    net.run_until_idle(turn);

    // The last request has no empty line at its end: it gets 408 when the time for a head is over.
    for request in [
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz/sensor HTTP/1.0\r\n\r\n",
        "GET /readyz?verbose HTTP/1.0\r\n\r\n",
        "GET /readyz HTTP/1.0\r\n",
    ] {
        net.connect(client, PORT);
        net.run_until_idle(turn);
        net.sockets.get_mut::<Socket>(client).write_str(request)?;
        net.run_until_idle(turn);
        if !net.sockets.get::<Socket>(client).can_recv() {
            net.advance(10_000, turn);
        }
        let mut answer = [0; 1024];
        let socket = net.sockets.get_mut::<Socket>(client);
        let size = socket.recv_slice(&mut answer).unwrap_or(0);
        let answer = core::str::from_utf8(answer.get(..size).unwrap_or_default())?;
        std::println!("at {} ms: {request}{answer}", net.now.as_millis());
        net.sockets.get_mut::<Socket>(client).close();
        net.run_until_idle(turn);
        SENSOR.pass();
    }
    Ok(())
}
