//! A health server that uses no heap: its checks, connections and buffers are statics of the program, so
//! their size is known at compile time. It runs in a mio loop, as in `examples/mio.rs`, until it is killed.
//!
//! `cargo run --example statics [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.

use healthz::http::HeadCache;
use healthz::server::{Address, Listeners, Memory, Server, Slot, now};
use healthz::{Check, Endpoint, Limits, Responder};
use mio::{Events, Poll, Token}; // yours
use std::io::ErrorKind; // yours
use std::sync::Mutex;
use std::time::SystemTime;

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
static SLOTS: Mutex<[Slot; 8]> = Mutex::new([const { Slot::new() }; 8]);
// If this is too small, `Server::with_memory` panics with the size that is needed.
static BYTES: Mutex<[u8; 80 * 1024]> = Mutex::new([0; 80 * 1024]);
static HEADS: Mutex<HeadCache> = Mutex::new(HeadCache::new());
const LIMITS: Limits = Limits {
    request_head_bytes: 2048,
    ..Limits::DEFAULT
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let mut poll = Poll::new()?; // yours
    let mut events = Events::with_capacity(16); // yours

    let (mut slots, mut bytes, mut heads) = (SLOTS.lock()?, BYTES.lock()?, HEADS.lock()?);
    let memory = Memory {
        slots: &mut *slots,
        bytes: &mut *bytes,
        heads: &mut heads,
    };
    let mut listeners = Listeners::new();
    listeners.bind(&address)?;
    let mut server = Server::with_memory(Responder::new(&ENDPOINTS), listeners, LIMITS, memory);
    server.register(poll.registry(), Token(0))?;
    loop {
        let timeout = server.deadline().map(|at| at.saturating_since(now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue, // yours
            result => result?,                                                // yours
        }
        let now = now();
        server.set_wall_clock(SystemTime::UNIX_EPOCH.elapsed()?.as_secs());
        for event in &events {
            server.handle(poll.registry(), event, now);
        }
        server.advance(poll.registry(), now);
    }
}
