//! The door on a thread of its own, beside a program that does something else: it waits for lines on
//! its standard input, and each is a heartbeat. At the end of the input it stops the door and leaves.
//!
//! `cargo run --example spawn [ADDRESS]`, then `curl localhost:10248/healthz?verbose`.
//!
//! Lines marked `yours` would be there without the door; the others are what it costs.

use healthz::server::{Address, Server, now, spawn};
use healthz::{Check, Endpoint, Responder};
use std::time::Duration; // yours

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let server = Server::bind(Responder::new(&ENDPOINTS), &address)?;
    let door = spawn(server)?;
    for line in std::io::stdin().lines() {
        println!("{} bytes", line?.len()); // yours
        LINES.beat(now());
    }
    door.stop();
    let counters = door.join()?;
    println!("{} requests answered", counters.answered); // yours
    Ok(()) // yours
}
