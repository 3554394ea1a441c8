//! A health server as a task of a tokio runtime. Another task reads lines from standard input. Each line is a
//! heartbeat of the check `lines`. The check fails until the first line, and while the last line is older
//! than 30 s. At the end of the input (Ctrl-D) the program stops the server and ends.
//!
//! `cargo run --example tokio [ADDRESS]`, then `curl 'localhost:10248/healthz?verbose'`.
//!
//! A task that blocks its worker thread also delays the health server. If probes must be answered even
//! then, use a thread as in `examples/spawn.rs`; that works beside tokio without any connection to it.
//!
//! Lines marked `yours` would be there without healthz; all others are what healthz needs.
#![allow(
    unsafe_code,
    reason = "tokio 1.54 made registering a descriptor unsafe; before, `AsyncFd::with_interest` was safe"
)]

use healthz::server::{Address, Runner, Server, now};
use healthz::{Check, Endpoint, Responder};
use std::io::{self, Read}; // yours
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};

static LINES: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&LINES]);

async fn serve(runner: Runner<'static>) -> io::Result<u64> {
    // SAFETY: the descriptor of a runner stays open and the same until the runner is dropped.
    let mut runner = unsafe { AsyncFd::register_with_interest(runner, Interest::READABLE) }?;
    while !runner.get_ref().server().is_finished() {
        let timeout = runner.get_ref().timeout().unwrap_or(Duration::MAX);
        match tokio::time::timeout(timeout, runner.readable_mut()).await {
            Ok(ready) => {
                let mut ready = ready?;
                // tokio watches descriptors edge-triggered: continue until there are no events.
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
        let server = tokio::spawn(serve(runner));
        work().await?; // yours
        handle.stop();
        server.await?
    })?;
    println!("{answered} requests answered"); // yours
    Ok(()) // yours
}
