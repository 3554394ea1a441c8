//! The server in calloop's event loop, with another source: lines on the standard input, each of which
//! is a heartbeat. calloop gives callbacks only a shared reference to their source.
//!
//! `cargo run --example calloop [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! Lines marked `yours` would be there without the server; the others are what it costs.

use calloop::generic::Generic;
use calloop::{EventLoop, Interest, Mode, PostAction};
use healthz::server::{Address, Runner, Server, now};
use healthz::{Check, Endpoint, Responder};
use std::io::Read; // yours
use std::time::Duration; // yours

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let mut events = EventLoop::<bool>::try_new()?; // yours
    let mut has_ended = false; // yours

    let input = Generic::new(std::io::stdin(), Interest::READ, Mode::Level); // yours
    let read_lines = |_, input: &mut _, has_ended: &mut bool| {
        let input: &std::io::Stdin = AsRef::as_ref(input); // yours
        match input.lock().read(&mut [0; 4096])? {
            0 => *has_ended = true, // yours
            _ => LINES.beat(now()),
        }
        Ok(PostAction::Continue) // yours
    };
    events.handle().insert_source(input, read_lines)?; // yours

    let server = Server::bind(Responder::new(&ENDPOINTS), &address)?;
    let runner = std::rc::Rc::new(Runner::new(server)?);
    events.handle().insert_source(
        Generic::new(runner.clone(), Interest::READ, Mode::Level),
        |_, runner, _| {
            runner.poll_once(Some(Duration::ZERO))?;
            Ok(PostAction::Continue)
        },
    )?;
    while !has_ended {
        events.dispatch(runner.timeout(), &mut has_ended)?;
        // What is due without an event, such as a connection's deadline.
        runner.poll_once(Some(Duration::ZERO))?;
    }
    runner.handle().stop();
    runner.run()?;
    println!("{} requests answered", runner.server().counters().answered); // yours
    Ok(()) // yours
}
