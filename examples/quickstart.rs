//! A service that serves its own health. Ask it: curl http://localhost:10248/healthz/work
use healthz::server::{Address, Server, now, spawn};
use healthz::{Check, Endpoint, Responder};
use std::time::Duration;

static WORK: Check = Check::heartbeat("work", Duration::from_secs(5));
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&WORK]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The server runs on a thread of its own: busy work below cannot delay its answers.
    spawn(Server::bind(Responder::new(&ENDPOINTS), &Address::DEFAULT)?)?;
    loop {
        std::thread::sleep(Duration::from_secs(1)); // your work
        WORK.beat(now()); // from any thread
    }
}
