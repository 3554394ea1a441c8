//! A health server in a poll(2) loop that also watches standard input. Any other loop that can watch a
//! descriptor (libev, GLib and so on) works in the same way.
//!
//! Each line of input is a heartbeat of the check `lines`, which fails until the first line and when the
//! last one is older than 30 s. At the end of the input (Ctrl-D) the server finishes the requests in
//! progress, and the program ends.
//!
//! `cargo run --example poll [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.

use healthz::server::{Address, Runner, Server, now};
use healthz::{Check, Endpoint, Responder};
use nix::errno::Errno; // yours
use nix::poll::{PollFd, PollFlags, PollTimeout, poll}; // yours
use std::io::Read; // yours
use std::os::fd::AsFd; // yours
use std::time::Duration; // yours

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let mut input = std::io::stdin(); // yours

    let server = Server::bind(Responder::new(&ENDPOINTS), &address)?;
    let runner = Runner::new(server)?;
    loop {
        // No timeout is `None` here and -1 in poll(2).
        let timeout = runner.timeout().map(PollTimeout::try_from).transpose()?;
        let own = PollFd::new(input.as_fd(), PollFlags::POLLIN); // yours
        let mut watched = [own, PollFd::new(runner.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Err(Errno::EINTR) => continue, // yours
            result => result?,             // yours
        };
        let [has_input, _] = watched.map(|watched| watched.any() == Some(true)); // yours
        runner.poll_once(Some(Duration::ZERO))?;
        if has_input && input.read(&mut [0; 4096])? > 0 {
            LINES.beat(now());
        } else if has_input {
            break; // yours
        }
    }
    runner.handle().stop();
    runner.run()?;
    println!("{} requests answered", runner.server().counters().answered); // yours
    Ok(()) // yours
}
