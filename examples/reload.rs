//! Checks that are added and removed while the server serves. Each line from standard input has the names of all
//! checks, separated by spaces, as a file would have them that is read again. A check whose name remains keeps its
//! state. At the end of the input (Ctrl-D) the program stops the server and ends.
//!
//! `cargo run --example reload [ADDRESS]`, type `disk network`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.

use healthz::server::{Address, Config, Listeners, Server, spawn};
use healthz::{Check, EndpointSet, Limits, Responder};
use std::sync::Arc;

/// The server reserves memory for so many checks with the longest names. A list that needs more is refused.
const CHECKS_MAX: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let mut listeners = Listeners::new();
    listeners.bind(&address)?;
    let config = Config {
        response_bytes_min: Responder::response_bytes_of(CHECKS_MAX, &Limits::DEFAULT),
        ..Config::default()
    };
    let mut checks = Vec::new();
    let set = Arc::new(EndpointSet::kubernetes(&checks)?);
    let thread = spawn(Server::with_endpoint_set(
        Responder::new(&[]),
        set,
        listeners,
        config,
    ))?;
    let server = thread.handle();
    for line in std::io::stdin().lines() {
        let line = line?; // yours
        let names = line.split_whitespace().filter(|name| Check::is_name(name));
        let wanted: Vec<Arc<Check>> = names.map(|name| named(name, &checks)).collect();
        // A list with one name twice, or too long, is reported, and the server goes on with the checks before.
        match EndpointSet::kubernetes(&wanted) {
            Ok(set) => match server.replace_endpoints(Arc::new(set)) {
                Ok(()) => checks = wanted,
                Err(error) => eprintln!("{error}"),
            },
            Err(error) => eprintln!("{error}"),
        }
    }
    thread.stop();
    let counters = thread.join()?;
    println!("{} requests answered", counters.answered); // yours
    Ok(()) // yours
}

/// The check of this name: the present one with its state, or a new one.
fn named(name: &str, present: &[Arc<Check>]) -> Arc<Check> {
    let known = present.iter().find(|check| check.name() == name);
    known.cloned().unwrap_or_else(|| {
        let check = Check::manual(name); // your code calls `pass` and `fail`
        Arc::new(check.initially_passing())
    })
}
