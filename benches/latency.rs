//! How long a probe takes on loopback, from the moment it was due: `cargo bench --bench latency`.
//!
//! healthz and a floor take turns in one run. The floor is mio with canned bytes: it accepts, reads
//! and writes, and knows no HTTP. Both are processes of their own on one CPU, the client is on
//! another and spins, so that what is measured is the server and the kernel, not a client waking up.
//! Figures are those of the machine; what holds elsewhere is the ratio.
//!
//! `-- --seconds 2 --rounds 3 --keep-alive 8` change how much is done. Writes
//! `target/bench/latency.svg`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/load.rs"]
mod load;
#[path = "support/plot.rs"]
mod plot;
mod support;

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Responder};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use load::{Mode, Plan, Tally, Wait};
use plot::{PERCENTILES, Panel, micros};
use support::{Checksum, thousands};

/// Probes a second: a node's usual load many times over, and as many as leave two cores idle most of
/// the time. Queues are what another bench looks for.
const RATES: [u32; 2] = [500, 5000];
const WARM_UP: u64 = 100;
/// How long the floor sleeps to show that a client sees it.
const STALL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => serve_healthz(),
        Some("serve-floor") => serve_floor(None).unwrap(),
        Some("serve-stall") => serve_floor(Some(STALL)).unwrap(),
        _ => measure(),
    }
}

/// A server that does nothing for a while, once, must be seen in the figures for what it is. A client
/// that waited for answers before it went on would count one slow probe a connection.
fn assert_stall_is_seen(wait: Wait) {
    let mut server = Program::start("serve-stall");
    let plan = Plan {
        address: server.address(Mode::KeepAlive(8)),
        mode: Mode::KeepAlive(8),
        wait,
        rate: 1000,
        count: 200,
        patience: PATIENCE,
    };
    let tally = run(&plan);
    server.stop();
    let half = (STALL / 2).as_nanos() as u64;
    let seen = tally.latency.count_between(half, u64::MAX);
    println!(
        "of {} probes at {} a second to a floor that slept {} ms once, {seen} took half of that or longer\n",
        plan.count,
        plan.rate,
        STALL.as_millis()
    );
    // All that were due in the first half of the sleep, whatever else the machine did.
    assert!(seen >= 40, "a stall is hidden by the client");
}

/// What is measured, one round after the other.
struct Cell {
    mode: Mode,
    rate: u32,
    /// Ours and the floor's, each a tally a round.
    rounds: [Vec<Tally>; 2],
}

fn measure() {
    let is_full = support::is_full();
    let seconds = support::option("--seconds").unwrap_or(if is_full { 4.0 } else { 0.05 });
    let rounds = support::option("--rounds").unwrap_or(if is_full { 5 } else { 1 });
    let connections = support::option("--keep-alive").unwrap_or(8);

    println!("{}", support::environment());
    let mut servers = [
        Program::start("serve-healthz"),
        Program::start("serve-floor"),
    ];
    let (wait, placement) = place(&servers);
    println!("{placement}");
    println!(
        "open loop: {} and {} probes a second on a fixed schedule, {rounds} rounds of {seconds} s each way, healthz and floor in turn; {connections} connections with keep-alive",
        RATES[0], RATES[1]
    );

    assert_stall_is_seen(wait);

    let mut cells: Vec<Cell> = [Mode::KeepAlive(connections), Mode::Close]
        .into_iter()
        .flat_map(|mode| RATES.map(|rate| (mode, rate)))
        .map(|(mode, rate)| Cell {
            mode,
            rate,
            rounds: [Vec::new(), Vec::new()],
        })
        .collect();
    for round in 0..rounds {
        for cell in &mut cells {
            // Who is first changes from round to round.
            for turn in 0..2 {
                let who = (round + turn) % 2;
                let plan = |count| Plan {
                    address: servers[who].address(cell.mode),
                    mode: cell.mode,
                    wait,
                    rate: cell.rate,
                    count,
                    patience: PATIENCE,
                };
                let count = (seconds * f64::from(cell.rate)).max(1.0) as u64;
                run(&plan(WARM_UP.min(count)));
                cell.rounds[who].push(run(&plan(count)));
                servers[who].asked += WARM_UP.min(count) + count;
            }
        }
    }

    table(&cells);
    let panels: Vec<Panel> = cells.iter().map(Cell::panel).collect();
    println!("{}", plot::text(&panels));
    checksum(&cells);
    let [ours, floor] = &mut servers;
    println!("healthz counted: {}", ours.stop());
    floor.stop();
    assert_eq!(
        ours.answered,
        Some(ours.asked),
        "answers that healthz counted"
    );

    if is_full {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/latency.svg");
        let caption = format!(
            "Open loop, free of coordinated omission: a latency counts from when its probe was due. {} samples a curve at {} probes a second, {} at {}.",
            thousands(panels[0].ours.len()),
            thousands(RATES[0].into()),
            thousands(panels[1].ours.len()),
            thousands(RATES[1].into()),
        );
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        let title = "Latency of a health probe on loopback";
        std::fs::write(path, plot::svg(&panels, title, &caption)).unwrap();
        println!("picture: {path}");
    } else {
        println!("small run: it shows that the bench works, its figures mean nothing");
    }
}

/// Gives the client a CPU of its own, if there are two. Returns how it may wait then.
fn place(servers: &[Program; 2]) -> (Wait, &'static str) {
    let cpus = support::cpus();
    let [first, second, ..] = cpus[..] else {
        return (Wait::Yield, "one CPU: client and server take turns on it");
    };
    let is_pinned = servers
        .iter()
        .all(|server| support::pin(server.child.id(), first))
        && support::pin(std::process::id(), second);
    match is_pinned {
        true => (
            Wait::Spin,
            "servers on one CPU, the client spins on another",
        ),
        false => (
            Wait::Spin,
            "not pinned (no taskset): the client spins wherever it is put",
        ),
    }
}

/// Runs a plan and accepts nothing but every answer, right, and every connection closed in order.
fn run(plan: &Plan) -> Tally {
    let tally = load::run(plan).unwrap_or_else(|error| panic!("{error}"));
    let what = format!("{:?} at {} a second", plan.mode, plan.rate);
    assert_eq!(tally.answered, plan.count, "answers with {what}");
    assert_eq!(
        tally.unclosed, 0,
        "connections not closed in order with {what}"
    );
    tally
}

impl Cell {
    fn title(&self) -> String {
        let mode = match self.mode {
            Mode::KeepAlive(_) => "keep-alive",
            Mode::Close => "one connection a probe",
        };
        format!("{mode}, {} a second", thousands(self.rate.into()))
    }

    fn panel(&self) -> Panel {
        let merge = |tallies: &[Tally]| {
            let mut whole = Tally::new().latency;
            for tally in tallies {
                whole.add(&tally.latency).unwrap();
            }
            whole
        };
        let [ours, floor] = &self.rounds;
        Panel {
            title: self.title(),
            ours: merge(ours),
            floor: merge(floor),
        }
    }

    /// Median, least and most over the rounds of ours over the floor's within a round.
    fn ratio(&self, quantile: f64) -> [f64; 3] {
        let [ours, floor] = &self.rounds;
        let value = |tally: &Tally| tally.latency.value_at_quantile(quantile) as f64;
        let mut ratios: Vec<f64> = ours
            .iter()
            .zip(floor)
            .map(|(ours, floor)| value(ours) / value(floor))
            .collect();
        ratios.sort_by(f64::total_cmp);
        [
            ratios[ratios.len() / 2],
            ratios[0],
            ratios[ratios.len() - 1],
        ]
    }

    fn late_p99(&self, who: usize) -> u64 {
        let values = self.rounds[who]
            .iter()
            .map(|tally| tally.late.value_at_quantile(0.99));
        values.max().unwrap_or(0)
    }
}

fn table(cells: &[Cell]) {
    println!(
        "latency in µs, all rounds together; ratio: healthz over floor within a round, median of the rounds,\n\
         and its range; late: by how much the client itself was, p99 of the worst round\n"
    );
    let row = |title: &str, name: &str, late: &str, cell: &dyn Fn(f64) -> String| {
        print!("| {title:<38} | {name:<7} |");
        for (_, quantile) in PERCENTILES {
            print!(" {:>9} |", cell(quantile));
        }
        println!(" {late:>5} |");
    };
    let name_of = |quantile| PERCENTILES.iter().find(|p| p.1 == quantile).unwrap().0;
    row("", "", "late", &|quantile| name_of(quantile).to_string());
    let rule = format!("{:->10}:|", "").repeat(PERCENTILES.len());
    println!("|{:-<40}|{:-<9}|{rule}{:->6}:|", "", "", "");
    for cell in cells {
        let panel = cell.panel();
        for (who, name, histogram) in [(0, "healthz", &panel.ours), (1, "floor", &panel.floor)] {
            let title = if who == 0 {
                cell.title()
            } else {
                String::new()
            };
            row(&title, name, &micros(cell.late_p99(who)), &|quantile| {
                // A percentile beyond the last sample is the maximum, and is not said twice.
                match plot::is_known(histogram, quantile) {
                    true => micros(histogram.value_at_quantile(quantile)),
                    false => "–".into(),
                }
            });
        }
        row("", "ratio", "", &|quantile| {
            format!("{:.2}", cell.ratio(quantile)[0])
        });
        row("", "range", "", &|quantile| {
            let [_, least, most] = cell.ratio(quantile);
            let digits = if most < 10.0 { 2 } else { 1 };
            format!("{least:.digits$}–{most:.digits$}")
        });
    }
    println!();
}

fn checksum(cells: &[Cell]) {
    let mut checksum = Checksum::EMPTY;
    let mut answers = 0;
    for tally in cells.iter().flat_map(|cell| cell.rounds.iter().flatten()) {
        answers += tally.answered;
        checksum.add(tally.checksum.to_string().as_bytes());
    }
    println!(
        "{} answers, every one right; checksum {checksum}",
        thousands(answers)
    );
}

/// A server in a process of its own. It ends when this one does: its standard input closes.
struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
    /// For probes with keep-alive and for those without.
    addresses: [SocketAddr; 2],
    asked: u64,
    answered: Option<u64>,
}

impl Program {
    fn start(what: &str) -> Program {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut addresses = line
            .split_whitespace()
            .map(|address| address.parse().unwrap());
        let first = addresses.next().unwrap();
        let addresses = [first, addresses.next().unwrap_or(first)];
        Program {
            child,
            output,
            addresses,
            asked: 0,
            answered: None,
        }
    }

    fn address(&self, mode: Mode) -> SocketAddr {
        match mode {
            Mode::KeepAlive(_) => self.addresses[0],
            Mode::Close => self.addresses[1],
        }
    }

    /// Ends it. Returns what it said about itself.
    fn stop(&mut self) -> String {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        self.child.wait().unwrap();
        self.answered = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok());
        line.trim().to_string()
    }
}

static PING: Check = Check::ping();
static SYNCLOOP: Check = Check::heartbeat("syncloop", Duration::from_secs(300));
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &SYNCLOOP]);

/// healthz with default settings, on a thread of its own.
fn serve_healthz() {
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let address = server.local_addresses().next();
    let Some(Address::Tcp(address)) = address else {
        panic!("not on TCP: {address:?}");
    };
    let handle = healthz::server::spawn(server).unwrap();
    println!("{address}");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    handle.stop();
    let counters = handle.join().unwrap();
    println!(
        "answered {} accepted {} refused {} evicted {} expired {} failed {}",
        counters.answered,
        counters.accepted,
        counters.refused,
        counters.evicted,
        counters.expired,
        counters.failed
    );
}

/// As long as an answer of healthz, so that the kernel moves the same bytes.
const CANNED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok";
const CANNED_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// The least that can be done with mio: canned bytes for every so many bytes read. It looks at none
/// of them, so the two kinds of probes come to two listeners. With `stall` it sleeps that long before its
/// twentieth answer.
fn serve_floor(stall: Option<Duration>) -> io::Result<()> {
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut poll = Poll::new()?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut listeners = [TcpListener::bind(any)?, TcpListener::bind(any)?];
    for (index, listener) in listeners.iter_mut().enumerate() {
        poll.registry()
            .register(listener, Token(index), Interest::READABLE)?;
    }
    println!(
        "{} {}",
        listeners[0].local_addr()?,
        listeners[1].local_addr()?
    );
    let mut streams: Vec<Option<(TcpStream, bool)>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(256);
    let mut buffer = [0; 8192];
    let mut reads = 0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let token = event.token().0;
            if let Some(listener) = listeners.get(token) {
                while let Ok((mut stream, _)) = listener.accept() {
                    let index = free.pop().unwrap_or(streams.len());
                    let token = Token(listeners.len() + index);
                    poll.registry()
                        .register(&mut stream, token, Interest::READABLE)?;
                    if index == streams.len() {
                        streams.push(None);
                    }
                    streams[index] = Some((stream, event.token() == Token(1)));
                }
                continue;
            }
            let index = token - listeners.len();
            let Some((stream, is_last)) = &mut streams[index] else {
                continue;
            };
            let (request, canned) = match is_last {
                true => (load::REQUEST_CLOSE, CANNED_CLOSE),
                false => (load::REQUEST, CANNED),
            };
            let is_open = match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(count) => {
                    reads += 1;
                    if let Some(stall) = stall
                        && reads == 20
                    {
                        std::thread::sleep(stall);
                    }
                    let answers = count / request.len();
                    (0..answers).all(|_| stream.write(canned).is_ok()) && !*is_last
                }
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !is_open {
                streams[index] = None;
                free.push(index);
            }
        }
    }
}
