//! An open-loop client: each probe leaves when it is due, whatever became of those before it.
//!
//! The schedule is fixed when a run begins. A latency counts from the moment at which its probe was
//! due, not from when it could be sent, so a server that stalls cannot stop the clock by keeping the
//! client busy ("coordinated omission"). How late the client itself was is told apart.
//!
//! Knows which answer is right, and nothing of who gives it.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::support::Checksum;

/// The probe that leaves its connection open.
pub const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The probe that asks for the connection to be closed.
pub const REQUEST_CLOSE: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Connections open at once with one a probe. Beyond that probes wait, with their clocks running.
const LINES_MAX: usize = 512;
/// More than any answer to these requests, times the probes that may be under way on a connection.
const ANSWERS_BYTES: usize = 64 * 1024;
/// How often probes that nobody answers any more are looked for.
const SWEEP: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// So many connections, kept. A probe takes a free one; if there is none, it is pipelined behind
    /// the fewest others, so that it still leaves in time.
    KeepAlive(usize),
    /// One connection a probe, closed by the server.
    Close,
}

/// How the client waits for what is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It looks again at once: needs a CPU of its own, and adds no wake-up to what is measured.
    Spin,
    /// The same, but it lets others run in between, on a machine with a single CPU.
    Yield,
    /// It sleeps, as a kubelet does. While probes are under way it is up to a millisecond late, because
    /// that is what epoll counts in.
    Sleep,
}

/// Which answer is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// 200.
    Ok,
    /// 500, because of the check of that name.
    Failing(String),
}

pub struct Plan {
    pub address: SocketAddr,
    pub mode: Mode,
    pub wait: Wait,
    /// Probes a second.
    pub rate: u32,
    /// Probes in all.
    pub count: u64,
    /// From the moment it was due; after that a probe is lost.
    pub patience: Duration,
    pub right: Right,
}

/// What came of a run. Times in nanoseconds.
pub struct Tally {
    pub asked: u64,
    /// In time, and right.
    pub answered: u64,
    /// Connections whose end the server should have sent and did not, or that it reset.
    pub unclosed: u64,
    /// With one connection a probe, what became of each that was not answered in time: where between
    /// connect(2) and the answer the time went tells who was slow.
    pub lost: Vec<String>,
    /// From when a probe was due to the last byte of its answer, be it too late.
    pub latency: Histogram<u64>,
    /// From when a probe was due to when it was sent: the client's own part.
    pub late: Histogram<u64>,
    /// Of all bodies.
    pub checksum: Checksum,
}

impl Tally {
    pub fn new() -> Self {
        // Three digits and one, up to a minute: longer than any patience.
        let histogram = |digits| Histogram::new_with_bounds(1, 60_000_000_000, digits).unwrap();
        Tally {
            asked: 0,
            answered: 0,
            unclosed: 0,
            lost: Vec::new(),
            latency: histogram(3),
            late: histogram(1),
            checksum: Checksum::EMPTY,
        }
    }

    /// Takes in what came of another run.
    pub fn add(&mut self, other: &Tally) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.unclosed += other.unclosed;
        self.lost.extend_from_slice(&other.lost);
        self.latency.add(&other.latency).unwrap();
        self.late.add(&other.late).unwrap();
        self.checksum.add(other.checksum.to_string().as_bytes());
    }

    /// Probes that nobody answered in time.
    pub fn unanswered(&self) -> u64 {
        self.asked - self.answered
    }

    /// How many answers took longer than that.
    pub fn later_than(&self, time: Duration) -> u64 {
        let time = time.as_nanos() as u64;
        self.latency.count_between(time, self.latency.high())
    }

    /// A latency in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// Runs a plan to its end.
///
/// # Errors
/// If the system does not give what the client needs, or an answer is wrong. A missing answer is no
/// error here: it is counted.
pub fn run(plan: &Plan) -> Result<Tally, String> {
    let explain = |error| format!("{} ({:?}): {error}", plan.address, plan.mode);
    let mut client = Client::new(plan).map_err(explain)?;
    client.run().map_err(explain)?;
    Ok(client.tally)
}

/// One connection.
struct Line {
    stream: TcpStream,
    /// When the probes under way were due, oldest first.
    due: VecDeque<Duration>,
    /// The request could not be written yet.
    is_unsent: bool,
    /// When the last probe on it was due.
    used: Duration,
    /// With one connection a probe: just before connect(2), and how long after that the request was written.
    begun: Duration,
    spoke: Duration,
    answers: Vec<u8>,
}

struct Client<'a> {
    plan: &'a Plan,
    poll: Poll,
    lines: Vec<Option<Line>>,
    /// Places in `lines` that nobody has.
    free: Vec<usize>,
    /// Where to look first for a free connection.
    turn: usize,
    start: Instant,
    /// Probes under way; and with one connection a probe, connections that are not closed yet.
    open: u64,
    scratch: Vec<u8>,
    tally: Tally,
}

impl<'a> Client<'a> {
    fn new(plan: &'a Plan) -> io::Result<Self> {
        let mut client = Client {
            plan,
            poll: Poll::new()?,
            lines: Vec::new(),
            free: Vec::new(),
            turn: 0,
            start: Instant::now(),
            open: 0,
            scratch: vec![0; ANSWERS_BYTES],
            tally: Tally::new(),
        };
        if let Mode::KeepAlive(connections) = plan.mode {
            for _ in 0..connections {
                let stream = std::net::TcpStream::connect(plan.address)?;
                stream.set_nonblocking(true)?;
                let index = client.open_line(TcpStream::from_std(stream));
                client.register(index, Interest::READABLE)?;
            }
        }
        Ok(client)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut sweep_due = SWEEP;
        self.start = Instant::now();
        while self.tally.asked < self.plan.count || self.open > 0 {
            let next = self.due(self.tally.asked);
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
            self.send_what_is_due()?;
            if self.start.elapsed() >= sweep_due {
                sweep_due = self.start.elapsed() + SWEEP;
                self.sweep();
            }
        }
        Ok(())
    }

    /// When the probe of that number is to leave.
    fn due(&self, number: u64) -> Duration {
        if number >= self.plan.count {
            return Duration::MAX;
        }
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.plan.rate))
    }

    fn send_what_is_due(&mut self) -> io::Result<()> {
        loop {
            let due = self.due(self.tally.asked);
            let Some(late) = self.start.elapsed().checked_sub(due) else {
                return Ok(());
            };
            let index = match self.plan.mode {
                Mode::KeepAlive(_) => self.best_line()?,
                Mode::Close if self.open >= LINES_MAX as u64 => return Ok(()),
                Mode::Close => self.open_line(TcpStream::connect(self.plan.address)?),
            };
            self.tally.asked += 1;
            self.open += 1;
            let is_new = self.plan.mode == Mode::Close;
            let Some(line) = self.lines[index].as_mut() else {
                continue;
            };
            line.due.push_back(due);
            line.used = due;
            self.tally.late.saturating_record(late.as_nanos() as u64);
            if is_new {
                line.is_unsent = true;
                line.begun = due + late;
                self.write(index)?;
                let is_unsent = self.lines[index].as_ref().is_some_and(|l| l.is_unsent);
                let interest = match is_unsent {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                self.register(index, interest)?;
            } else if line.stream.write(REQUEST)? != REQUEST.len() {
                return Err(io::Error::other("the server does not take requests"));
            }
        }
    }

    /// The connection with the fewest probes under way, a free one if possible.
    fn best_line(&mut self) -> io::Result<usize> {
        self.turn += 1;
        let count = self.lines.len();
        let places = (0..count).map(|step| (self.turn + step) % count);
        let load = |index: usize| Some((self.lines[index].as_ref()?.due.len(), index));
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

    fn open_line(&mut self, stream: TcpStream) -> usize {
        let line = Line {
            stream,
            due: VecDeque::new(),
            is_unsent: false,
            used: Duration::ZERO,
            begun: Duration::ZERO,
            spoke: Duration::ZERO,
            answers: Vec::new(),
        };
        let index = self.free.pop().unwrap_or(self.lines.len());
        if index == self.lines.len() {
            self.lines.push(None);
        }
        self.lines[index] = Some(line);
        index
    }

    fn register(&mut self, index: usize, interest: Interest) -> io::Result<()> {
        match self.lines[index].as_mut() {
            Some(line) => {
                let registry = self.poll.registry();
                registry.register(&mut line.stream, Token(index), interest)
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let Some(line) = self.lines[index].as_mut() else {
            return Ok(());
        };
        match line.stream.write(REQUEST_CLOSE) {
            Ok(written) if written == REQUEST_CLOSE.len() => {
                line.is_unsent = false;
                line.spoke = self.start.elapsed() - line.begun;
            }
            Ok(_) => return Err(io::Error::other("a request was cut in two")),
            // Not connected yet.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) => {}
            // The server has ended it, before it knew what is asked.
            Err(_) => return self.end(index, false),
        }
        Ok(())
    }

    /// Reads what is there.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        if self.lines[index].as_ref().is_some_and(|l| l.is_unsent) {
            self.write(index)?;
        }
        loop {
            let Some(line) = self.lines[index].as_mut() else {
                return Ok(());
            };
            let read = line.stream.read(&mut self.scratch);
            let now = self.start.elapsed();
            match read {
                Ok(0) => {
                    self.lose(index, "ended", now);
                    return self.end(index, true);
                }
                Ok(count) => {
                    line.answers.extend_from_slice(&self.scratch[..count]);
                    self.take_answers(index, now)?;
                    let is_kept = self.plan.mode != Mode::Close;
                    if is_kept && count < self.scratch.len() {
                        // Drained: the next bytes bring the next event.
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

    /// Remembers what became of a probe, if its connection has one that was not answered.
    fn lose(&mut self, index: usize, how: &str, now: Duration) {
        let Some(line) = &self.lines[index] else {
            return;
        };
        if self.plan.mode != Mode::Close || line.due.is_empty() {
            return;
        }
        let spoke = match line.is_unsent {
            true => "never sent".into(),
            false => format!("sent after {:.1?}", line.spoke),
        };
        let after = now.saturating_sub(line.begun);
        let due = line.begun.saturating_sub(line.used);
        let lost = format!("{how} {after:.1?} after connect(2), which was {due:.1?} late; {spoke}");
        self.tally.lost.push(lost);
    }

    fn take_answers(&mut self, index: usize, now: Duration) -> io::Result<()> {
        while let Some(line) = self.lines[index].as_mut() {
            let Some((length, body)) = answer(&line.answers, &self.plan.right)? else {
                return Ok(());
            };
            let Some(due) = line.due.front().copied() else {
                return Err(io::Error::other("an answer that nobody asked for"));
            };
            self.tally.checksum.add(body);
            line.answers.drain(..length);
            if self.plan.mode != Mode::Close {
                self.open -= 1;
            }
            if now - due <= self.plan.patience {
                self.tally.answered += 1;
            } else {
                self.lose(index, "answered", now);
            }
            let latency = (now - due).as_nanos() as u64;
            self.tally.latency.saturating_record(latency);
            if let Some(line) = self.lines[index].as_mut() {
                line.due.pop_front();
            }
        }
        Ok(())
    }

    /// The server has ended the connection, in order or by a reset; or patience has.
    fn end(&mut self, index: usize, in_order: bool) -> io::Result<()> {
        let Some(line) = self.lines[index].take() else {
            return Ok(());
        };
        self.free.push(index);
        match self.plan.mode {
            Mode::KeepAlive(_) => self.open -= line.due.len() as u64,
            Mode::Close => self.open -= 1,
        }
        if in_order && !line.answers.is_empty() {
            return Err(io::Error::other("an answer was cut short"));
        }
        let should_stay = matches!(self.plan.mode, Mode::KeepAlive(_));
        if !in_order || should_stay {
            self.tally.unclosed += 1;
        }
        Ok(())
    }

    /// Gives up connections on which nothing comes any more.
    fn sweep(&mut self) {
        let now = self.start.elapsed();
        for index in 0..self.lines.len() {
            let Some(line) = &self.lines[index] else {
                continue;
            };
            let since = match self.plan.mode {
                Mode::KeepAlive(_) => line.due.front().copied(),
                Mode::Close => Some(line.used),
            };
            if since.is_some_and(|since| now > since + self.plan.patience) {
                self.lose(index, "given up", now);
                // Cannot fail: it is not the server that ends it.
                let _ = self.end(index, false);
            }
        }
    }
}

/// The whole answer at the start of `bytes`, as its length and its body; `None` if there is more to
/// come.
///
/// # Errors
/// If it is not the right one, of kind `Other`.
pub fn answer<'a>(bytes: &'a [u8], right: &Right) -> io::Result<Option<(usize, &'a [u8])>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let body = head + 4;
    let text = String::from_utf8_lossy(&bytes[..head]);
    let wrong = |what: &str| io::Error::other(format!("{what} in the answer {text:?}"));
    let mut lines = text.split("\r\n");
    let status = match right {
        Right::Ok => "HTTP/1.1 200 OK",
        Right::Failing(_) => "HTTP/1.1 500 Internal Server Error",
    };
    if lines.next() != Some(status) {
        return Err(wrong(&format!("not {status:?}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| wrong("no length"))?;
    let Some(text) = bytes.get(body..body + length) else {
        return Ok(None);
    };
    if !right.is_body(text) {
        return Err(wrong(&format!("the body {:?}", text.escape_ascii())));
    }
    Ok(Some((body + length, text)))
}

impl Right {
    fn is_body(&self, body: &[u8]) -> bool {
        match self {
            Right::Ok => body == b"ok",
            Right::Failing(check) => {
                let line = format!("[-]{check} failed: reason withheld\n");
                let has_line = body.windows(line.len()).any(|part| part == line.as_bytes());
                has_line && body.ends_with(b"healthz check failed\n")
            }
        }
    }
}
