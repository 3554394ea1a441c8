//! The kind `heartbeat`: a receiver of sd_notify(3) messages, by which programs report that they are alive.
//!
//! A program sends datagrams to a Unix socket, as it would to systemd. [`message`] reads one, [`state`] says what
//! they mean, and [`socket`] receives them. Messages of other users are refused and counted.

mod closer;
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
pub use self::state::LastBeat;
use self::state::{Settings, State, sent_at};
use crate::sources::attempt::Listener;
use crate::sources::spec::{Heartbeat, Outcome};

/// Most datagrams that are handled for one event. Then other checks are served.
const DATAGRAMS_PER_EVENT_MAX: usize = 64;
/// Most datagrams that are taken before a heartbeat counts as overdue: more than a queue holds by default
/// (`net.unix.max_dgram_qlen`, 10 to 512).
const DATAGRAMS_PER_OUTCOME_MAX: usize = 1024;
/// Shortest time between two warnings.
const WARNING_PERIOD: Duration = Duration::from_secs(60);

impl Heartbeat {
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
        // The old socket is closed first, because that removes its file.
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
            // Its descriptors are closed here, after all earlier messages were handled, as BARRIER=1 requires.
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
        let is_valid =
            |message: &Message| !message.is_barrier || datagram.fds.as_slice().len() == 1;
        let Some(message) = message.filter(is_valid) else {
            self.warnings.add(Warning::Invalid, || {
                format!("invalid message of process {} ignored", sender.pid)
            });
            return;
        };
        let sent = sent_at(datagram.sent, wall, now, self.drained);
        let unix_seconds = datagram.sent.unwrap_or(wall).as_secs();
        if let Some(text) = self.state.handle(&message, sent, unix_seconds) {
            self.warnings.add(Warning::Invalid, || text.into());
        }
        self.forward(datagram, sender);
    }

    /// Root can send in the name of any user.
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
            // Without credentials of the sender, the manager would take it for a message of this process.
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
            return Outcome::Fail(format!(
                "{}: {error}",
                self.receiver.name().to_string_lossy()
            ));
        }
        match self.state.verdict(now) {
            Ok(()) => Outcome::Pass,
            Err(reason) if self.receiver.is_in_place() => Outcome::Fail(reason),
            Err(reason) => {
                let name = self.receiver.name().to_string_lossy();
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

    fn is_lost(&self) -> bool {
        !self.receiver.is_in_place()
    }

    fn last_beat(&self) -> Option<LastBeat> {
        self.state.last_beat()
    }

    fn continue_from(&mut self, last: LastBeat) {
        self.state.continue_from(last);
    }

    fn take_state(self: Box<Self>) -> Option<Handover> {
        Some(Handover {
            receiver: self.receiver,
            state: self.state,
            drained: self.drained,
        })
    }
}

/// The warnings since the last one that was logged: of each kind the last text, and how many.
#[derive(Default)]
struct Warnings {
    kinds: [Option<(u64, String)>; 3],
    /// Until then, no other warning is logged.
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Read;
    use std::os::fd::{OwnedFd, RawFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::path::PathBuf;
    use std::process::Command;

    use mio::{Events, Poll};
    use nix::sys::socket::{
        ControlMessage, MsgFlags, UnixAddr, UnixCredentials, sendmsg, setsockopt, sockopt,
    };

    use super::*;

    const BASE: Token = Token(16);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// A directory of this test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("healthz-heartbeat-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("worker.sock")
        }

        fn spec(&self) -> Heartbeat {
            Heartbeat {
                limit: Duration::from_secs(30),
                socket: self.socket().into(),
                mode: 0o600,
                uid: None,
                passes_until_ready: false,
                forward: None,
            }
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn beats(spec: &Heartbeat, poll: &Poll) -> Box<dyn Listener> {
        open(spec, poll.registry(), BASE, at(0)).unwrap()
    }

    fn own_pid() -> i32 {
        std::process::id().try_into().unwrap()
    }

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        (reader.into(), writer)
    }

    /// Waits for a datagram, and takes it.
    fn take_event(listener: &mut dyn Listener, poll: &mut Poll, now: Instant) {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(20)))
            .unwrap();
        let event = events.iter().next().expect("no datagram came");
        listener.ready(poll.registry(), event.token(), now).unwrap();
    }

    fn send(path: &std::path::Path, text: &str) {
        let socket = UnixDatagram::unbound().unwrap();
        assert_eq!(socket.send_to(text.as_bytes(), path).unwrap(), text.len());
    }

    fn send_with(path: &std::path::Path, text: &str, control: &[ControlMessage<'_>]) {
        let socket = UnixDatagram::unbound().unwrap();
        let address = UnixAddr::new(path).unwrap();
        let pieces = [io::IoSlice::new(text.as_bytes())];
        let flags = MsgFlags::empty();
        let sent = sendmsg(socket.as_raw_fd(), &pieces, control, flags, Some(&address));
        assert_eq!(sent.unwrap(), text.len());
    }

    fn failed(reason: &str) -> Outcome {
        Outcome::Fail(reason.into())
    }

    #[test]
    fn a_program_that_sends_passes_until_its_limit() {
        let directory = Directory::new("passes");
        let mut poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        assert_eq!(listener.outcome(at(1)), failed("not ready yet"));
        assert_eq!(listener.deadline(), None);
        send(&directory.socket(), "READY=1\nSTATUS=serving");
        take_event(listener.as_mut(), &mut poll, at(2));
        assert_eq!(listener.outcome(at(2)), Outcome::Pass);
        // Sent a moment before.
        let deadline = listener.deadline().unwrap();
        assert!(at(31) <= deadline && deadline <= at(32));
        assert_eq!(
            listener.outcome(Instant::from_millis(deadline.as_millis() - 1)),
            Outcome::Pass
        );
        let want = "no heartbeat for 30 s, limit 30 s: serving";
        assert_eq!(listener.outcome(deadline), failed(want));
        assert_eq!(listener.deadline(), None);
        assert_eq!(listener.take_warning(deadline), None);
    }

    #[test]
    fn the_queue_is_emptied_before_a_heartbeat_counts_as_overdue() {
        let directory = Directory::new("late");
        let poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        send(&directory.socket(), "READY=1");
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
        send(&directory.socket(), "WATCHDOG=1");
        assert_eq!(listener.outcome(at(100)), Outcome::Pass);
    }

    #[test]
    fn one_event_takes_a_bounded_number_of_datagrams() {
        let directory = Directory::new("bounded");
        let poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while sent <= DATAGRAMS_PER_EVENT_MAX
            && socket.send_to(b"READY=1", directory.socket()).is_ok()
        {
            sent += 1;
        }
        let may_be_more = listener.ready(poll.registry(), BASE, at(1)).unwrap();
        assert_eq!(may_be_more, sent > DATAGRAMS_PER_EVENT_MAX);
        assert!(!listener.ready(poll.registry(), BASE, at(1)).unwrap());
    }

    #[test]
    fn messages_of_other_users_are_refused_and_counted() {
        let directory = Directory::new("users");
        let poll = Poll::new().unwrap();
        let mut spec = directory.spec();
        let mut listener = beats(&spec, &poll);
        let other = libc::ucred {
            pid: own_pid(),
            uid: 4711,
            gid: 4711,
        };
        let credentials = UnixCredentials::from(other);
        let control = [ControlMessage::ScmCredentials(&credentials)];
        if !nix::unistd::geteuid().is_root() {
            println!("only root can send as another user");
            return;
        }
        for _ in 0..3 {
            send_with(&directory.socket(), "READY=1", &control);
        }
        assert_eq!(listener.outcome(at(1)), failed("not ready yet"));
        let process = std::process::id();
        let want = format!("message of user 4711 refused, process {process} (3 times)");
        assert_eq!(listener.take_warning(at(1)), Some(want));
        // At most one warning a minute.
        send_with(&directory.socket(), "READY=1", &control);
        assert_eq!(listener.outcome(at(2)), failed("not ready yet"));
        assert_eq!(listener.take_warning(at(2)), None);
        assert!(listener.take_warning(at(62)).is_some());

        drop(listener);
        spec.uid = Some(4711);
        let mut listener = beats(&spec, &poll);
        send_with(&directory.socket(), "READY=1", &control);
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
    }

    #[test]
    fn invalid_messages_change_nothing_and_are_counted() {
        let directory = Directory::new("invalid");
        let poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        let long = format!("READY=1\nSTATUS={}", "a".repeat(message::MESSAGE_BYTES_MAX));
        // The last is a barrier without its descriptor.
        for text in ["", "\0", &long, "BARRIER=1"] {
            send(&directory.socket(), text);
        }
        assert_eq!(listener.outcome(at(1)), failed("not ready yet"));
        let process = std::process::id();
        let want = format!("invalid message of process {process} ignored (4 times)");
        assert_eq!(listener.take_warning(at(1)), Some(want));
    }

    #[test]
    fn descriptors_are_closed() {
        let directory = Directory::new("descriptors");
        let poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        for (text, count) in [
            ("BARRIER=1", 1),
            ("FDSTORE=1", 1),
            ("READY=1", 253),
            ("\0", 2),
        ] {
            let (mut reader, writer) = pipe();
            let fds: Vec<RawFd> = vec![writer.as_raw_fd(); count];
            send_with(
                &directory.socket(),
                text,
                &[ControlMessage::ScmRights(&fds)],
            );
            drop(writer);
            listener.outcome(at(1));
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0, "{text}");
        }
    }

    #[test]
    fn an_abstract_socket_needs_the_option_uid() {
        let poll = Poll::new().unwrap();
        let directory = Directory::new("abstract");
        let name = format!("healthz-heartbeat-{}", std::process::id());
        let mut spec = directory.spec();
        spec.socket = OsString::from(format!("@{name}"));
        let error = open(&spec, poll.registry(), BASE, at(0)).err().unwrap();
        assert_eq!(error.to_string(), "an abstract socket needs the option uid");
        spec.uid = Some(nix::unistd::geteuid().as_raw());
        let mut listener = beats(&spec, &poll);
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to_addr(b"READY=1", &address).unwrap();
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
    }

    #[test]
    fn changed_options_keep_the_socket_and_the_state() {
        let directory = Directory::new("resume");
        let mut poll = Poll::new().unwrap();
        let mut spec = directory.spec();
        let mut listener = beats(&spec, &poll);
        send(&directory.socket(), "READY=1");
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
        (spec.limit, spec.mode) = (Duration::from_secs(5), 0o666);
        // A message that comes meanwhile is not lost.
        let handover = listener.take_state().unwrap();
        send(&directory.socket(), "STATUS=between");
        let token = Token(40);
        let mut listener = resume(&spec, handover, poll.registry(), token, at(3)).unwrap();
        assert_eq!(listener.outcome(at(3)), Outcome::Pass);
        let want = "no heartbeat for 5 s, limit 5 s: between";
        assert_eq!(listener.outcome(at(6)), failed(want));
        send(&directory.socket(), "WATCHDOG=1");
        take_event(listener.as_mut(), &mut poll, at(7));
        assert_eq!(listener.outcome(at(7)), Outcome::Pass);

        // Another name is another socket, without the state.
        spec.socket = directory.0.join("other.sock").into();
        let handover = listener.take_state().unwrap();
        let mut listener = resume(&spec, handover, poll.registry(), token, at(8)).unwrap();
        assert_eq!(listener.outcome(at(8)), failed("not ready yet"));
        assert!(!directory.socket().exists());
    }

    #[test]
    fn the_reason_says_that_the_socket_was_removed() {
        let directory = Directory::new("removed");
        let poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        let path = directory.socket();
        std::fs::remove_file(&path).unwrap();
        let want = format!("not ready yet; the socket {} was removed", path.display());
        assert_eq!(listener.outcome(at(1)), failed(&want));
    }

    /// A socket such as that of a service manager.
    fn manager(directory: &Directory) -> (Receiver, PathBuf) {
        let path = directory.0.join("manager.sock");
        (Receiver::bind(path.as_os_str(), 0o600).unwrap(), path)
    }

    #[test]
    fn messages_are_forwarded_in_the_name_of_their_sender_with_their_descriptors() {
        let directory = Directory::new("forward");
        let (manager, path) = manager(&directory);
        let poll = Poll::new().unwrap();
        let mut spec = directory.spec();
        spec.forward = Some(path);
        let mut listener = beats(&spec, &poll);
        let (mut reader, writer) = pipe();
        let fds = [writer.as_raw_fd()];
        send(&directory.socket(), "READY=1");
        send_with(
            &directory.socket(),
            "BARRIER=1",
            &[ControlMessage::ScmRights(&fds)],
        );
        drop(writer);
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
        let ready = manager.receive().unwrap().unwrap();
        assert_eq!(ready.bytes(), b"READY=1");
        assert_eq!(ready.sender.unwrap().pid, own_pid());
        let barrier = manager.receive().unwrap().unwrap();
        assert_eq!(
            (barrier.bytes(), barrier.fds.as_slice().len()),
            (b"BARRIER=1".as_slice(), 1)
        );
        // The sender waits until the manager has closed its copy too.
        drop(barrier);
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(listener.take_warning(at(1)), None);
    }

    #[test]
    fn messages_of_another_process_are_forwarded_in_its_name_or_not_at_all() {
        let directory = Directory::new("forward-other");
        let (manager, path) = manager(&directory);
        let mut poll = Poll::new().unwrap();
        let mut spec = directory.spec();
        spec.forward = Some(path);
        let mut listener = beats(&spec, &poll);
        // As root, systemd-notify sends in the name of its parent, the shell. It waits until its descriptor is
        // closed, so the shell still runs when its message is forwarded.
        let mut command = Command::new("sh");
        // Its error is dropped: the barrier fails, because the socket is removed before.
        command.args(["-c", "systemd-notify --ready 2>/dev/null || exit 1; true"]);
        command.env("NOTIFY_SOCKET", directory.socket());
        if Command::new("systemd-notify")
            .arg("--version")
            .output()
            .is_err()
        {
            println!("no systemd-notify here");
            return;
        }
        let mut child = command.spawn().unwrap();
        take_event(listener.as_mut(), &mut poll, at(1));
        let forwarded = manager.receive().unwrap();
        match listener.take_warning(at(1)) {
            None => {
                let forwarded = forwarded.unwrap();
                assert_eq!(forwarded.bytes(), b"READY=1");
                let sender = forwarded.sender.unwrap().pid;
                assert_eq!(sender, i32::try_from(child.id()).unwrap());
                assert_ne!(sender, own_pid());
            }
            Some(warning) => {
                let want =
                    "messages are not forwarded: needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID";
                assert_eq!(warning, want);
                assert!(forwarded.is_none());
            }
        }
        // Nothing is read any more, so the child's descriptors are closed.
        drop((listener, manager));
        child.wait().unwrap();
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let directory = Directory::new("full");
        let (manager, path) = manager(&directory);
        let poll = Poll::new().unwrap();
        let mut spec = directory.spec();
        spec.forward = Some(path.clone());
        let mut listener = beats(&spec, &poll);
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"X=1", &path).is_ok() {}
        send(&directory.socket(), "READY=1");
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
        let want = "message not forwarded: the manager's queue is full";
        assert_eq!(listener.take_warning(at(1)).as_deref(), Some(want));
        drop(manager);
        send(&directory.socket(), "READY=1");
        assert_eq!(listener.outcome(at(2)), Outcome::Pass);
        let want = "message not forwarded: No such file or directory";
        assert_eq!(listener.take_warning(at(99)).as_deref(), Some(want));
    }

    #[test]
    fn messages_of_systemd_notify_are_beats() {
        let directory = Directory::new("systemd-notify");
        let mut poll = Poll::new().unwrap();
        let mut listener = beats(&directory.spec(), &poll);
        let notify = |arguments: &[&str]| {
            let mut command = Command::new("systemd-notify");
            command
                .env("NOTIFY_SOCKET", directory.socket())
                .args(arguments);
            command.spawn()
        };
        let Ok(mut child) = notify(&["--no-block", "--ready", "--status=it works"]) else {
            println!("no systemd-notify here");
            return;
        };
        assert!(child.wait().unwrap().success());
        take_event(listener.as_mut(), &mut poll, at(1));
        assert_eq!(listener.outcome(at(1)), Outcome::Pass);
        let want = "no heartbeat for 60 s, limit 30 s: it works";
        assert_eq!(listener.outcome(at(61)), failed(want));
        // Without --no-block it waits until its descriptor is closed, for 5 s at most.
        let mut child = notify(&["WATCHDOG=1"]).unwrap();
        let began = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            let mut events = Events::with_capacity(8);
            poll.poll(&mut events, Some(Duration::from_millis(20)))
                .unwrap();
            listener.ready(poll.registry(), BASE, at(62)).unwrap();
        }
        assert!(child.wait().unwrap().success());
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "the barrier was not closed"
        );
        assert_eq!(listener.outcome(at(62)), Outcome::Pass);
        assert_eq!(listener.take_warning(at(62)), None);
    }

    #[test]
    fn the_sender_is_known_only_with_the_option_of_the_kernel() {
        // The kernel adds the sender for each receiver with the option. A message without a sender does not count.
        let directory = Directory::new("sender");
        let poll = Poll::new().unwrap();
        let (receiver, path) = manager(&directory);
        setsockopt(&receiver, sockopt::PassCred, &false).unwrap();
        let spec = Heartbeat {
            socket: path.clone().into(),
            ..directory.spec()
        };
        let handover = Handover {
            receiver,
            state: State::new(spec.settings(), at(0)),
            drained: at(0),
        };
        let mut listener = Beats::new(&spec, handover).unwrap();
        send(&path, "READY=1");
        assert_eq!(listener.outcome(at(1)), failed("not ready yet"));
        drop(poll);
    }
}
