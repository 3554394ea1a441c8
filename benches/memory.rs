//! What a server takes of memory: `cargo bench --bench memory`.
//!
//! A process' own memory is what it has written to, "anonymous" in the kernel's words; resident
//! memory also counts the pages of its program and of libc, which other processes share. Both are
//! read from `/proc/PID/smaps_rollup`, of the `healthz` program and of the library alone in a process.
//!
//! `-- --static` also builds the static program, `cargo static`, and shows it beside the other. Under
//! `cargo test --benches` nothing is built and little is held.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/door.rs"]
mod door;
#[path = "support/process.rs"]
mod process;
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

use door::{Client, Door, Heads, Setup};
use process::Memory;
use support::thousands;
use table::Table;

/// Files that this process needs: as many as it holds connections, and some.
const FILES: u64 = 1200;
/// What an attacker keeps in the kernel, and the longest segment that it takes: see [`attacker`].
const SEND_BUFFER: usize = 16 * 1024;
const SEGMENT: u32 = 536;
/// The longest answer for its size, of those that need no failing check.
const VERBOSE: &[u8] = b"GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
/// So many times an attacker takes in so many bytes of answers, and asks again.
const SIPS: usize = 4;
const SIP: usize = 32 * 1024;
/// Memory comes in pages, and a buffer begins and ends within one.
const PAGES_BEGUN: u64 = 4 * 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "serve", connections, checks] => door::serve(connections, checks),
        _ => measure(),
    }
}

fn measure() {
    let is_full = support::is_full();
    let files = process::files_max(FILES);
    println!("{}", support::environment());
    pages();
    if !is_full {
        println!("small run: it shows that the bench works, its figures mean nothing");
    }
    println!();
    assert!(
        files >= FILES || !is_full,
        "needs {FILES} open files, may have {files}"
    );
    programs(is_full);
    parts(is_full);
    attack(is_full);
}

/// Memory comes in pages, and not only the kernel's small ones.
fn pages() {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    let huge = std::fs::read_to_string(file).unwrap_or_default();
    if huge.contains("[always]") {
        println!(
            "huge pages are given unasked here: what follows comes in steps of 2 MiB\n\
             (echo madvise > {file})"
        );
    }
}

/// A program and its file.
struct Program {
    name: &'static str,
    file: Option<PathBuf>,
}

/// With default settings, as it is started.
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
        "file (600, static 1,400)".to_string(),
    ]
    .map(|name| vec![name]);
    for program in &programs {
        let door = match &program.file {
            Some(file) => Door::daemon(file),
            None => Door::start(Setup::KUBELET),
        };
        let start = Memory::settled(door.id());
        let mut clients: Vec<Client> = (0..8)
            .map(|_| Client::connect(door.address, 1, Heads::Same))
            .collect();
        for _ in 0..requests / 8 {
            clients.iter_mut().for_each(Client::ask);
        }
        let after = Memory::settled(door.id());
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
    println!("With default settings; in brackets what it may be:\n");
    rows.into_iter().for_each(|row| table.row(row));
    table.print();
}

/// Builds the `healthz` program as it is released, and returns where it is.
fn build(is_static: bool) -> PathBuf {
    let bench = std::env::current_exe().unwrap();
    // target/release/deps/memory-0123
    let target = bench.ancestors().nth(3).unwrap();
    let (arguments, directory): (&[&str], _) = match is_static {
        true => (&["static"], target.join("x86_64-unknown-linux-gnu")),
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
        // It would replace the flags that make the program static.
        .env_remove("RUSTFLAGS");
    assert!(command.status().unwrap().success(), "{command:?}");
    directory.join("release/healthz")
}

/// What one more of something takes.
fn parts(is_full: bool) {
    let many = if is_full { 1000 } else { 20 };
    let start = |connections: usize, checks: usize| {
        let door = Door::start(Setup {
            connections,
            checks,
        });
        let memory = Memory::settled(door.id());
        (door, memory.anonymous as f64)
    };
    let kubelet = Setup::KUBELET;
    let (_, base) = start(kubelet.connections, kubelet.checks);

    let (_, with_places) = start(kubelet.connections + 16 * many, kubelet.checks);
    let place = (with_places - base) / (16 * many) as f64;

    let (_, with_checks) = start(kubelet.connections, kubelet.checks + many);
    let check = (with_checks - base) / many as f64;

    let (door, _) = start(2 * many + 48, kubelet.checks);
    let connect = |count: usize| -> Vec<Client> {
        (0..count)
            .map(|_| Client::connect(door.address, 1, Heads::Same))
            .collect()
    };
    // What the first connection needs is no other's.
    let first = connect(8);
    let before = Memory::settled(door.id()).anonymous as f64;
    let idle = connect(many);
    let growth = (Memory::settled(door.id()).anonymous as f64 - before) / many as f64;
    drop((first, idle));
    assert_eq!(door.stop().evicted, 0, "connections evicted");

    println!("What one more takes of anonymous memory, bytes:\n");
    let mut table = Table::new(&["", "bytes", ""]);
    table.row([
        "a place for a connection, from the start",
        &round(place),
        "",
    ]);
    let name = format!("an idle connection in it, of {}", thousands(many as u64));
    table.row([&name, &round(growth), ""]);
    table.row(["both", &round(place + growth), "(205)"]);
    table.row(["a check, with its name", &round(check), ""]);
    table.print();
}

fn round(bytes: f64) -> String {
    thousands(bytes.round().max(0.0) as u64)
}

/// Everybody sends as much as is kept for them, and ends nothing.
fn attack(is_full: bool) {
    let tables: &[usize] = if is_full { &[64, 1024] } else { &[4] };
    println!(
        "Under attack, KiB of anonymous memory: every connection holds a head that lacks its end; then all\n\
         end theirs, ask for /healthz?verbose again and again, and read nothing\n"
    );
    let mut table = Table::new(&[
        "connections",
        "at start",
        "heads",
        "unread answers",
        "growth",
        "Config::memory_bytes_max",
    ]);
    for &connections in tables {
        let setup = Setup {
            connections,
            ..Setup::KUBELET
        };
        let responder = Responder::new(door::endpoints(setup.checks, Instant::ZERO));
        let bound = setup.config().memory_bytes_max(&responder) as u64;
        let door = Door::start(setup);
        // The stack of its thread has grown as far as it does, and is no part of what follows.
        let mut first = attacker(door.address);
        for bytes in [&head()[..], b"\r\n\r\n", &VERBOSE.repeat(8)] {
            first.write_all(bytes).unwrap();
        }
        drop(first);
        let start = Memory::settled(door.id()).anonymous;
        let mut streams: Vec<TcpStream> =
            (0..connections).map(|_| attacker(door.address)).collect();
        let head = head();
        for stream in &mut streams {
            stream.write_all(&head).unwrap();
        }
        let heads = Memory::settled(door.id()).anonymous;
        for stream in &mut streams {
            stream.set_nonblocking(true).unwrap();
            let error = stream.peek(&mut [0]).map_err(|error| error.kind());
            assert_eq!(error, Err(ErrorKind::WouldBlock), "a head was answered");
        }
        for sip in 0..=if is_full { SIPS } else { 1 } {
            if sip > 0 {
                take_some(&mut streams);
            }
            flood(&mut streams, door.id());
        }
        let answers = Memory::settled(door.id()).anonymous;
        let growth = answers - start;
        table.row([start, heads, answers, growth, bound].iter().fold(
            vec![thousands(connections as u64)],
            |mut row, bytes| {
                row.push(thousands(bytes / 1024));
                row
            },
        ));
        assert!(
            growth <= bound + PAGES_BEGUN,
            "{growth} bytes more than at the start, and {bound} is said to be the most"
        );
        // A probe is answered all the same, in the place of one of them.
        door::ask_and_close(door.address, Heads::Same, 0);
        drop(streams);
        let tally = door.stop();
        assert!(tally.evicted <= 1, "attackers evicted: {tally:?}");
    }
    table.print();
}

/// A connection that takes in almost nothing, in small segments: the kernel would hold megabytes of
/// answers for a connection that it takes for a fast one, and the server none.
fn attacker(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(SEGMENT).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// As long as a head may be, but for its last line and one byte.
fn head() -> Vec<u8> {
    let size = Limits::DEFAULT.request_head_bytes - "\r\n\r\n".len();
    let mut head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    head.resize(size, b'x');
    head
}

/// Takes in a few answers, so that others are in the server's way.
fn take_some(streams: &mut [TcpStream]) {
    let mut left = vec![SIP; streams.len()];
    for _ in 0..SIP / 512 {
        for (stream, left) in streams.iter_mut().zip(&mut left) {
            let mut bytes = [0; 4096];
            let room = bytes.len().min(*left);
            if let Ok(size) = stream.read(&mut bytes[..room]) {
                *left -= size;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends the heads, and asks for long answers until the server takes nothing more and has come to rest.
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
        let is_resting = process::cpu_time(server) - before < Duration::from_millis(1);
        quiet = if is_resting && !progress {
            quiet + 1
        } else {
            0
        };
    }
}
