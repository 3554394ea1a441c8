//! The door as the init's loop sees it: open, a turn each time round, close. The part to copy.

use std::error::Error;
use std::time::SystemTime;

use healthz::server::{Config, Listeners, Server};
use healthz::{Endpoint, Instant, Responder};
use mio::{Events, Registry};

use crate::{DOOR, put, say};

/// The server, and what it wants of its host.
pub struct Door<'a> {
    server: Server<'a>,
    is_closing: bool,
}

impl<'a> Door<'a> {
    /// Whatever goes wrong here is said and nothing more: a machine without a door is better than
    /// one without its init.
    pub fn open(endpoints: &'a [Endpoint<'a>], address: &str, registry: &Registry) -> Self {
        // The library logs what is out of the ordinary, never once a request.
        let _ = log::set_logger(&Console);
        log::set_max_level(log::LevelFilter::Info);
        let mut listeners = Listeners::new();
        if let Err(error) = listen(&mut listeners, address) {
            say!("no door: {error}");
        }
        let mut server = Server::new(Responder::new(endpoints), listeners, Config::default());
        if let Err(error) = server.register(registry, DOOR) {
            say!("no door: {error}");
        }
        for address in server.local_addresses() {
            say!("health is answered on {address}");
        }
        Door {
            server,
            is_closing: false,
        }
    }

    pub fn turn(&mut self, registry: &Registry, events: &Events, now: Instant) {
        // For the Date of answers.
        if let Ok(since) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.server.set_wall_clock(since.as_secs());
        }
        // Events that are not the server's do nothing to it.
        for event in events {
            self.server.handle(registry, event, now);
        }
        self.server.advance(registry, now);
    }

    /// When the next turn has to be at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Who is in the middle of a request gets two seconds to end it; then the door is closed.
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
    // A machine may have only one half of localhost. That is fine, and worth a line.
    if let Some((missing, error)) = listeners.bind(&address.parse()?)?.missing {
        say!("no door on {missing}: {error}");
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
