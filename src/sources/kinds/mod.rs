//! One file for each kind of check: how one attempt is made, and what its reasons say.
//!
//! Knows no schedule and no server. Called by the worker, for a [`Spec`](super::spec::Spec) each.

mod clock;
mod disk;
pub mod exec;
mod fds;
mod figures;
mod file;
#[cfg(test)]
mod fuzz;
pub mod heartbeat;
mod http;
mod memory;
mod mount;
pub mod orphans;
mod pids;
mod pressure;
mod process;
mod procfs;
pub mod stream;
mod system;
mod tcp;
mod temperature;
#[cfg(test)]
mod testing;
mod text;
mod unix;
mod usage;

#[cfg(test)]
pub use text::run_corpus;

use std::path::Path;

use healthz::Instant;
use mio::{Registry, Token};

use self::system::{failed, words};
use super::attempt::{Listener, Started};
use super::spec::{Kind, Outcome};

/// One attempt of a blocking kind, on a thread that may block. Without state.
pub fn attempt(kind: &Kind) -> Outcome {
    match kind {
        Kind::File(file) => file.attempt(),
        Kind::Process(process) => process.attempt(),
        Kind::Memory(memory) => memory.attempt(),
        Kind::Disk(disk) => disk.attempt(),
        Kind::Pids(usage) => usage.attempt_pids(),
        Kind::Fds(usage) => usage.attempt_fds(),
        Kind::Clock(clock) => clock.attempt(),
        Kind::Mount(mount) => mount.attempt(),
        Kind::Temperature(temperature) => temperature.attempt(),
        _ => other_kind(),
    }
}

/// Starts an attempt of a connecting kind.
pub fn start(kind: &Kind, registry: &Registry, base: Token, programs: &exec::Programs) -> Started {
    match kind {
        Kind::Tcp(tcp) => tcp::start(tcp, registry, base),
        Kind::Unix(unix) => unix::start(unix, base),
        Kind::Http(http) => http::start(http, registry, base),
        Kind::Exec(exec) => exec.start(registry, base, programs),
        _ => Started::Done(other_kind()),
    }
}

/// Opens what a listening kind listens on.
///
/// # Errors
/// Why it cannot be opened, as the reason of the check.
pub fn open(
    kind: &Kind,
    registry: &Registry,
    base: Token,
    now: Instant,
) -> Result<Box<dyn Listener>, String> {
    match kind {
        Kind::Heartbeat(heartbeat) => {
            let opened = heartbeat::open(heartbeat, registry, base, now);
            opened.map_err(|error| failed(Path::new(&heartbeat.socket), &error))
        }
        Kind::Pressure(pressure) => {
            let opened = pressure::open(pressure, registry, base, now);
            opened.map_err(|error| words(&error))
        }
        _ => Err("not a kind that listens".to_owned()),
    }
}

fn other_kind() -> Outcome {
    Outcome::Fail("a kind that is attempted in another way".to_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::sources::config;

    fn kind(check: &str) -> Kind {
        let mut specs = config::parse(&[OsString::from(check)], None).unwrap();
        specs.remove(0).kind
    }

    #[test]
    fn every_kind_is_attempted_in_its_way() {
        for check in [
            "x=file:/",
            "x=process:/missing",
            "x=memory",
            "x=disk:/",
            "x=pids",
            "x=fds",
            "x=clock",
            "x=mount:/",
            "x=temperature:x",
        ] {
            assert_ne!(attempt(&kind(check)), other_kind(), "{check}");
        }
        let poll = mio::Poll::new().unwrap();
        let (registry, base) = (poll.registry(), Token(0));
        let programs = exec::Programs::new(&["/missing"]);
        for check in [
            "x=tcp:127.0.0.1:1",
            "x=unix:/missing",
            "x=http:http://127.0.0.1:1/",
            "x=exec:/missing",
        ] {
            if let Started::Done(outcome) = start(&kind(check), registry, base, &programs) {
                assert_ne!(outcome, other_kind(), "{check}");
            }
        }
        assert!(open(&kind("x=pressure:io"), registry, base, Instant::ZERO).is_ok());
        let directory = testing::Directory::new();
        let heartbeat = format!("x=heartbeat,socket={}", directory.at("x").display());
        assert!(open(&kind(&heartbeat), registry, base, Instant::ZERO).is_ok());
    }
}
