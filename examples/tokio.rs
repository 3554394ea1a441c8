//! The door inside a tokio runtime, as a task beside another one that waits for lines on the standard
//! input, each of which is a heartbeat. At the end of the input it stops the door and leaves.
//!
//! `cargo run --example tokio [ADDRESS]`, then `curl localhost:10248/healthz?verbose`.
//!
//! A task that blocks its worker keeps the door waiting too. If a probe has to be answered all the
//! same, use `spawn`, as `examples/spawn.rs` does: it needs nothing of tokio, nor tokio of it.
//!
//! Lines marked `yours` would be there without the door; the others are what it costs.
#![allow(
    unsafe_code,
    reason = "how tokio takes a descriptor since 1.54; before, `AsyncFd::with_interest` was safe to call"
)]

use healthz::server::{Address, Runner, Server, now};
use healthz::{Check, Endpoint, Responder};
use std::io::{self, Read}; // yours
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

async fn serve(runner: Runner<'static>) -> io::Result<u64> {
    // SAFETY: a runner's descriptor is open, and the same, as long as the runner lives.
    let mut runner = unsafe { AsyncFd::register_with_interest(runner, Interest::READABLE) }?;
    while !runner.get_ref().server().is_finished() {
        let timeout = runner.get_ref().timeout().unwrap_or(Duration::MAX);
        match tokio::time::timeout(timeout, runner.readable_mut()).await {
            Ok(ready) => {
                let mut ready = ready?;
                // tokio is told once of a descriptor: there may be more to do until there was nothing.
                if ready.get_inner().poll_once(Some(Duration::ZERO))? == 0 {
                    ready.clear_ready();
                }
            }
            Err(_) => drop(runner.get_ref().poll_once(Some(Duration::ZERO))?),
        }
    }
    Ok(runner.get_ref().server().counters().answered)
}

async fn work() -> io::Result<()> {
    let read = || io::stdin().read(&mut [0; 4096]); // yours
    while tokio::task::spawn_blocking(read).await?? > 0 {
        LINES.beat(now());
    }
    Ok(()) // yours
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1); // yours
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?; // yours
    let server = Server::bind(Responder::new(&ENDPOINTS), &address)?;
    let runner = Runner::new(server)?;
    let handle = runner.handle();
    let mut runtime = tokio::runtime::Builder::new_current_thread(); // yours
    let answered = runtime.enable_all().build()?.block_on(async {
        let door = tokio::spawn(serve(runner));
        work().await?; // yours
        handle.stop();
        door.await?
    })?;
    println!("{answered} requests answered"); // yours
    Ok(()) // yours
}
