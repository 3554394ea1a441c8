//! A health server in a mio loop that also watches standard input. Each line of input is a heartbeat of
//! the check `lines`, which fails until the first line and when the last one is older than 30 s. At the
//! end of the input (Ctrl-D) the server finishes the requests in progress, and the program ends.
//!
//! `cargo run --example mio [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`. Standard input
//! must be a terminal or a pipe, because epoll cannot watch files.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.

use healthz::server::{Address, Server, TOKENS, now};
use healthz::{Check, Endpoint, Responder};
use mio::unix::SourceFd; // yours
use mio::{Events, Interest, Poll, Token}; // yours
use std::io::{ErrorKind, Read}; // yours
use std::time::{Duration, SystemTime};

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

const SERVER: Token = Token(0);
const INPUT: Token = Token(TOKENS); // yours

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let mut poll = Poll::new()?; // yours
    let mut events = Events::with_capacity(16); // yours
    let registry = poll.registry(); // yours
    registry.register(&mut SourceFd(&0), INPUT, Interest::READABLE)?; // yours

    let mut server = Server::bind(Responder::new(&ENDPOINTS), &address)?;
    server.register(poll.registry(), SERVER)?;
    while !server.is_finished() {
        let timeout = server.deadline().map(|at| at.saturating_since(now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue, // yours
            result => result?,                                                // yours
        }
        let now = now();
        server.set_wall_clock(SystemTime::UNIX_EPOCH.elapsed()?.as_secs());
        for event in &events {
            if server.owns(event.token()) {
                server.handle(poll.registry(), event, now);
            } else if std::io::stdin().read(&mut [0; 4096])? > 0 {
                LINES.beat(now);
            } else {
                poll.registry().deregister(&mut SourceFd(&0))?; // yours
                server.stop(poll.registry(), now);
            }
        }
        server.advance(poll.registry(), now);
    }
    println!("{} requests answered", server.counters().answered); // yours
    Ok(()) // yours
}
