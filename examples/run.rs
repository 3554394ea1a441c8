//! The smallest health server: one check, one address, and the main thread serves until it is killed.
//!
//! `cargo run --example run [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.

use healthz::server::{Address, Runner, Server};
use healthz::{Check, Endpoint, Responder};

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let server = Server::bind(Responder::new(&ENDPOINTS), &address)?;
    Runner::new(server)?.run()?;
    Ok(()) // yours
}
