//! Programs that say that they are alive: a receiver of sd_notify(3).
//!
//! A program sends datagrams to a Unix socket, as it would to systemd. [`message`] reads one, [`state`] says what
//! they mean, and [`socket`] receives them. Messages of other users are refused and counted.

#[cfg(test)]
mod fuzz;
mod message;
mod socket;
mod state;

use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use healthz::Instant;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use std::os::fd::AsRawFd;

use self::message::{Message, Sender};
use self::socket::{Datagram, Forwarder, Receiver, is_abstract};
use self::state::{Settings, State, sent_at};
use crate::sources::attempt::Listener;
use crate::sources::spec::{Heartbeat, Outcome};

/// Most datagrams for one event. The other checks have their turn after that.
const DATAGRAMS_PER_EVENT_MAX: usize = 64;
/// Most datagrams that are taken before a program is called late: more than a queue holds by default
/// (`net.unix.max_dgram_qlen`, 10 to 512).
const DATAGRAMS_PER_OUTCOME_MAX: usize = 1024;
/// Shortest time between two warnings.
const WARNING_PERIOD: Duration = Duration::from_secs(60);

impl Heartbeat {
    /// A program can always stop sending.
    pub fn never_fails(&self) -> Option<&'static str> {
        None
    }

    fn settings(&self) -> Settings {
        Settings {
            limit: self.limit,
            passes_until_ready: self.passes_until_ready,
        }
    }
}

/// Binds the socket and registers it.
///
/// # Errors
/// If the socket cannot be bound, or has an abstract name without `uid`.
pub fn open(
    spec: &Heartbeat,
    registry: &Registry,
    base: Token,
    now: Instant,
) -> io::Result<Box<dyn Listener>> {
    check_name(spec)?;
    let receiver = Receiver::bind(&spec.socket, spec.mode)?;
    let fd = receiver.as_raw_fd();
    registry.register(&mut SourceFd(&fd), base, Interest::READABLE)?;
    let state = State::new(spec.settings(), now);
    let handover = Handover {
        receiver,
        state,
        drained: now,
    };
    Ok(Box::new(Beats::new(spec, handover)?))
}

/// The socket and the state of a listener whose options have changed.
pub struct Handover {
    receiver: Receiver,
    state: State,
    drained: Instant,
}

/// Continues with the socket and the state of an earlier listener, which is registered with the same loop. If the
/// socket has another name, this is the same as [`open`].
///
/// # Errors
/// As [`open`]. The earlier socket is closed then.
pub fn resume(
    spec: &Heartbeat,
    handover: Handover,
    registry: &Registry,
    base: Token,
    now: Instant,
) -> io::Result<Box<dyn Listener>> {
    if handover.receiver.name() != spec.socket || !handover.receiver.is_in_place() {
        // First the old one goes, which may have removed its file.
        drop(handover);
        return open(spec, registry, base, now);
    }
    check_name(spec)?;
    handover.receiver.set_mode(spec.mode)?;
    let fd = handover.receiver.as_raw_fd();
    registry.reregister(&mut SourceFd(&fd), base, Interest::READABLE)?;
    let mut handover = handover;
    handover.state.change_settings(spec.settings());
    Ok(Box::new(Beats::new(spec, handover)?))
}

/// Every user can send to an abstract name, so the one that may has to be given.
fn check_name(spec: &Heartbeat) -> io::Result<()> {
    if is_abstract(&spec.socket) && spec.uid.is_none() {
        let error = "an abstract socket needs the option uid";
        return Err(io::Error::new(ErrorKind::InvalidInput, error));
    }
    Ok(())
}

struct Beats {
    receiver: Receiver,
    state: State,
    /// When the queue was last empty. Later messages were sent after that.
    drained: Instant,
    /// Our user and the one of the option `uid`.
    users: [u32; 2],
    forwarder: Option<Forwarder>,
    may_forward: bool,
    warnings: Warnings,
}

impl Beats {
    fn new(spec: &Heartbeat, handover: Handover) -> io::Result<Self> {
        let own = nix::unistd::geteuid().as_raw();
        let forward = spec.forward.as_deref();
        Ok(Beats {
            receiver: handover.receiver,
            state: handover.state,
            drained: handover.drained,
            users: [own, spec.uid.unwrap_or(own)],
            forwarder: forward
                .map(|path| Forwarder::new(path.as_os_str()))
                .transpose()?,
            may_forward: true,
            warnings: Warnings::default(),
        })
    }

    /// Takes at most `count` datagrams. Returns true if there may be more.
    fn take(&mut self, count: usize, now: Instant) -> io::Result<bool> {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        for _ in 0..count {
            let Some(datagram) = self.receiver.receive()? else {
                self.drained = now;
                return Ok(false);
            };
            self.handle(&datagram, wall, now);
            // Its descriptors are closed here, after everything before was handled, as BARRIER=1 asks.
        }
        Ok(true)
    }

    fn handle(&mut self, datagram: &Datagram, wall: Duration, now: Instant) {
        let Some(sender) = datagram.sender.filter(|sender| self.may_send(sender)) else {
            let sender = datagram.sender.unwrap_or(Sender {
                pid: 0,
                uid: u32::MAX,
                gid: 0,
            });
            self.warnings.add(Warning::Refused, || {
                format!(
                    "message of user {} refused, process {}",
                    sender.uid, sender.pid
                )
            });
            return;
        };
        let message = match datagram.is_cut {
            true => None,
            false => Message::parse(datagram.bytes()),
        };
        let is_valid = |message: &Message| !message.is_barrier || datagram.fds.count() == 1;
        let Some(message) = message.filter(is_valid) else {
            self.warnings.add(Warning::Invalid, || {
                format!("invalid message of process {} ignored", sender.pid)
            });
            return;
        };
        let sent = sent_at(datagram.sent, wall, now, self.drained);
        if let Some(text) = self.state.handle(&message, sent) {
            self.warnings.add(Warning::Invalid, || text.into());
        }
        self.forward(datagram, sender);
    }

    /// Root may do everything anyway.
    fn may_send(&self, sender: &Sender) -> bool {
        sender.uid == 0 || self.users.contains(&sender.uid)
    }

    fn forward(&mut self, datagram: &Datagram, sender: Sender) {
        let Some(forwarder) = self.forwarder.as_ref().filter(|_| self.may_forward) else {
            return;
        };
        let Err(error) = forwarder.send(datagram) else {
            return;
        };
        let text = match error {
            // Sent in our own name, the manager would take it for a message of ours.
            Errno::EPERM => {
                self.may_forward = false;
                "messages are not forwarded: needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID".into()
            }
            Errno::EAGAIN => "message not forwarded: the manager's queue is full".into(),
            Errno::ESRCH => format!("message not forwarded: process {} has ended", sender.pid),
            error => format!("message not forwarded: {}", error.desc()),
        };
        self.warnings.add(Warning::Forward, || text);
    }
}

impl Listener for Beats {
    fn ready(&mut self, _: &Registry, _: Token, now: Instant) -> io::Result<bool> {
        self.take(DATAGRAMS_PER_EVENT_MAX, now)
    }

    fn outcome(&mut self, now: Instant) -> Outcome {
        if let Err(error) = self.take(DATAGRAMS_PER_OUTCOME_MAX, now) {
            return Outcome::Fail(format!("{}: {error}", self.receiver.name().display()));
        }
        match self.state.verdict(now) {
            Ok(()) => Outcome::Pass,
            Err(reason) if self.receiver.is_in_place() => Outcome::Fail(reason),
            Err(reason) => {
                let name = self.receiver.name().display();
                Outcome::Fail(format!("{reason}; the socket {name} was removed"))
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.state.deadline(self.drained)
    }

    fn take_warning(&mut self, now: Instant) -> Option<String> {
        self.warnings.take(now)
    }

    fn take_state(self: Box<Self>) -> Option<Handover> {
        Some(Handover {
            receiver: self.receiver,
            state: self.state,
            drained: self.drained,
        })
    }
}

/// What happened since the last warning: of each kind the last text, and how often.
#[derive(Default)]
struct Warnings {
    kinds: [Option<(u64, String)>; 3],
    /// No other warning before.
    quiet_until: Instant,
}

#[derive(Clone, Copy)]
enum Warning {
    Refused,
    Invalid,
    Forward,
}

impl Warnings {
    fn add(&mut self, kind: Warning, text: impl FnOnce() -> String) {
        let Some(slot) = self.kinds.get_mut(kind as usize) else {
            return;
        };
        let count = slot.as_ref().map_or(0, |(count, _)| *count);
        *slot = Some((count.saturating_add(1), text()));
    }

    fn take(&mut self, now: Instant) -> Option<String> {
        if now < self.quiet_until || self.kinds.iter().all(Option::is_none) {
            return None;
        }
        self.quiet_until = now.saturating_add(WARNING_PERIOD);
        let texts = self.kinds.iter_mut().filter_map(Option::take);
        let texts = texts.map(|(count, text)| match count {
            1 => text,
            count => format!("{text} ({count} times)"),
        });
        Some(texts.collect::<Vec<_>>().join("; "))
    }
}
