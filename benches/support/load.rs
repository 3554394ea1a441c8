//! An open-loop client: it sends each probe at its scheduled time, whether or not earlier ones are answered.
//!
//! The schedule is fixed when a run begins. Latency counts from the scheduled time, not from the time of
//! sending, so a server that stalls cannot hide its delay by keeping the client busy ("coordinated
//! omission"). The delay of the client itself is reported separately.
//!
//! It checks each response, and knows nothing about the server.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::support::Checksum;

/// The path that most servers are asked for.
pub const PATH: &str = "/healthz";
/// The probe of [`PATH`] in keep-alive mode.
pub const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The probe of [`PATH`] that requests the end of the connection.
pub const REQUEST_CLOSE: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Most open connections in `Mode::Close`. Further probes wait, and their latency includes the wait.
const CONNECTIONS_MAX: usize = 512;
/// More than all responses that can be outstanding on one connection.
const RESPONSES_BYTES: usize = 64 * 1024;
/// How often timed-out probes are looked for.
const SWEEP: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// This many keep-alive connections. A probe uses a free one, otherwise the one with the fewest
    /// outstanding probes (pipelining), so that it is sent in time.
    KeepAlive(usize),
    /// A new connection for each probe, closed by the server.
    Close,
}

/// How the client waits for the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Polls without pause. Needs a CPU of its own; no wake-up time is in the measurement.
    Spin,
    /// Polls and yields in between, for a machine with one CPU.
    Yield,
    /// Sleeps, as a kubelet does. While probes are outstanding it may be up to a millisecond late, because
    /// epoll has timeouts in milliseconds.
    Sleep,
}

/// The expected response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// 200 and the body `ok`.
    Ok,
    /// 200 and any body with a `Content-Length`.
    Any,
    /// 500, because the check with this name fails.
    Failing(String),
}

pub struct Plan {
    pub address: SocketAddr,
    pub mode: Mode,
    pub wait: Wait,
    /// Probes per second.
    pub rate: u32,
    /// Total number of probes.
    pub count: u64,
    /// A probe that is not answered within this time after its scheduled time counts as unanswered.
    pub timeout: Duration,
    /// The path to request.
    pub path: String,
    pub expected: Expected,
}

/// The results of a run. Times in nanoseconds.
pub struct Results {
    pub sent: u64,
    /// Correct responses in time.
    pub answered: u64,
    /// Connections that the server reset, did not close when it should have, or closed when it should not
    /// have.
    pub wrong_ends: u64,
    /// In `Mode::Close`, a description of each probe that was not answered in time. Its times between
    /// connect(2) and the response show whether the client or the server was slow.
    pub lost: Vec<String>,
    /// From the scheduled time to the last byte of the response, also of late responses.
    pub latency: Histogram<u64>,
    /// From the scheduled time to the time of sending: the delay of the client.
    pub late: Histogram<u64>,
    /// Checksum of all response bodies.
    pub checksum: Checksum,
}

impl Results {
    pub fn new() -> Self {
        // Up to a minute, which is longer than any timeout, with three digits or one.
        let histogram = |digits| Histogram::new_with_bounds(1, 60_000_000_000, digits).unwrap();
        Results {
            sent: 0,
            answered: 0,
            wrong_ends: 0,
            lost: Vec::new(),
            latency: histogram(3),
            late: histogram(1),
            checksum: Checksum::EMPTY,
        }
    }

    /// Adds the results of another run.
    pub fn add(&mut self, other: &Results) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.wrong_ends += other.wrong_ends;
        self.lost.extend_from_slice(&other.lost);
        self.latency.add(&other.latency).unwrap();
        self.late.add(&other.late).unwrap();
        self.checksum.add(other.checksum.to_string().as_bytes());
    }

    /// Probes without a response in time.
    pub fn unanswered(&self) -> u64 {
        self.sent - self.answered
    }

    /// How many responses took longer than `time`.
    pub fn later_than(&self, time: Duration) -> u64 {
        let time = time.as_nanos() as u64;
        self.latency.count_between(time, self.latency.high())
    }

    /// The latency at a quantile, in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// The bytes of a probe.
fn request(plan: &Plan) -> Vec<u8> {
    let request = match plan.mode {
        Mode::KeepAlive(_) => REQUEST,
        Mode::Close => REQUEST_CLOSE,
    };
    let text = String::from_utf8_lossy(request);
    text.replacen(PATH, &plan.path, 1).into_bytes()
}

/// Runs a plan to its end.
///
/// # Errors
/// If a system call fails or a response is wrong. A missing response is no error; it is counted.
pub fn run(plan: &Plan) -> Result<Results, String> {
    let explain = |error| format!("{} ({:?}): {error}", plan.address, plan.mode);
    let mut client = Client::new(plan).map_err(explain)?;
    client.run().map_err(explain)?;
    Ok(client.results)
}

/// One connection.
struct Conn {
    stream: TcpStream,
    /// Scheduled times of the outstanding probes, oldest first.
    due: VecDeque<Duration>,
    /// The request is not written yet.
    is_unsent: bool,
    /// Scheduled time of the last probe on it.
    used: Duration,
    /// In `Mode::Close`: the time just before connect(2), and how long after that the request was written.
    connect_time: Duration,
    send_delay: Duration,
    responses: Vec<u8>,
}

struct Client<'a> {
    plan: &'a Plan,
    poll: Poll,
    conns: Vec<Option<Conn>>,
    /// Unused indices of `conns`.
    free: Vec<usize>,
    /// Where the search for a free connection begins.
    next: usize,
    start: Instant,
    /// Outstanding probes; in `Mode::Close`, open connections.
    open: u64,
    scratch: Vec<u8>,
    /// The request that keeps the connection, or the one that does not.
    request: Vec<u8>,
    results: Results,
}

impl<'a> Client<'a> {
    fn new(plan: &'a Plan) -> io::Result<Self> {
        let mut client = Client {
            plan,
            poll: Poll::new()?,
            conns: Vec::new(),
            free: Vec::new(),
            next: 0,
            start: Instant::now(),
            open: 0,
            scratch: vec![0; RESPONSES_BYTES],
            request: request(plan),
            results: Results::new(),
        };
        if let Mode::KeepAlive(connections) = plan.mode {
            for _ in 0..connections {
                let stream = std::net::TcpStream::connect(plan.address)?;
                stream.set_nonblocking(true)?;
                let index = client.open_conn(TcpStream::from_std(stream));
                client.register(index, Interest::READABLE)?;
            }
        }
        Ok(client)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut sweep_due = SWEEP;
        self.start = Instant::now();
        while self.results.sent < self.plan.count || self.open > 0 {
            let next = self.due(self.results.sent);
            let timeout = match self.plan.wait {
                Wait::Spin => Duration::ZERO,
                Wait::Yield => {
                    std::thread::yield_now();
                    Duration::ZERO
                }
                Wait::Sleep if self.open == 0 => {
                    std::thread::sleep(next.saturating_sub(self.start.elapsed()));
                    Duration::ZERO
                }
                Wait::Sleep => next.min(sweep_due).saturating_sub(self.start.elapsed()),
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result?,
            }
            for event in &events {
                self.serve(event.token().0)?;
            }
            self.send_due_probes()?;
            if self.start.elapsed() >= sweep_due {
                sweep_due = self.start.elapsed() + SWEEP;
                self.sweep();
            }
        }
        Ok(())
    }

    /// The scheduled time of a probe.
    fn due(&self, number: u64) -> Duration {
        if number >= self.plan.count {
            return Duration::MAX;
        }
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.plan.rate))
    }

    fn send_due_probes(&mut self) -> io::Result<()> {
        loop {
            let due = self.due(self.results.sent);
            let Some(late) = self.start.elapsed().checked_sub(due) else {
                return Ok(());
            };
            let index = match self.plan.mode {
                Mode::KeepAlive(_) => self.best_conn()?,
                Mode::Close if self.open >= CONNECTIONS_MAX as u64 => return Ok(()),
                Mode::Close => self.open_conn(TcpStream::connect(self.plan.address)?),
            };
            self.results.sent += 1;
            self.open += 1;
            let is_new = self.plan.mode == Mode::Close;
            let Some(conn) = self.conns[index].as_mut() else {
                continue;
            };
            conn.due.push_back(due);
            conn.used = due;
            self.results.late.saturating_record(late.as_nanos() as u64);
            if is_new {
                conn.is_unsent = true;
                conn.connect_time = due + late;
                self.write(index)?;
                let is_unsent = self.conns[index]
                    .as_ref()
                    .is_some_and(|conn| conn.is_unsent);
                let interest = match is_unsent {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                self.register(index, interest)?;
            } else if conn.stream.write(&self.request)? != self.request.len() {
                return Err(io::Error::other(
                    "the server does not read requests: the send buffer is full",
                ));
            }
        }
    }

    /// The connection with the fewest outstanding probes.
    fn best_conn(&mut self) -> io::Result<usize> {
        self.next += 1;
        let count = self.conns.len();
        let places = (0..count).map(|step| (self.next + step) % count);
        let load = |index: usize| Some((self.conns[index].as_ref()?.due.len(), index));
        let mut best = None;
        for (probes, index) in places.filter_map(load) {
            if probes == 0 {
                return Ok(index);
            }
            if best.is_none_or(|(fewest, _)| probes < fewest) {
                best = Some((probes, index));
            }
        }
        best.map(|(_, index)| index)
            .ok_or_else(|| io::Error::other("the server closed every connection"))
    }

    fn open_conn(&mut self, stream: TcpStream) -> usize {
        let conn = Conn {
            stream,
            due: VecDeque::new(),
            is_unsent: false,
            used: Duration::ZERO,
            connect_time: Duration::ZERO,
            send_delay: Duration::ZERO,
            responses: Vec::new(),
        };
        let index = self.free.pop().unwrap_or(self.conns.len());
        if index == self.conns.len() {
            self.conns.push(None);
        }
        self.conns[index] = Some(conn);
        index
    }

    fn register(&mut self, index: usize, interest: Interest) -> io::Result<()> {
        match self.conns[index].as_mut() {
            Some(conn) => {
                let registry = self.poll.registry();
                registry.register(&mut conn.stream, Token(index), interest)
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let Some(conn) = self.conns[index].as_mut() else {
            return Ok(());
        };
        match conn.stream.write(&self.request) {
            Ok(written) if written == self.request.len() => {
                conn.is_unsent = false;
                conn.send_delay = self.start.elapsed() - conn.connect_time;
            }
            Ok(_) => {
                return Err(io::Error::other(
                    "only a part of a request could be written",
                ));
            }
            // The connection is not established yet.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) => {}
            // The server closed the connection before it received the request.
            Err(_) => return self.end(index, false),
        }
        Ok(())
    }

    /// Reads and checks responses.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        if self.conns[index]
            .as_ref()
            .is_some_and(|conn| conn.is_unsent)
        {
            self.write(index)?;
        }
        loop {
            let Some(conn) = self.conns[index].as_mut() else {
                return Ok(());
            };
            let read = conn.stream.read(&mut self.scratch);
            let now = self.start.elapsed();
            match read {
                Ok(0) => {
                    self.lose(index, "ended", now);
                    return self.end(index, true);
                }
                Ok(count) => {
                    conn.responses.extend_from_slice(&self.scratch[..count]);
                    self.take_responses(index, now)?;
                    let is_kept = self.plan.mode != Mode::Close;
                    if is_kept && count < self.scratch.len() {
                        // The socket is drained; more bytes cause another event.
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.lose(index, "reset", now);
                    return self.end(index, false);
                }
            }
        }
    }

    /// Records an outstanding probe of a connection as lost (only in `Mode::Close`).
    fn lose(&mut self, index: usize, how: &str, now: Duration) {
        let Some(conn) = &self.conns[index] else {
            return;
        };
        if self.plan.mode != Mode::Close || conn.due.is_empty() {
            return;
        }
        let send_delay = match conn.is_unsent {
            true => "request never sent".into(),
            false => format!("request sent after {:.1?}", conn.send_delay),
        };
        let after = now.saturating_sub(conn.connect_time);
        let due = conn.connect_time.saturating_sub(conn.used);
        let lost =
            format!("{how} {after:.1?} after connect(2), which was {due:.1?} late; {send_delay}");
        self.results.lost.push(lost);
    }

    fn take_responses(&mut self, index: usize, now: Duration) -> io::Result<()> {
        while let Some(conn) = self.conns[index].as_mut() {
            let Some((length, body)) = parse_response(&conn.responses, &self.plan.expected)? else {
                return Ok(());
            };
            let Some(due) = conn.due.front().copied() else {
                return Err(io::Error::other("a response without a request"));
            };
            self.results.checksum.add(body);
            conn.responses.drain(..length);
            if self.plan.mode != Mode::Close {
                self.open -= 1;
            }
            if now - due <= self.plan.timeout {
                self.results.answered += 1;
            } else {
                self.lose(index, "answered", now);
            }
            let latency = (now - due).as_nanos() as u64;
            self.results.latency.saturating_record(latency);
            if let Some(conn) = self.conns[index].as_mut() {
                conn.due.pop_front();
            }
        }
        Ok(())
    }

    /// Removes a connection that the server closed (`in_order`) or reset, or that timed out.
    fn end(&mut self, index: usize, in_order: bool) -> io::Result<()> {
        let Some(conn) = self.conns[index].take() else {
            return Ok(());
        };
        self.free.push(index);
        match self.plan.mode {
            Mode::KeepAlive(_) => self.open -= conn.due.len() as u64,
            Mode::Close => self.open -= 1,
        }
        if in_order && !conn.responses.is_empty() {
            return Err(io::Error::other("the connection ended within a response"));
        }
        let should_stay = matches!(self.plan.mode, Mode::KeepAlive(_));
        if !in_order || should_stay {
            self.results.wrong_ends += 1;
        }
        Ok(())
    }

    /// Closes connections whose oldest probe timed out.
    fn sweep(&mut self) {
        let now = self.start.elapsed();
        for index in 0..self.conns.len() {
            let Some(conn) = &self.conns[index] else {
                continue;
            };
            let since = match self.plan.mode {
                Mode::KeepAlive(_) => conn.due.front().copied(),
                Mode::Close => Some(conn.used),
            };
            if since.is_some_and(|since| now > since + self.plan.timeout) {
                self.lose(index, "timed out", now);
                // Cannot fail, because the connection did not end in order.
                let _ = self.end(index, false);
            }
        }
    }
}

/// Parses the response at the start of `bytes`. Returns its length and body, or `None` if it is incomplete.
///
/// # Errors
/// Of kind `Other`, if it is not the expected response.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    expected: &Expected,
) -> io::Result<Option<(usize, &'a [u8])>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let body = head + 4;
    let text = String::from_utf8_lossy(&bytes[..head]);
    let wrong = |what: &str| io::Error::other(format!("{what} in the response {text:?}"));
    let mut lines = text.split("\r\n");
    let status = match expected {
        Expected::Ok => "HTTP/1.1 200 OK",
        Expected::Any => "HTTP/1.1 200 or HTTP/1.0 200",
        Expected::Failing(_) => "HTTP/1.1 500 Internal Server Error",
    };
    let line = lines.next().unwrap_or_default();
    let is_right = match expected {
        Expected::Any => ["HTTP/1.1 200", "HTTP/1.0 200"].contains(&line.get(..12).unwrap_or("")),
        _ => line == status,
    };
    if !is_right {
        return Err(wrong(&format!("expected the status line {status:?}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| wrong("no Content-Length"))?;
    let Some(text) = bytes.get(body..body + length) else {
        return Ok(None);
    };
    if !expected.is_body(text) {
        return Err(wrong(&format!("unexpected body {:?}", text.escape_ascii())));
    }
    Ok(Some((body + length, text)))
}

impl Expected {
    fn is_body(&self, body: &[u8]) -> bool {
        match self {
            Expected::Ok => body == b"ok",
            Expected::Any => true,
            Expected::Failing(check) => {
                let line = format!("[-]{check} failed: reason withheld\n");
                let has_line = body.windows(line.len()).any(|part| part == line.as_bytes());
                has_line && body.ends_with(b"healthz check failed\n")
            }
        }
    }
}
