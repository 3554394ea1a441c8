//! Instructions and system calls per request, which do not depend on how busy the machine is:
//! `cargo bench --bench instructions`.
//!
//! `Connection` alone is measured from received bytes to response bytes. `same` has the cache of request heads,
//! and a client that repeats its head. `changing` has the cache, and a client whose heads change, which is the
//! most expensive case. `alone` has no cache. The whole server is measured in a separate process with one client.
//! Each figure is the difference of two runs that differ in the number of requests, divided by that
//! difference. Only instructions in user space are counted.
//!
//! `-- --json` prints one JSON object per line instead; `.ci/guard` compares them with `limits.toml`. Needs
//! valgrind and strace. Under `cargo test --benches` it needs neither, and each request is answered a few times.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/count.rs"]
mod count;
#[path = "support/server.rs"]
mod server;
mod support;
#[path = "support/table.rs"]
mod table;

use std::hint::black_box;

use healthz::http::{Connection, Context, Date, HeadCache, Next, Request, Writer};
use healthz::{Check, Endpoint, Instant, Limits, Responder};

use count::Counter;
use server::{Client, Heads, ServerProcess, Setup};
use support::Checksum;
use table::{Table, known};

/// Requests in the shorter and in the longer run without a server.
const RUNS: [u64; 2] = [100, 2100];
/// The number of checks with which the cost of one check is measured.
const CHECKS_MANY: usize = 1000;

const NOW: Instant = Instant::from_millis(1_000);
/// A fixed date, so that responses do not change from day to day.
const UNIX_SECONDS: u64 = 1_700_000_000;

/// Bytes that arrive together, and how the response to them begins and ends.
struct Case {
    name: &'static str,
    what: &'static str,
    bytes: &'static [u8],
    requests: u32,
    begins: &'static str,
    ends: &'static str,
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// The measured requests, with the beginning and the end of the expected responses.
const CASES: [Case; 12] = [
    Case {
        name: "keep-alive",
        what: "GET /healthz, Host alone: the kubelet and most probers",
        bytes: server::REQUEST,
        requests: 1,
        begins: OK,
        ends: "\r\n\r\nok",
    },
    Case {
        name: "close",
        what: "the same, Connection: close",
        bytes: server::REQUEST_CLOSE,
        requests: 1,
        begins: OK,
        ends: "\r\nConnection: close\r\n\r\nok",
    },
    Case {
        name: "curl",
        what: "GET /healthz, 3 fields",
        bytes: b"GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
        requests: 1,
        begins: OK,
        ends: "\r\n\r\nok",
    },
    Case {
        name: "kube-probe",
        what: "GET /healthz, 4 fields, Connection: close",
        bytes: b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:10248\r\nUser-Agent: kube-probe/1.31\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        requests: 1,
        begins: OK,
        ends: "\r\n\r\nok",
    },
    Case {
        name: "head",
        what: "HEAD /healthz",
        bytes: b"HEAD /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 1,
        begins: OK,
        ends: "\r\nContent-Length: 2\r\n\r\n",
    },
    Case {
        name: "single",
        what: "GET /healthz/syncloop, the last of 3",
        bytes: b"GET /healthz/syncloop HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 1,
        begins: OK,
        ends: "\r\n\r\nok",
    },
    Case {
        name: "verbose",
        what: "GET /healthz?verbose, 3 checks",
        bytes: b"GET /healthz?verbose HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 1,
        begins: OK,
        ends: "\r\n\r\n[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n",
    },
    Case {
        name: "exclude",
        what: "GET /healthz?exclude=log",
        bytes: b"GET /healthz?exclude=log HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 1,
        begins: OK,
        ends: "\r\n\r\nok",
    },
    Case {
        name: "failing",
        what: "GET /failing, 1 of 4 checks fails",
        bytes: b"GET /failing HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 1,
        begins: "HTTP/1.1 500 Internal Server Error\r\n",
        ends: "\r\n\r\n[+]ping ok\n[+]log ok\n[+]syncloop ok\n[-]disk failed: reason withheld\nfailing check failed\n",
    },
    Case {
        name: "not-found",
        what: "GET /nothing: 404",
        bytes: b"GET /nothing HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 1,
        begins: "HTTP/1.1 404 Not Found\r\n",
        ends: "\r\n\r\n404 page not found\n",
    },
    Case {
        name: "pipelined",
        what: "GET /healthz, 10 pipelined, per request",
        bytes: b"GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n",
        requests: 10,
        begins: OK,
        ends: "\r\n\r\nok",
    },
    Case {
        name: "refused",
        what: "GET /healthz without Host: 400",
        bytes: b"GET /healthz HTTP/1.1\r\n\r\n",
        requests: 1,
        begins: "HTTP/1.1 400 Bad Request\r\n",
        ends: "\n",
    },
];

/// Whether request heads repeat, and whether there is a cache for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// All heads are equal, and cached.
    Same,
    /// There is a cache, but each head differs from the one that it replaces there.
    Changing,
    /// There is no cache.
    Alone,
}

impl How {
    const ALL: [How; 3] = [How::Same, How::Changing, How::Alone];

    fn name(self) -> &'static str {
        match self {
            How::Same => "same",
            How::Changing => "changing",
            How::Alone => "alone",
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "serve", connections, checks] => server::serve(connections, checks),
        ["--child", name, how, checks, count] => {
            let how = How::ALL.into_iter().find(|one| one.name() == how).unwrap();
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            let answers = repeat(case, how, checks.parse().unwrap(), count.parse().unwrap());
            println!("{}", case.check(&answers));
        }
        _ if support::is_full() => measure(),
        _ => small(),
    }
}

impl Case {
    /// Panics if these are not the expected responses. Returns their checksum.
    fn check(&self, answers: &[u8]) -> Checksum {
        let text = std::str::from_utf8(answers).unwrap();
        let name = self.name;
        assert!(text.starts_with(self.begins), "{name}: {text}");
        assert!(text.ends_with(self.ends), "{name}: {text}");
        let heads = text.matches("HTTP/1.1 ").count();
        assert_eq!(heads, self.requests as usize, "{name}: {text}");
        let mut checksum = Checksum::EMPTY;
        checksum.add(answers);
        checksum
    }
}

/// Passes the bytes to a connection `count` times, and returns the last response.
fn repeat(case: &Case, how: How, checks: usize, count: u64) -> Vec<u8> {
    let endpoints = endpoints(checks);
    let responder = Responder::new(endpoints);
    let date = Date::from_unix_seconds(UNIX_SECONDS);
    let context = Context {
        now: NOW,
        date: Some(&date),
        limits: &Limits::DEFAULT,
        is_last: false,
        tx_bytes_max: 0,
    };
    let mut cache = HeadCache::new();
    let mut tx = vec![0; responder.response_bytes_max(context.limits)];
    let mut connection = Connection::new(NOW);
    let mut heads = [case.bytes.to_vec(), case.bytes.to_vec()];
    if how == How::Changing {
        server::change_port(&mut heads[1]);
    }
    let mut written = 0;
    for index in 0..count {
        let rx = black_box(&heads[index as usize % 2]);
        let answer = &mut |request: &Request<'_>, writer: Writer<'_>| {
            responder.respond(NOW, request, writer)
        };
        let progress = match how {
            How::Alone => connection.receive(&context, rx, &mut tx, answer),
            _ => connection.receive_cached(&context, &mut cache, rx, &mut tx, answer),
        };
        if let Next::Close { .. } = progress.next {
            connection = Connection::new(NOW);
        }
        written = black_box(progress).written;
        black_box(&mut tx);
    }
    tx.truncate(written);
    tx
}

/// The endpoints of the kubelet, and `/failing` with one more check, which fails.
fn endpoints(checks: usize) -> &'static [Endpoint<'static>] {
    static DISK: Check = Check::manual("disk");
    DISK.fail("/var: 99 % full");
    let endpoints = server::endpoints(checks, NOW);
    let mut failing = endpoints[0].checks().collect::<Vec<_>>();
    failing.push(&DISK);
    let failing = Endpoint::new("/failing", failing.leak());
    let mut endpoints = endpoints.to_vec();
    endpoints.push(failing);
    endpoints.leak()
}

/// One measured figure.
struct Figure {
    unit: &'static str,
    name: String,
    value: f64,
}

/// Prints tables, or JSON for programs.
struct Report {
    is_json: bool,
    counts: bool,
}

impl Report {
    fn figure(&self, figure: &Figure) {
        if self.is_json {
            let Figure { unit, name, value } = figure;
            println!(r#"{{"unit": "{unit}", "name": "{name}", "value": {value:.3}}}"#);
        }
    }

    fn table(&self, table: &Table) {
        if !self.is_json {
            table.print();
        }
    }

    fn text(&self, text: &str) {
        if !self.is_json {
            println!("{text}\n");
        }
    }
}

fn measure() {
    let report = Report {
        is_json: std::env::args().any(|argument| argument == "--json"),
        counts: Counter::Instructions.is_available(),
    };
    let traces = Counter::SystemCalls.is_available();
    let environment = support::environment();
    match report.is_json {
        true => println!(r#"{{"environment": "{}"}}"#, environment.escape_default()),
        false => println!("{environment}\n"),
    }
    if report.counts || traces {
        server(&report, traces);
    }
    if report.counts {
        connection(&report);
        checks(&report);
    }
}

/// The whole server. Only the rows with "changing" have a client whose request heads change.
fn server(report: &Report, traces: bool) {
    report.text("The whole server with one client, per request; goals in brackets:");
    let mut table = Table::new(&["", "instructions", "", "system calls", ""]);
    for (name, heads, is_kept, goals) in [
        ("keep-alive", Heads::Same, true, ["(1,500)", "(3)"]),
        ("close", Heads::Same, false, ["(1,400)", "(6)"]),
        ("keep-alive-changing", Heads::Changing, true, ["", ""]),
        ("close-changing", Heads::Changing, false, ["", ""]),
    ] {
        let counted = |counter: Counter, is_wanted: bool, unit| {
            let value = is_wanted.then(|| match is_kept {
                true => counter.of_server_keep_alive(1, heads),
                false => counter.of_server_close(heads),
            })?;
            let name = name.to_string();
            report.figure(&Figure { unit, name, value });
            Some(value)
        };
        let instructions = counted(Counter::Instructions, report.counts, "instructions");
        // The content of a head does not change the number of system calls.
        let traces = traces && heads == Heads::Same;
        let calls = counted(Counter::SystemCalls, traces, "system-calls");
        table.row([
            name,
            &known(instructions),
            goals[0],
            &known(calls),
            goals[1],
        ]);
    }
    report.table(&table);
}

fn connection(report: &Report) {
    report
        .text("Connection alone, from received bytes to response bytes, instructions per request:");
    let mut table = Table::new(&["", "same head", "changing heads", "no cache", "bytes"]);
    let mut checksum = Checksum::EMPTY;
    for case in &CASES {
        let [same, changing, alone] = How::ALL.map(|how| {
            let value = instructions(case, how, Setup::KUBELET.checks);
            let name = format!("connection-{}-{}", case.name, how.name());
            let unit = "instructions";
            report.figure(&Figure { unit, name, value });
            value
        });
        let answers = repeat(case, How::Same, Setup::KUBELET.checks, 1);
        checksum.add(case.check(&answers).to_string().as_bytes());
        table.row([
            format!("{}: {}", case.name, case.what),
            table::number(same),
            table::number(changing),
            table::number(alone),
            (case.bytes.len() / case.requests as usize).to_string(),
        ]);
    }
    report.table(&table);
    report.text(&format!("checksum of the responses {checksum}"));
}

fn checks(report: &Report) {
    let few = Setup::KUBELET.checks;
    let counted = |checks: usize| instructions(&CASES[0], How::Same, checks);
    let value = (counted(CHECKS_MANY) - counted(few)) / (CHECKS_MANY - few) as f64;
    report.figure(&Figure {
        unit: "instructions",
        name: "check".into(),
        value,
    });
    report.text(&format!(
        "One more check, of {CHECKS_MANY}: {} instructions (goal 10)",
        table::number(value)
    ));
}

fn instructions(case: &Case, how: How, checks: usize) -> f64 {
    let checks = checks.to_string();
    let arguments = ["--child", case.name, how.name(), &checks];
    Counter::Instructions.of_requests(&arguments, RUNS) / f64::from(case.requests)
}

/// Answers each request without a cache of heads, and with one that is empty, has the same head, or has another head.
fn small() {
    println!("{}", support::environment());
    println!("small run: each request is answered; nothing is measured");
    let mut checksum = Checksum::EMPTY;
    for case in &CASES {
        let answers = [
            (How::Alone, 1),
            (How::Same, 1),
            (How::Same, 2),
            (How::Changing, 2),
        ]
        .map(|(how, count)| repeat(case, how, Setup::KUBELET.checks, count));
        let checksums = answers.map(|answers| case.check(&answers).to_string());
        assert!(
            checksums.iter().all(|other| *other == checksums[0]),
            "{}: the response differs if the head is cached",
            case.name
        );
        checksum.add(checksums[0].as_bytes());
    }
    let server = ServerProcess::start(Setup::KUBELET);
    let mut client = Client::connect(server.address, 4, Heads::Changing);
    client.request();
    client.request();
    for index in 0..5 {
        server::request_and_close(server.address, Heads::Changing, index);
    }
    drop(client);
    assert_eq!(server.stop().answered, 1 + 2 * 4 + 5);
    println!("checksum {checksum}");
}
