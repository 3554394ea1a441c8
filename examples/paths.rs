//! A health server that also answers paths of its own: `/version`, and `/lines` with the number of lines that the main
//! thread has read from standard input. At the end of the input (Ctrl-D) the program stops the server and ends.
//!
//! `cargo run --example paths [ADDRESS]`, then `curl localhost:10248/version localhost:10248/lines`.

use healthz::answer::{Paths, not_found};
use healthz::http::{Answer, BodyWriter, BufferFull, Fields, Method, Request, StatusCode, Writer};
use healthz::server::{Address, Server, now, spawn};
use healthz::{Check, Endpoint, Instant, Responder};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static WORK: Check = Check::heartbeat("lines", Duration::from_secs(30)).initially_failing();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&WORK]);
static LINES: AtomicU64 = AtomicU64::new(0);

const VERSION: &str = concat!("paths ", env!("CARGO_PKG_VERSION"), "\n");

/// The paths. A copy of this is in the server, so what changes is behind a reference.
#[derive(Clone, Copy)]
struct Own {
    lines: &'static AtomicU64,
}

impl Paths for Own {
    fn respond(
        &self,
        _now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        let is_read = matches!(request.method(), Method::Get | Method::Head);
        match request.target().path() {
            b"/version" if is_read => {
                writer.fixed(StatusCode::OK, Fields::Text, VERSION.as_bytes())
            }
            b"/lines" if is_read => {
                let lines = self.lines.load(Ordering::Relaxed);
                writer.rendered(Fields::Text, |text: &mut BodyWriter<'_>| {
                    text.push_number(lines);
                    text.push(b"\n");
                    StatusCode::OK
                })
            }
            _ => not_found(writer),
        }
    }

    fn body_bytes_max(&self) -> usize {
        VERSION.len().max("18446744073709551615\n".len())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let address = address.map_or(Ok(Address::DEFAULT), |text| text.parse())?;
    let responder = Responder::new(&ENDPOINTS).with_paths(Own { lines: &LINES });
    let thread = spawn(Server::bind(responder, &address)?)?;
    for line in std::io::stdin().lines() {
        line?;
        LINES.fetch_add(1, Ordering::Relaxed);
        WORK.beat(now());
    }
    thread.stop();
    let counters = thread.join()?;
    println!("{} requests answered", counters.answered);
    Ok(())
}
