//! Hostile clients, as many at once as their process may open files.
//!
//! One thread and one epoll serve all of them. The caller chooses the attack and its end. They connect from
//! addresses of their own, 127.0.1.1 and on, so that probes do not run out of ports.
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

/// What is done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Connects and says nothing.
    Idle,
    /// Sends half a head, and no more of it.
    Half,
    /// Sends a head that has no end, one byte a second.
    Drip,
    /// Asks for long answers, a few at a time, and reads none.
    Unread,
    /// Asks [`PIPELINED`] times, as fast as the server takes it, and reads nothing.
    Pipeline,
    /// Connects, comes to one of [`STATES`], and resets the connection; again and again.
    Reset,
    /// Connects and closes, again and again.
    Close,
}

/// Requests of one connection of [`Attack::Pipeline`].
pub const PIPELINED: usize = 100_000;

/// What a connection has come to when it is reset.
#[derive(Clone, Copy)]
enum State {
    /// It has said this.
    Said(&'static [u8]),
    /// It has said this, and some answer has come.
    Answered(&'static [u8]),
    /// It has asked until the server could not answer any more, and so did not read any more.
    Blocked,
}

/// All that there are.
const STATES: [State; 10] = [
    State::Said(b""),
    State::Said(b"GET /heal"),
    State::Said(HALF),
    State::Said(GET),
    State::Answered(GET),
    State::Answered(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
    State::Said(
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    ),
    State::Answered(b"NO\r\n\r\n"),
    State::Said(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore"),
    State::Blocked,
];

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const VERBOSE: &[u8] = b"GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ";

/// What the kernel may keep for an attacker in either direction: the machine is not the victim.
const BUFFER_BYTES: usize = 16 * 1024;
/// Source addresses, and ports enough behind each.
const SOURCES: usize = 200;
/// Connections that a repeating attack has at once: a new one ends the oldest. One thread
/// has them all, because on two cores a second would be in the server's way more than any connection.
const LOOP_OPEN: usize = 64;
/// Connections begun in a row before what is open gets its turn.
const OPENS_PER_TURN: usize = 64;
const DRIP: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(10);
/// For a connection or an answer on which nothing depends.
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

    /// One word for the command line.
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

    /// For people.
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

/// Attacks `address` with `count` connections at once, or [`LOOP_OPEN`] at once and more after them where
/// an attack is a loop, until `is_over`. `made` counts connections that were established: once it has
/// reached `count`, all attackers are connected.
///
/// A connection that the server ends is made anew, `again` later.
///
/// # Errors
/// If the system does not give what the attackers need. That a connection fails is no error.
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
        crowd.turn(made)?;
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
        // It times out where the backlog is full; to wait for the kernel's next try would be a pause.
        if socket.connect_timeout(&address.into(), PATIENCE).is_err() {
            continue;
        }
        made.fetch_add(1, Ordering::Relaxed);
        let state = (attack == Attack::Reset).then(|| STATES[index % STATES.len()]);
        if let Some(state) = state {
            come_to(&socket, state, &flood)?;
        }
        // Half of them at once, so that the server finds them over when it comes to them.
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

/// Says what brings the connection to `state`. The server may be quicker with its own end, which is no
/// error.
fn come_to(mut socket: &Socket, state: State, flood: &[u8]) -> io::Result<()> {
    match state {
        State::Said(bytes) | State::Answered(bytes) => {
            let _ = socket.write_all(bytes);
        }
        State::Blocked => {
            socket.set_nonblocking(true)?;
            while socket.write(flood).is_ok() {}
        }
    }
    Ok(())
}

/// Ends the connection: by a reset once it is there, if there is a `state` that it was to come to.
fn end(socket: Socket, state: Option<State>, flood: &[u8]) -> io::Result<()> {
    match state {
        None => return Ok(()),
        Some(State::Said(_)) => {}
        Some(State::Answered(_)) => {
            socket.set_read_timeout(Some(PATIENCE))?;
            let _ = (&socket).read(&mut [0; 9]);
        }
        // The server has read some of it in between.
        Some(State::Blocked) => come_to(&socket, State::Blocked, flood)?,
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
    /// The handshake is over.
    is_made: bool,
    /// Bytes that the server was sent.
    sent: usize,
}

/// Many attackers at once.
struct Crowd {
    attack: Attack,
    address: SocketAddr,
    poll: Poll,
    events: Events,
    attackers: Vec<Option<Attacker>>,
    /// Places of those that have to be made, and when.
    missing: VecDeque<(Duration, usize)>,
    again: Duration,
    began: Instant,
    /// Of [`Attack::Drip`]: how many bytes have been due in all, and whose is next.
    drips: u64,
    next: usize,
    /// What is sent again and again.
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

    fn turn(&mut self, made: &AtomicU64) -> io::Result<()> {
        let now = self.began.elapsed();
        for _ in 0..OPENS_PER_TURN {
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
            if self.speak(index).is_err() {
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

    /// Begins a connection; `false` if the system has none to give.
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

    /// The connection is there, or has room again.
    fn speak(&mut self, index: usize) -> io::Result<()> {
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

    /// Sends a byte on each connection that is due: each once a second, evenly spread. Returns the closed ones.
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
