//! What the server does when the process is out of descriptors. In a process of its own: the limit
//! is everybody's.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use healthz::server::{ACCEPT_PAUSE, Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Instant, Responder};
use mio::{Events, Poll, Token};

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const CHILD: &str = "HEALTHZ_TEST_SHORTAGE_CHILD";

fn work(poll: &mut Poll, server: &mut Server<'_>, now: Instant) -> usize {
    let mut events = Events::with_capacity(16);
    let mut reports = 0;
    let mut quiet = 0;
    for _ in 0..100 {
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        reports += events.iter().count();
        for event in &events {
            server.handle(poll.registry(), event, now);
        }
        server.turn(poll.registry(), now);
        // A turn may arm what the next poll reports.
        quiet = if events.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return reports;
        }
    }
    panic!("the server spins");
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(GET).unwrap();
}

fn assert_answered(stream: &mut TcpStream) {
    let mut answer = [0; 512];
    let size = stream.read(&mut answer).unwrap();
    assert!(answer.get(..size).unwrap().ends_with(b"\r\n\r\nok"));
}

/// Runs in the child, with 32 descriptors.
fn out_of_descriptors() {
    let mut poll = Poll::new().unwrap();
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let mut server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        panic!("not on TCP");
    };
    server.register(poll.registry(), Token(0)).unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    };
    let mut now = Instant::from_millis(1);
    let mut kept = connect();
    ask(&mut kept);
    work(&mut poll, &mut server, now);
    assert_answered(&mut kept);

    // One descriptor is left, and the client takes it.
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(hoard.pop());
    let mut late = connect();
    ask(&mut late);
    for round in 0..20 {
        let reports = work(&mut poll, &mut server, now);
        assert!(
            reports <= 2,
            "{reports} reports in round {round}: the server is kept awake"
        );
        // Who is connected is served all the while.
        ask(&mut kept);
        work(&mut poll, &mut server, now);
        assert_answered(&mut kept);
        assert!(server.deadline().unwrap() <= now.saturating_add(ACCEPT_PAUSE));
        now = now.saturating_add(ACCEPT_PAUSE);
    }
    assert_eq!(server.counters().accept_pauses, 1, "one spell is told once");
    assert_eq!(server.counters().accepted, 1);

    drop(hoard);
    now = now.saturating_add(ACCEPT_PAUSE);
    work(&mut poll, &mut server, now);
    assert_answered(&mut late);
    let mut next = connect();
    ask(&mut next);
    work(&mut poll, &mut server, now);
    assert_answered(&mut next);
    println!("the door came back");
}

#[test]
fn a_process_out_of_descriptors_serves_who_is_connected_and_accepts_again_by_itself() {
    if std::env::var_os(CHILD).is_some() {
        return out_of_descriptors();
    }
    let script = "ulimit -n 32 && exec \"$0\" --exact --nocapture --test-threads=1 \"$1\"";
    let name = "a_process_out_of_descriptors_serves_who_is_connected_and_accepts_again_by_itself";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("the door came back"),
        "{text}"
    );
}
