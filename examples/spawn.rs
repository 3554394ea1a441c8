//! A health server on a thread of its own. The main thread reads lines from standard input. Each line is a
//! heartbeat of the check `lines`. The check fails until the first line, and while the last line is older
//! than 30 s. At the end of the input (Ctrl-D) the program stops the server and ends.
//!
//! `cargo run --example spawn [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.

use healthz::server::{Address, Server, now, spawn};
use healthz::{Check, Endpoint, Responder};
use std::time::Duration; // yours

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let thread = spawn(Server::bind(Responder::new(&ENDPOINTS), &address)?)?;
    for line in std::io::stdin().lines() {
        println!("{} bytes", line?.len()); // yours
        LINES.beat(now());
    }
    thread.stop();
    let counters = thread.join()?;
    println!("{} requests answered", counters.answered); // yours
    Ok(()) // yours
}
