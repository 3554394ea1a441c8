//! Many clients at once do not delay one probe: how many answers one call of `Server::advance` gives to
//! clients that pipeline requests, and how many new connections it accepts.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use harness::{ENDPOINTS, GET, Harness, LAST, TIMEOUT, listening, rest};
use healthz::server::{Address, Config};
use healthz::{Instant, Responder};

/// Appends what can be read now to `bytes`. Returns the number of answers in all of `bytes`.
fn answers(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> usize {
    stream.set_nonblocking(true).unwrap();
    let result = stream.read_to_end(bytes);
    assert!(result.is_ok() || result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    String::from_utf8_lossy(bytes).matches("\r\n\r\nok").count()
}

/// Requests that fill the receive buffer. Their answers fit into the response buffer.
const BUFFERFUL: u64 = 8192 / GET.len() as u64;

/// Regression: with 10,000 clients that pipelined and never read, one `advance` answered four full buffers
/// for each of 64 clients, and probes waited for four seconds.
#[test]
fn a_pipelining_client_gets_at_most_one_bufferful_of_answers_per_advance() {
    const REQUESTS: usize = 4000;
    let mut harness = Harness::new(4);
    let mut pipelining = harness.connect();
    pipelining.write_all(&GET.repeat(REQUESTS)).unwrap();
    let mut last = 0;
    let (mut read, mut seen) = (Vec::new(), 0);
    let mut most = 0;
    // Far more calls than are needed.
    for _ in 0..10_000 {
        harness.advance();
        let answered = harness.server.counters().answered;
        most = most.max(answered - last);
        last = answered;
        seen = answers(&mut pipelining, &mut read);
        if seen == REQUESTS {
            break;
        }
    }
    assert_eq!(seen, REQUESTS, "answers are missing");
    // Neither accepting the connection nor handling its event answers another bufferful.
    assert!(most <= BUFFERFUL, "{most} answers in one call");
}

/// A probe connects just after a poll, while all other connections still have requests to read. That
/// `advance` serves four of them, or one if the table is full. The next call accepts the probe first.
#[test]
fn a_new_probe_waits_for_a_few_bufferfuls_however_many_clients_pipeline() {
    const PIPELINING: usize = 64;
    for (connections, bufferfuls) in [(PIPELINING, 1), (2 * PIPELINING, 4)] {
        let mut harness = Harness::new(connections);
        let pipelining: Vec<TcpStream> = (0..PIPELINING)
            .map(|_| {
                let mut stream = harness.connect();
                stream.write_all(&GET.repeat(2000)).unwrap();
                stream
            })
            .collect();
        while harness.server.counters().accepted < PIPELINING as u64 {
            harness.advance();
        }
        let events = harness.events(256);
        let mut probe = harness.connect();
        probe.write_all(LAST).unwrap();
        let before = harness.server.counters().answered;
        events.iter().for_each(|event| harness.handle(event));
        harness.server.advance(harness.poll.registry(), harness.now);
        for event in &harness.events(256) {
            harness.handle(event);
        }
        assert_eq!(answers(&mut probe, &mut Vec::new()), 1, "of {connections}");
        let answered = harness.server.counters().answered - before;
        assert!(
            answered <= bufferfuls * BUFFERFUL + 1,
            "{answered} answers before it of {connections}"
        );
        let evicted = harness.server.counters().evicted;
        assert_eq!((evicted, pipelining.len()), (0, PIPELINING), "evicted");
    }
}

/// Regression: a server with a full table accepted one connection per `advance`. When each call took long,
/// a probe waited in the backlog behind a thousand other connections.
#[test]
fn a_server_with_a_full_table_accepts_several_connections_per_advance() {
    let mut harness = Harness::new(32);
    let held: Vec<TcpStream> = (0..32).map(|_| harness.send_only(GET)).collect();
    harness.work();
    assert_eq!(harness.server.counters().open, held.len() as u64);
    let mut probes: Vec<TcpStream> = (0..12).map(|_| harness.send_only(LAST)).collect();
    let mut calls = 0;
    while harness.server.counters().accepted < 32 + 12 {
        harness.advance();
        calls += 1;
    }
    assert!(calls <= 4, "{calls} calls for 12 connections");
    assert!(
        probes
            .iter_mut()
            .all(|probe| answers(probe, &mut Vec::new()) == 1)
    );
    assert_eq!(harness.server.counters().evicted, 0, "evicted");
}

/// A poll for each new connection would cost more, and a probe would wait behind the others.
#[test]
fn while_a_connection_waits_in_the_run_queue_one_event_accepts_several_connections() {
    let mut harness = Harness::new(64);
    let mut busy = harness.connect();
    busy.write_all(&GET.repeat(2 * BUFFERFUL as usize)).unwrap();
    harness.advance();
    assert_eq!(harness.server.deadline(), Some(Instant::ZERO), "more to do");
    let clients = [(); 3].map(|()| harness.send_only(b"GET"));
    for event in &harness.events(64) {
        harness.handle(event);
    }
    let counters = harness.server.counters();
    assert_eq!((counters.accepted, counters.open), (4, 4));
    drop(clients);
}

/// Handles the events of one poll, without a call of `Server::advance`. Returns how many requests were answered.
fn answered_when_accepted(harness: &mut Harness) -> u64 {
    let before = harness.server.counters().answered;
    for event in &harness.events(64) {
        harness.handle(event);
    }
    harness.server.counters().answered - before
}

/// Requests that one write sends: more than the 512 bytes that are processed at once in a flood.
const PIPELINED: u64 = 20;
const ANSWERED_IN_FLOOD: u64 = 512 / GET.len() as u64;

fn pipelining(harness: &Harness) -> TcpStream {
    harness.send_only(&GET.repeat(PIPELINED as usize))
}

#[test]
fn while_more_connections_wait_than_one_call_accepts_each_is_served_only_in_part() {
    // If the table is full, one call accepts half as many connections as it has slots.
    let mut harness = Harness::new(4);
    let _idle = [(); 4].map(|()| harness.idle());
    let _waiting = [(); 5].map(|()| pipelining(&harness));
    // It is not known yet that more connections wait.
    assert_eq!(answered_when_accepted(&mut harness), 2 * PIPELINED);
    assert_eq!(answered_when_accepted(&mut harness), 2 * ANSWERED_IN_FLOOD);
    // The fifth; then the queue is found empty, so the flood is over.
    assert_eq!(answered_when_accepted(&mut harness), ANSWERED_IN_FLOOD);
    harness.work();
    let _next = pipelining(&harness);
    assert_eq!(answered_when_accepted(&mut harness), PIPELINED);
}

/// With two slots, one call accepts one connection, and cannot tell whether more wait.
#[test]
fn in_a_table_of_two_slots_each_connection_is_served_in_full() {
    let mut harness = Harness::new(2);
    let _idle = [(); 2].map(|()| harness.idle());
    let _waiting = [(); 3].map(|()| pipelining(&harness));
    for _ in 0..3 {
        assert_eq!(answered_when_accepted(&mut harness), PIPELINED);
    }
}

#[test]
fn a_flood_is_over_when_slots_are_free() {
    let mut harness = Harness::new(4);
    let mut idle = [(); 4].map(|()| harness.idle());
    let _waiting = [(); 2].map(|()| pipelining(&harness));
    assert_eq!(answered_when_accepted(&mut harness), 2 * PIPELINED);
    // Every accept succeeded, so more connections may wait. Clients end, and free slots.
    for client in &mut idle {
        client.shutdown(std::net::Shutdown::Both).unwrap();
    }
    answered_when_accepted(&mut harness);
    let _next = pipelining(&harness);
    assert_eq!(answered_when_accepted(&mut harness), PIPELINED);
}

/// Regression: 10,000 clients that sent one byte per second held all slots but one. A connection that was
/// accepted before its request arrived was then evicted for the next one.
#[test]
fn a_new_connection_keeps_its_slot_while_others_hold_unfinished_heads() {
    let path = std::env::temp_dir().join(format!("healthz-crowd-{}", std::process::id()));
    // A Unix socket, because there a connection is accepted before it has sent anything.
    let listeners = listening(&Address::Unix(path.clone()));
    let config = Config {
        connections: 16,
        ..Config::default()
    };
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, config);
    let connect = || UnixStream::connect(&path).unwrap();
    let half = |mut stream: UnixStream| {
        stream.write_all(b"GET /he").unwrap();
        stream
    };
    let _held: Vec<UnixStream> = (0..16).map(|_| half(connect())).collect();
    harness.work();
    let mut new_client = connect();
    harness.work();
    let _more: Vec<UnixStream> = (0..7)
        .map(|_| {
            let stream = connect();
            harness.work();
            stream
        })
        .collect();
    new_client.write_all(LAST).unwrap();
    harness.work();
    new_client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let text = rest(&mut new_client);
    assert!(text.ends_with("\r\n\r\nok"), "{text:?}");
}
