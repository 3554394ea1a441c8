//! Memory of a server: `cargo bench --bench memory`.
//!
//! Anonymous memory is the pages that the process has written to. Resident memory also has pages of the
//! program and of libc, which other processes may share. Both are read from `/proc/PID/smaps_rollup`, for the
//! `healthz` program and for the library alone in a process.
//!
//! `-- --static` also builds and measures the static program (`cargo static`). Under `cargo test --benches`
//! nothing is built, and there are few connections.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;
mod support;
#[path = "support/table.rs"]
mod table;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use healthz::{Instant, Limits, Responder};
use socket2::{Domain, Socket, Type};

use process::Memory;
use server::{Client, Heads, ServerProcess, Setup};
use support::thousands;
use table::Table;

/// Open files that this process needs: one per connection, and some more.
const FILES: u64 = 1200;
/// Send buffer of an attacker, and its longest TCP segment: see [`attacker`].
const SEND_BUFFER: usize = 16 * 1024;
const SEGMENT: u32 = 536;
/// The request with the longest response for its length, if no check fails.
const VERBOSE: &[u8] = b"GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
/// How often an attacker reads some bytes of the responses, and how many.
const READS: usize = 4;
const READ_BYTES: usize = 32 * 1024;
/// Tolerance: pages that are used only in part, because a buffer begins or ends in them.
const PARTIAL_PAGES_BYTES: u64 = 4 * 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "serve", connections, checks] => server::serve(connections, checks),
        _ => measure(),
    }
}

fn measure() {
    let is_full = support::is_full();
    let files = process::files_max(FILES);
    println!("{}", support::environment());
    pages();
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
    }
    println!();
    assert!(
        files >= FILES || !is_full,
        "needs {FILES} open files, but the limit is {files}; raise it with ulimit -n"
    );
    programs(is_full);
    parts(is_full);
    attack(is_full);
}

/// Prints a warning if the kernel uses huge pages, which make the figures coarse.
fn pages() {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    let huge = std::fs::read_to_string(file).unwrap_or_default();
    if huge.contains("[always]") {
        println!(
            "warning: transparent huge pages are on, so the figures below are multiples of 2 MiB;\n\
             turn them off with: echo madvise > {file}"
        );
    }
}

/// A program to measure; without a file, the library in this program.
struct Program {
    name: &'static str,
    file: Option<PathBuf>,
}

/// Measures each program with default settings.
fn programs(is_full: bool) {
    let mut programs = vec![Program {
        name: "library",
        file: None,
    }];
    if is_full {
        programs.push(Program {
            name: "program",
            file: Some(build(false)),
        });
        if std::env::args().any(|argument| argument == "--static") {
            programs.push(Program {
                name: "static program",
                file: Some(build(true)),
            });
        }
    }
    let requests = if is_full { 10_000 } else { 100 };
    let names = programs.iter().map(|program| program.name);
    let mut table = Table::new(&names.fold(vec!["KiB"], |mut names, name| {
        names.push(name);
        names
    }));
    let mut rows = [
        "anonymous after start (128)".to_string(),
        "resident after start".to_string(),
        format!("anonymous after {} requests", thousands(requests)),
        format!(
            "resident after {} requests (static 1,200)",
            thousands(requests)
        ),
        "file (900, static 1,700)".to_string(),
    ]
    .map(|name| vec![name]);
    for program in &programs {
        let server = match &program.file {
            Some(file) => ServerProcess::daemon(file),
            None => ServerProcess::start(Setup::KUBELET),
        };
        let start = Memory::settled(server.id());
        let mut clients: Vec<Client> = (0..8)
            .map(|_| Client::connect(server.address, 1, Heads::Same))
            .collect();
        for _ in 0..requests / 8 {
            clients.iter_mut().for_each(Client::request);
        }
        let after = Memory::settled(server.id());
        let file = program.file.as_ref();
        let file = file.map(|file| std::fs::metadata(file).unwrap().len());
        let figures = [
            Some(start.anonymous),
            Some(start.resident),
            Some(after.anonymous),
            Some(after.resident),
            file,
        ];
        for (row, bytes) in rows.iter_mut().zip(figures) {
            row.push(bytes.map_or("–".into(), |bytes| thousands(bytes / 1024)));
        }
    }
    println!("With default settings; goals in brackets:\n");
    rows.into_iter().for_each(|row| table.row(row));
    table.print();
}

/// Builds the `healthz` program with the release profile and returns its path.
fn build(is_static: bool) -> PathBuf {
    let bench = std::env::current_exe().unwrap();
    // target/release/deps/memory-0123
    let target = bench.ancestors().nth(3).unwrap();
    let (arguments, directory): (&[&str], _) = match is_static {
        true => (&["static"], target.join("x86_64-unknown-linux-musl")),
        false => (
            &["build", "--release", "--bin", "healthz"],
            target.to_path_buf(),
        ),
    };
    let mut command = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
    command
        .args(arguments)
        .args(["--quiet", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // RUSTFLAGS would replace the flags of `cargo static`.
        .env_remove("RUSTFLAGS");
    assert!(command.status().unwrap().success(), "{command:?}");
    directory.join("release/healthz")
}

/// Measures the memory of one more slot, connection and check.
fn parts(is_full: bool) {
    let many = if is_full { 1000 } else { 20 };
    let start = |connections: usize, checks: usize| {
        let server = ServerProcess::start(Setup {
            connections,
            checks,
        });
        let memory = Memory::settled(server.id());
        (server, memory.anonymous as f64)
    };
    let kubelet = Setup::KUBELET;
    let (_, base) = start(kubelet.connections, kubelet.checks);

    let (_, with_slots) = start(kubelet.connections + 16 * many, kubelet.checks);
    let slot = (with_slots - base) / (16 * many) as f64;

    let (_, with_checks) = start(kubelet.connections, kubelet.checks + many);
    let check = (with_checks - base) / many as f64;

    let (server, _) = start(2 * many + 48, kubelet.checks);
    let connect = |count: usize| -> Vec<Client> {
        (0..count)
            .map(|_| Client::connect(server.address, 1, Heads::Same))
            .collect()
    };
    // The first connections also allocate what all connections share.
    let first = connect(8);
    let before = Memory::settled(server.id()).anonymous as f64;
    let idle = connect(many);
    let growth = (Memory::settled(server.id()).anonymous as f64 - before) / many as f64;
    drop((first, idle));
    assert_eq!(server.stop().evicted, 0, "connections evicted");

    println!("Anonymous memory of one more, in bytes:\n");
    let mut table = Table::new(&["", "bytes", ""]);
    table.row([
        "a slot for a connection, allocated at the start",
        &round(slot),
        "",
    ]);
    let name = format!(
        "an idle connection in a slot, of {}",
        thousands(many as u64)
    );
    table.row([&name, &round(growth), ""]);
    table.row(["both", &round(slot + growth), "(goal 205)"]);
    table.row(["a check, including its name", &round(check), ""]);
    table.print();
}

fn round(bytes: f64) -> String {
    thousands(bytes.round().max(0.0) as u64)
}

/// Measures the memory under attack: every connection fills all buffers that the server has for it.
fn attack(is_full: bool) {
    let tables: &[usize] = if is_full { &[64, 1024] } else { &[4] };
    println!(
        "Under attack, KiB of anonymous memory: first every connection sends a request head without its end;\n\
         then all complete it, request /healthz?verbose again and again, and leave responses unread\n"
    );
    let mut table = Table::new(&[
        "connections",
        "at start",
        "heads",
        "unread responses",
        "growth",
        "Config::memory_bytes_max",
    ]);
    for &connections in tables {
        let setup = Setup {
            connections,
            ..Setup::KUBELET
        };
        let responder = Responder::new(server::endpoints(setup.checks, Instant::ZERO));
        let bound = setup.config().memory_bytes_max(&responder) as u64;
        let server = ServerProcess::start(setup);
        // Makes the stack of the server thread grow before the first measurement.
        let mut first = attacker(server.address);
        for bytes in [&head()[..], b"\r\n\r\n", &VERBOSE.repeat(8)] {
            first.write_all(bytes).unwrap();
        }
        drop(first);
        let start = Memory::settled(server.id()).anonymous;
        let mut streams: Vec<TcpStream> =
            (0..connections).map(|_| attacker(server.address)).collect();
        let head = head();
        for stream in &mut streams {
            stream.write_all(&head).unwrap();
        }
        let heads = Memory::settled(server.id()).anonymous;
        for stream in &mut streams {
            stream.set_nonblocking(true).unwrap();
            let error = stream.peek(&mut [0]).map_err(|error| error.kind());
            assert_eq!(
                error,
                Err(ErrorKind::WouldBlock),
                "an incomplete head got a response"
            );
        }
        for pass in 0..=if is_full { READS } else { 1 } {
            if pass > 0 {
                read_some(&mut streams);
            }
            flood(&mut streams, server.id());
        }
        let answers = Memory::settled(server.id()).anonymous;
        let growth = answers - start;
        table.row([start, heads, answers, growth, bound].iter().fold(
            vec![thousands(connections as u64)],
            |mut row, bytes| {
                row.push(thousands(bytes / 1024));
                row
            },
        ));
        assert!(
            growth <= bound + PARTIAL_PAGES_BYTES,
            "memory grew by {growth} bytes, more than Config::memory_bytes_max promises: {bound}"
        );
        // A probe is still answered; it replaces one of the attackers.
        server::request_and_close(server.address, Heads::Same, 0);
        drop(streams);
        let counts = server.stop();
        assert!(counts.evicted <= 1, "attackers evicted: {counts:?}");
    }
    table.print();
}

/// A connection with a tiny receive buffer and small segments. Otherwise the kernel would buffer megabytes of
/// responses, and the server none.
fn attacker(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(SEGMENT).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// A request head of almost the maximum length, without its end.
fn head() -> Vec<u8> {
    let size = Limits::DEFAULT.request_head_bytes - "\r\n\r\n".len();
    let mut head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    head.resize(size, b'x');
    head
}

/// Reads some responses, so that the server continues at another place in its buffer.
fn read_some(streams: &mut [TcpStream]) {
    let mut left = vec![READ_BYTES; streams.len()];
    for _ in 0..READ_BYTES / 512 {
        for (stream, left) in streams.iter_mut().zip(&mut left) {
            let mut bytes = [0; 4096];
            let size = bytes.len().min(*left);
            if let Ok(size) = stream.read(&mut bytes[..size]) {
                *left -= size;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Completes the heads, and sends requests with long responses until the server stops reading and is idle.
fn flood(streams: &mut [TcpStream], server: u32) {
    let mut requests = b"\r\n\r\n".to_vec();
    while requests.len() < 64 * 1024 {
        requests.extend(VERBOSE);
    }
    let mut sent = vec![0; streams.len()];
    let mut quiet = 0;
    while quiet < 5 {
        let mut progress = false;
        for (stream, sent) in streams.iter_mut().zip(&mut sent) {
            while let Ok(size) = stream.write(&requests[*sent..]) {
                progress = true;
                *sent += size;
                if *sent == requests.len() {
                    *sent = "\r\n\r\n".len();
                }
            }
        }
        let before = process::cpu_time(server);
        std::thread::sleep(Duration::from_millis(50));
        let is_idle = process::cpu_time(server) - before < Duration::from_millis(1);
        quiet = if is_idle && !progress { quiet + 1 } else { 0 };
    }
}
