//! Telling a service manager how we are: sd_notify(3).
//!
//! Knows the protocol, not when to say what. Called by [`super::serve`] and [`super::sync`]. Without
//! `NOTIFY_SOCKET` every call does nothing.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Longest that a manager whose queue is full can hold up the sync loop.
const SEND_DURATION_MAX: Duration = Duration::from_secs(1);

/// The clock's unit: what is due after less is due at once.
pub const PERIOD_MIN: Duration = Duration::from_millis(1);

/// The way to the service manager, if there is one.
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    /// The last word did not reach it.
    is_lost: Cell<bool>,
    /// `READY=1` did not, and it waits for that.
    is_ready_owed: Cell<bool>,
    /// How we are did not, and what it shows is not so.
    is_status_owed: Cell<bool>,
}

impl Manager {
    /// The manager with this name.
    #[cfg(test)]
    pub fn named(name: &OsStr, watchdog: Option<Duration>) -> Self {
        Manager {
            socket: connect(name).ok(),
            watchdog,
            is_lost: Cell::new(false),
            is_ready_owed: Cell::new(false),
            is_status_owed: Cell::new(false),
        }
    }

    /// The manager that the environment names.
    pub fn from_env() -> Self {
        let socket = match std::env::var_os("NOTIFY_SOCKET") {
            None => None,
            Some(name) => connect(&name)
                .map_err(|error| log::warn!("NOTIFY_SOCKET={}: {error}", name.to_string_lossy()))
                .ok(),
        };
        let watchdog = watchdog(
            std::env::var_os("WATCHDOG_USEC"),
            std::env::var_os("WATCHDOG_PID"),
        );
        Manager {
            watchdog: watchdog.filter(|_| socket.is_some()),
            socket,
            is_lost: Cell::new(false),
            is_ready_owed: Cell::new(false),
            is_status_owed: Cell::new(false),
        }
    }

    /// How often the manager has to be told `WATCHDOG=1`, if it wants to be.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells the manager that we serve, and how we are. If it cannot be told, that is owed: a manager
    /// that is not told in time ends what it has started.
    pub fn tell_ready(&self, status: &str) {
        let is_told = self.tell(&format!("READY=1\n{status}"));
        self.is_ready_owed.set(self.owes(is_told));
        self.is_status_owed.set(false);
    }

    /// Tells the manager how we are, and whatever else is owed. If it cannot be told, that is owed, or it
    /// would show for ever what is not so any more.
    pub fn tell_status(&self, status: &str) {
        if self.is_ready_owed.get() {
            return self.tell_ready(status);
        }
        let is_told = self.tell(status);
        self.is_status_owed.set(self.owes(is_told));
    }

    /// Whether [`tell_status`](Manager::tell_status) has to be tried again.
    pub fn is_owed(&self) -> bool {
        self.is_ready_owed.get() || self.is_status_owed.get()
    }

    /// Tells the manager that we are about to end; from now on nobody is told that we are ready.
    pub fn tell_stopping(&self) {
        self.is_ready_owed.set(false);
        self.is_status_owed.set(false);
        self.tell("STOPPING=1\nSTATUS=shutting down");
    }

    /// Tells the manager `state`, `WATCHDOG=1` for example, and returns whether it was told. That it
    /// cannot be told is logged when it begins.
    pub fn tell(&self, state: &str) -> bool {
        let Some((socket, address)) = &self.socket else {
            return false;
        };
        let result = loop {
            match socket.send_to_addr(state.as_bytes(), address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let was_lost = self.is_lost.replace(result.is_err());
        match result {
            // Once a spell: a watchdog's beats would fill the log.
            Err(error) if !was_lost => {
                let state = state.replace('\n', ", ");
                log::warn!("cannot tell the service manager {state}: {error}");
            }
            Ok(_) if was_lost => log::info!("the service manager can be told again"),
            _ => {}
        }
        !self.is_lost.get()
    }

    fn owes(&self, is_told: bool) -> bool {
        !is_told && self.socket.is_some()
    }
}

pub(super) fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        [b'@', name @ ..] => {
            #[cfg(target_os = "android")]
            use std::os::android::net::SocketAddrExt;
            #[cfg(target_os = "linux")]
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)?
        }
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "neither a path nor an abstract name",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_DURATION_MAX))?;
    Ok((socket, address))
}

/// Half of what the manager allows, so that one late beat is no death; at least what times are counted
/// in, or the sync loop would never rest.
pub(super) fn watchdog(limit_us: Option<OsString>, pid: Option<OsString>) -> Option<Duration> {
    let us = std::process::id().to_string();
    if pid.is_some_and(|pid| pid != OsStr::new(&us)) {
        return None;
    }
    let limit_us: u64 = limit_us?.to_str()?.parse().ok()?;
    (limit_us > 0).then(|| (Duration::from_micros(limit_us) / 2).max(PERIOD_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_beaten_at_half_its_limit_if_it_is_ours() {
        let of =
            |limit: &str, pid: Option<&str>| watchdog(Some(limit.into()), pid.map(OsString::from));
        let us = std::process::id().to_string();
        assert_eq!(of("3000000", None), Some(Duration::from_millis(1500)));
        assert_eq!(of("3000000", Some(&us)), Some(Duration::from_millis(1500)));
        assert_eq!(of("3000000", Some("1")), None);
        assert_eq!(of("0", None), None);
        assert_eq!(of("2000", None), Some(PERIOD_MIN));
        assert_eq!(of("soon", None), None);
        assert_eq!(watchdog(None, None), None);
    }

    /// It was due again at once then, and the sync loop took a whole CPU.
    #[test]
    fn a_watchdog_of_microseconds_lets_the_loop_rest() {
        for limit in ["1", "1000", "1999"] {
            assert_eq!(watchdog(Some(limit.into()), None), Some(PERIOD_MIN));
        }
    }

    #[test]
    fn nothing_is_owed_to_a_manager_that_was_told_or_is_not_there() {
        let path = std::env::temp_dir().join(format!("healthz-told-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        let period = Some(Duration::from_secs(1));
        let there = Manager::named(path.as_os_str(), period);
        assert_eq!(there.watchdog(), period);
        let missing = Manager::named(OsStr::new("no socket"), None);
        for manager in [&there, &missing] {
            manager.tell_ready("STATUS=passes");
            assert!(!manager.is_owed());
            manager.tell_status("STATUS=fails");
            assert!(!manager.is_owed());
        }
        assert!(there.tell("X=1") && !missing.tell("X=1"));
        drop(socket);
        std::fs::remove_file(&path).unwrap();
    }

    /// A manager that hears READY behind STOPPING takes the daemon for one that serves.
    #[test]
    fn what_is_owed_is_not_told_any_more_once_the_daemon_stops() {
        let path = std::env::temp_dir().join(format!("healthz-stopping-{}", std::process::id()));
        for is_ready_owed in [true, false] {
            let socket = UnixDatagram::bind(&path).unwrap();
            let manager = Manager::named(path.as_os_str(), None);
            // Without its socket the manager can be told nothing.
            drop(socket);
            std::fs::remove_file(&path).unwrap();
            match is_ready_owed {
                true => manager.tell_ready("STATUS=passes"),
                false => manager.tell_status("STATUS=fails"),
            }
            assert!(manager.is_owed());
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            manager.tell_stopping();
            assert!(!manager.is_owed());
            manager.tell_status("STATUS=fails");
            let mut state = [0; 64];
            let words = std::iter::from_fn(|| {
                let length = socket.recv(&mut state).ok()?;
                Some(String::from_utf8(state[..length].to_vec()).unwrap())
            });
            let expected = ["STOPPING=1\nSTATUS=shutting down", "STATUS=fails"];
            assert_eq!(words.collect::<Vec<_>>(), expected);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn abstract_names_and_paths_are_reached() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("healthz-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let sockets = [
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()),
                format!("@{name}"),
            ),
            (UnixDatagram::bind(&path), path.to_str().unwrap().to_owned()),
        ];
        for (socket, name) in sockets {
            let socket = socket.unwrap();
            let manager = Manager::named(OsStr::new(&name), None);
            assert!(manager.tell("READY=1"));
            let mut state = [0; 16];
            let length = socket.recv(&mut state).unwrap();
            assert_eq!(&state[..length], b"READY=1");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(connect(OsStr::new("vsock:2:1234")).is_err());
    }
}
