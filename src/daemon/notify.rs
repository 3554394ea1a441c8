//! Notifies the service manager: sd_notify(3).
//!
//! Knows the protocol, and not when to send what. Called by [`super::serve`] and [`super::sync`]. Without
//! `NOTIFY_SOCKET`, every call does nothing.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::outage::{Change, Outage};

/// Longest time that a service manager with a full queue can block the sync loop.
const SEND_DURATION_MAX: Duration = Duration::from_secs(1);

/// The resolution of the clock.
pub const PERIOD_MIN: Duration = Duration::from_millis(1);

/// The service manager, if there is one.
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    /// Fails while notifications cannot be sent.
    outage: Outage,
    /// `READY=1` could not be sent, and the service manager waits for it.
    is_ready_pending: Cell<bool>,
    /// The last status could not be sent, so the service manager shows an old one.
    is_status_pending: Cell<bool>,
    /// `STOPPING=1` was sent, or could not be sent.
    is_stopping: Cell<bool>,
}

impl ServiceManager {
    /// The service manager at this socket.
    #[cfg(test)]
    pub fn named(name: &OsStr, watchdog: Option<Duration>) -> Self {
        ServiceManager {
            socket: connect(name).ok(),
            watchdog,
            outage: Outage::default(),
            is_ready_pending: Cell::new(false),
            is_status_pending: Cell::new(false),
            is_stopping: Cell::new(false),
        }
    }

    /// The service manager that the environment names.
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
        ServiceManager {
            watchdog: watchdog.filter(|_| socket.is_some()),
            socket,
            outage: Outage::default(),
            is_ready_pending: Cell::new(false),
            is_status_pending: Cell::new(false),
            is_stopping: Cell::new(false),
        }
    }

    /// How often to send `WATCHDOG=1`, if the service manager has a watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends `READY=1` and the status. If that fails it is pending: a service manager that does not get it in
    /// time ends the daemon. After [`notify_stopping`](ServiceManager::notify_stopping) only the status is sent: a
    /// reload can also end then.
    pub fn notify_ready(&self, status: &str) {
        if self.is_stopping.get() {
            return self.notify_status(status);
        }
        let is_sent = self.notify(&format!("READY=1\n{status}"));
        self.is_ready_pending.set(self.is_pending(is_sent));
        self.is_status_pending.set(false);
    }

    /// Sends the status, and `READY=1` if that is pending. If it fails the status is pending, so that the
    /// service manager does not show an old one for ever.
    pub fn notify_status(&self, status: &str) {
        if self.is_ready_pending.get() {
            return self.notify_ready(status);
        }
        let is_sent = self.notify(status);
        self.is_status_pending.set(self.is_pending(is_sent));
    }

    /// Whether [`notify_status`](ServiceManager::notify_status) must be tried again.
    pub fn has_pending(&self) -> bool {
        self.is_ready_pending.get() || self.is_status_pending.get()
    }

    /// Sends `RELOADING=1`. Then [`notify_ready`](ServiceManager::notify_ready) must follow.
    #[cfg(target_os = "linux")]
    pub fn notify_reloading(&self) {
        use nix::time::{ClockId, clock_gettime};
        // The service manager waits for a READY=1 that is newer than this (sd_notify(3)).
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return;
        };
        let micros = Duration::from(now).as_micros();
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Only systemd uses this, which runs on Linux.
    #[cfg(not(target_os = "linux"))]
    pub fn notify_reloading(&self) {}

    /// Sends `STOPPING=1`. From now on `READY=1` is not sent any more.
    pub fn notify_stopping(&self) {
        self.is_stopping.set(true);
        self.is_ready_pending.set(false);
        self.is_status_pending.set(false);
        self.notify("STOPPING=1\nSTATUS=shutting down");
    }

    /// Sends `state`, for example `WATCHDOG=1`. Returns whether it was sent. The first of several failures is
    /// logged.
    pub fn notify(&self, state: &str) -> bool {
        let Some((socket, address)) = &self.socket else {
            return false;
        };
        let result = loop {
            match socket.send_to_addr(state.as_bytes(), address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        // Not each failure is logged: those of WATCHDOG=1 would fill the log.
        match (self.outage.update(result.is_err()), &result) {
            (Some(Change::Failed), Err(error)) => {
                let state = state.replace('\n', ", ");
                log::warn!("cannot send {state} to the service manager: {error}");
            }
            (Some(_), _) => log::info!("the service manager can be notified again"),
            (None, _) => {}
        }
        result.is_ok()
    }

    fn is_pending(&self, is_sent: bool) -> bool {
        !is_sent && self.socket.is_some()
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

/// Half of the service manager's limit, so that one late beat is not fatal. At least the clock's resolution,
/// or the sync loop would never sleep.
pub(super) fn watchdog(limit_us: Option<OsString>, pid: Option<OsString>) -> Option<Duration> {
    let own_pid = std::process::id().to_string();
    if pid.is_some_and(|pid| pid != OsStr::new(&own_pid)) {
        return None;
    }
    let limit_us: u64 = limit_us?.to_str()?.parse().ok()?;
    (limit_us > 0).then(|| (Duration::from_micros(limit_us) / 2).max(PERIOD_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::pthread::pthread_self;
    use nix::unistd::gettid;

    include!("../../tests/support/interrupt.rs");

    #[test]
    fn the_watchdog_is_beaten_at_half_its_limit_if_it_is_for_this_process() {
        let of =
            |limit: &str, pid: Option<&str>| watchdog(Some(limit.into()), pid.map(OsString::from));
        let own_pid = std::process::id().to_string();
        assert_eq!(of("3000000", None), Some(Duration::from_millis(1500)));
        assert_eq!(
            of("3000000", Some(&own_pid)),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(of("3000000", Some("1")), None);
        assert_eq!(of("0", None), None);
        assert_eq!(of("2000", None), Some(PERIOD_MIN));
        assert_eq!(of("soon", None), None);
        assert_eq!(watchdog(None, None), None);
    }

    /// Regression: the beat was due again at once, and the sync loop used a whole CPU.
    #[test]
    fn a_watchdog_of_microseconds_is_beaten_at_most_once_a_millisecond() {
        for limit in ["1", "1000", "1999"] {
            assert_eq!(watchdog(Some(limit.into()), None), Some(PERIOD_MIN));
        }
    }

    #[test]
    fn nothing_is_pending_after_a_success_or_without_a_service_manager() {
        let path = std::env::temp_dir().join(format!("healthz-sent-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        let period = Some(Duration::from_secs(1));
        let there = ServiceManager::named(path.as_os_str(), period);
        assert_eq!(there.watchdog(), period);
        let missing = ServiceManager::named(OsStr::new("no socket"), None);
        for manager in [&there, &missing] {
            manager.notify_ready("STATUS=passes");
            assert!(!manager.has_pending());
            manager.notify_status("STATUS=fails");
            assert!(!manager.has_pending());
        }
        assert!(there.notify("X=1") && !missing.notify("X=1"));
        drop(socket);
        std::fs::remove_file(&path).unwrap();
    }

    /// `READY=1` after `STOPPING=1` would look like a daemon that serves.
    #[test]
    fn pending_notifications_are_dropped_when_the_daemon_stops() {
        let path = std::env::temp_dir().join(format!("healthz-stopping-{}", std::process::id()));
        for is_ready_pending in [true, false] {
            let socket = UnixDatagram::bind(&path).unwrap();
            let manager = ServiceManager::named(path.as_os_str(), None);
            // Without its socket, nothing can be sent.
            drop(socket);
            std::fs::remove_file(&path).unwrap();
            match is_ready_pending {
                true => manager.notify_ready("STATUS=passes"),
                false => manager.notify_status("STATUS=fails"),
            }
            assert!(manager.has_pending());
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            manager.notify_stopping();
            assert!(!manager.has_pending());
            manager.notify_status("STATUS=fails");
            let mut state = [0; 64];
            let states = std::iter::from_fn(|| {
                let length = socket.recv(&mut state).ok()?;
                Some(String::from_utf8(state[..length].to_vec()).unwrap())
            });
            let expected = ["STOPPING=1\nSTATUS=shutting down", "STATUS=fails"];
            assert_eq!(states.collect::<Vec<_>>(), expected);
            std::fs::remove_file(&path).unwrap();
        }
    }

    /// Regression: a reload that was given up while the daemon drained sent `READY=1`.
    #[test]
    fn a_daemon_that_stops_is_not_ready_again() {
        let path = std::env::temp_dir().join(format!("healthz-stopped-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = ServiceManager::named(path.as_os_str(), None);
        manager.notify_reloading();
        manager.notify_stopping();
        manager.notify_ready("STATUS=fails");
        let mut state = [0; 64];
        let states = std::iter::from_fn(|| {
            let length = socket.recv(&mut state).ok()?;
            Some(String::from_utf8(state[..length].to_vec()).unwrap())
        });
        let states: Vec<_> = states.collect();
        assert!(
            states.iter().all(|state| !state.contains("READY=1")),
            "{states:?}"
        );
        assert_eq!(states.last().unwrap(), "STATUS=fails");
        std::fs::remove_file(&path).unwrap();
    }

    /// The send has a timeout, so the kernel does not continue it after a signal.
    #[test]
    fn a_signal_does_not_end_a_send_that_waits() {
        let path = std::env::temp_dir().join(format!("healthz-signal-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        let (sender, ids) = std::sync::mpsc::channel();
        let attempt = || {
            while others.send_to(b"X=1", &path).is_ok() {}
            std::thread::scope(|scope| {
                let notifying = scope.spawn(|| {
                    let manager = ServiceManager::named(path.as_os_str(), None);
                    sender.send((gettid(), pthread_self() as usize)).unwrap();
                    manager.notify("READY=1")
                });
                let (id, thread) = ids.recv().unwrap();
                interrupt(id, thread, &[libc::SYS_sendto]);
                while socket.recv(&mut [0]).is_ok() {}
                notifying.join().unwrap()
            })
        };
        // On a busy machine, the timeout may pass before the queue has room.
        assert!((0..5).any(|_| attempt()));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn abstract_names_and_paths_can_be_notified() {
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
            let manager = ServiceManager::named(OsStr::new(&name), None);
            assert!(manager.notify("READY=1"));
            let mut state = [0; 16];
            let length = socket.recv(&mut state).unwrap();
            assert_eq!(&state[..length], b"READY=1");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(connect(OsStr::new("vsock:2:1234")).is_err());
    }
}
