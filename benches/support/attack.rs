//! Hostile clients, at most as many at once as their process may open files.
//!
//! One thread with one epoll runs all of them. The caller chooses the attack, and when it ends. The clients
//! connect from the addresses 127.0.1.1 to 127.0.1.200, so that enough ports remain for probes.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

/// What the attackers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Connects and sends nothing.
    Idle,
    /// Sends half a head, and nothing after it.
    Half,
    /// Sends a head without an end, one byte a second.
    Drip,
    /// Requests long answers until the server stops reading, and reads none.
    Unread,
    /// Sends [`PIPELINED`] requests as fast as the server reads them, and reads no answer.
    Pipeline,
    /// Connects, brings the connection to one of [`STATES`], and resets it; repeatedly.
    Reset,
    /// Connects and closes, repeatedly.
    Close,
}

/// Requests of one connection of [`Attack::Pipeline`].
pub const PIPELINED: usize = 100_000;

/// The state of a connection when the attacker resets it.
#[derive(Clone, Copy)]
enum State {
    /// The attacker has sent this.
    Sent(&'static [u8]),
    /// The attacker has sent this, and received at least one byte.
    Answered(&'static [u8]),
    /// The attacker has sent requests until the server could send no more answers, and so stopped reading.
    Blocked,
}

/// The states in which [`Attack::Reset`] resets its connections, in turn.
const STATES: [State; 10] = [
    State::Sent(b""),
    State::Sent(b"GET /heal"),
    State::Sent(HALF),
    State::Sent(GET),
    State::Answered(GET),
    State::Answered(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
    State::Sent(
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    ),
    State::Answered(b"NO\r\n\r\n"),
    State::Sent(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore"),
    State::Blocked,
];

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const VERBOSE: &[u8] = b"GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ";

/// Size of the kernel's buffers for an attacker. The attack is on the server, not on the memory of the machine.
const BUFFER_BYTES: usize = 16 * 1024;
/// Number of source addresses, each of which has enough ports.
const SOURCES: usize = 200;
/// Connections that a repeating attack has at once: each new one ends the oldest. One thread makes all of them.
/// On two cores, a second thread would take more CPU time from the server than the attack itself.
const LOOP_OPEN: usize = 64;
/// Most connections to begin before the open ones are handled.
const OPENS_PER_POLL: usize = 64;
const DRIP: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(10);
/// Timeout for a connection or an answer that the attack can do without.
const PATIENCE: Duration = Duration::from_millis(100);

impl Attack {
    pub const ALL: [Attack; 7] = [
        Attack::Idle,
        Attack::Half,
        Attack::Drip,
        Attack::Unread,
        Attack::Pipeline,
        Attack::Reset,
        Attack::Close,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Idle => "idle",
            Attack::Half => "half",
            Attack::Drip => "drip",
            Attack::Unread => "unread",
            Attack::Pipeline => "pipeline",
            Attack::Reset => "reset",
            Attack::Close => "close",
        }
    }

    /// The description in tables.
    pub fn description(self) -> &'static str {
        match self {
            Attack::Idle => "idle",
            Attack::Half => "half a head",
            Attack::Drip => "a byte a second",
            Attack::Unread => "answers never read",
            Attack::Pipeline => "100,000 requests at once, unread",
            Attack::Reset => "reset at every state",
            Attack::Close => "connect and close",
        }
    }

    /// Whether its connections fill the table, so that a new one evicts another.
    pub fn is_occupying(self) -> bool {
        !matches!(self, Attack::Reset | Attack::Close)
    }

    /// Of `made` connections, how many the server may never see: the kernel holds back a connection that has sent
    /// nothing (`TCP_DEFER_ACCEPT`), and drops it if it is reset then.
    pub fn unseen(self, made: u64) -> u64 {
        match self {
            Attack::Reset => made.div_ceil(STATES.len() as u64),
            _ => 0,
        }
    }
}

impl FromStr for Attack {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let mut all = Attack::ALL.into_iter();
        all.find(|attack| attack.name() == name).ok_or(())
    }
}

/// Attacks `address` with `count` connections at once until `is_over`. An attack that repeats keeps
/// at most [`LOOP_OPEN`] connections open. `made` counts connections that were established: once it has
/// reached `count`, all attackers are connected.
///
/// If the server ends a connection, the attacker connects again after the time `again`.
///
/// # Errors
/// If the system has no descriptor for an attacker. A connection that fails is not an error.
pub fn run(
    attack: Attack,
    address: SocketAddr,
    count: usize,
    again: Duration,
    made: &AtomicU64,
    is_over: &AtomicBool,
) -> io::Result<()> {
    if matches!(attack, Attack::Reset | Attack::Close) {
        return run_loop(attack, address, made, is_over);
    }
    let mut crowd = Crowd::new(attack, address, count, again)?;
    while !is_over.load(Ordering::Relaxed) {
        crowd.poll_once(made)?;
    }
    Ok(())
}

fn run_loop(
    attack: Attack,
    address: SocketAddr,
    made: &AtomicU64,
    is_over: &AtomicBool,
) -> io::Result<()> {
    let flood = VERBOSE.repeat(256);
    let mut open = VecDeque::with_capacity(LOOP_OPEN);
    for index in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let socket = socket(index)?;
        // With a full backlog, the kernel tries again after a second. That would be a pause in the attack.
        if socket.connect_timeout(&address.into(), PATIENCE).is_err() {
            continue;
        }
        made.fetch_add(1, Ordering::Relaxed);
        let state = (attack == Attack::Reset).then(|| STATES[index % STATES.len()]);
        if let Some(state) = state {
            bring_to(&socket, state, &flood)?;
        }
        // Half of the connections end at once, so that they have ended before the server reads them.
        if (index / STATES.len()) % 2 == 0 {
            end(socket, state, &flood)?;
            continue;
        }
        if open.len() == LOOP_OPEN {
            let oldest = open.pop_front();
            oldest.map_or(Ok(()), |(socket, state)| end(socket, state, &flood))?;
        }
        open.push_back((socket, state));
    }
    Ok(())
}

/// Sends what brings the connection to `state`. The server may close it before that, which is not an error.
fn bring_to(mut socket: &Socket, state: State, flood: &[u8]) -> io::Result<()> {
    match state {
        State::Sent(bytes) | State::Answered(bytes) => {
            let _ = socket.write_all(bytes);
        }
        State::Blocked => {
            socket.set_nonblocking(true)?;
            while socket.write(flood).is_ok() {}
        }
    }
    Ok(())
}

/// Ends the connection. If it has a `state`, waits until it is in that state, and resets it.
fn end(socket: Socket, state: Option<State>, flood: &[u8]) -> io::Result<()> {
    match state {
        None => return Ok(()),
        Some(State::Sent(_)) => {}
        Some(State::Answered(_)) => {
            socket.set_read_timeout(Some(PATIENCE))?;
            let _ = (&socket).read(&mut [0; 9]);
        }
        // The server may have read some bytes since then.
        Some(State::Blocked) => bring_to(&socket, State::Blocked, flood)?,
    }
    socket.set_linger(Some(Duration::ZERO))
}

fn socket(index: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    // The side that closes first keeps its port for a minute (TIME_WAIT); the next connection may reuse it.
    socket.set_reuse_address(true)?;
    let source = Ipv4Addr::new(127, 0, 1, 1 + (index % SOURCES) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    Ok(socket)
}

struct Attacker {
    stream: TcpStream,
    /// True after the handshake.
    is_made: bool,
    /// Bytes sent to the server.
    sent: usize,
}

/// Many attackers at once.
struct Crowd {
    attack: Attack,
    address: SocketAddr,
    poll: Poll,
    events: Events,
    attackers: Vec<Option<Attacker>>,
    /// Attackers without a connection: the time of their next attempt, and their index.
    missing: VecDeque<(Duration, usize)>,
    again: Duration,
    began: Instant,
    /// For [`Attack::Drip`]: the number of bytes that were due so far, and the attacker that sends next.
    drips: u64,
    next: usize,
    /// The bytes that are sent repeatedly.
    script: Vec<u8>,
}

impl Crowd {
    fn new(attack: Attack, address: SocketAddr, count: usize, again: Duration) -> io::Result<Self> {
        let script = match attack {
            Attack::Unread => VERBOSE.repeat(16),
            Attack::Pipeline => GET.repeat(1000),
            _ => HALF.to_vec(),
        };
        Ok(Crowd {
            attack,
            address,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            attackers: (0..count).map(|_| None).collect(),
            missing: (0..count).map(|index| (Duration::ZERO, index)).collect(),
            again,
            began: Instant::now(),
            drips: 0,
            next: 0,
            script,
        })
    }

    fn poll_once(&mut self, made: &AtomicU64) -> io::Result<()> {
        let now = self.began.elapsed();
        for _ in 0..OPENS_PER_POLL {
            let index = match self.missing.front() {
                Some((due, index)) if *due <= now => *index,
                _ => break,
            };
            self.missing.pop_front();
            if !self.open(index)? {
                self.missing.push_back((now + self.again, index));
            }
        }
        let is_due = self.missing.front().is_some_and(|(due, _)| *due <= now);
        let timeout = if is_due { Duration::ZERO } else { TICK };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let mut gone = Vec::new();
        let mut ready = Vec::new();
        for event in &self.events {
            let is_connected = event.is_writable() && !event.is_error();
            let attacker = self.attackers[event.token().0].as_mut();
            if let Some(attacker) = attacker.filter(|attacker| is_connected && !attacker.is_made) {
                attacker.is_made = true;
                made.fetch_add(1, Ordering::Relaxed);
            }
            if event.is_error() || event.is_read_closed() {
                gone.push(event.token().0);
            } else if event.is_writable() {
                ready.push(event.token().0);
            }
        }
        for index in ready {
            if self.send(index).is_err() {
                gone.push(index);
            }
        }
        if self.attack == Attack::Drip {
            gone.extend(self.drip());
        }
        for index in gone {
            if self.attackers[index].take().is_some() {
                self.missing.push_back((now + self.again, index));
            }
        }
        Ok(())
    }

    /// Begins a connection; `false` if that fails.
    fn open(&mut self, index: usize) -> io::Result<bool> {
        let socket = socket(index)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(_) => return Ok(false),
            Ok(()) => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(
            &mut stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.attackers[index] = Some(Attacker {
            stream,
            is_made: false,
            sent: 0,
        });
        Ok(true)
    }

    /// Sends on a connection that was established, or can send again.
    fn send(&mut self, index: usize) -> io::Result<()> {
        let Some(attacker) = &mut self.attackers[index] else {
            return Ok(());
        };
        let most = match self.attack {
            Attack::Half => HALF.len(),
            Attack::Unread => usize::MAX,
            Attack::Pipeline => PIPELINED * GET.len(),
            _ => 0,
        };
        while attacker.sent < most {
            let from = attacker.sent % self.script.len();
            let rest = &self.script[from..];
            let size = rest.len().min(most - attacker.sent);
            match attacker.stream.write(&rest[..size]) {
                Ok(count) => attacker.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a byte on each connection that is due: once a second, evenly spread over the second. Returns the
    /// connections that the server has closed.
    fn drip(&mut self) -> Vec<usize> {
        let count = self.attackers.len() as u128;
        let due = (self.began.elapsed().as_micros() * count / DRIP.as_micros()) as u64;
        let mut gone = Vec::new();
        while self.drips < due {
            self.drips += 1;
            self.next = (self.next + 1) % self.attackers.len();
            let Some(attacker) = &mut self.attackers[self.next] else {
                continue;
            };
            let byte = self.script.get(attacker.sent).unwrap_or(&b'x');
            match attacker.stream.write(&[*byte]) {
                Ok(_) => attacker.sent += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(_) => gone.push(self.next),
            }
        }
        gone
    }
}
