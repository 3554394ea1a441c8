//! The health server in the event loop of the init: `open` it, `turn` it in each pass of the loop, `close`
//! it at the end. This is the file to copy.

use std::error::Error;
use std::time::SystemTime;

use healthz::server::{Config, Listeners, Server};
use healthz::{Endpoint, Instant, Responder};
use mio::{Events, Registry};

use crate::{SERVER, put, say};

/// The server, and whether it is stopping.
pub struct HealthServer<'a> {
    server: Server<'a>,
    is_closing: bool,
}

impl<'a> HealthServer<'a> {
    /// Errors are only printed: a machine without a health server is better than one without its init.
    pub fn open(endpoints: &'a [Endpoint<'a>], address: &str, registry: &Registry) -> Self {
        // The library logs unusual events, but no line per request.
        let _ = log::set_logger(&Console);
        log::set_max_level(log::LevelFilter::Info);
        let mut listeners = Listeners::new();
        if let Err(error) = listen(&mut listeners, address) {
            say!("no health server: {error}");
        }
        let mut server = Server::new(Responder::new(endpoints), listeners, Config::default());
        if let Err(error) = server.register(registry, SERVER) {
            say!("no health server: {error}");
        }
        for address in server.local_addresses() {
            say!("health is answered on {address}");
        }
        HealthServer {
            server,
            is_closing: false,
        }
    }

    pub fn turn(&mut self, registry: &Registry, events: &Events, now: Instant) {
        // For the Date header of responses.
        if let Ok(since) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.server.set_wall_clock(since.as_secs());
        }
        // The server ignores events of other sources.
        for event in events {
            self.server.handle(registry, event, now);
        }
        self.server.advance(registry, now);
    }

    /// The latest time for the next turn.
    pub fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Stops listening. Requests in progress get two seconds to finish; then `is_closed` is true.
    pub fn close(&mut self, registry: &Registry, now: Instant) {
        if !std::mem::replace(&mut self.is_closing, true) {
            self.server.stop(registry, now);
        }
    }

    pub fn is_closed(&self) -> bool {
        self.server.is_finished()
    }
}

fn listen(listeners: &mut Listeners, address: &str) -> Result<(), Box<dyn Error>> {
    // A machine may have localhost for only one of IPv4 and IPv6. That is no error, but worth a line.
    if let Some((missing, error)) = listeners.bind(&address.parse()?)?.missing {
        say!("no health server on {missing}: {error}");
    }
    Ok(())
}

struct Console;

impl log::Log for Console {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        if record.level() <= log::max_level() {
            put(*record.args());
        }
    }

    fn flush(&self) {}
}
