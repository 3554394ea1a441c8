//! The server as an embedder drives it: real sockets, the caller's `Poll`, and a clock that only the
//! test moves.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use harness::{
    ENDPOINTS, GET, Harness, LAST, TIMEOUT, address_of, answer, is_closed, is_silent, localhost,
    rest,
};
use healthz::http::HeadCache;
use healthz::server::{Address, Config, Listeners, Memory, Runner, Server, Slot, now, spawn};
use healthz::{Check, Endpoint, Health, Instant, Limits, Responder};
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

#[test]
fn a_probe_that_closes_takes_no_slot_and_evicts_nothing() {
    let mut harness = Harness::new(1);
    let mut idle = harness.idle();
    for _ in 0..10 {
        harness.assert_probe_is_answered();
    }
    assert_eq!(harness.server.counters().evicted, 0);
    assert!(is_silent(&mut idle));
}

#[test]
fn a_full_table_evicts_the_longest_idle_connection() {
    let mut harness = Harness::new(3);
    let mut streams: Vec<_> = (0..3).map(|_| harness.idle()).collect();
    // The first connection sends another request, so the second is the longest idle now.
    streams[0].write_all(GET).unwrap();
    harness.work();
    answer(&mut streams[0]);
    let mut fourth = harness.idle();
    assert!(is_closed(&mut streams[1]));
    assert!(is_silent(&mut streams[0]) && is_silent(&mut streams[2]) && is_silent(&mut fourth));
    assert_eq!(harness.server.counters().evicted, 1);
    assert_eq!(harness.server.counters().open, 3);
}

#[test]
fn clients_that_hold_every_slot_do_not_keep_probes_out() {
    let mut harness = Harness::new(4);
    let mut slow_clients = Vec::new();
    for round in 0..40 {
        let mut slow = harness.connect();
        match round % 4 {
            0 => slow.write_all(b"GET /healthz HT").unwrap(),
            1 => slow
                .write_all(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
                .unwrap(),
            2 => slow.write_all(GET).unwrap(),
            _ => slow.write_all(b"BAD\r\n\r\n").unwrap(),
        }
        harness.work();
        slow_clients.push(slow);
        // One probe that closes its connection, and one that keeps it open.
        harness.assert_probe_is_answered();
        let mut probe = harness.idle();
        assert!(is_silent(&mut probe));
    }
    assert!(harness.server.counters().open <= 4);
}

#[test]
fn an_incomplete_request_head_gets_408_at_the_head_deadline() {
    let mut harness = Harness::new(4);
    let mut slow = harness.connect();
    slow.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    harness.work();
    let head = Limits::DEFAULT.head_duration;
    harness.pass(head - Duration::from_millis(2));
    slow.write_all(b"Host: a\r\n").unwrap();
    harness.work();
    assert!(is_silent(&mut slow));
    harness.pass(Duration::from_millis(1));
    assert!(is_silent(&mut slow));
    harness.pass(Duration::from_millis(1));
    let text = rest(&mut slow);
    assert!(
        text.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\nConnection: close\r\n"));
    assert_eq!(harness.server.counters().expired, 1);
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let mut harness = Harness::new(4);
    let mut idle = harness.idle();
    assert_time_to_live(&mut harness, Limits::DEFAULT.idle_duration);
    assert_eq!(rest(&mut idle), "");
}

/// Regression: when more connections were ready than one batch of events holds, those of the second batch
/// were closed as timed out, although their requests had arrived before the deadline.
#[test]
fn a_request_that_arrived_before_a_stall_is_answered_although_its_event_comes_after_the_deadline() {
    let mut harness = Harness::new(4);
    let mut idle = harness.idle();
    let mut slow = harness.connect();
    slow.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    harness.work();
    idle.write_all(GET).unwrap();
    slow.write_all(b"Host: a\r\n\r\n").unwrap();
    harness.now = harness.now.saturating_add(Duration::from_secs(3600));
    harness.server.advance(harness.poll.registry(), harness.now);
    for stream in [&mut idle, &mut slow] {
        assert!(answer(stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(harness.server.counters().expired, 0);
    // The events that come now find no more bytes, and both connections still time out.
    harness.work();
    harness.pass(Limits::DEFAULT.idle_duration);
    assert_eq!((rest(&mut idle), rest(&mut slow)), Default::default());
    assert_eq!(harness.server.counters().expired, 2);
}

/// Regression: a connection whose request body had arrived before a stall of the server was closed as
/// timed out, and the request after the body got no answer.
#[test]
fn a_body_that_arrived_before_a_stall_is_read_and_the_next_request_is_answered() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    stream
        .write_all(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234")
        .unwrap();
    harness.work();
    answer(&mut stream);
    stream.write_all(&[b"56789", GET].concat()).unwrap();
    harness.now = harness.now.saturating_add(Duration::from_secs(3600));
    harness.server.advance(harness.poll.registry(), harness.now);
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(harness.server.counters().expired, 0);
}

#[test]
fn a_connection_whose_body_never_arrives_is_closed_at_the_drain_deadline() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    stream
        .write_all(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    harness.work();
    answer(&mut stream);
    assert_time_to_live(&mut harness, Limits::DEFAULT.drain_duration);
    assert_eq!(rest(&mut stream), "");
}

#[test]
fn a_client_that_does_not_read_its_answer_is_closed_at_the_idle_deadline() {
    let (mut harness, _stream) = unread_answer("unread");
    assert_time_to_live(&mut harness, Limits::DEFAULT.idle_duration);
}

/// Asserts that the deadline of the server's only connection is `time_to_live` from now, and that the
/// server closes it then and not a millisecond before.
fn assert_time_to_live(harness: &mut Harness, time_to_live: Duration) {
    let end = harness.now.saturating_add(time_to_live);
    assert_eq!(harness.server.deadline(), Some(end));
    harness.pass(time_to_live - Duration::from_millis(1));
    assert_eq!(harness.server.counters().open, 1);
    assert_eq!(harness.server.deadline(), Some(end));
    harness.pass(Duration::from_millis(1));
    assert_eq!(harness.server.counters().open, 0);
    assert_eq!(harness.server.deadline(), None);
}

/// A server, and a client that has neither read its last answer nor sent the rest of its body.
fn unread_answer(name: &str) -> (Harness, UnixStream) {
    // One answer of 670 kB, more than the send buffer of a Unix socket holds.
    let checks = (0..5000).map(|index| {
        let check = Check::manual(format!("{index:0>127}").leak());
        check.pass();
        &*Box::leak(Box::new(check))
    });
    let checks: &'static [&'static Check] = checks.collect::<Vec<_>>().leak();
    let endpoints: &'static [Endpoint<'static>] =
        Box::leak(Box::new([Endpoint::new("/healthz", checks)]));
    let path = std::env::temp_dir().join(format!("healthz-{name}-{}.sock", std::process::id()));
    let mut listeners = Listeners::new();
    listeners.bind(&Address::Unix(path.clone())).unwrap();
    let config = Config {
        connections: 2,
        ..Config::default()
    };
    let mut harness = Harness::on(Responder::new(endpoints), listeners, config);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"POST /healthz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\nunr").unwrap();
    stream.set_nonblocking(true).unwrap();
    harness.work();
    (harness, stream)
}

#[test]
fn an_answer_arrives_although_the_server_has_not_read_all_input() {
    for extra in [1, 100, 100_000] {
        let mut harness = Harness::new(4);
        let mut stream = harness.connect();
        stream.write_all(LAST).unwrap();
        stream.write_all(&vec![b'x'; extra]).unwrap();
        harness.work();
        let text = rest(&mut stream);
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok"),
            "{text}"
        );
    }
}

/// Regression: if a last request ended at byte 512 of a full first read, or at the end of the buffer, the
/// server assumed that no more input had arrived. The close then reset the connection.
#[test]
fn input_after_a_last_request_is_drained_wherever_that_request_ends() {
    for size in [511, 512, 513, 8191, 8192] {
        let mut harness = Harness::new(4);
        let mut stream = harness.connect();
        let (line, fields) = LAST.split_at("GET /healthz HTTP/1.1\r\n".len());
        let padding = format!("X: {}\r\n", "x".repeat(size - LAST.len() - "X: \r\n".len()));
        let request = [line, padding.as_bytes(), fields].concat();
        assert_eq!(request.len(), size);
        stream.write_all(&request).unwrap();
        stream.write_all(&[b'x'; 20_000]).unwrap();
        harness.work();
        assert!(rest(&mut stream).ends_with("\r\n\r\nok"));
        assert_eq!(harness.server.counters().open, 1, "{size}");
    }
}

/// Uses the real clock, because the failure is a race: a reset from the kernel that overtakes the answer.
#[test]
fn a_thousand_clients_that_send_too_much_read_the_whole_answer_and_the_end() {
    let server = Server::new(Responder::new(&ENDPOINTS), localhost(), Config::default());
    let address = address_of(&server);
    let handle = spawn(server).unwrap();
    for client in 0..1000 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(&[LAST, GET].concat()).unwrap();
        // Half of the clients send more while the answer is in flight. If the server resets the connection
        // then, the write fails.
        if client % 2 == 0 {
            let _ = stream.write_all(&vec![b'x'; 1 + client * 20]);
        }
        let text = rest(&mut stream);
        let is_whole = text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok");
        assert!(
            is_whole && text.matches("HTTP/1.1").count() == 1,
            "client {client}: {text}"
        );
    }
    handle.stop();
    assert_eq!(handle.join().unwrap().answered, 1000);
}

#[test]
fn a_large_body_is_drained_after_the_last_answer() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    stream
        .write_all(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
        .unwrap();
    harness.work();
    // The client sends its whole body, as curl does, and the server must not close the connection meanwhile.
    for _ in 0..20 {
        stream.write_all(&[b'x'; 100_000]).unwrap();
        harness.work();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    harness.work();
    let text = rest(&mut stream);
    assert!(
        text.contains("\r\nConnection: close\r\n") && text.ends_with("\r\n\r\nok"),
        "{text}"
    );
    assert_eq!(harness.server.counters().open, 0);
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_from_and_loses_no_answer() {
    const REQUESTS: usize = 100_000;
    let mut harness = Harness::new(4);
    let stream = harness.connect();
    let mut writer = stream.try_clone().unwrap();
    writer.set_nonblocking(true).unwrap();
    let requests = GET.repeat(REQUESTS);
    let mut sent = 0;
    let mut stalls = 0;
    while stalls < 3 {
        match writer.write(&requests[sent..]) {
            Ok(0) => break,
            Ok(more) => (sent, stalls) = (sent + more, 0),
            Err(_) => stalls += 1,
        }
        harness.work();
        if sent == requests.len() {
            break;
        }
    }
    // Other probes are still answered.
    harness.assert_probe_is_answered();
    let answered = harness.server.counters().answered as usize;
    assert!(
        answered < REQUESTS,
        "requests were read although the client reads no answers"
    );
    // When the client reads after all, every answer arrives, in order and complete.
    let mut answers = 0;
    let mut buffer = vec![0; 1 << 20];
    let mut text = Vec::new();
    let mut reader = stream;
    reader.set_nonblocking(true).unwrap();
    while answers < REQUESTS {
        if sent < requests.len() {
            sent += writer.write(&requests[sent..]).unwrap_or(0);
        }
        harness.work();
        let Ok(size) = reader.read(&mut buffer) else {
            continue;
        };
        assert!(size > 0, "closed after {answers} answers");
        text.extend_from_slice(&buffer[..size]);
        let whole = text.windows(6).filter(|end| end == b"\r\n\r\nok").count();
        let end = text
            .windows(6)
            .rposition(|end| end == b"\r\n\r\nok")
            .map_or(0, |at| at + 6);
        answers += whole;
        text.drain(..end);
    }
    assert_eq!((answers, text.len()), (REQUESTS, 0));
}

/// Regression: the drain deadline counted from when the last answer was put into the buffer. For a slow
/// reader it passed before the answer was sent, and the close with unread input reset the connection.
#[test]
fn the_drain_deadline_starts_when_the_last_answer_is_sent() {
    let (mut harness, mut stream) = unread_answer("slow");
    let drain = Limits::DEFAULT.drain_duration;
    harness.pass(drain + Duration::from_secs(1));
    let mut text = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !text.ends_with(b"check passed\n") {
        match stream.read(&mut buffer) {
            Ok(size) if size > 0 => text.extend_from_slice(&buffer[..size]),
            other => assert_eq!(other.unwrap_err().kind(), ErrorKind::WouldBlock),
        }
        harness.work();
    }
    assert_eq!(harness.server.counters().open, 1);
    harness.pass(drain - Duration::from_millis(1));
    stream.write_all(b"ead").unwrap();
    harness.work();
    assert_eq!(harness.server.counters().open, 1);
    harness.pass(Duration::from_millis(1));
    assert_eq!(harness.server.counters().open, 0);
}

#[test]
fn a_request_sent_byte_by_byte_is_answered() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    for byte in [GET, GET].concat() {
        stream.write_all(&[byte]).unwrap();
        harness.work();
    }
    answer(&mut stream);
    answer(&mut stream);
    assert!(is_silent(&mut stream));
}

/// Regression: a read ends before an urgent byte, and the kernel does not report the bytes after it. The
/// request was answered only at its head deadline.
#[test]
fn a_request_with_an_urgent_byte_in_its_head_is_answered_at_once() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    let (start, end) = LAST.split_at(9);
    // Registers the connection first: a new registration would report all input once.
    stream.write_all(&start[..4]).unwrap();
    harness.work();
    stream.write_all(&start[4..]).unwrap();
    SockRef::from(&stream).send_out_of_band(b"!").unwrap();
    stream.write_all(end).unwrap();
    harness.work();
    assert!(rest(&mut stream).ends_with("\r\n\r\nok"));
}

/// The kernel resets this connection, because the urgent byte is unread when the server closes it. The answer and the
/// end of the stream come before that.
#[test]
fn a_last_request_before_an_urgent_byte_gets_its_whole_answer() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    stream.write_all(LAST).unwrap();
    SockRef::from(&stream).send_out_of_band(b"!").unwrap();
    harness.work();
    assert!(rest(&mut stream).ends_with("\r\n\r\nok"));
}

#[test]
fn a_client_that_shuts_down_its_sending_side_still_gets_its_answers() {
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    stream.write_all(&[GET, GET].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    harness.work();
    assert_eq!(rest(&mut stream).matches("\r\n\r\nok").count(), 2);
}

#[test]
fn two_servers_and_another_socket_share_one_poll() {
    let mut poll = Poll::new().unwrap();
    let mut servers: Vec<Server<'static>> = (0..2)
        .map(|_| Server::new(Responder::new(&ENDPOINTS), localhost(), Config::default()))
        .collect();
    let bases = [Token(10), Token(10 + healthz::server::TOKENS)];
    for (server, base) in servers.iter_mut().zip(bases) {
        server.register(poll.registry(), base).unwrap();
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut foreign = mio::net::UnixStream::from_std(theirs);
    poll.registry()
        .register(&mut foreign, Token(3), Interest::READABLE)
        .unwrap();
    let mut streams: Vec<TcpStream> = servers
        .iter()
        .map(|server| TcpStream::connect(address_of(server)).unwrap())
        .collect();
    for stream in &mut streams {
        stream.write_all(GET).unwrap();
    }
    ours.write_all(b"x").unwrap();
    let mut foreign_events = 0;
    let mut events = Events::with_capacity(16);
    for _ in 0..10 {
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            let owners = servers
                .iter()
                .filter(|server| server.owns(event.token()))
                .count();
            foreign_events += usize::from(event.token() == Token(3));
            assert_eq!(owners, usize::from(event.token() != Token(3)));
            for server in &mut servers {
                server.handle(poll.registry(), event, Instant::ZERO);
            }
        }
        for server in &mut servers {
            server.advance(poll.registry(), Instant::ZERO);
        }
    }
    for stream in &mut streams {
        answer(stream);
    }
    assert!(foreign_events > 0);
    assert!(servers.iter().all(|server| server.counters().answered == 1));
}

#[test]
fn a_server_on_a_unix_socket_answers_and_removes_the_socket_file_when_it_ends() {
    let path = std::env::temp_dir().join(format!("healthz-test-{}.sock", std::process::id()));
    let address = Address::Unix(path.clone());
    for _ in 0..2 {
        // The second bind replaces a socket file that no process listens on any more.
        let mut listeners = Listeners::new();
        listeners.bind(&address).unwrap();
        assert!(
            Listeners::new().bind(&address).is_err(),
            "bound a path that is in use"
        );
        let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
        let handle = spawn(server).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(LAST).unwrap();
        assert!(rest(&mut stream).ends_with("ok"));
        handle.stop();
        assert_eq!(handle.join().unwrap().answered, 1);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_stopped_server_answers_started_requests_and_finishes() {
    let mut harness = Harness::new(8);
    let address = address_of(&harness.server);
    let mut idle = harness.idle();
    let mut busy = harness.connect();
    busy.write_all(b"GET /healthz HTTP/1.1\r\nHos").unwrap();
    harness.work();
    // Waits in the backlog, with its request sent.
    let mut late = harness.connect();
    late.write_all(GET).unwrap();
    harness.server.stop(harness.poll.registry(), harness.now);
    assert!(rest(&mut late).contains("\r\nConnection: close\r\n"));
    assert_eq!(rest(&mut idle), "");
    assert!(TcpStream::connect(address).is_err());
    assert!(!harness.server.is_finished());
    busy.write_all(b"t: a\r\n\r\n").unwrap();
    harness.work();
    let text = rest(&mut busy);
    assert!(
        text.contains("\r\nConnection: close\r\n") && text.ends_with("ok"),
        "{text}"
    );
    assert!(harness.server.is_finished());
}

/// Regression: `stop` accepted only as many queued connections as one call of `advance` does, and reset
/// the others.
#[test]
fn a_stopped_server_answers_every_connection_in_the_backlog() {
    let mut harness = Harness::new(2);
    let mut waiting: Vec<_> = (0..200).map(|_| harness.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(GET).unwrap();
    }
    harness.server.stop(harness.poll.registry(), harness.now);
    for (index, stream) in waiting.iter_mut().enumerate() {
        let text = rest(stream);
        assert!(text.ends_with("\r\n\r\nok"), "client {index}: {text:?}");
    }
    assert!(harness.server.is_finished());
}

#[test]
fn a_stopped_server_closes_an_unfinished_request_at_the_drain_deadline() {
    let mut harness = Harness::new(8);
    let mut busy = harness.connect();
    busy.write_all(b"GET /healthz HTTP/1.1\r\nHos").unwrap();
    harness.work();
    harness.server.stop(harness.poll.registry(), harness.now);
    assert!(!harness.server.is_finished());
    harness.pass(Limits::DEFAULT.drain_duration);
    assert!(harness.server.is_finished());
    assert_eq!(rest(&mut busy), "");
}

/// Regression: at the drain deadline, unlike at every other deadline, the server closed connections
/// without a last read, so a request that had arrived got no answer.
#[test]
fn a_request_that_arrived_before_a_stall_is_answered_although_the_drain_deadline_has_passed() {
    let mut harness = Harness::new(8);
    let [mut busy, mut silent] = [0; 2].map(|_| {
        let mut stream = harness.connect();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHos").unwrap();
        stream
    });
    harness.work();
    harness.server.stop(harness.poll.registry(), harness.now);
    busy.write_all(b"t: a\r\n\r\n").unwrap();
    harness.now = harness.now.saturating_add(Limits::DEFAULT.drain_duration);
    harness.server.advance(harness.poll.registry(), harness.now);
    assert!(harness.server.is_finished());
    let text = rest(&mut busy);
    assert!(
        text.contains("\r\nConnection: close\r\n") && text.ends_with("ok"),
        "{text}"
    );
    assert_eq!(rest(&mut silent), "");
}

/// Regression: a stopping server evicted a connection with a started request, to accept a connection that
/// had sent nothing and was closed at once.
#[test]
fn a_silent_connection_in_the_backlog_takes_no_slot_in_a_stopping_server() {
    let path = std::env::temp_dir().join(format!("healthz-stop-{}.sock", std::process::id()));
    let mut listeners = Listeners::new();
    listeners.bind(&Address::Unix(path.clone())).unwrap();
    let config = Config {
        connections: 1,
        ..Config::default()
    };
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, config);
    let [mut busy, mut silent] = [0; 2].map(|_| UnixStream::connect(&path).unwrap());
    busy.write_all(b"GET /healthz HTTP/1.1\r\nHos").unwrap();
    // The server accepts one connection.
    let events = harness.events(1);
    events.iter().for_each(|event| harness.handle(event));
    assert_eq!(harness.server.counters().accepted, 1);
    harness.server.stop(harness.poll.registry(), harness.now);
    assert_eq!(harness.server.counters().accepted, 2);
    assert_eq!(rest(&mut silent), "");
    busy.write_all(b"t: a\r\n\r\n").unwrap();
    harness.work();
    assert!(rest(&mut busy).ends_with("\r\n\r\nok"));
    assert!(harness.server.is_finished());
}

/// Regression: a connection whose body was complete after `stop` stayed open until the drain deadline.
#[test]
fn a_stopping_server_closes_a_connection_when_its_body_is_complete() {
    let mut harness = Harness::new(8);
    let mut stream = harness.connect();
    stream
        .write_all(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234")
        .unwrap();
    harness.work();
    answer(&mut stream);
    harness.server.stop(harness.poll.registry(), harness.now);
    harness.work();
    assert!(!harness.server.is_finished());
    stream.write_all(b"56789").unwrap();
    harness.work();
    assert!(harness.server.is_finished());
    assert_eq!(rest(&mut stream), "");
}

/// Regression: each call of `stop` restarted the drain deadline, so a host that calls `stop` in every
/// iteration of its loop waited forever.
#[test]
fn a_second_stop_does_not_extend_the_drain_deadline() {
    let mut harness = Harness::new(8);
    let mut busy = harness.connect();
    busy.write_all(b"GET /healthz HTTP/1.1\r\nHos").unwrap();
    harness.work();
    for _ in 0..4 {
        harness.server.stop(harness.poll.registry(), harness.now);
        harness.pass(Limits::DEFAULT.drain_duration / 4);
    }
    assert!(harness.server.is_finished());
}

#[test]
fn a_runner_can_be_polled_from_another_event_loop() {
    use std::os::fd::AsFd;
    let server = Server::new(Responder::new(&ENDPOINTS), localhost(), Config::default());
    let address = address_of(&server);
    let runner = Runner::new(server).unwrap();
    runner.poll_once(Some(Duration::ZERO)).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(LAST).unwrap();
    // The outer loop sees the runner's descriptor become readable.
    let mut outer = Poll::new().unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&runner.as_fd());
    let mut source = mio::unix::SourceFd(&descriptor);
    outer
        .registry()
        .register(&mut source, Token(0), Interest::READABLE)
        .unwrap();
    let mut events = Events::with_capacity(1);
    outer.poll(&mut events, Some(TIMEOUT)).unwrap();
    assert!(!events.is_empty());
    runner.poll_once(Some(Duration::ZERO)).unwrap();
    assert!(rest(&mut stream).ends_with("ok"));
}

#[test]
fn memory_bytes_max_grows_with_connections_and_head_size() {
    let responder = Responder::new(&ENDPOINTS);
    let bytes = |connections, request_head_bytes| {
        let limits = Limits {
            request_head_bytes,
            ..Limits::DEFAULT
        };
        Config {
            limits,
            connections,
            ..Config::default()
        }
        .memory_bytes_max(&responder)
    };
    assert!(bytes(65_535, 65_535) > bytes(64, 8192));
    assert!(bytes(64, 8192) > bytes(64, 512));
    assert!(bytes(64, 8192) > bytes(1, 8192));
    assert!(bytes(64, 8192) < 2 << 20, "{}", bytes(64, 8192));
}

#[test]
fn a_server_in_its_callers_memory_closes_its_connections_when_dropped() {
    let config = Config {
        connections: 2,
        ..Config::default()
    };
    let responder = Responder::new(&ENDPOINTS);
    // Not zero: the server must not depend on the previous contents.
    let mut bytes = vec![0xff; config.buffer_bytes(&responder)];
    let mut slots = [const { Slot::new() }; 2];
    let mut heads = HeadCache::new();
    for _ in 0..2 {
        let memory = Memory {
            slots: &mut slots,
            bytes: &mut bytes,
            heads: &mut heads,
        };
        let server = Server::with_memory(responder, localhost(), config.limits, memory);
        let address = address_of(&server);
        let runner = Runner::new(server).unwrap();
        let mut clients: Vec<_> = (0..3)
            .map(|_| {
                let mut client = TcpStream::connect(address).unwrap();
                client.set_read_timeout(Some(TIMEOUT)).unwrap();
                client.write_all(GET).unwrap();
                runner.poll_once(Some(TIMEOUT)).unwrap();
                client
            })
            .collect();
        for _ in 0..100 {
            runner.poll_once(Some(Duration::ZERO)).unwrap();
        }
        for client in &mut clients {
            assert!(answer(client).starts_with("HTTP/1.1 200 OK\r\n"));
        }
        let counters = runner.server().counters();
        assert_eq!((counters.open, counters.evicted), (2, 1));
        drop(runner);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "still open");
        }
    }
}

#[test]
#[should_panic(expected = "are needed")]
fn a_server_with_too_little_memory_panics_at_construction() {
    let config = Config {
        connections: 2,
        ..Config::default()
    };
    let responder = Responder::new(&ENDPOINTS);
    let mut bytes = vec![0; config.buffer_bytes(&responder) - 1];
    let memory = Memory {
        slots: &mut [const { Slot::new() }; 2],
        bytes: &mut bytes,
        heads: &mut HeadCache::new(),
    };
    let _ = Server::with_memory(responder, localhost(), config.limits, memory);
}

/// Regression: a heartbeat check without any beat passed forever.
#[test]
fn a_heartbeat_without_a_beat_fails_one_limit_after_the_server_starts() {
    const LIMIT: Duration = Duration::from_millis(100);
    static WORK: Check = Check::heartbeat("work", LIMIT);
    static LATE: Check = Check::heartbeat("late", LIMIT).initially_passing();
    static LOOP: Check = Check::heartbeat("loop", LIMIT);
    static BOTH: [Endpoint; 1] = [Endpoint::new("/healthz", &[&WORK, &LATE])];
    static LOOPS: [Endpoint; 1] = [Endpoint::new("/healthz", &[&LOOP])];

    // In a loop of the host, the limit starts with the first call of `advance`, which the harness makes.
    let mut harness = Harness::on(Responder::new(&BOTH), localhost(), Config::default());
    let began = harness.now;
    assert!(WORK.passes(began));
    harness.pass(LIMIT - Duration::from_millis(1));
    assert!(WORK.passes(harness.now));
    harness.pass(Duration::from_millis(1));
    assert!(!WORK.passes(harness.now) && LATE.passes(harness.now));
    assert_eq!(harness.now.saturating_since(began), LIMIT);

    // With a runner, the limit starts when the runner is created.
    let server = Server::new(Responder::new(&LOOPS), localhost(), Config::default());
    assert_eq!(LOOP.health(Instant::ZERO), Health::Unknown);
    let runner = Runner::new(server).unwrap();
    assert_eq!(LOOP.health(Instant::ZERO), Health::Passing);
    assert!(!LOOP.passes(now().saturating_add(LIMIT)));
    drop(runner);
}
